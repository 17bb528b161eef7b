"""The built-in emoji: completeness, names in every language, splits, and sampling of captions."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter, defaultdict
from importlib.resources import files

import numpy as np
import pytest
import torch

from lumina_core.errors import ConfigError
from lumina_core.metrics.retrieval_precision_recall import target_ranks
from lumina_image.datasets import emoji_data
from lumina_image.datasets.emoji import EmojiDataset
from lumina_image.metrics.features import thumbnail_features
from lumina_image.metrics.retrieval import TIE_TOLERANCE

SENTINELS = {
    "1F436": {"en": "dog face", "de": "Hundegesicht", "zh": "狗脸"},
    "1F44D-1F3FD": {"en": "thumbs up: medium skin tone", "fr": "pouce vers le haut\u202f: peau légèrement mate"},
    "1F469-1F3FF-200D-1F9B0": {"en": "woman: dark skin tone, red hair"},
}


def dataset(**options: object) -> EmojiDataset:
    return EmojiDataset(EmojiDataset.Config.read(options, "test"))


def captions_of(data: EmojiDataset, count: int) -> list[tuple[int, str]]:
    places = [place % len(data) for place in range(0, 7 * count, 7)]
    return [(place, data.get(place, random.Random(n))["caption"]) for n, place in enumerate(places)]


def test_the_data_files_match_the_checksums_of_the_card():
    folder = files("lumina_image") / "data" / "emoji"
    card = (folder / "card.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\S+) \| (\d+) \| `([0-9a-f]{64})` \|$", card, flags=re.MULTILINE)
    assert {name for name, _, _ in rows} == {path.name for path in folder.iterdir()} - {"card.md"}
    for name, size, digest in rows:
        data = (folder / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (int(size), digest)
    assert hashlib.sha256(emoji_data.load_images().tobytes()).hexdigest() in card
    assert sum(int(size) for _, size, _ in rows) < 14_000_000


def test_every_image_has_a_name_in_at_least_sixteen_languages():
    assert len(emoji_data.load_records()) == len(emoji_data.load_images()) == 1911 + 1875
    assert len(emoji_data.languages()) >= 16
    for record in emoji_data.load_records():
        assert set(record["captions"]) == set(emoji_data.languages())
        assert all(written["name"] for written in record["captions"].values())


@pytest.mark.parametrize("code", SENTINELS)
def test_a_few_names_are_those_of_unicode(code):
    record = next(record for record in emoji_data.load_records() if record["code"] == code)
    assert {language: record["captions"][language]["name"] for language in SENTINELS[code]} == SENTINELS[code]


@pytest.mark.parametrize(
    ("name", "colour"), [("red heart", (1, 0, 0)), ("green heart", (0, 1, 0)), ("blue heart", (0, 0, 1))]
)
def test_images_match_their_names(name, colour):
    index = next(i for i, r in enumerate(emoji_data.load_records()) if r["captions"]["en"]["name"] == name)
    middle = emoji_data.load_images()[index, 24:40, 24:40].mean((0, 1))
    assert int(middle.argmax()) == colour.index(1)
    assert emoji_data.load_images()[index, 0, 0].tolist() == [255, 255, 255]


def test_held_out_images_are_variants_whose_family_is_in_training():
    left = [record for record in emoji_data.load_records() if record["left_out"]]
    kept: dict[str, list[object]] = defaultdict(list)
    for record in emoji_data.load_records():
        if not record["left_out"]:
            kept[record["base"]].append(record["skin"])
    assert len(left) >= 150
    for record in left:
        assert record["skin"]
        assert sum(skin is not None for skin in kept[record["base"]]) >= 3
        assert None in kept[record["base"]]
    assert sum(record["hair"] is not None for record in left) >= 12
    assert sum(len(record["skin"]) == 2 for record in left) >= 30
    tones = Counter(record["skin"][0] for record in left if len(record["skin"]) == 1)
    assert len(tones) == 5


def test_no_held_out_image_is_in_training_under_another_name():
    train, left = dataset(split="train"), dataset(split="held_out")
    seen = {picture.tobytes() for picture in train.images()}
    assert not any(picture.tobytes() in seen for picture in left.images())
    assert len(train) + len(left) == len(dataset(split="all"))


def test_an_example_depends_on_its_draw_alone():
    data = dataset()
    first, again = (data.get(5, random.Random(3)) for _ in range(2))
    assert first["caption"] == again["caption"]
    assert first["image"].shape == (3, 64, 64)
    assert first["image"].dtype == torch.float32
    assert torch.equal(
        ((first["image"] + 1) * 127.5).round().byte(), torch.from_numpy(data.images()[5]).permute(2, 0, 1)
    )


def test_the_label_is_the_index_among_all_emoji():
    data = dataset(split="held_out")
    example = data.get(3, random.Random(0))
    assert emoji_data.load_records()[example["label"]] is data.records()[3]


def test_shares_of_english_captions_and_names_match_the_config():
    data = dataset(english_prob=0.5, name_only_prob=0.8, article_prob=0.0)
    drawn = captions_of(data, 2000)
    english = [written == data.captions(place)["en"]["name"] for place, written in drawn]
    names = [written in {one["name"] for one in data.captions(place).values()} for place, written in drawn]
    assert sum(english) / len(drawn) == pytest.approx(0.4, abs=0.05)
    assert sum(names) / len(drawn) == pytest.approx(0.8, abs=0.05)


def test_only_english_names_have_articles_at_the_configured_share():
    data = dataset(languages=["en"], name_only_prob=1.0, article_prob=0.5)
    drawn = captions_of(data, 1000)
    assert sum(written != data.captions(place)["en"]["name"] for place, written in drawn) / 1000 == pytest.approx(
        0.5, abs=0.05
    )
    assert {text.removesuffix(data.captions(place)["en"]["name"]) for place, text in drawn} == {"", "a ", "an ", "the "}
    german = dataset(languages=["de"], name_only_prob=1.0, article_prob=1.0)
    assert all(written == german.captions(place)["de"]["name"] for place, written in captions_of(german, 100))


def test_every_caption_is_made_of_listed_values():
    data = dataset(languages=["en", "ja"], name_only_prob=0.2, article_prob=0.0)
    values = data.values("caption")
    assert len(values) == len(set(values))
    known = set(values)
    for _, text in captions_of(data, 500):
        cuts = [(text,)] + [(text[:n], text[n + 2 :]) for n in range(len(text)) if text[n : n + 2] == ", "]
        assert any(all(part in known for part in cut) for cut in cuts), text


def test_a_variant_is_never_described_without_its_name():
    data = dataset(languages=["en"], name_only_prob=0.0, article_prob=0.0)
    for place, written in captions_of(data, 800):
        if data.records()[place]["skin"]:
            assert written.startswith(data.captions(place)["en"]["name"])


def test_captions_have_the_configured_languages_only():
    data = dataset(languages=["de"], english_prob=1.0, name_only_prob=1.0)
    assert all(written == data.captions(place)["de"]["name"] for place, written in captions_of(data, 50))


def test_variants_have_a_smaller_sampling_weight():
    data = dataset(variant_weight=0.25)
    weights = {(record["skin"] is None, data.weight(place)) for place, record in enumerate(data.records())}
    assert weights == {(True, 1.0), (False, 0.25)}


def test_another_image_size_is_a_resized_image():
    small, full = dataset(image_size=32, split="held_out").images(), dataset(split="held_out").images()
    assert small.shape == (len(full), 32, 32, 3)
    averaged = full.reshape(-1, 32, 2, 32, 2, 3).mean((2, 4))
    assert np.abs(small.astype(float) - averaged).mean() < 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"languages": ["zh-Hnat"]}, "did you mean 'zh-Hant'"),
        ({"split": "test"}, "split"),
        ({"image_sizes": 3}, "'image_size'"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ConfigError, match=message):
        dataset(**options)


def test_values_of_an_unknown_field_are_refused():
    with pytest.raises(ConfigError, match="picture"):
        dataset().values("picture")


def thumbnails(images: np.ndarray) -> torch.Tensor:
    return thumbnail_features(torch.from_numpy(images.copy()).permute(0, 3, 1, 2))


def test_a_slightly_noisy_emoji_is_nearest_to_itself():
    references = thumbnails(dataset().images())
    indices = np.arange(0, len(references), 97)
    noise = np.random.default_rng(0).normal(0, 8, (len(indices), 64, 64, 3))
    noisy = np.clip(dataset().images()[indices] + noise, 0, 255).astype(np.uint8)
    ranks = target_ranks(thumbnails(noisy), torch.from_numpy(indices), references, TIE_TOLERANCE)
    assert (ranks < 1).double().mean() > 0.95
    assert bool((ranks < 5).all())


def test_a_rank_counts_the_references_that_are_nearer():
    references, targets = torch.tensor([[0.0], [1.0], [2.0], [2.0]]), torch.tensor([0, 2, 3])
    assert target_ranks(torch.tensor([[0.1], [0.1], [2.0]]), targets, references, TIE_TOLERANCE).tolist() == [0, 2, 0]


def test_a_thumbnail_is_the_mean_over_blocks():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    by_hand = pictures.reshape(2, 16, 4, 16, 4, 3).mean((2, 4)).reshape(2, -1) / 255
    assert thumbnails(pictures).numpy() == pytest.approx(by_hand)
