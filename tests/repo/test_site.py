"""The site leaves no page out, leads nowhere that is not there, and fetches nothing from other places."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from reading_pages import DOCS, PAGES, ROOT, prose, tool

SETTINGS = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
SITE = tool("build_site")
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def _navigation(entry: object) -> set[str]:
    if isinstance(entry, str):
        return {entry}
    within = entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else []
    return {path for one in within for path in _navigation(one)}


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_the_navigation_lists_exactly_the_pages() -> None:
    pages = {page.relative_to(DOCS).as_posix() for page in PAGES if page.is_relative_to(DOCS)}
    assert _navigation(SETTINGS["nav"]) == pages


def test_the_front_page_links_to_every_other() -> None:
    front = prose(DOCS / "index.md")
    pages = _navigation(SETTINGS["nav"]) - {"index.md"}
    assert [page for page in pages if f"]({page})" not in front] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_link_and_image_of_a_page_exists(page) -> None:
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        there = page.parent / path if path else page
        names = "://" in link or (there.exists() and (not anchor or anchor in _anchors(there)))
        lost += [] if names else [link]
    assert lost == []


def test_every_public_module_has_a_reference_page_in_the_navigation() -> None:
    written = "\n".join(file.read_text() for file in (ROOT / "tests/repo").glob("public_names_*.txt"))
    modules = {name.rpartition(".")[0] for name in written.split()}
    entries = _navigation(SITE.navigation())
    assert len(modules) > 100
    assert [name for name in modules if name in SITE.modules() and SITE.page_of(name) not in entries] == []
    assert [name for name in modules if not _inside_a_class(name) and name not in SITE.modules()] == []


def test_no_two_modules_share_a_page() -> None:
    pages = [SITE.page_of(name) for name in SITE.modules()]
    assert len(set(pages)) == len(pages)


def _inside_a_class(name: str) -> bool:
    return name.rpartition(".")[2][:1].isupper()


def test_the_reference_begins_with_the_public_names() -> None:
    import lumina_core

    assert list(SITE.public_names()) == [n for n in lumina_core.__all__ if n not in ("__version__", "hookimpl")]
    assert set(SITE.public_names().values()) <= SITE.symbols()
    assert SITE.front_page().index("| `Pipeline` |") < SITE.front_page().index("## lumina_audio")


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_of_an_included_file_resolve(page) -> None:
    shown = SITE.included(page.read_text(encoding="utf-8"))
    assert "<!-- from" not in shown
    if shown != page.read_text(encoding="utf-8"):
        links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", shown)]
        assert [link for link in links if "://" not in link and link and not (page.parent / link).exists()] == []


def test_a_missing_heading_is_reported() -> None:
    with pytest.raises(ValueError, match="has no section 'Nothing'"):
        SITE.section("README.md", "Nothing")


def test_links_of_the_readme_lead_to_pages_of_the_site() -> None:
    shown = SITE.section("README.md", "What is there")
    assert "[guide](guides/edit.md)" in shown and "docs/" not in shown


def test_names_in_prose_become_links_and_blocks_of_code_stay() -> None:
    names = {"lumina_core.flow.path.LinearPath", "lumina_core.flow.path.sample_x_t"}
    page = "| `flow.path.LinearPath`, `sample_x_t` and `steps` |\n```python\nuse(`sample_x_t`)\n```"
    assert SITE.linked(page, names) == (
        "| [`flow.path.LinearPath`][lumina_core.flow.path.LinearPath], "
        "[`sample_x_t`][lumina_core.flow.path.sample_x_t] and `steps` |\n"
        "```python\nuse(`sample_x_t`)\n```"
    )


def test_the_site_fetches_nothing() -> None:
    css = (DOCS / "site.css").read_text(encoding="utf-8")
    assert SETTINGS["theme"]["font"] is False
    assert not re.search(r"https?://|//cdn|@import", css + (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_lists_are_valid_in_every_markdown_dialect(page) -> None:
    # Python's Markdown wants four spaces for a list in a list, and an empty line before one after a paragraph
    assert re.findall(r"^ {1,3}(?:-|\d+\.) .*$", prose(page), flags=re.MULTILINE) == []
    assert re.findall(r"\n\n[^\s\-|#<\d>][^\n]*\n- [^\n]*", prose(page)) == []
