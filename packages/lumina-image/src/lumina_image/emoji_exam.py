"""What models of the emoji are judged by: each picture asked for by its name, among all pictures of the pack."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from lumina_image import emoji_pack
from lumina_image.emoji_pack import Record
from lumina_image.pictures import to_tensor

SPLITS: dict[str, Callable[[Record], bool]] = {
    "base": lambda record: record["skin"] is None,
    "left_out": lambda record: bool(record["left_out"]),
    "variants": lambda record: record["skin"] is not None,
    "all": lambda record: True,
}


class EmojiExam:
    """3786 pictures. `base` asks for those without skin tones, `left_out` for the combinations kept out of training.

    A picture's family is called by the code of its base emoji.

    Args:
        side: of the pictures, in pixels.
        languages: to ask in, the usual one first.
    """

    def __init__(self, side: int, languages: Sequence[str]) -> None:
        self.languages, self.splits = tuple(languages), tuple(SPLITS)
        self._side, self._records = side, emoji_pack.records()
        self.families: Sequence[str] = [record["base"] for record in self._records]

    def __len__(self) -> int:
        return len(self._records)

    def reference(self, index: int) -> Tensor:
        """(3, side, side) in [-1, 1]."""
        return to_tensor(emoji_pack.resized(self._side)[index])

    def places(self, split: str) -> Sequence[int]:
        """In the order of the pack."""
        return [place for place, record in enumerate(self._records) if SPLITS[split](record)]

    def said(self, index: int, language: str | None) -> Mapping[str, Any]:
        """The plain name as caption; and `label`, for models of classes."""
        name = self._records[index]["captions"][language or self.languages[0]]["name"]
        return {"caption": str(name), "label": index}

    def groups(self, index: int) -> Mapping[str, str]:
        """`group` as Unicode has them, and `sort`: base, one tone, two tones, hair and tone."""
        return {"group": self._records[index]["group"], "sort": _sort(self._records[index])}

    def digest(self) -> str:
        """Of all pixels, at this size."""
        return hashlib.sha256(emoji_pack.resized(self._side).tobytes()).hexdigest()


def _sort(record: Record) -> str:
    if record["skin"] is None:
        return "base"
    if record["hair"] is not None:
        return "hair and tone"
    return "two tones" if len(record["skin"]) > 1 else "one tone"
