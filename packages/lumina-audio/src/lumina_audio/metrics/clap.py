"""Does a sound say its words: CLAP's cosine between the two, with weights from a folder or the hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lumina_audio.metrics.preprocess import prepare
from lumina_core.config import ComponentSpec
from lumina_core.metrics import batch_by_shape, clip_score, default_component
from lumina_core.metrics.dual_encoder import CHUNK_SIZE, DualEncoder

ClapFeaturesSpec = Annotated[ComponentSpec, default_component("audio.clap")]
"""Features of sounds and texts, CLAP's where only options are named."""


class ClapFeatures(DualEncoder):
    """Sounds and texts in CLAP's common space, of unit length; transformers' ClapModel with its own front end.

    Of a sound longer than the model hears (10 s) the first part is heard; a shorter one is repeated.
    """

    title, component, model_class = "CLAP", "audio.clap", "ClapModel"
    processor_class, projection_attr = "ClapFeatureExtractor", "audio_projection"

    class Config(DualEncoder.Config):
        """Where the weights come from."""

        sample_rate: int = Field(
            16000, ge=1000, le=192000, description="samples a second of the sounds that are judged"
        )

    config: Config

    @torch.inference_mode()
    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(1, S) in about [-1, 1], of any lengths -> (B, D) float32 of unit length."""
        sample_rate, max_samples = self._processor.sampling_rate, self._processor.nb_max_samples
        rows = []
        for batch in batch_by_shape(
            [item[:, :max_samples] for item in prepare(items, self.config.sample_rate, sample_rate)], CHUNK_SIZE
        ):
            inputs = self._processor(
                list(batch[:, 0].numpy()), sampling_rate=sample_rate, return_tensors="pt", padding="repeatpad",
                truncation="rand_trunc",
            )  # fmt: skip
            mel = inputs["input_features"].to(self._device, self._model.dtype)
            outputs = self._model.audio_model(input_features=mel, is_longer=inputs["is_longer"].to(self._device))
            rows.append(self.normalize(self._model.audio_projection(outputs.pooler_output)))
        return torch.cat(rows).clone()

    @property
    def max_text_length(self) -> int:
        """Tokens of a text that are read; RoBERTa keeps its first places for padding."""
        return super().max_text_length - 2


class ClapScore(clip_score.TextSimilarity):
    """The cosine of sound and caption in CLAP's space: what is called the CLAP score."""

    class Config(clip_score.TextSimilarity.Config):
        """By which CLAP: `feature_extractor: {type: audio.clap, source: FOLDER}`."""

        feature_extractor: ClapFeaturesSpec = Field(
            ComponentSpec(type="audio.clap"), description="audio.clap and its source"
        )
