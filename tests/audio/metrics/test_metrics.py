"""Metrics of sounds without any library beside: figures are what is known of the sounds, and of closed forms."""

from __future__ import annotations

import pytest
import tiny_audio_models
import torch
from audio.tones import tone

from lumina_audio.metrics.class_kl import ClassKL
from lumina_audio.metrics.distribution import FrechetDistance
from lumina_audio.metrics.instrument_retrieval import InstrumentRetrieval
from lumina_audio.metrics.mel_features import LogMelFrames, LogMelStatistics
from lumina_audio.metrics.panns import PannsFeatures
from lumina_audio.metrics.pitch import PitchAccuracy, PitchFeatures
from lumina_audio.metrics.vggish import VGGishFeatures, _filterbank, _hz_to_mel
from lumina_core.errors import CheckpointError, ConfigError, ShapeError
from lumina_core.protocols import EvalInputs, EvalItem, FeatureExtractor


class StubFeatures(FeatureExtractor):
    name = key = "stub"
    classes = ("a", "b")

    def __call__(self, items):
        raise NotImplementedError


def judged(made, real, cases, families=None):
    return EvalInputs(made, real, cases, torch.arange(len(real)), families)


def hertz(note):
    return 440 * 2 ** ((note - 69) / 12)


def test_log_mel_tells_colours_apart_whatever_the_length_and_knows_where_in_time():
    plain, spans = LogMelStatistics(LogMelStatistics.Config()), LogMelFrames(LogMelFrames.Config(num_segments=4))
    dark, bright = tone(200, 16384, partials=1), tone(200, 16384, partials=20)
    rows = plain([dark, bright, bright[:, :8192]])
    assert rows.shape == (3, 160) and (rows[1] - rows[2]).norm() < (rows[1] - rows[0]).norm()
    parts = spans([torch.cat([torch.zeros(1, 8192), bright[:, :8192]], 1)]).reshape(4, 80)
    assert parts[0].max() < parts[3].max() - 5 and spans.samples_per_row == 4


def test_sounds_of_another_rate_have_about_the_same_features():
    low = LogMelStatistics(LogMelStatistics.Config())([tone(300, 16384)])
    high = LogMelStatistics(LogMelStatistics.Config(sample_rate=32000))([tone(300, 32768, rate=32000)])
    assert (low - high).abs().mean() < 0.3


@pytest.mark.parametrize("wrong", [torch.zeros(2, 9000), torch.zeros(9000), torch.zeros(1, 0)])
def test_what_is_no_sound_of_one_channel_is_refused(wrong):
    with pytest.raises(ShapeError, match="this model makes"):
        LogMelStatistics(LogMelStatistics.Config())([wrong])


def test_an_instrument_a_semitone_beside_its_real_notes_is_found():
    partials = {"flute": 1, "reed": 4, "saw": 16}
    names, real = zip(
        *[(n, tone(hertz(p), partials=k)) for n, k in partials.items() for p in (55, 60, 65)], strict=True
    )
    features = LogMelStatistics(LogMelStatistics.Config())
    cases = [EvalItem({}, place) for place in (1, 4, 7)]
    made = features([tone(hertz(61), partials=k) for k in partials.values()])
    metric = InstrumentRetrieval(InstrumentRetrieval.Config(feature_extractor={"type": "audio.log_mel"}), features)
    assert metric.compute(judged(made, features(real), cases, names))["top1"].tolist() == [1, 1, 1]


def test_instruments_are_counted_once_however_many_sounds_they_have_and_real_ones_without_themselves():
    real = torch.tensor([[0.0], [1.0], [1.1], [1.2], [1.3], [1.4], [1.5], [9.0]])
    names = ["a", "b", "b", "b", "b", "b", "b", "a"]
    metric = InstrumentRetrieval(InstrumentRetrieval.Config(), StubFeatures())
    found = metric.compute(judged(torch.tensor([[1.2], [0.1]]), real, [EvalItem({}, 7), EvalItem({}, 0)], names))
    assert (found["top1"].tolist(), found["top5"].tolist()) == ([0, 1], [1, 1])
    assert found["top1_of_real"].tolist() == [0, 0]


def test_the_pitch_that_is_named_is_compared_and_octaves_are_told_apart():
    features = PitchFeatures(PitchFeatures.Config())
    real = features([tone(hertz(60), 16384)] * 4)
    made = features([tone(hertz(n), 16384) for n in (60.5, 72, 65, 60)])
    cases = [
        EvalItem({"pitch": 60}, 0),
        EvalItem({"pitch": 60}, 1),
        EvalItem({"pitch": 60}, 2),
        EvalItem({"pitch": None}, 3),
    ]
    found = PitchAccuracy(PitchAccuracy.Config(), features).compute(judged(made, real, cases))
    assert found["accuracy"][:3].tolist() == [1, 0, 0] and found["octave_error"][:3].tolist() == [0, 1, 0]
    assert found["accuracy_of_real"][:3].tolist() == [1, 1, 1] and found["accuracy"][3].isnan()


def test_the_frechet_distance_of_a_set_with_itself_is_nothing_and_only_vggish_makes_it_a_fad():
    rows = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    plain = FrechetDistance(FrechetDistance.Config(feature_extractor={"type": "audio.log_mel"}), StubFeatures())
    assert plain.compute(judged(rows, rows, [EvalItem({}, 0)] * 60))["FD"] == pytest.approx(0, abs=1e-9)
    named = FrechetDistance(
        FrechetDistance.Config.model_validate({"feature_extractor": {"type": "audio.vggish", "weights": "x"}}),
        StubFeatures(),
    )
    assert list(named.compute(judged(rows, rows, [EvalItem({}, 0)] * 60))) == ["FAD"]


def test_pieces_of_a_row_are_samples_of_their_own():
    class Pieces(StubFeatures):
        samples_per_row = 2

    rows = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    other = rows + torch.tensor([3.0, 0, 3.0, 0])
    found = FrechetDistance(FrechetDistance.Config(), Pieces()).compute(judged(rows, other, [EvalItem({}, 0)] * 60))
    assert found["FD"] == pytest.approx(9, rel=1e-5)  # of both pieces alike, not their sum


def test_the_divergence_is_that_of_the_two_answers():
    chances = torch.tensor([[0.9, 0.1], [0.5, 0.5]])
    metric = ClassKL(ClassKL.Config(), StubFeatures())
    found = metric.compute(judged(chances.log(), chances.flip(0).log(), [EvalItem({}, 0), EvalItem({}, 0)]))
    assert found["KL"][0] == pytest.approx(0.5 * torch.tensor([0.5 / 0.9, 0.5 / 0.1]).log().sum().item(), abs=1e-6)
    assert found["KL"][1] == pytest.approx(0, abs=1e-9) and found["top1_agreement"].tolist() == [1, 1]


def test_a_divergence_needs_a_classifier():
    with pytest.raises(ConfigError, match=r"audio\.instrument_classifier with output=classes"):
        ClassKL(ClassKL.Config(), LogMelStatistics(LogMelStatistics.Config()))


def test_vggish_is_read_from_its_published_file_and_hears_as_many_patches_as_asked(tmp_path):
    file = tiny_audio_models.vggish(tmp_path / "vggish.pth")
    two = VGGishFeatures(VGGishFeatures.Config(weights=str(file)))
    sounds = [tone(300, 32768), tone(300, 12000)]
    rows = two(sounds)
    assert rows.shape == (2, 2 * 4) and two.samples_per_row == 2
    assert torch.allclose(
        VGGishFeatures(VGGishFeatures.Config(weights=str(file), num_patches=1))(sounds), rows[:, :4], atol=1e-5
    )
    assert (rows < 0).any()  # before the last ReLU


def test_vggish_bands_have_their_tops_at_equal_steps_of_the_mel_scale():
    bank, tops = (
        _filterbank(),
        torch.linspace(float(_hz_to_mel(torch.tensor(125.0))), float(_hz_to_mel(torch.tensor(7500.0))), 66)[1:-1],
    )
    places = _hz_to_mel(torch.linspace(0, 8000, 257))
    wide = slice(30, 64)  # lower bands are narrower than a bin
    assert (places[bank.argmax(0)][wide] - tops[wide]).abs().max() < 20 and bank[0].sum() == 0


def test_panns_answers_as_its_layers_do_and_tells_its_rate_by_its_bank(tmp_path):
    file, network, bank = tiny_audio_models.panns(tmp_path / "cnn14.pth")
    sound = tone(440, 16000)
    spectrum = torch.stft(sound, 512, 160, window=torch.hann_window(512), return_complex=True).abs().square()
    decibels = 10 * (spectrum.transpose(1, 2) @ bank).clamp(min=1e-10).log10()[:, None]
    features = PannsFeatures(PannsFeatures.Config(weights=str(file), output="classes"))
    with torch.no_grad():
        assert torch.allclose(features([sound]), network(decibels), atol=1e-4)
    assert features.name == "PANNs Cnn14 at 16 kHz" and len(features.classes) == 5


def test_other_weights_are_said_by_the_tensor_that_is_missing(tmp_path):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"no file of VGGish.*'features\.0\.weight' of 4"):
        VGGishFeatures(VGGishFeatures.Config(weights=str(tmp_path / "x.pth")))
    with pytest.raises(CheckpointError, match=r"logmel_extractor\.melW"):
        PannsFeatures(PannsFeatures.Config(weights=str(tmp_path / "x.pth")))
    with pytest.raises(CheckpointError, match="there is no file"):
        PannsFeatures(PannsFeatures.Config(weights=str(tmp_path / "y.pth")))
