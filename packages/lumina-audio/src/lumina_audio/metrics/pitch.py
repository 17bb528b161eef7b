"""Is a sound as high as was asked: its pitch beside the note that the prompt names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from lumina_audio.metrics.preprocess import AudioFeatureConfig, prepare
from lumina_audio.pitch import estimate_pitch
from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.metrics import batch_by_shape
from lumina_core.protocols import EvalInputs, FeatureExtractor, Metric

SAMPLE_RATE, BATCH_SIZE = 16000, 16


class PitchFeatures(FeatureExtractor):
    """The MIDI number of a sound's steady part, and how sure it is; `lumina_audio.pitch` says how."""

    name, key = "SWIPE'", "swipe prime 27.5-109 by 0.1"

    class Config(AudioFeatureConfig):
        """Of what rate the sounds are."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(1, S) in about [-1, 1], of any lengths -> (B, 2) float32."""
        batches = batch_by_shape(prepare(items, self.config.sample_rate, SAMPLE_RATE), BATCH_SIZE)
        return torch.cat([torch.stack(estimate_pitch(batch, SAMPLE_RATE), 1) for batch in batches])


class PitchAccuracy(Metric):
    """The shares of sounds that are at the pitch that was named, of those whose prompt names one. Our own measure.

    `right`: within `within` of a semitone. `octave_off`: at the same note in another octave; not among the right ones.
    `right_of_real`: the real sound that was asked for is found at its pitch. That is what can be expected, for the
    estimator errs, and some instruments sound an octave or a fifth beside the note that is played. `as_real`: as high
    as the real sound, by the same estimator.

    What is said of an example has `pitch`, a MIDI number, where its prompt names it, else None or nothing.
    """

    name = "pitch"

    class Config(Settings):
        """By which estimator, and how near is near enough."""

        feature_extractor: ComponentSpec = ComponentSpec(type="audio.pitch")
        tolerance_semitones: float = Field(
            1.0, gt=0, le=6, description="semitones from the note that still count as it"
        )

    def __init__(self, config: Config, feature_extractor: FeatureExtractor) -> None:
        self.config, self.feature_extractor = config, feature_extractor

    def compute(self, inputs: EvalInputs) -> Mapping[str, Tensor | float]:
        """(M,) of 0 and 1, NaN where no pitch is named."""
        notes = [item.fields.get("pitch") for item in inputs.items]
        target = torch.tensor([float("nan") if note is None else float(note) for note in notes], dtype=torch.float64)
        generated, real = inputs.generated[:, 0].double(), inputs.real[inputs.target_index][:, 0].double()
        error = generated - target
        octaves = (error / 12).round()
        octave_error = (octaves != 0) & ((error - 12 * octaves).abs() <= self.config.tolerance_semitones)
        results = {
            "accuracy": error.abs() <= self.config.tolerance_semitones,
            "octave_error": octave_error,
            "accuracy_of_real": (real - target).abs() <= self.config.tolerance_semitones,
            "matches_real": (generated - real).abs() <= self.config.tolerance_semitones,
        }
        return {name: result.double().masked_fill(target.isnan(), torch.nan) for name, result in results.items()}
