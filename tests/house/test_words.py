"""Words of this project: three that it never uses, and places of other machines that are in none of its files."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEVER = {"scheduler", "schedulers", "pipeline", "pipelines", "util", "utils"}
ASIDE = {".cache", ".nox", ".venv", "build", "dist", "__pycache__"}
# written in pieces, so that this file does not hold what it looks for
PLACES = re.compile(
    "|".join(
        (
            r"(?<![\w.])/" + r"(?:work|home|root|Users|mnt|opt)/\w",
            r"[A-Z]:\\+" + "Users",
            r"py" + r"pi\.org|python" + r"hosted|registry\." + r"npmjs|npm" + r"mirror|arti" + "factory",
            r"\." + r"library/",
        )
    )
)


def _words(name: str) -> set[str]:
    """`PipelineStep` and `pipeline_step` are two words each."""
    return set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_"))


def _own_names(tree: ast.Module) -> Iterator[str]:
    """Names that this file gives; those of other libraries are theirs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname


def _python() -> list[Path]:
    found = [*ROOT.glob("packages/**/*.py"), *ROOT.glob("benchmarks/**/*.py"), ROOT / "noxfile.py"]
    return [file for file in found if not ASIDE & set(file.relative_to(ROOT).parts)]


def test_no_name_of_ours_uses_a_word_with_three_meanings() -> None:
    used = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in _python()
        for name in _own_names(ast.parse(file.read_text(encoding="utf-8")))
        if _words(name) & NEVER
    ]
    assert used == []


def test_no_file_or_folder_is_called_by_such_a_word() -> None:
    named = [f for f in _python() if any(_words(Path(part).stem) & NEVER for part in f.relative_to(ROOT).parts)]
    assert named == []


def test_a_name_is_cut_into_words() -> None:
    assert (_words("PipelineStep"), _words("my_utils")) == ({"pipeline", "step"}, {"my", "utils"})


def test_no_file_names_a_place_of_somebodys_machine_or_a_registry() -> None:
    found = [
        f"{file}:{number}: {hit[0]}"
        for file in _tracked()
        for number, line in enumerate(_text(ROOT / file).splitlines(), start=1)
        if (hit := PLACES.search(line))
    ]
    assert found == []


@pytest.mark.parametrize("line", ["see /" + "home/ann/x", "C:\\" + "Users\\ann", "https://py" + "pi.org/simple"])
def test_such_a_place_would_be_seen(line) -> None:
    assert PLACES.search(line)


@pytest.mark.parametrize("line", ["models/home/x.py", "https://example.org/home/x", "~/models", "a/opt/b"])
def test_other_paths_are_no_such_places(line) -> None:
    assert not PLACES.search(line)


def _tracked() -> list[str]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    listed = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(
        [git, "-c", f"safe.directory={ROOT}", *listed], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:  # a picture or weights
        return ""
