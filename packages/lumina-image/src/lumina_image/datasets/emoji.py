"""Built-in data set: emoji with names and keywords in 18 languages."""

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
from lumina_image.datasets import colors, emoji_data
from lumina_image.datasets.emoji_data import EmojiRecord
from lumina_image.image_io import to_tensor

SPLITS: dict[str, Callable[[EmojiRecord], bool]] = {
    "base": lambda record: record["skin"] is None,
    "held_out": lambda record: bool(record["left_out"]),
    "variants": lambda record: record["skin"] is not None,
    "all": lambda record: True,
}


class EmojiEvalSet(EvalSet):
    """Evaluation set of 3786 emoji; the family of an image is the code of its base emoji.

    Splits: `base`, emoji without skin tone; `held_out`, combinations held out of training; `variants`, emoji with skin
    tone; `all`.

    Args:
        image_size: side of the images in pixels.
        languages: languages of the captions, the default first.
    """

    def __init__(self, image_size: int, languages: Sequence[str]) -> None:
        self.languages, self.splits = tuple(languages), tuple(SPLITS)
        self._image_size, self._records = image_size, emoji_data.load_records()
        self.families: Sequence[str] = [record["base"] for record in self._records]

    def __len__(self) -> int:
        return len(self._records)

    def reference(self, index: int) -> Tensor:
        """Return an image (3, image_size, image_size) in [-1, 1]."""
        return to_tensor(emoji_data.load_resized_images(self._image_size)[index])

    def indices(self, split: str) -> Sequence[int]:
        """Return the indices of a split, ascending."""
        return [index for index, record in enumerate(self._records) if SPLITS[split](record)]

    def fields(self, index: int, language: str | None) -> Mapping[str, Any]:
        """Return the name as `caption`, and the index as `label` for class-conditional models."""
        name = self._records[index]["captions"][language or self.languages[0]]["name"]
        return {"caption": str(name), "label": index}

    def groups(self, index: int) -> Mapping[str, str]:
        """Return the Unicode `group`, and `variant_type`: base, one tone, two tones, or hair and tone."""
        return {"group": self._records[index]["group"], "variant_type": _variant_type(self._records[index])}

    def digest(self) -> str:
        """Return a SHA-256 of the pixels of all images at this size."""
        return hashlib.sha256(emoji_data.load_resized_images(self._image_size).tobytes()).hexdigest()


def _variant_type(record: EmojiRecord) -> str:
    if record["skin"] is None:
        return "base"
    if record["hair"] is not None:
        return "hair and tone"
    return "two tones" if len(record["skin"]) > 1 else "one tone"


OBJECT_GROUPS = ("Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects")
"""Unicode groups whose emoji may change their color."""

MAX_KEYWORD_EMOJI = 8
"""Largest number of base emoji with a keyword that is a caption by itself; `flag`, for example, has more."""


STYLE_NAMES: dict[str, tuple[str, ...]] = {
    "noto": ("noto style", "in noto style", "noto"),
    "fluent": ("fluent style", "in fluent style", "fluent", "flat", "flat style", "in flat style"),
}
"""Words at the end of a caption that name a drawing style."""


class EmojiDataset(Dataset):
    """Data set of emoji; each draw has one of the captions and drawing styles of the emoji, and a color if it can."""

    class Config(Settings):
        """Images, captions and their frequencies."""

        image_size: int = Field(64, ge=8, le=512, description="side of the images in pixels; the stored ones have 64")
        split: Literal["train", "held_out", "all"] = Field(
            "train", description="train: all but the held-out combinations"
        )
        languages: tuple[str, ...] = Field((), description="languages of the captions; empty: all 18")
        english_prob: float = Field(
            0.35, ge=0, le=1, description="share of English captions; the others share the rest equally"
        )
        name_only_prob: float = Field(0.7, ge=0, le=1, description="share of captions that are the name alone")
        article_prob: float = Field(
            0.25, ge=0, le=1, description="share of English names with an article: `a red heart`"
        )
        variant_weight: float = Field(
            0.35, gt=0, le=10, description="sampling weight of an emoji with skin tone; others have 1"
        )
        styles: tuple[Literal["noto", "fluent"], ...] = Field(
            ("noto",), min_length=1, description="drawing styles; an emoji without a second one has the first"
        )
        style_word_prob: float = Field(
            0.5, ge=0, le=1, description="share of captions that name the style, if there are two: `cat, fluent style`"
        )
        second_style_prob: float = Field(
            0.35, ge=0, le=1, description="share of the second style among captions that name none"
        )
        color_prob: float = Field(
            0.0, ge=0, le=1, description="share of draws of an object of one hue that change its color: `a green cat`"
        )

    def __init__(self, config: Config) -> None:
        available = emoji_data.languages()
        for language in config.languages:
            if language not in available:
                raise ConfigError(
                    f"image.emoji: got language '{language}', expected another{suggest_or_list(language, available)}"
                )
        self.config = config
        self.languages = config.languages or available
        self._other_languages = tuple(language for language in self.languages if language != "en")
        all_records = emoji_data.load_records()
        held_out_values = {"train": (False,), "held_out": (True,), "all": (False, True)}[config.split]
        self._labels = [label for label, record in enumerate(all_records) if record["left_out"] in held_out_values]
        self._records = [all_records[label] for label in self._labels]
        self._pixels: dict[str, NDArray[np.uint8]] = {}
        self._distinctive_keyword_cache: dict[str, frozenset[str]] = {}

    def __len__(self) -> int:
        return len(self._records)

    def get(self, index: int, rng: random.Random) -> Example:
        """Return `image` (3, image_size, image_size) in [-1, 1], `caption`, and `label`, the index among all emoji."""
        style: str = self.config.styles[0]
        caption: str | None = None
        if len(self.config.styles) > 1 or self.config.color_prob:
            style, style_word = self._sample_style(index, rng)
            image = self.images(style)[index]
            recolored = self._sample_color(index, image, rng) if rng.random() < self.config.color_prob else None
            if recolored is not None:
                image, caption = recolored
            caption = (caption or self._sample_caption(self._records[index], rng)) + style_word
        else:
            image, caption = self.images(style)[index], self._sample_caption(self._records[index], rng)
        return {"image": to_tensor(image), "caption": caption, "label": self._labels[index]}

    def values(self, field: str) -> Sequence[Any]:
        """Return the values of `caption` (every name and keyword once; captions join them by `, `) or `label`.

        Raises:
            ConfigError: another field.
        """
        if field == "label":
            return list(self._labels)
        if field != "caption":
            raise ConfigError(f"image.emoji: field: got '{field}', expected 'caption' or 'label'.")
        captions = [record["captions"][language] for record in self._records for language in self.languages]
        names = dict.fromkeys(entry["name"] for entry in captions)
        return list(names | dict.fromkeys(word for entry in captions for word in entry["keywords"]))

    def weight(self, index: int) -> float:
        """Return the sampling weight: `variant_weight` for an emoji with skin tone, else 1."""
        return 1.0 if self._records[index]["skin"] is None else self.config.variant_weight

    def images(self, style: str = "noto") -> NDArray[np.uint8]:
        """Return all images of the split in a style, (N, image_size, image_size, 3) uint8, read-only; decoded once."""
        if style not in self._pixels:
            size = self.config.image_size
            if style == "noto":
                self._pixels[style] = emoji_data.load_resized_images(size)[self._labels]
            else:
                self._pixels[style] = emoji_data.resize(emoji_data.load_fluent_images()[0], size)[self._labels]
        return self._pixels[style]

    def records(self) -> Sequence[EmojiRecord]:
        """Return the record of each image; see `lumina_image.datasets.emoji_data.load_records`."""
        return self._records

    def eval_set(self) -> EmojiEvalSet:
        """Return the evaluation set of all emoji, including those held out of training."""
        return EmojiEvalSet(self.config.image_size, self.languages)

    def captions(self, index: int) -> Mapping[str, Mapping[str, Any]]:
        """Return {language: {"name": str, "keywords": [str, ...]}} for the languages of this data set."""
        return {language: self._records[index]["captions"][language] for language in self.languages}

    def _sample_style(self, index: int, rng: random.Random) -> tuple[str, str]:
        """Return a style that the emoji has, and the end of the caption that names it, or an empty one."""
        styles = [style for style in self.config.styles if style == "noto" or self._has_fluent(index)] or ["noto"]
        named = len(self.config.styles) > 1 and rng.random() < self.config.style_word_prob
        if len(styles) == 1:
            style = styles[0]
        else:
            style = styles[int(rng.random() < (0.5 if named else self.config.second_style_prob))]
        return style, f", {rng.choice(STYLE_NAMES[style])}" if named else ""

    def _has_fluent(self, index: int) -> bool:
        return bool(emoji_data.load_fluent_images()[1][self._labels[index]])

    def _sample_color(
        self, index: int, image: NDArray[np.uint8], rng: random.Random
    ) -> tuple[NDArray[np.uint8], str] | None:
        """Return an object in another or its own color with a caption that names it; None if it has several hues."""
        record = self._records[index]
        name = str(record["captions"]["en"]["name"])
        if "en" not in self.languages or record["group"] not in OBJECT_GROUPS or colors.names_color(name):
            return None
        variants = colors.recolor(image)
        if not variants:
            return None
        color = rng.choice(sorted(variants))
        words = [word for word in self._distinctive_keywords("en") if word in record["captions"]["en"]["keywords"]]
        words = sorted(word for word in words if len(word) > 2 and not colors.names_color(word))
        noun = rng.choice(words) if words and rng.random() < 0.4 else name
        phrase = f"{color} {noun}"
        return variants[color], _with_article(phrase, rng) if rng.random() < 0.5 else phrase

    def _sample_caption(self, record: EmojiRecord, rng: random.Random) -> str:
        language = self._sample_language(rng)
        captions = record["captions"][language]
        name, keywords = str(captions["name"]), captions["keywords"]
        if language == "en" and rng.random() < self.config.article_prob:
            name = _with_article(name, rng)
        if rng.random() < self.config.name_only_prob or not keywords:
            return name
        distinctive = []
        if not record["skin"]:
            distinctive = [word for word in keywords if word in self._distinctive_keywords(language)]
        # a keyword alone does not determine the skin tone of a variant, and a common keyword not the emoji
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
