"""docs/reference/command-line.md shows the help texts of today."""

from __future__ import annotations

import subprocess
import sys

from reading_pages import DOCS


def test_the_page_has_the_help_text_of_every_command() -> None:
    shown = (DOCS / "reference" / "command-line.md").read_text(encoding="utf-8")
    # in a process of its own: commands that other tests ran change how click aligns options
    script = "from build_cli import page; import sys; sys.stdout.write(page())"
    made = subprocess.run([sys.executable, "-c", script], cwd=DOCS, capture_output=True, text=True, check=True)
    assert shown == made.stdout, "the page is out of date; run: python docs/build_cli.py"
    assert all(f"\n## lumina {name}\n" in shown for name in ("image", "audio", "train", "evaluate", "convert"))
