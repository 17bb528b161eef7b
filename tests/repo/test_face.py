"""What every start of the command line imports is light: no torch, no pydantic, no pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(ROOT.glob("packages/*/src"))
HEAVY = ("torch", "pydantic", "numpy", "transformers", "PIL", "sentencepiece", "safetensors", "yaml")
PLUGINS = sorted(
    ".".join(file.relative_to(source).with_suffix("").parts) for source in SOURCES for file in source.rglob("plugin.py")
)
FACE = [
    "lumina_core",
    "lumina_core.components",
    "lumina_core.errors",
    "lumina_core.plugins.hookspecs",
    "lumina_core.plugins.loader",
]


def _imported_by(program: str) -> set[str]:
    """The heavy packages that a fresh Python holds after running a program."""
    report = f"\nimport json, sys; sys.stderr.write('\\n' + json.dumps([n for n in {HEAVY} if n in sys.modules]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, SOURCES))}
    done = subprocess.run(
        [sys.executable, "-c", program + report], env=environment, capture_output=True, encoding="utf-8", check=True
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("module", [*FACE, *PLUGINS])
def test_importing_the_package_or_a_plugin_imports_nothing_heavy(module) -> None:
    assert _imported_by(f"import {module}") == set()


def test_the_core_and_image_plugins_are_tested() -> None:
    assert {"lumina_core.components", "lumina_image.plugin"} <= {*FACE, *PLUGINS}


@pytest.mark.parametrize("arguments", [["--help"], ["plugins"], ["models"], ["imge"]])
def test_informational_commands_import_nothing_heavy(arguments) -> None:
    assert _imported_by(f"from lumina_core.cli.main import run; run({arguments!r})") == set()


def test_a_heavy_import_is_found() -> None:
    assert _imported_by("import lumina_core.config") >= {"pydantic"}
