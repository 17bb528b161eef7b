"""Audio metrics without further libraries, compared with closed forms and audio of known properties."""

from __future__ import annotations

import pytest
import tiny_audio_models
import torch
from audio.tones import tone

from lumina_audio.metrics.features import LogMelFrames, LogMelStatistics
from lumina_audio.metrics.instruments import ClassKL, InstrumentRetrieval
from lumina_audio.metrics.pitch import PitchAccuracy, PitchFeatures
from lumina_audio.metrics.published_networks import PannsFeatures, VGGishFeatures, hz_to_mel, vggish_filterbank
from lumina_core.errors import CheckpointError, ConfigError, ShapeError
from lumina_core.metrics.distribution import FrechetDistance
from lumina_core.protocols import EvalInputs, EvalItem, FeatureExtractor


class StubFeatures(FeatureExtractor):
    name = key = "stub"
    classes = ("a", "b")

    def __call__(self, items):
        raise NotImplementedError


def eval_inputs(generated, real, cases, families=None):
    return EvalInputs(generated, real, cases, torch.arange(len(real)), families)


def hertz(note):
    return 440 * 2 ** ((note - 69) / 12)


def test_log_mel_features_separate_timbres_and_time_segments():
    plain, spans = LogMelStatistics(LogMelStatistics.Config()), LogMelFrames(LogMelFrames.Config(num_segments=4))
    dark, bright = tone(200, 16384, partials=1), tone(200, 16384, partials=20)
    rows = plain([dark, bright, bright[:, :8192]])
    assert rows.shape == (3, 160) and (rows[1] - rows[2]).norm() < (rows[1] - rows[0]).norm()
    parts = spans([torch.cat([torch.zeros(1, 8192), bright[:, :8192]], 1)]).reshape(4, 80)
    assert parts[0].max() < parts[3].max() - 5 and spans.samples_per_row == 4


def test_features_barely_depend_on_the_sample_rate():
    low = LogMelStatistics(LogMelStatistics.Config())([tone(300, 16384)])
    high = LogMelStatistics(LogMelStatistics.Config(sample_rate=32000))([tone(300, 32768, rate=32000)])
    assert (low - high).abs().mean() < 0.3


@pytest.mark.parametrize("wrong", [torch.zeros(2, 9000), torch.zeros(9000), torch.zeros(1, 0)])
def test_other_shapes_than_one_channel_are_refused(wrong):
    with pytest.raises(ShapeError, match="expected \\(1, samples\\)"):
        LogMelStatistics(LogMelStatistics.Config())([wrong])


def test_retrieval_finds_the_instrument_of_an_unseen_note():
    partials = {"flute": 1, "reed": 4, "saw": 16}
    names, real = zip(
        *[(n, tone(hertz(p), partials=k)) for n, k in partials.items() for p in (55, 60, 65)], strict=True
    )
    features = LogMelStatistics(LogMelStatistics.Config())
    cases = [EvalItem({}, index) for index in (1, 4, 7)]
    generated = features([tone(hertz(61), partials=k) for k in partials.values()])
    metric = InstrumentRetrieval(InstrumentRetrieval.Config(feature_extractor={"type": "audio.log_mel"}), features)
    assert metric.compute(eval_inputs(generated, features(real), cases, names))["top1"].tolist() == [1, 1, 1]


def test_retrieval_ranks_instruments_and_excludes_the_clip_itself():
    real = torch.tensor([[0.0], [1.0], [1.1], [1.2], [1.3], [1.4], [1.5], [9.0]])
    names = ["a", "b", "b", "b", "b", "b", "b", "a"]
    metric = InstrumentRetrieval(InstrumentRetrieval.Config(), StubFeatures())
    found = metric.compute(eval_inputs(torch.tensor([[1.2], [0.1]]), real, [EvalItem({}, 7), EvalItem({}, 0)], names))
    assert (found["top1"].tolist(), found["top5"].tolist()) == ([0, 1], [1, 1])
    assert found["top1_of_real"].tolist() == [0, 0]


def test_pitch_accuracy_counts_octave_errors_apart_and_skips_prompts_without_pitch():
    features = PitchFeatures(PitchFeatures.Config())
    real = features([tone(hertz(60), 16384)] * 4)
    generated = features([tone(hertz(n), 16384) for n in (60.5, 72, 65, 60)])
    cases = [
        EvalItem({"pitch": 60}, 0),
        EvalItem({"pitch": 60}, 1),
        EvalItem({"pitch": 60}, 2),
        EvalItem({"pitch": None}, 3),
    ]
    found = PitchAccuracy(PitchAccuracy.Config(), features).compute(eval_inputs(generated, real, cases))
    assert found["accuracy"][:3].tolist() == [1, 0, 0] and found["octave_error"][:3].tolist() == [0, 1, 0]
    assert found["accuracy_of_real"][:3].tolist() == [1, 1, 1] and found["accuracy"][3].isnan()


def test_frechet_distance_of_equal_sets_is_0_and_is_called_fad_with_vggish_only():
    rows = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    plain = FrechetDistance(FrechetDistance.Config(feature_extractor={"type": "audio.log_mel"}), StubFeatures())
    assert plain.compute(eval_inputs(rows, rows, [EvalItem({}, 0)] * 60))["FD"] == pytest.approx(0, abs=1e-9)

    class StubVGGish(StubFeatures):
        frechet_name = VGGishFeatures.frechet_name

    named = FrechetDistance(FrechetDistance.Config(feature_extractor={"type": "audio.vggish"}), StubVGGish())
    assert list(named.compute(eval_inputs(rows, rows, [EvalItem({}, 0)] * 60))) == ["FAD"]


def test_segments_of_a_row_are_separate_samples():
    class Pieces(StubFeatures):
        samples_per_row = 2

    rows = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    other = rows + torch.tensor([3.0, 0, 3.0, 0])
    found = FrechetDistance(FrechetDistance.Config(feature_extractor={"type": "test.stub"}), Pieces()).compute(
        eval_inputs(rows, other, [EvalItem({}, 0)] * 60)
    )
    assert found["FD"] == pytest.approx(9, rel=1e-5)  # of both pieces alike, not their sum


def test_class_kl_equals_the_closed_form():
    chances = torch.tensor([[0.9, 0.1], [0.5, 0.5]])
    metric = ClassKL(ClassKL.Config(), StubFeatures())
    found = metric.compute(eval_inputs(chances.log(), chances.flip(0).log(), [EvalItem({}, 0), EvalItem({}, 0)]))
    assert found["KL"][0] == pytest.approx(0.5 * torch.tensor([0.5 / 0.9, 0.5 / 0.1]).log().sum().item(), abs=1e-6)
    assert found["KL"][1] == pytest.approx(0, abs=1e-9) and found["top1_agreement"].tolist() == [1, 1]


def test_class_kl_requires_logits():
    with pytest.raises(ConfigError, match=r"audio\.instrument_classifier with output=classes"):
        ClassKL(ClassKL.Config(), LogMelStatistics(LogMelStatistics.Config()))


def test_vggish_reads_its_published_file_and_embeds_each_patch(tmp_path):
    file = tiny_audio_models.vggish(tmp_path / "vggish.pth")
    two = VGGishFeatures(VGGishFeatures.Config(weights=str(file)))
    sounds = [tone(300, 32768), tone(300, 12000)]
    rows = two(sounds)
    assert rows.shape == (2, 2 * 4) and two.samples_per_row == 2
    assert torch.allclose(
        VGGishFeatures(VGGishFeatures.Config(weights=str(file), num_patches=1))(sounds), rows[:, :4], atol=1e-5
    )
    assert (rows < 0).any()  # before the last ReLU


def test_vggish_bands_peak_at_equal_steps_of_the_mel_scale():
    bank, tops = (
        vggish_filterbank(),
        torch.linspace(float(hz_to_mel(torch.tensor(125.0))), float(hz_to_mel(torch.tensor(7500.0))), 66)[1:-1],
    )
    indices = hz_to_mel(torch.linspace(0, 8000, 257))
    wide = slice(30, 64)  # lower bands are narrower than a bin
    assert (indices[bank.argmax(0)][wide] - tops[wide]).abs().max() < 20 and bank[0].sum() == 0


def test_panns_equals_its_network_and_derives_the_sample_rate_from_the_filterbank(tmp_path):
    file, network, bank = tiny_audio_models.panns(tmp_path / "cnn14.pth")
    sound = tone(440, 16000)
    spectrum = torch.stft(sound, 512, 160, window=torch.hann_window(512), return_complex=True).abs().square()
    decibels = 10 * (spectrum.transpose(1, 2) @ bank).clamp(min=1e-10).log10()[:, None]
    features = PannsFeatures(PannsFeatures.Config(weights=str(file), output="classes"))
    with torch.no_grad():
        assert torch.allclose(features([sound]), network(decibels), atol=1e-4)
    assert features.name == "PANNs Cnn14 at 16 kHz" and len(features.classes) == 5


def test_missing_tensor_is_named(tmp_path):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth: expected weights of VGGish"):
        VGGishFeatures(VGGishFeatures.Config(weights=str(tmp_path / "x.pth")))
    with pytest.raises(CheckpointError, match=r"logmel_extractor\.melW"):
        PannsFeatures(PannsFeatures.Config(weights=str(tmp_path / "x.pth")))
    with pytest.raises(CheckpointError, match="there is no file"):
        PannsFeatures(PannsFeatures.Config(weights=str(tmp_path / "y.pth")))
