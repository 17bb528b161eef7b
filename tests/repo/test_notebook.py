"""examples/from_python.ipynb is made from docs/guides/python.md."""

from __future__ import annotations

import json

from reading_pages import ROOT, tool


def test_the_notebook_has_the_blocks_of_the_page() -> None:
    written = (ROOT / "examples" / "from_python.ipynb").read_text(encoding="utf-8")
    assert written == tool("build_notebook").notebook(), "out of date; run: python docs/build_notebook.py"
    code = [cell for cell in json.loads(written)["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 10
