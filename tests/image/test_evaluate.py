"""`lumina evaluate` on images: a tiny model, the emoji, a folder, and errors."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from lumina_core.protocols import EvalInputs, EvalItem
from lumina_image.datasets.emoji import EmojiDataset
from lumina_image.metrics.features import PixelFeatures
from lumina_image.metrics.retrieval import Retrieval

QUICK = ("--metrics", "image.retrieval", "--samples", 4, "--steps", 1, "--solver", "euler")


@pytest.fixture
def judge(lumina, tiny_folder):
    def run(*arguments: object):
        return lumina("evaluate", tiny_folder, *QUICK, *arguments)

    return run


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for place in range(5):
        pixels = np.random.default_rng(place).integers(0, 256, (40, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{place}.png")
        (folder / f"{place}.txt").write_text(f"noise {place}", encoding="utf-8")
    return folder


def scores_of(done) -> dict:
    assert done.status == 0, done.err
    return json.loads(done.out.splitlines()[-1])


def test_json_contains_scores_and_settings(judge):
    found = scores_of(judge("--json"))
    assert found["dataset"]["num_real"] == 3786 and found["num_generated"] == 4 and found["nfe"] == 1
    assert found["settings"]["solver"] == "euler" and {"torch", "lumina-core"} <= set(found["versions"])
    score = found["scores"]["image.retrieval"]
    assert set(score) > {"top1", "top5", "family"} and score["top1"]["name"] == "retrieval, top1, coarse pixels"


def test_the_output_folder_has_scores_and_a_sheet_and_can_be_resumed(judge, pictures, tmp_path):
    options = ("--json", "--dataset", pictures, "--out", tmp_path / "scores")
    first, again = scores_of(judge(*options)), scores_of(judge(*options, "--resume"))
    assert again["scores"] == first["scores"]
    assert {"scores.json", "samples.png"} <= set(os.listdir(tmp_path / "scores"))
    assert json.loads((tmp_path / "scores" / "scores.json").read_text("utf-8")) == again


def test_the_table_lists_every_language_and_the_mean(judge):
    done = judge("--dataset", "image.emoji", "--languages", "en,zh,hi")
    assert done.status == 0 and all(word in done.out for word in ("en", "zh", "hi", "mean", "top1", "by language"))


def test_held_out_combinations_are_retrieved_within_their_families(judge):
    found = scores_of(judge("--split", "held_out", "--json"))["scores"]["image.retrieval"]
    assert found["within_family"]["count"] == 4 and {"two tones", "one tone"} & set(
        found["top1"]["groups"]["variant_type"]
    )


def test_a_folder_of_images_is_an_evaluation_set(judge, pictures):
    found = scores_of(judge("--dataset", pictures, "--json"))
    assert found["dataset"]["num_real"] == 5 and "family" not in found["scores"]["image.retrieval"]


def test_real_images_are_resized_to_the_generated_size(judge, pictures, tmp_path):
    scores_of(judge("--dataset", pictures, "--json", "--out", tmp_path / "scores"))
    with Image.open(tmp_path / "scores" / "samples.png") as sheet:
        assert sheet.size == (8 * (32 + 2), 32 + 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--metrics", "image.retreival"), "did you mean 'image.retrieval'"),
        (("--metrics", "retreival"), "did you mean 'retrieval'"),
        (("--languages", "xx"), "Error: --languages: got 'xx', expected a language of the data set"),
        (("--device", "gpu9"), "Error: --device: got 'gpu9', expected an available one"),
        (("--split", "heldout"), "Error: --split: got 'heldout', expected a split of the data set; did you mean"),
        (("--dataset", "image.emojis"), "did you mean 'image.emoji'"),
        (("--set", "image.recall.k=3"), "--set: got 'image.recall.k=3', expected METRIC.OPTION=VALUE"),
        (("--set", "image.retrieval.feature_extracter.type=x"), "did you mean 'feature_extractor'"),
        (("--solver", "midpont"), "did you mean 'midpoint'"),
    ],
)
def test_a_wrong_argument_is_one_line(judge, arguments, message):
    done = judge(*arguments)
    assert done.status != 0 and message in done.err and done.err.count("\n") == 1


def test_a_model_that_names_no_data_asks_for_some(lumina, tiny_folder, tmp_path):
    settings = json.loads((tiny_folder / "config.json").read_text("utf-8"))
    del settings["recipe"]["dataset"]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.json").write_text(json.dumps(settings), "utf-8")
    (tmp_path / "plain" / "model.safetensors").symlink_to(tiny_folder / "model.safetensors")
    done = lumina("evaluate", tmp_path / "plain", *QUICK)
    assert done.status == 2 and "Name a data set, a recipe or a folder" in done.err and done.err.count("\n") == 1


def test_an_empty_folder_is_refused(judge, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is empty" in judge("--dataset", tmp_path / "empty").err


def test_a_model_of_another_modality_is_refused_by_image_metrics(lumina, toy, toy_folder):
    done = lumina("evaluate", toy_folder, *QUICK, "--dataset", "image.emoji")
    assert done.status != 0 and done.err.count("\n") == 1


@pytest.fixture(scope="module")
def known():
    """The exam of the emoji, the metric, and its features of all real pictures."""
    exam = EmojiDataset(EmojiDataset.Config()).eval_set()
    metric = Retrieval(Retrieval.Config(), PixelFeatures(PixelFeatures.Config()))
    return exam, metric, metric.feature_extractor([exam.reference(place) for place in range(len(exam))])


def test_real_images_retrieve_themselves_and_their_families(known):
    exam, metric, real = known
    places = list(exam.indices("held_out"))[:40]
    inputs = EvalInputs(real[places], real, [EvalItem({}, p) for p in places], torch.tensor(places), exam.families)
    assert {name: float(values.mean()) for name, values in metric.compute(inputs).items()} == dict.fromkeys(
        ("top1", "top5", "family", "within_family"), 1.0
    )


def test_another_of_the_family_is_the_right_family_and_not_the_right_one(known):
    exam, metric, real = known
    first = exam.families[exam.indices("held_out")[0]]
    hands = [place for place, family in enumerate(exam.families) if family == first]
    inputs = EvalInputs(real[hands[:1]], real, [EvalItem({}, hands[1])], torch.tensor(hands), exam.families)
    found = {name: float(values.mean()) for name, values in metric.compute(inputs).items()}
    assert (found["top1"], found["family"], found["within_family"]) == (0.0, 1.0, 0.0)


def test_features_of_images_of_several_sizes_are_in_order():
    items = [torch.full((3, side, side), value) for side, value in ((64, -1.0), (32, 1.0), (32, 0.0), (48, 1.0))]
    assert PixelFeatures(PixelFeatures.Config())(items).mean(1).tolist() == pytest.approx([0, 1, 0.5, 1], abs=0.01)


def test_any_request_field_can_be_a_parameter(judge, pictures, tmp_path):
    scores_of(judge("--dataset", pictures, "--param", "size=64x32", "--json", "--out", tmp_path / "scores"))
    with Image.open(tmp_path / "scores" / "samples.png") as sheet:
        assert sheet.width == 8 * (64 + 2)
    assert "expected FIELD=VALUE" in judge("--param", "size").err
    assert "did you mean 'size'" in judge("--param", "sise=8x8", "--dataset", pictures).err
