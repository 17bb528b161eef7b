"""The code blocks of the plugin tutorial run, in their order; those that name a file make the plugin it speaks of."""

from __future__ import annotations

import os
import re

import pytest
from examples.stranger import ROOT, own_tests, run_module, unpacked

from lumina_core.plugins.registry import COMPONENT_TYPES

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


def test_the_page_documents_the_check_of_every_component_type():
    rows = {kind for row in re.findall(r"^\| (`.+?) \|", PAGE, re.MULTILINE) for kind in re.findall(r"`(\w+)`", row)}
    assert rows == set(COMPONENT_TYPES)
