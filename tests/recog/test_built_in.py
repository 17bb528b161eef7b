"""The built-in model names groups of emoji at any size."""

from __future__ import annotations

import json
import random

import pytest
import torch

import lumina_core
from lumina_recog.datasets.emoji import EmojiDataset
from lumina_recog.features import ClassifierFeatures
from lumina_recog.image_io import to_pil


@pytest.fixture(scope="module")
def model():
    return lumina_core.load_model("recog.emoji")


def group_accuracy(model, size, count=90):
    dataset = EmojiDataset(EmojiDataset.Config(split="test", image_sizes=(size,)))
    indices = random.Random(1).sample(range(len(dataset)), count)
    examples = [dataset.get(index, random.Random(0)) for index in indices]
    answers = lumina_core.predict(model, [{"image": one["image"]} for one in examples])
    groups = [dataset.classes[one["label"]].partition("/")[0] for one in examples]
    return sum(one["group"] == group for one, group in zip(answers, groups, strict=True)) / count


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (200, 160)])
def test_groups_of_concepts_that_its_head_did_not_see(model, size):
    assert group_accuracy(model, size) > 0.45  # the largest group has 0.2


def test_the_command_without_a_model_uses_it(lumina, tmp_path):
    dataset = EmojiDataset(EmojiDataset.Config(split="train", image_sizes=((64, 64),)))
    to_pil(dataset.get(0, random.Random(0))["image"]).save(tmp_path / "face.png")
    result = lumina("classify", tmp_path / "face.png", "--json")
    assert result.status == 0, result.err
    assert json.loads(result.out.splitlines()[-1])["images"][0]["group"] == "Smileys & Emotion"


def test_its_features_depend_on_each_image_alone():
    extract = ClassifierFeatures(ClassifierFeatures.Config())
    images = [torch.rand(3, 64, 64) * 2 - 1, torch.rand(3, 30, 50) * 2 - 1]
    both = extract(images)
    assert both.shape == (2, 256)
    torch.testing.assert_close(both[1:], extract(images[1:]), rtol=1e-4, atol=1e-4)


def test_splits_hold_out_whole_families():
    from lumina_recog.datasets.emoji_data import load_records

    splits: dict[str, set[str]] = {}
    for record in load_records():
        splits.setdefault(record["family"], set()).add(record["split"])
    assert all(len(found) == 1 for found in splits.values())


def test_a_name_works_where_a_folder_does_in_convert(lumina, tmp_path):
    result = lumina("convert", "recog.emoji", tmp_path / "half", "--format", "lumina", "--dtype", "bfloat16")
    assert result.status == 0, result.err
    assert lumina_core.load_model(tmp_path / "half").head is not None


def test_a_setting_that_the_weights_do_not_fit_is_refused_in_convert(lumina, tmp_path):
    result = lumina("convert", "recog.emoji", tmp_path / "o", "--format", "lumina", "--set", "backbone.num_layers=1")
    assert result.status == 1 and "does not fit its recipe" in result.err and not (tmp_path / "o").exists()
