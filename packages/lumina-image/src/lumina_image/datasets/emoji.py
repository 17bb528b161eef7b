"""The built-in data set: emoji with their names and keywords in many languages."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.config import suggest_or_list
from lumina_core.errors import ConfigError
from lumina_core.protocols import Dataset, EvalSet, Example
from lumina_image.datasets import emoji_data
from lumina_image.datasets.emoji_data import EmojiRecord
from lumina_image.image_io import to_tensor

SPLITS: dict[str, Callable[[EmojiRecord], bool]] = {
    "base": lambda record: record["skin"] is None,
    "held_out": lambda record: bool(record["left_out"]),
    "variants": lambda record: record["skin"] is not None,
    "all": lambda record: True,
}


class EmojiEvalSet(EvalSet):
    """3786 pictures. `base` asks for those without skin tones, `held_out` for the combinations kept out of training.

    A picture's family is called by the code of its base emoji.

    Args:
        side: of the pictures, in pixels.
        languages: to ask in, the usual one first.
    """

    def __init__(self, image_size: int, languages: Sequence[str]) -> None:
        self.languages, self.splits = tuple(languages), tuple(SPLITS)
        self._image_size, self._records = image_size, emoji_data.load_records()
        self.families: Sequence[str] = [record["base"] for record in self._records]

    def __len__(self) -> int:
        return len(self._records)

    def reference(self, index: int) -> Tensor:
        """(3, side, side) in [-1, 1]."""
        return to_tensor(emoji_data.load_resized_images(self._image_size)[index])

    def indices(self, split: str) -> Sequence[int]:
        """In the order of the pack."""
        return [index for index, record in enumerate(self._records) if SPLITS[split](record)]

    def fields(self, index: int, language: str | None) -> Mapping[str, Any]:
        """The plain name as caption; and `label`, for models of classes."""
        name = self._records[index]["captions"][language or self.languages[0]]["name"]
        return {"caption": str(name), "label": index}

    def groups(self, index: int) -> Mapping[str, str]:
        """`group` as Unicode has them, and `variant_type`: base, one tone, two tones, hair and tone."""
        return {"group": self._records[index]["group"], "variant_type": _variant_type(self._records[index])}

    def digest(self) -> str:
        """Of all pixels, at this size."""
        return hashlib.sha256(emoji_data.load_resized_images(self._image_size).tobytes()).hexdigest()


def _variant_type(record: EmojiRecord) -> str:
    if record["skin"] is None:
        return "base"
    if record["hair"] is not None:
        return "hair and tone"
    return "two tones" if len(record["skin"]) > 1 else "one tone"


MAX_KEYWORD_EMOJI = 8
"""A keyword stands alone as a caption only where at most so many base emoji carry it: `flag` says too little."""


class EmojiDataset(Dataset):
    """Pictures of emoji, each time with another of its captions."""

    class Config(Settings):
        """Which pictures, which captions, how often."""

        image_size: int = Field(64, ge=8, le=512, description="side of the pictures in pixels; they were drawn at 64")
        split: Literal["train", "held_out", "all"] = Field("train", description="`train` is without those left out")
        languages: tuple[str, ...] = Field((), description="languages of the captions; none named: all of the pack")
        english_prob: float = Field(0.35, ge=0, le=1, description="share of English captions, the rest evenly others")
        name_only_prob: float = Field(0.7, ge=0, le=1, description="share of captions that are the plain name")
        article_prob: float = Field(0.25, ge=0, le=1, description="share of English names written `a red heart`")
        variant_weight: float = Field(0.35, gt=0, le=10, description="how often a variant, beside 1 for a base")

    def __init__(self, config: Config) -> None:
        available = emoji_data.languages()
        for language in config.languages:
            if language not in available:
                raise ConfigError(f"image.emoji: no captions in '{language}'{suggest_or_list(language, available)}")
        self.config = config
        self.languages = config.languages or available
        self._other_languages = tuple(language for language in self.languages if language != "en")
        all_records = emoji_data.load_records()
        held_out_values = {"train": (False,), "held_out": (True,), "all": (False, True)}[config.split]
        self._labels = [label for label, record in enumerate(all_records) if record["left_out"] in held_out_values]
        self._records = [all_records[label] for label in self._labels]
        self._pixels: NDArray[np.uint8] | None = None
        self._distinctive_keyword_cache: dict[str, frozenset[str]] = {}

    def __len__(self) -> int:
        return len(self._records)

    def get(self, index: int, rng: random.Random) -> Example:
        """`image` (3, side, side) in [-1, 1], `caption`, and `label`: the picture's place in the whole pack."""
        image = to_tensor(self.images()[index])
        return {
            "image": image,
            "caption": self._sample_caption(self._records[index], rng),
            "label": self._labels[index],
        }

    def values(self, field: str) -> Sequence[Any]:
        """`caption`: every name and every keyword, each once; longer captions are these, joined by `, `. `label`: all.

        Raises:
            ConfigError: the field is another.
        """
        if field == "label":
            return list(self._labels)
        if field != "caption":
            raise ConfigError(f"image.emoji lists the values of 'caption' and 'label', not of '{field}'")
        captions = [record["captions"][language] for record in self._records for language in self.languages]
        names = dict.fromkeys(entry["name"] for entry in captions)
        return list(names | dict.fromkeys(word for entry in captions for word in entry["keywords"]))

    def weight(self, index: int) -> float:
        """1 for a base emoji, `variant_weight` for one with skin tones."""
        return 1.0 if self._records[index]["skin"] is None else self.config.variant_weight

    def images(self) -> NDArray[np.uint8]:
        """All pictures of this split, (len, side, side, 3); decoded once, not to be written to."""
        if self._pixels is None:
            self._pixels = emoji_data.load_resized_images(self.config.image_size)[self._labels]
        return self._pixels

    def records(self) -> Sequence[EmojiRecord]:
        """What is known of each picture; see `lumina_image.datasets.emoji_data.load_records`."""
        return self._records

    def eval_set(self) -> EmojiEvalSet:
        """All pictures, those left out of training too, asked for by their names."""
        return EmojiEvalSet(self.config.image_size, self.languages)

    def captions(self, index: int) -> Mapping[str, Mapping[str, Any]]:
        """Language -> {"name": str, "keywords": [str, ...]}, for the languages of this data set."""
        return {language: self._records[index]["captions"][language] for language in self.languages}

    def _sample_caption(self, record: EmojiRecord, rng: random.Random) -> str:
        language = self._sample_language(rng)
        captions = record["captions"][language]
        name, keywords = str(captions["name"]), captions["keywords"]
        if language == "en" and rng.random() < self.config.article_prob:
            name = _with_article(name, rng)
        if rng.random() < self.config.name_only_prob or not keywords:
            return name
        distinctive = (
            [] if record["skin"] else [word for word in keywords if word in self._distinctive_keywords(language)]
        )
        # a keyword alone would hide the tone of a variant, and a common one the emoji itself
        if not distinctive or rng.random() < 0.5:
            return f"{name}, {rng.choice(keywords)}"
        return ", ".join(rng.sample(distinctive, min(len(distinctive), rng.choice((1, 2)))))

    def _sample_language(self, rng: random.Random) -> str:
        p = rng.random()
        if "en" in self.languages and (p < self.config.english_prob or not self._other_languages):
            return "en"
        return rng.choice(self._other_languages)

    def _distinctive_keywords(self, language: str) -> frozenset[str]:
        if language not in self._distinctive_keyword_cache:
            bases = (record for record in emoji_data.load_records() if record["skin"] is None)
            counts = Counter(word for record in bases for word in record["captions"][language]["keywords"])
            self._distinctive_keyword_cache[language] = frozenset(
                word for word, count in counts.items() if count <= MAX_KEYWORD_EMOJI
            )
        return self._distinctive_keyword_cache[language]


def _with_article(name: str, rng: random.Random) -> str:
    article = "an" if name[0].lower() in "aeiou" else "a"
    return f"{rng.choice((article, 'the'))} {name}"
