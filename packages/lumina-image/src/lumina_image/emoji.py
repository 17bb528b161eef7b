"""The built-in data set: emoji with their names and keywords in many languages."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lumina_core.config import Config as Settings
from lumina_core.config import nearest
from lumina_core.errors import ConfigError
from lumina_core.parts import Example
from lumina_image import emoji_pack
from lumina_image.emoji_exam import EmojiExam
from lumina_image.emoji_pack import Record
from lumina_image.pictures import to_tensor

FEW = 8
"""A keyword stands alone as a caption only where at most so many base emoji carry it: `flag` says too little."""


class EmojiDataset:
    """Pictures of emoji, each time with another of its captions."""

    class Config(Settings):
        """Which pictures, which captions, how often."""

        side: int = Field(64, ge=8, le=512, description="side of the pictures in pixels; they were drawn at 64")
        split: Literal["train", "left_out", "all"] = Field("train", description="`train` is without those left out")
        languages: tuple[str, ...] = Field((), description="languages of the captions; none named: all of the pack")
        english_share: float = Field(0.35, ge=0, le=1, description="share of English captions, the rest evenly others")
        name_share: float = Field(0.7, ge=0, le=1, description="share of captions that are the plain name")
        article_share: float = Field(0.25, ge=0, le=1, description="share of English names written `a red heart`")
        variant_weight: float = Field(0.35, gt=0, le=10, description="how often a variant, beside 1 for a base")

    def __init__(self, config: Config) -> None:
        known = emoji_pack.languages()
        for language in config.languages:
            if language not in known:
                raise ConfigError(f"image.emoji: no captions in '{language}'{nearest(language, known)}")
        self.config = config
        self.languages = config.languages or known
        self._others = tuple(language for language in self.languages if language != "en")
        everything = emoji_pack.records()
        wanted = {"train": (False,), "left_out": (True,), "all": (False, True)}[config.split]
        self._labels = [label for label, record in enumerate(everything) if record["left_out"] in wanted]
        self._records = [everything[label] for label in self._labels]
        self._pixels: NDArray[np.uint8] | None = None
        self._telling_words: dict[str, frozenset[str]] = {}

    def __len__(self) -> int:
        return len(self._records)

    def example(self, index: int, draw: random.Random) -> Example:
        """`picture` (3, side, side) in [-1, 1], `caption`, and `label`: the picture's place in the whole pack."""
        picture = to_tensor(self.pictures()[index])
        return {"picture": picture, "caption": self._caption(self._records[index], draw), "label": self._labels[index]}

    def values(self, field: str) -> Sequence[Any]:
        """`caption`: every name and every keyword, each once; longer captions are these, joined by `, `. `label`: all.

        Raises:
            ConfigError: the field is another.
        """
        if field == "label":
            return list(self._labels)
        if field != "caption":
            raise ConfigError(f"image.emoji lists the values of 'caption' and 'label', not of '{field}'")
        said = [record["captions"][language] for record in self._records for language in self.languages]
        names = dict.fromkeys(one["name"] for one in said)
        return list(names | dict.fromkeys(word for one in said for word in one["keywords"]))

    def weight(self, index: int) -> float:
        """1 for a base emoji, `variant_weight` for one with skin tones."""
        return 1.0 if self._records[index]["skin"] is None else self.config.variant_weight

    def pictures(self) -> NDArray[np.uint8]:
        """All pictures of this split, (len, side, side, 3); decoded once, not to be written to."""
        if self._pixels is None:
            self._pixels = emoji_pack.resized(self.config.side)[self._labels]
        return self._pixels

    def records(self) -> Sequence[Record]:
        """What is known of each picture; see `lumina_image.emoji_pack.records`."""
        return self._records

    def exam(self) -> EmojiExam:
        """All pictures, those left out of training too, asked for by their names."""
        return EmojiExam(self.config.side, self.languages)

    def captions(self, index: int) -> Mapping[str, Mapping[str, Any]]:
        """Language -> {"name": str, "keywords": [str, ...]}, for the languages of this data set."""
        return {language: self._records[index]["captions"][language] for language in self.languages}

    def _caption(self, record: Record, draw: random.Random) -> str:
        language = self._language(draw)
        said = record["captions"][language]
        name, words = str(said["name"]), said["keywords"]
        if language == "en" and draw.random() < self.config.article_share:
            name = _with_article(name, draw)
        if draw.random() < self.config.name_share or not words:
            return name
        telling = [] if record["skin"] else [word for word in words if word in self._telling(language)]
        # a keyword alone would hide the tone of a variant, and a common one the emoji itself
        if not telling or draw.random() < 0.5:
            return f"{name}, {draw.choice(words)}"
        return ", ".join(draw.sample(telling, min(len(telling), draw.choice((1, 2)))))

    def _language(self, draw: random.Random) -> str:
        chance = draw.random()
        if "en" in self.languages and (chance < self.config.english_share or not self._others):
            return "en"
        return draw.choice(self._others)

    def _telling(self, language: str) -> frozenset[str]:
        if language not in self._telling_words:
            bases = (record for record in emoji_pack.records() if record["skin"] is None)
            counts = Counter(word for record in bases for word in record["captions"][language]["keywords"])
            self._telling_words[language] = frozenset(word for word, count in counts.items() if count <= FEW)
        return self._telling_words[language]


def _with_article(name: str, draw: random.Random) -> str:
    article = "an" if name[0].lower() in "aeiou" else "a"
    return f"{draw.choice((article, 'the'))} {name}"
