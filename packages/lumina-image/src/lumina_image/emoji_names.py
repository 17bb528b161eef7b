"""An emoji in a prompt is read as its English name, since the names are what a model was taught."""

from __future__ import annotations

import functools
import json
import re
from importlib.resources import files

_JOINER, _STYLE = "\u200d", "\ufe0f"
# the blocks that emoji come from, and the marks that join, colour and style them; plain text never enters the table
_SUSPECT = re.compile(
    "[\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u23ff\u24c2\u25a0-\u27bf\u2900-\u297f\u2b00-\u2bff"
    "\u3030\u303d\u3297\u3299\U0001f000-\U0001faff\U000e0020-\U000e007f\u200d\ufe0f\u20e3]"
)


def spelled_out(text: str) -> str:
    """The text with each emoji (the longest sequence that has a name) replaced by its name between blanks."""
    if not _SUSPECT.search(text):
        return text
    names, longest = _names()
    plain, words, place = text.replace(_STYLE, ""), "", 0
    while place < len(plain):
        match = next(
            (n for n in range(min(longest, len(plain) - place), 0, -1) if plain[place : place + n] in names), 0
        )
        if match and (match > 1 or _SUSPECT.match(plain[place])):
            words += f" {names[plain[place : place + match]]} "
            place += match
        else:
            words += "" if plain[place] == _JOINER else plain[place]
            place += 1
    return " ".join(words.split())


@functools.lru_cache(maxsize=1)
def _names() -> tuple[dict[str, str], int]:
    names: dict[str, str] = json.loads((files("lumina_image") / "data/emoji/names.json").read_text(encoding="utf-8"))
    return names, max(map(len, names))
