"""docs/reference/command-line.md shows the help texts of today."""

from __future__ import annotations

from reading_pages import DOCS, tool


def test_the_page_has_the_help_text_of_every_command() -> None:
    shown = (DOCS / "reference" / "command-line.md").read_text(encoding="utf-8")
    assert shown == tool("build_cli").page(), "the page is out of date; run: python docs/build_cli.py"
    assert all(f"\n## lumina {name}\n" in shown for name in ("image", "audio", "train", "evaluate", "convert"))
