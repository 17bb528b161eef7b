"""Installed plugins are found one by one, also if a distribution is malformed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from broken_plugins import BROKEN, GOOD, HOOK
from making import write_distribution

from lumina_core.errors import PluginError
from lumina_core.plugins.loader import find_candidates, load_plugins
from lumina_core.plugins.registry import PluginSource


def test_installed_plugins_are_found_and_the_core_is_first(install):
    install("lumina-alpha", "alpha = alpha_plugin", {"alpha_plugin": GOOD.format(name="alpha")})
    registry = load_plugins()
    assert next(iter(registry.sources)) == "core"
    assert registry.sources["alpha"] == PluginSource("alpha", "lumina-alpha", "1.0")
    assert registry.find("solver", "alpha.step")(None, 5, 0, 1) == 5


def test_a_distribution_that_takes_the_name_of_another_comes_after_it(install):
    other = {"a_other": GOOD.format(name="core")}
    install("a-other", "core = a_other", other)
    registry = load_plugins()
    assert registry.sources["core"].distribution == "lumina-core"
    assert "already taken by lumina-core" in registry.failures["core (a-other)"].reason


@pytest.mark.parametrize("line", ["bad = not a module!", "bad = bad_plugin:thing", "bad = ", "bad = .relative"])
def test_a_malformed_entry_point_is_left_out_with_the_expected_form(install, line):
    install("lumina-bad", line)
    assert "expected bad = package.module" in load_plugins().failures["bad"].reason


def test_entry_points_that_cannot_be_parsed_are_left_out_under_their_distribution(install):
    install("lumina-bad", "this line has no sign")
    install("lumina-alpha", "alpha = alpha_plugin", {"alpha_plugin": GOOD.format(name="alpha")})
    registry = load_plugins()
    assert "cannot be read" in registry.failures["lumina-bad"].reason
    assert {"core", "alpha"} <= set(registry.sources)


def test_a_distribution_without_metadata_is_found_and_called_unknown(install):
    folder = install("lumina-alpha", "alpha = alpha_plugin", {"alpha_plugin": GOOD.format(name="alpha")})
    (folder / "lumina_alpha-1.0.dist-info" / "METADATA").unlink()
    found = {c.source.plugin: c.source for c in find_candidates()}
    assert found["core"].distribution == "lumina-core"
    assert "alpha" in found and load_plugins().sources["alpha"].plugin == "alpha"


def test_the_environment_chooses_which_plugins_are_loaded(install, monkeypatch):
    install("lumina-alpha", "alpha = alpha_plugin", {"alpha_plugin": GOOD.format(name="alpha")})
    monkeypatch.setenv("LUMINA_PLUGINS", "")
    assert list(load_plugins().sources) == ["core"]
    load_plugins.cache_clear()
    reason = load_plugins().missing_reason("alpha")
    assert reason == "the plugin 'alpha' is installed, but LUMINA_PLUGINS does not list it"
    load_plugins.cache_clear()
    monkeypatch.setenv("LUMINA_PLUGINS", " alpha, core ")
    assert list(load_plugins().sources) == ["core", "alpha"]


def test_a_chosen_plugin_that_is_not_installed_is_reported_with_the_nearest(install, monkeypatch):
    install("lumina-alpha", "alpha = alpha_plugin", {"alpha_plugin": GOOD.format(name="alpha")})
    monkeypatch.setenv("LUMINA_PLUGINS", "alhpa")
    reason = load_plugins().failures["alhpa"].reason
    assert reason == "LUMINA_PLUGINS names it, and no such plugin is installed; did you mean 'alpha'?"
    with pytest.raises(PluginError, match="no plugin called 'alhpa' is installed"):
        load_plugins().find("solver", "alhpa.step")


def test_all_components_of_the_core_can_be_imported():
    registry = load_plugins()
    registered = [
        (component_type, n)
        for component_type in registry.component_types()
        for n, e in registry.registrations(component_type).items()
        if e.plugin == "core"
    ]
    assert len(registered) > 20
    assert all(callable(registry.find(component_type, name)) for component_type, name in registered)


NOISY = """
import atexit, logging, sys, warnings
print("printed at import")
warnings.warn("warned at import")
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
logging.getLogger("noisy").error("logged at import")
atexit.register(print, "printed at exit")
""" + GOOD.format(name="noisy")
SPY = """import sys
from lumina_core.cli.main import run
print(run(sys.argv[1:]), *sorted(m for m in sys.modules if '.' not in m))
"""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A folder for PYTHONPATH with an installed distribution for each defect and a correct one."""
    folder = tmp_path_factory.mktemp("zoo")
    for number, (text, _) in enumerate(BROKEN.values()):
        write_distribution(folder, f"zoo-{number}", f"bad{number} = zoo{number}", {f"zoo{number}": text})
    write_distribution(folder, "zoo-form", "form = not a module!", {})
    write_distribution(folder, "zoo-parse", "no sign at all", {})
    write_distribution(folder, "zoo-old", "old = old_one", {"old_one": ""}, "Requires-Dist: lumina-core>=7\n")
    write_distribution(folder, "zoo-noisy", "noisy = noisy_plugin", {"noisy_plugin": NOISY})
    write_distribution(folder, "zoo-good", "good = good_plugin", {"good_plugin": GOOD.format(name="good")})
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def called(zoo, *code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *code], env=zoo, capture_output=True, text=True, timeout=60, check=False)


def test_help_works_with_broken_plugins_and_names_them_in_one_line(zoo):
    done = called(zoo, "-c", SPY, "--help")
    lines = done.stdout.splitlines()
    assert lines[-2].startswith("0 ") or lines[-1].startswith("0 "), done.stderr
    assert "Not loaded:" in done.stdout and "See: lumina plugins" in done.stdout
    assert not {"torch", "pydantic", "transformers", "numpy"} & set(done.stdout.split())


def test_plugins_lists_the_reason_of_every_broken_plugin_and_imports_nothing_heavy(zoo):
    done = called(zoo, "-c", SPY, "plugins")
    for number, (_, reason) in enumerate(BROKEN.values()):
        line = next(line for line in done.stdout.splitlines() if line.startswith(f"bad{number} "))
        assert f"(zoo-{number} 1.0)  NOT LOADED: " in line
        assert reason.replace("bad.<name>", f"bad{number}.<name>") in line or f"'bad{number}.<name>'" in line
    assert "good  (zoo-good 1.0)" in done.stdout and "noisy  (zoo-noisy 1.0)" in done.stdout
    assert not {"torch", "pydantic", "transformers", "numpy"} & set(done.stdout.split())


def test_output_of_plugins_does_not_mix_with_json(zoo):
    done = called(zoo, "-m", "lumina_core", "plugins", "--json")
    assert done.returncode == 0
    assert "noisy" in json.loads(done.stdout)["plugins"]
    for text in ("printed at import", "warned at import", "logged at import", "printed at exit"):
        assert text in done.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pass", []),
        ("registry.find('solver', 'core.euler'), registry.find('solver', 'euler')", []),
        ("registry.find('solver', 'zeta.step')", ["zeta_plugin"]),
        ("registry.entry('recipe', 'zeta.none')", ["zeta_plugin"]),
        ("registry.missing_reason('alpha')", ["alpha_plugin"]),
        ("registry.find('solver', 'step')", ["alpha_plugin", "zeta_plugin"]),
        ("registry.command('sing')", ["alpha_plugin", "zeta_plugin"]),
        ("registry.registrations('solver')", ["alpha_plugin", "zeta_plugin"]),
        ("registry.failures", ["alpha_plugin", "zeta_plugin"]),
    ],
)
def test_a_whole_name_loads_its_plugin_alone_and_all_else_loads_every_plugin(tmp_path, text, expected):
    for name in ("alpha", "zeta"):
        module = {f"{name}_plugin": GOOD.format(name=name)}
        write_distribution(tmp_path, f"lumina-{name}", f"{name} = {name}_plugin", module)
    script = f"""import contextlib, sys
from lumina_core.errors import PluginError
from lumina_core.plugins.loader import load_plugins
registry = load_plugins()
with contextlib.suppress(PluginError):
    {text}
print(sorted({{"alpha_plugin", "zeta_plugin"}} & set(sys.modules)))
"""
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = called({**os.environ, "PYTHONPATH": path}, "-c", script)
    assert done.stdout == f"{expected}\n", done.stderr


def test_a_command_loads_the_plugin_of_its_name_alone(tmp_path):
    command = HOOK + "lumina_register_components(components):\n components.task('{0}.t', 'a:b', 'c', command='{0}')"
    for name in ("alpha", "zeta"):
        module = {f"{name}_plugin": command.format(name)}
        write_distribution(tmp_path, f"lumina-{name}", f"{name} = {name}_plugin", module)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    script = """import sys
from lumina_core.plugins.loader import load_plugins
print(load_plugins().command("zeta").name, *sorted({"alpha_plugin", "zeta_plugin"} & set(sys.modules)))
"""
    done = called({**os.environ, "PYTHONPATH": path}, "-c", script)
    assert done.stdout == "zeta.t zeta_plugin\n", done.stderr
