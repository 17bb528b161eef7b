"""Small rooms: no file, function or list of arguments grows beyond what one can keep in mind."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONGEST_FILE, LONGEST_FUNCTION, MOST_ARGUMENTS = 300, 60, 7
WHERE = ("packages", "benchmarks", "examples", "templates", "docs", "tests")
ASIDE = {".cache", ".nox", ".venv", "build", "dist", "__pycache__"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _files() -> list[Path]:
    found = [ROOT / "noxfile.py", *(file for folder in WHERE for file in (ROOT / folder).rglob("*.py"))]
    return sorted(file for file in found if not ASIDE & set(file.relative_to(ROOT).parts))


def _functions(file: Path) -> Iterator[tuple[str, Function]]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, Function):
            yield f"{file.relative_to(ROOT)}:{node.lineno} {node.name}", node


def _arguments(function: Function) -> int:
    given = function.args
    several = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    return len([one for one in several if one.arg not in ("self", "cls")])


def _lines(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


FILES = _files()


def test_the_search_finds_the_packages() -> None:
    names = {file.name for file in FILES}
    assert {"noxfile.py", "next_dit.py", "task.py", "test_sizes_of_code.py"} <= names


def test_no_file_has_more_lines_than_one_can_survey() -> None:
    lengths = {str(f.relative_to(ROOT)): len(f.read_text(encoding="utf-8").splitlines()) for f in FILES}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


@pytest.mark.parametrize(
    ("measure", "most"), [(_lines, LONGEST_FUNCTION), (_arguments, MOST_ARGUMENTS)], ids=["lines", "arguments"]
)
def test_no_function_of_the_project_is_larger_than_the_house_allows(measure, most) -> None:
    ours = [file for file in FILES if file.relative_to(ROOT).parts[0] != "tests"]
    sizes = {place: measure(function) for file in ours for place, function in _functions(file)}
    assert {place: size for place, size in sizes.items() if size > most} == {}


def test_every_file_of_the_packages_says_its_purpose_in_its_first_line() -> None:
    ours = [file for file in FILES if file.relative_to(ROOT).parts[0] == "packages"]
    silent = [str(f.relative_to(ROOT)) for f in ours if ast.get_docstring(ast.parse(f.read_text("utf-8"))) is None]
    assert silent == []


def test_arguments_are_counted_without_self_and_with_every_kind() -> None:
    written = "class A:\n    def f(self, a, /, b, *c, d=1, **e): ..."
    function = next(node for node in ast.walk(ast.parse(written)) if isinstance(node, Function))
    assert _arguments(function) == 5
