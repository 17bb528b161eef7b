"""Layers: the import contracts of pyproject.toml, and rules that they cannot express."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "packages/lumina-core/src/lumina_core"
PACKAGES = sorted(folder.name for folder in ROOT.glob("packages/*/src/*") if (folder / "__init__.py").is_file())


def _imports(file: Path) -> set[str]:
    """Every module that a file names in an import, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: one name, one address: no relative imports"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.skipif(importlib.util.find_spec("importlinter") is None, reason="import-linter is not installed")
def test_the_import_contracts_hold() -> None:
    sources = os.pathsep.join(str(folder) for folder in ROOT.glob("packages/*/src"))
    environment = {**os.environ, "PYTHONPATH": sources, "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    done = subprocess.run([*command, "--no-cache"], cwd=ROOT, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_only_two_files_use_torch_distributed() -> None:
    """One for processes and sharding, one for checkpoints in parts."""
    users = {file.name for file in CORE.rglob("*.py") if any("torch.distributed" in name for name in _imports(file))}
    assert users <= {"distributed.py", "sharded_checkpoint.py"}


def test_the_core_imports_and_looks_up_no_modality() -> None:
    others = [package for package in PACKAGES if package != "lumina_core"]
    assert others, "no modality was found beside the core; the search is wrong"
    named = [
        f"{file.name} names {other}"
        for file in CORE.rglob("*.py")
        for other in others
        if other in file.read_text(encoding="utf-8")
    ]
    assert named == []


def test_modalities_do_not_import_each_other() -> None:
    users = [
        f"{file.name} imports {name}"
        for package in PACKAGES
        for file in ROOT.glob(f"packages/*/src/{package}/**/*.py")
        for name in _imports(file)
        if name.startswith("lumina_") and name.split(".")[0] not in ("lumina_core", package)
    ]
    assert users == []


def test_packages_export_only_their_own_definitions() -> None:
    # one name, one address: no __init__ imports from our own modules, except the public API of the core and the kit,
    # whose inner modules have no public names
    public = (CORE / "__init__.py", CORE / "testing" / "__init__.py")
    files = [file for file in ROOT.glob("packages/*/src/**/__init__.py") if file not in public]
    assert [str(file) for file in files if any(name.startswith("lumina_") for name in _imports(file))] == []
    assert [file.name for file in (CORE / "testing").glob("*.py") if not file.name.startswith("_")] == []
