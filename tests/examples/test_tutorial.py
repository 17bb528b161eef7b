"""The code blocks of the plugin tutorial run, in their order; those that name a file make the plugin it speaks of."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
from examples.stranger import ROOT, own_tests, run_module, unpacked

from lumina_core.plugins.loader import load_plugins
from lumina_core.plugins.registry import COMPONENT_TYPES
from lumina_core.protocols import PredictionTask
from lumina_core.recipe import Recipe

OURS = ("3d", "audio", "image", "recog")
PAGE = (ROOT / "docs" / "guides" / "plugins.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """The plugin of the page, as its blocks say, and the environment that finds it."""
    folder = tmp_path_factory.mktemp("tutorial")
    for _, text in BLOCKS:
        first, _, rest = text.partition("\n")
        if re.fullmatch(r"# [\w./]+\.\w+", first):
            file = folder / first.removeprefix("# ")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(rest, encoding="utf-8")
    (folder / "src" / "lumina_ralston" / "__init__.py").touch()
    return folder, unpacked(folder, tmp_path_factory.mktemp("site"))


def test_the_plugin_of_the_tutorial_passes_its_test_and_is_listed(plugin):
    folder, environment = plugin
    assert "1 passed" in own_tests(folder, environment)
    assert "ralston.step" in run_module(environment, "lumina_core", "plugins", "ralston")


def test_the_other_blocks_run_in_order_and_print_the_shown_output(plugin, tmp_path):
    program = "\n".join(text for kind, text in BLOCKS if kind == "python" and not text.startswith("# "))
    (tmp_path / "blocks.py").write_text(program, encoding="utf-8")
    environment = {**plugin[1], "PYTHONPATH": os.pathsep.join([plugin[1]["PYTHONPATH"], str(tmp_path)])}
    shown = [text.strip() for kind, text in BLOCKS if kind == "text"]
    assert run_module(environment, "blocks").strip().splitlines() == shown


def test_the_shell_blocks_run(plugin, tmp_path):
    pytest.importorskip("copier")
    folder, environment = plugin
    programs = {
        "pip": '[ "$1" = install ]',  # which may need a network; the plugin is found already
        "copier": f'exec {sys.executable} -m copier "$@"',
        "lumina": f'exec {sys.executable} -m lumina_core "$@"',
        "pytest": f'exec {sys.executable} -m pytest -p no:cacheprovider --rootdir . "$@"',
    }
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (tmp_path / "bin" / name).chmod(0o755)
    shutil.copytree(ROOT / "templates", tmp_path / "templates")
    environment = {**environment, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    blocks = [text for kind, text in BLOCKS if not kind]
    for text, where in zip(blocks, (tmp_path, folder), strict=True):
        done = subprocess.run(["sh", "-ec", text], cwd=where, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "lumina-fresh" / "recipe.yaml").is_file()
    assert (folder / "heart.png").stat().st_size > 500


def test_the_page_says_which_fields_each_task_reads():
    registry = load_plugins()
    rows = re.findall(r"^\| `([\w.]+)` \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
    fields = {task: (re.findall(r"`(\w+)`", data), re.findall(r"`(\w+)`", others)) for task, data, others in rows}
    assert set(fields) == {name for name in registry.registrations("task") if name.partition(".")[0] in OURS}
    for name, (data, _) in fields.items():
        task = registry.find("task", name)
        target = [task.target_field] if issubclass(task, PredictionTask) else []
        assert data == [task.data_field, *target]
    for name in registry.recipes():
        recipe = Recipe.load(name) if name.partition(".")[0] in OURS else None
        for conditioner in recipe.conditioners if recipe else ():
            assert conditioner.field in fields[recipe.task.type][1] or conditioner.type == "core.scalar", name


def test_the_page_documents_the_check_of_every_component_type():
    rows = {kind for row in re.findall(r"^\| (`.+?) \|", PAGE, re.MULTILINE) for kind in re.findall(r"`(\w+)`", row)}
    assert rows == set(COMPONENT_TYPES)
