"""What the README and the pages show is true: blocks of Python run, commands are ones that the command line knows."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex

import click
import pytest
import yaml
from reading_pages import DOCS, PAGES, ROOT, Block, blocks, prose

from lumina_core.cli.main import LuminaGroup, lumina
from lumina_core.errors import LuminaError
from lumina_core.locate import find_model
from lumina_core.plugins.loader import load_plugins
from lumina_core.recipe import Recipe
from lumina_core.request import Request

OURS = ("lumina_3d", "lumina_audio", "lumina_core", "lumina_image", "lumina_recog")
OWN_TESTS = ("hooks.md", "plugins.md")
"""Pages whose Python is tried by tests of their own."""

SHELL = [block for page in PAGES for block in blocks(page, "", "sh", "bash", "console", "shell")]
PYTHON = {page: list(blocks(page, "python")) for page in PAGES if page.name not in OWN_TESTS}
YAML = [block for page in PAGES for block in blocks(page, "yaml")]


def commands(text: str) -> list[list[str]]:
    """The words of each command in a block, lines that end in a backslash joined and comments left out."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    plain = [line.strip().removeprefix("$ ") for line in lines]
    programs = ("lumina ", "nox ", "python ", "torchrun ")
    return [shlex.split(line, comments=True) for line in plain if line.startswith(programs)]


SHOWN = [(f"{block}: {shlex.join(words)}", words, False) for block in SHELL for words in commands(block.text)]
OUTPUTS = [
    (f"{page.name}: {code}", shlex.split(code), True)
    for page in PAGES
    if page.name not in ("CHANGELOG.md", "changelog.md")
    for code in re.findall(r"(?<!`)`(lumina [^`\n]+)`(?!`)", prose(page))
    if "..." not in code and "NAME" not in code
]


def mistake(words: list[str], partly: bool = False) -> str | None:
    """What is wrong with a command; None for one that the command line, or the tree, knows, wholly or `partly`."""
    if words[0] == "torchrun":
        words = ["lumina", *words[words.index("lumina_core") + 1 :]]
    if words[0] == "nox":
        session = words[words.index("-s") + 1] if "-s" in words else None
        written = (ROOT / "noxfile.py").read_text(encoding="utf-8")
        return None if session is None or f"\ndef {session}(" in written else f"no session {session}"
    if words[0] == "python":
        script = next((word for word in words[1:] if word.endswith(".py")), None)
        return None if script is None or (ROOT / script).is_file() else f"no file {script}"
    return _mistake_of_lumina([word for word in words[1:] if word != "--debug"], partly)


def _mistake_of_lumina(words: list[str], partly: bool = False) -> str | None:
    assert isinstance(lumina, LuminaGroup)
    if words[:1] in ([], ["--help"], ["--version"]):
        return None
    try:
        name, command, rest = lumina.resolve_command(click.Context(lumina), list(words))
        assert command is not None
        _try_values(str(name), command.make_context(name, rest).params)
    except click.exceptions.Exit:  # --help
        return None
    except (click.MissingParameter, click.BadOptionUsage) as error:  # prose may name no more than a part
        return None if partly else error.format_message()
    except (click.ClickException, LuminaError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _try_values(name: str, values: dict) -> None:
    if name in ("train", "check") and values["recipe"].startswith(("3d.", "audio.", "core.", "image.")):
        Recipe.load(values["recipe"], values["settings"])
    entry = load_plugins().commands().get(name)
    if entry is not None and entry.component_type == "task":
        module, _, attribute = entry.target.partition(":")
        own = getattr(importlib.import_module(module), attribute).Request.model_fields
        shared = {field for field, info in Request.model_fields.items() if own[field].metadata == info.metadata}
        given = {field: value for field, value in values.items() if field in shared and value is not None}
        Request.read(given, "the page")  # what a task adds may name files, which are not here


@pytest.mark.parametrize(("where", "words", "partly"), [*SHOWN, *OUTPUTS], ids=[one[0] for one in [*SHOWN, *OUTPUTS]])
def test_a_command_on_a_page_is_accepted(where, words, partly) -> None:
    assert mistake(words, partly) is None, where


@pytest.mark.parametrize(
    "line",
    [
        "lumina imge heart --out a.png",
        "lumina image heart --owt a.png",
        "lumina image heart --out a.png --steps 0",
        "lumina train image.tiny --out a --set training.stepz=1",
        "lumina train image.tinny --out a",
        "nox -s nothing",
        "python benchmarks/nothing.py",
    ],
)
def test_an_invalid_command_is_found(line) -> None:
    assert mistake(shlex.split(line)) is not None


def test_commands_are_found_without_comments_and_with_joined_lines() -> None:
    text = "pip install x\nlumina check a.yaml \\\n  --set b=1   # why\n$ nox -s demo\n"
    assert commands(text) == [["lumina", "check", "a.yaml", "--set", "b=1"], ["nox", "-s", "demo"]]
    assert len(SHOWN) > 20


@pytest.mark.parametrize("page", [page for page in PYTHON if PYTHON[page]], ids=lambda page: page.name)
def test_the_python_of_a_page_runs_from_its_first_block_to_its_last(page, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for block in PYTHON[page]:
        code = compile(block.text, str(block), "exec")
        _try_imports(block)
        if block.reason is None:
            exec(code, names)


def _try_imports(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(
            ("lumina_core", "lumina_image", "lumina_audio", "lumina_3d")
        ):
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == [], str(block)


@pytest.mark.parametrize("block", YAML, ids=str)
def test_recipes_and_fragments_on_a_page_have_valid_keys(block) -> None:
    values = yaml.safe_load(block.text)
    assert set(values) <= set(Recipe.model_fields)
    if "schema_version" in values:
        recipe = Recipe.read(values, str(block))
        for component_type, name in recipe.component_names():
            try:
                load_plugins().find(component_type, name)
            except LuminaError as error:
                pytest.fail(f"{block}: {error}")


def test_pages_with_their_own_tests_exist() -> None:
    tests = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    assert [page for page in OWN_TESTS if (DOCS / page).is_file() and tests.count(f'"{page}"') < 2] == []


def test_extras_on_a_page_exist_in_the_package() -> None:
    named = {found for page in PAGES for found in re.findall(r"(lumina-\w+)\[([\w,]+)\]", page.read_text("utf-8"))}
    settings = {package: (ROOT / f"packages/{package}/pyproject.toml").read_text("utf-8") for package, _ in named}
    assert named
    assert [
        (package, extra)
        for package, extras in named
        for extra in extras.split(",")
        if f"\n{extra} = [" not in settings[package].partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    ] == []


def test_defaults_that_tables_name_are_those_of_the_models() -> None:
    page = (DOCS / "guides" / "generate.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|.*the default of (`[a-z]+\.\w+`(?: and `[a-z]+\.\w+`)*)", page, re.MULTILINE)
    assert {name for name, _ in rows} >= {"adams", "fitted"}
    registry = load_plugins()
    for name, models in rows:
        for model in re.findall(r"`([^`]+)`", models):
            with find_model(model, registry) as folder:
                config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            used = json.dumps([config["recipe"]["sampling"].get(key) for key in ("solver", "schedule")])
            assert f'"core.{name}"' in used or f'"core.{name}_schedule"' in used, f"{model}: {name} is not its default"
