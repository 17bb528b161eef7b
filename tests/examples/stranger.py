"""A plugin's folder as a stranger has it: found without being installed, its tests run in their own process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from making import write_distribution

ROOT = Path(__file__).parents[2]
SOURCES = [str(folder) for folder in sorted(ROOT.glob("packages/*/src"))]


def unpacked(plugin: Path, folder: Path) -> dict[str, str]:
    """The environment of a process that finds the plugin of this source folder as if pip had installed it."""
    text = (plugin / "pyproject.toml").read_text(encoding="utf-8")
    name = re.search(r'^name = "(.+)"$', text, re.MULTILINE)
    points = re.search(r"^\[project\.entry-points\.lumina\]\n((?:\w+ = .+\n)+)", text, re.MULTILINE)
    needs = re.search(r"^dependencies = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    assert name and points and needs
    required = "".join(f"Requires-Dist: {need}\n" for need in re.findall(r'"([^"]+)"', needs[1]))
    write_distribution(folder, name[1], points[1].replace('"', ""), {}, required)
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    where = os.pathsep.join(filter(None, [str(plugin / "src"), str(folder), *SOURCES, *inherited]))
    return {**os.environ, "PYTHONPATH": where, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}


def run_module(environment: dict[str, str], module: str, *arguments: object, where: Path | None = None) -> str:
    """What `python -m module` says; a failure is shown whole."""
    command: Sequence[str] = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=where, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lines_of_python(folder: Path) -> int:
    """Lines of a folder's Python files, blank ones too."""
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in folder.rglob("*.py"))


def own_tests(plugin: Path, environment: dict[str, str]) -> str:
    """Run a plugin's own tests, away from this project's settings."""
    return run_module(
        environment, "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", plugin, plugin / "tests", where=plugin
    )
