"""Drawing styles and colors of the emoji data set."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import torch

from lumina_image.datasets import colors, emoji_data
from lumina_image.datasets.emoji import STYLE_NAMES, EmojiDataset
from lumina_image.image_io import to_tensor


def _named(english: str) -> int:
    return next(i for i, r in enumerate(emoji_data.load_records()) if r["captions"]["en"]["name"] == english)


def test_one_style_is_drawn_as_before() -> None:
    dataset = EmojiDataset(EmojiDataset.Config())
    example = dataset.get(3, random.Random(1))
    assert torch.equal(example["image"], to_tensor(dataset.images()[3]))
    assert example["caption"] == dataset._sample_caption(dataset.records()[3], random.Random(1))


def test_style_words_decide_the_drawing() -> None:
    dataset = EmojiDataset(EmojiDataset.Config(styles=("noto", "fluent")))
    index = dataset._labels.index(_named("cat face"))
    drawings = {style: to_tensor(dataset.images(style)[index]) for style in ("noto", "fluent")}
    assert not torch.equal(drawings["noto"], drawings["fluent"])
    rng, counts = random.Random(0), Counter()
    for _ in range(400):
        example = dataset.get(index, rng)
        style = next(style for style, drawing in drawings.items() if torch.equal(example["image"], drawing))
        end = example["caption"].rsplit(", ", 1)[-1]
        named = next((name for name, words in STYLE_NAMES.items() if end in words), None)
        assert named in (None, style)
        counts[named, style] += 1
    assert 0.4 < sum(n for (named, _), n in counts.items() if named) / 400 < 0.6
    unnamed = counts[None, "fluent"] / (counts[None, "fluent"] + counts[None, "noto"])
    assert 0.25 < unnamed < 0.45


def test_an_emoji_without_a_second_drawing_keeps_the_first() -> None:
    dataset = EmojiDataset(EmojiDataset.Config(styles=("noto", "fluent")))
    index = dataset._labels.index(_named("flag: Japan"))
    rng = random.Random(0)
    for _ in range(20):
        example = dataset.get(index, rng)
        assert torch.equal(example["image"], to_tensor(dataset.images()[index]))
        assert "fluent" not in example["caption"]


def test_colors_change_the_object_and_the_caption() -> None:
    dataset = EmojiDataset(EmojiDataset.Config(color_prob=1))
    index = dataset._labels.index(_named("automobile"))
    rng, seen = random.Random(0), {}
    for _ in range(200):
        example = dataset.get(index, rng)
        color = next(word for word in example["caption"].split() if colors.names_color(word))
        seen[color] = example["image"]
    assert set(seen) == set(colors.HUES)
    red, blue = seen["red"], seen["blue"]
    assert float(red[0].mean() - red[2].mean()) > 0.05 < float(blue[2].mean() - blue[0].mean())


def test_a_drawing_of_several_hues_has_no_variants() -> None:
    images = emoji_data.load_images()
    assert colors.recolor(images[_named("rainbow")]) == {}
    assert colors.recolor(np.full((64, 64, 3), 255, np.uint8)) == {}


def test_the_own_color_is_one_of_the_variants() -> None:
    variants = colors.recolor(emoji_data.load_images()[_named("automobile")])
    assert (variants["red"] == emoji_data.load_images()[_named("automobile")]).all()
