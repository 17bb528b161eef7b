"""Docstrings and the code below them agree: what is explained is an argument."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(ROOT.glob("packages/*/src/**/*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def explained(docstring: str) -> list[str]:
    """Names that a docstring explains under `Args:`; `rows, columns: ...` are two."""
    section = re.search(r"^( *)Args:\n((?:\1 +\S.*\n|\n)+)", docstring + "\n", flags=re.MULTILINE)
    if section is None:
        return []
    lines = section[2].splitlines()
    depth = len(lines[0]) - len(lines[0].lstrip())
    heads = [line.strip().partition(":")[0] for line in lines if len(line) - len(line.lstrip()) == depth]
    return [name.strip(" *") for head in heads if head for name in head.split(",")]


def _arguments(function: Function) -> set[str]:
    given = function.args
    several = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    return {one.arg for one in several}


def _strange(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, Function):
            names = set(explained(ast.get_docstring(node) or "")) - _arguments(node)
            yield from (f"{file.name}:{node.lineno} {name}" for name in sorted(names))
        elif isinstance(node, ast.ClassDef):
            made = [one for one in node.body if isinstance(one, Function) and one.name == "__init__"]
            arguments = {name for one in made for name in _arguments(one)} if made else _fields(node)
            names = set(explained(ast.get_docstring(node) or "")) - arguments
            yield from (f"{file.name}:{node.lineno} {name}" for name in sorted(names))


def _fields(node: ast.ClassDef) -> set[str]:
    return {one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)}


def test_documented_arguments_exist() -> None:
    assert [strange for file in FILES for strange in _strange(file)] == []


@pytest.mark.parametrize(
    ("docstring", "names"),
    [
        (
            "One.\n\nArgs:\n    a: first\n        goes on: here.\n    b, c: two.\n\nReturns:\n    d: no.",
            ["a", "b", "c"],
        ),
        ("One.\n\nArgs:\n    only: this.", ["only"]),
        ("Nothing.", []),
    ],
)
def test_names_under_args_are_found(docstring, names) -> None:
    assert explained(docstring) == names
