"""The example plugins: their tests pass, `lumina plugins` lists them, and they are as short as documented."""

from __future__ import annotations

import re

import pytest
from examples.stranger import ROOT, lines_of_python, own_tests, run_module, unpacked

EXAMPLES = sorted(folder for folder in (ROOT / "examples").iterdir() if (folder / "pyproject.toml").is_file())


@pytest.mark.parametrize("example", EXAMPLES, ids=[folder.name for folder in EXAMPLES])
def test_the_tests_of_the_example_pass_and_its_components_are_listed(example, tmp_path):
    environment = unpacked(example, tmp_path)
    assert re.search(r"\d passed", own_tests(example, environment))
    shown = run_module(
        {**environment, "LUMINA_STRICT": "1"}, "lumina_core", "plugins", example.name.removeprefix("lumina-")
    )
    plugin = (example / "src" / example.name.replace("-", "_") / "plugin.py").read_text(encoding="utf-8")
    for name in re.findall(r'\w+\.\w+\("([\w.]+)", "', plugin):
        assert name in shown


@pytest.mark.parametrize(("example", "most"), [("lumina-ralston", 20), ("lumina-motion", 150)])
def test_the_example_is_short(example, most):
    assert 5 < lines_of_python(ROOT / "examples" / example / "src") < most
