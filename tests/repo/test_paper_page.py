"""docs/concepts/paper.md leads from the paper to the code: every name in its table exists."""

from __future__ import annotations

import re

import pytest
from making import registry_of
from reading_pages import DOCS, tool

SITE = tool("build_site")
PAGE = (DOCS / "concepts" / "paper.md").read_text(encoding="utf-8")
TABLE = PAGE.partition("\n## What stands where\n")[2].partition("\n## ")[0]
CELLS = [row.split(" | ")[-1].strip(" |") for row in TABLE.splitlines() if row.startswith("|")][2:]
OPTION = re.compile(r"\w+: \S+|--[\w-]+|[\w.]+: \w+")


def lost(cell: str) -> list[str]:
    """Names of a cell that are no symbol, no part and no option."""
    near, unknown, parts = "", [], _parts()
    for name in re.findall(r"`([^`]+)`", cell):
        whole = SITE.address(name, SITE.symbols(), near)
        near = whole or near
        unknown += [] if whole or name in parts or OPTION.fullmatch(name) else [name]
    return unknown


def _parts() -> set[str]:
    registry = registry_of("image")
    return {name for component_type in registry.component_types() for name in registry.registrations(component_type)}


def test_the_table_is_found() -> None:
    assert len(CELLS) > 15


@pytest.mark.parametrize("cell", CELLS)
def test_every_name_in_the_last_column_is_a_symbol_a_component_or_an_option(cell) -> None:
    assert re.search("`", cell), "a row leads to nothing"
    assert lost(cell) == []


@pytest.mark.parametrize("cell", ["`flow.path.LinaerPath`", "`core.next_dot`", "`flow.path.LinearPath`, `sampled_x_t`"])
def test_a_missing_name_is_found(cell) -> None:
    assert lost(cell)


def test_dotted_names_of_code_in_the_rest_of_the_page_exist() -> None:
    rest = PAGE.replace(TABLE, "")
    named = re.findall(r"`((?:lumina_\w+|flow|models|training|conditioning|types)\.[\w.]+)`", rest)
    assert named
    assert [name for name in named if SITE.address(name, SITE.symbols()) is None] == []
