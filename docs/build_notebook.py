"""Write examples/from_python.ipynb from the page "From Python": python docs/build_notebook.py.

Each paragraph becomes a Markdown cell, each Python block a code cell. A test of the page runs the blocks.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "guides" / "python.md"
NOTEBOOK = Path(__file__).parents[1] / "examples" / "from_python.ipynb"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[([^\]]+)\]\((?!http)[^)]+\)")


def notebook() -> str:
    """Return the notebook as JSON text."""
    cells: list[dict[str, Any]] = []
    for number, text in enumerate(_BLOCK.split(PAGE.read_text(encoding="utf-8"))):
        is_code = number % 2 == 1
        source = (text if is_code else _LINK.sub(r"\1", text)).strip("\n")
        if source.strip():
            cell: dict[str, Any] = {"cell_type": "code" if is_code else "markdown", "id": f"cell-{len(cells)}"}
            cell |= {"metadata": {}, "source": source.splitlines(keepends=True)}
            cells.append(cell | ({"execution_count": None, "outputs": []} if is_code else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(), encoding="utf-8")
