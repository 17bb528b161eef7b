"""Public names are recorded in a file, so that a change appears in review.

To accept a change: python tests/repo/test_public_names.py
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
PACKAGES = sorted(folder for folder in ROOT.glob("packages/*/src/*") if (folder / "__init__.py").is_file())


def public_names(package: Path) -> list[str]:
    """`module.name` of everything without a leading underscore that a package's public modules define themselves.

    What a face hands on under `__all__` counts too.
    """
    names: list[str] = []
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        if any(part.startswith("_") and part != "__init__" for part in parts):
            continue
        module = ".".join(part for part in parts if part != "__init__")
        names += [f"{module}.{name}" for name in sorted(set(_defined(ast.parse(file.read_text(encoding="utf-8")))))]
    return names


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        for name in _names_of(node):
            if not name.startswith("_") or name == "__version__":
                yield name


def _names_of(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Assign) and [t.id for t in node.targets if isinstance(t, ast.Name)] == ["__all__"]:
        return list(ast.literal_eval(node.value))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def _page(package: Path) -> Path:
    return HERE / f"public_names_{package.name.removeprefix('lumina_')}.txt"


@pytest.mark.parametrize("package", PACKAGES, ids=[package.name for package in PACKAGES])
def test_the_public_names_equal_the_recorded_ones(package) -> None:
    page = _page(package)
    written = set(page.read_text(encoding="utf-8").split()) if page.is_file() else set()
    now = set(public_names(package))
    assert (sorted(now - written), sorted(written - now)) == ([], []), (
        f"new and gone public names of {package.name}; if they are meant: python tests/repo/{Path(__file__).name}"
    )


def test_imported_names_are_not_public() -> None:
    text = "import os\nfrom a import b\nX, Y = 1, 2\n_Z = 3\nW: int = 4\ndef f(): ...\nclass C:\n    inner = 1\n"
    assert sorted(_defined(ast.parse(text))) == ["C", "W", "X", "Y", "f"]


def test_names_exported_by_a_package_are_public() -> None:
    assert list(_defined(ast.parse("from a import b\n__all__ = ['b']\n"))) == ["b"]


if __name__ == "__main__":
    for one in PACKAGES:
        _page(one).write_text("\n".join(public_names(one)) + "\n", encoding="utf-8")
        print(f"wrote {_page(one).relative_to(ROOT)}")
