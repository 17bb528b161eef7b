"""Plugins that break when they are used, kill the process, hang, or linger: each is named, and most do no harm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from broken_plugins import BROKEN, FATAL, GOOD, HANGING, HARMFUL, LATE, LATE_MODULES, LINGERING
from core.toy import recipe
from making import write_distribution

from lumina_core.errors import LuminaError
from lumina_core.model import build_model
from lumina_core.plugins import guard
from lumina_core.plugins.loader import load_plugins
from lumina_core.sampling.pipeline import Pipeline


def test_there_are_sixty_kinds():
    assert len(BROKEN) + len(HARMFUL) + len(LATE) + len(FATAL) + len(LINGERING) + 1 >= 60


def environment(folder, **more):
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "LUMINA_CACHE": str(folder / "cache"), **more}


def start(folder, *arguments, **more):
    command = [sys.executable, "-m", "lumina_core", *arguments]
    return subprocess.Popen(
        command, env=environment(folder, **more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def called(folder, *arguments, **more):
    process = start(folder, *arguments, **more)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("kind", LATE)
def test_a_plugin_that_breaks_when_it_is_used_is_named(install, kind):
    install("lumina-bad", "bad = bad_plugin", {"bad_plugin": LATE[kind], **LATE_MODULES})
    install("lumina-toys", "toy = core.toy")
    registry = load_plugins()
    assert "bad" in registry.sources
    pipe = Pipeline(build_model(recipe("label"), registry), registry)
    try:
        pipe(label=1, solver="bad.step", steps=2)
    except LuminaError as error:
        assert "bad" in str(error)
    except BaseException as error:
        assert registry.plugin_of(error) == "bad"
    else:
        pytest.fail("the solver gave a result")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("kind", FATAL)
def test_a_plugin_that_kills_the_process_is_named_by_the_next_start(tmp_path, kind):
    write_distribution(tmp_path, "lumina-bad", "bad = bad_plugin", {"bad_plugin": FATAL[kind]})
    status, _, err = called(tmp_path, "plugins")
    assert status < 0
    status, out, err = called(tmp_path, "plugins", LUMINA_PLUGINS="core")
    assert status == 0 and "core  (" in out
    assert "an earlier start ended while the plugin 'bad' (lumina-bad 1.0) was imported" in err
    assert "To start without it: LUMINA_PLUGINS=core" in err
    _, _, err = called(tmp_path, "plugins", LUMINA_PLUGINS="core")
    assert err == ""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_plugin_that_hangs_is_named_after_three_seconds_and_by_ctrl_c(tmp_path):
    write_distribution(tmp_path, "lumina-bad", "bad = bad_plugin", {"bad_plugin": HANGING})
    process = start(tmp_path, "plugins")
    try:
        line = process.stderr.readline()
        assert line.startswith("Note: the plugin 'bad' (lumina-bad 1.0) is still being imported. To start without it: ")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130 and "stopped while the plugin 'bad' was imported" in err
    assert not list((tmp_path / "cache").glob("importing-*"))


@pytest.mark.parametrize("kind", LINGERING)
def test_a_plugin_that_lingers_changes_neither_status_nor_output(tmp_path, kind):
    write_distribution(
        tmp_path, "lumina-lag", "lag = lag_plugin", {"lag_plugin": LINGERING[kind] + GOOD.format(name="lag")}
    )
    begin = time.monotonic()
    status, out, _ = called(tmp_path, "plugins", "--json", LUMINA_PLUGINS="core,lag")
    assert status == 0 and "lag" in json.loads(out)["plugins"]
    status, out, err = called(tmp_path, "plugins", "absent", LUMINA_PLUGINS="core,lag")
    assert (status, out) == (1, "") and "Error: " in err
    assert time.monotonic() - begin < 50


def test_an_idle_pool_of_threads_ends_without_a_note(tmp_path):
    text = "from concurrent.futures import ThreadPoolExecutor as Pool\npool = Pool()\npool.submit(int).result()\n"
    write_distribution(tmp_path, "lumina-lag", "lag = lag_plugin", {"lag_plugin": text + GOOD.format(name="lag")})
    status, _, err = called(tmp_path, "plugins", LUMINA_PLUGINS="core,lag")
    assert (status, err) == (0, "")


def test_output_of_compiled_code_does_not_mix_with_json(tmp_path):
    text = "import os\nos.write(1, b'raw at import')\n" + GOOD.format(name="raw")
    write_distribution(tmp_path, "lumina-raw", "raw = raw_plugin", {"raw_plugin": text})
    status, out, err = called(tmp_path, "plugins", "--json", LUMINA_PLUGINS="core,raw")
    assert status == 0 and "raw at import" in err and json.loads(out)


def test_a_command_that_is_killed_elsewhere_blames_no_plugin(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path))
    with guard.plugin_code("slow", "lumina-slow 1.0"):
        assert len(list(tmp_path.iterdir())) == 1
        guard.report_crash(["slow"])  # of a running process
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""
