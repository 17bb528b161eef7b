"""Audio metrics with networks of timm and transformers: EfficientNet-Lite0 and CLAP."""

from __future__ import annotations

import pytest
import tiny_audio_models
import torch
from audio.tones import tone

pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

from lumina_audio.metrics.clap import ClapFeatures
from lumina_audio.metrics.features import MelEfficientNetLite0
from lumina_core.errors import ConfigError
from lumina_core.metrics.dual_encoder import TextSimilarity
from lumina_core.protocols import EvalInputs, EvalItem


def test_efficientnet_features_separate_timbres_more_than_semitones():
    features = MelEfficientNetLite0(MelEfficientNetLite0.Config(image_size=64))
    rows = features([tone(262, partials=1), tone(277, partials=1), tone(277, partials=20)])
    assert rows.shape == (3, 1280) and (rows[0] - rows[1]).norm() < (rows[1] - rows[2]).norm()
    assert features.name == "EfficientNet-Lite0 on log-mel at 64 px"


@pytest.fixture(scope="module")
def clap_folder(tmp_path_factory):
    return tiny_audio_models.clap(tmp_path_factory.mktemp("clap"))


def test_clap_embeddings_equal_those_of_transformers(clap_folder):
    features = ClapFeatures(ClapFeatures.Config(source=str(clap_folder), sample_rate=48000))
    sounds, words = [tone(200, 40000, 48000), tone(900, 40000, 48000)], ["a low tone", "a high tone"]
    model = transformers.ClapModel.from_pretrained(clap_folder)
    hear = transformers.ClapFeatureExtractor.from_pretrained(clap_folder)
    read = transformers.AutoTokenizer.from_pretrained(clap_folder)
    with torch.inference_mode():
        out = model(
            **hear([sound[0].numpy() for sound in sounds], sampling_rate=48000, return_tensors="pt"),
            **read(words, padding=True, return_tensors="pt"),
        )
    assert torch.allclose(features(sounds), out.audio_embeds, atol=1e-5)
    assert torch.allclose(features.encode_texts(words), out.text_embeds, atol=1e-5)


def test_long_text_is_truncated(clap_folder):
    features = ClapFeatures(ClapFeatures.Config(source=str(clap_folder)))
    assert torch.allclose(features.encode_texts(["a" * 300]), features.encode_texts(["a" * 200]))


def test_clap_score_is_the_cosine_of_audio_and_caption(clap_folder):
    features = ClapFeatures(ClapFeatures.Config(source=str(clap_folder)))
    metric = TextSimilarity(
        TextSimilarity.Config.model_validate({"feature_extractor": {"type": "audio.clap", "source": str(clap_folder)}}),
        features,
    )
    real = features([tone(200), tone(900)])
    cases = [EvalItem({"caption": "low"}, 0), EvalItem({"caption": "high"}, 1)]
    found = metric.compute(EvalInputs(features.encode_texts(["low", "low"]), real, cases, torch.arange(2)))
    assert float(found["similarity"][0]) == pytest.approx(1, abs=1e-5)
    assert found["similarity_of_real"][1] == pytest.approx(
        float(real[1] @ features.encode_texts(["high"])[0]), abs=1e-6
    )


def test_clap_score_requires_text_features():
    with pytest.raises(ConfigError, match=r"got audio\.log_mel, expected features that also embed texts"):
        TextSimilarity(TextSimilarity.Config.model_validate({"feature_extractor": {"type": "audio.log_mel"}}), object())
