"""CLAP features of audio and texts, and the CLAP score."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from lumina_audio.metrics.features import prepare
from lumina_core.metrics.base import batch_by_shape
from lumina_core.metrics.dual_encoder import CHUNK_SIZE, DualEncoder


class ClapFeatures(DualEncoder):
    """Embeddings of audio and texts by ClapModel of transformers, of unit length.

    Of a clip longer than the input of the model (10 s), the beginning is used; a shorter clip is repeated.
    """

    title, component, model_class = "CLAP", "audio.clap", "ClapModel"
    processor_class, projection_attr = "ClapFeatureExtractor", "audio_projection"

    class Config(DualEncoder.Config):
        """Source of the weights, and sample rate of the audio."""

        sample_rate: int = Field(16000, ge=1000, le=192000, description="samples per second of the audio")

    config: Config

    @torch.inference_mode()
    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """Map waveforms (1, S) of any lengths to (B, D) float32 of unit length."""
        sample_rate, max_samples = self._processor.sampling_rate, self._processor.nb_max_samples
        waveforms = [item[:, :max_samples] for item in prepare(items, self.config.sample_rate, sample_rate)]
        rows = []
        for batch in batch_by_shape(waveforms, CHUNK_SIZE):
            arrays = list(batch[:, 0].numpy())
            options = {"sampling_rate": sample_rate, "padding": "repeatpad", "truncation": "rand_trunc"}
            inputs = self._processor(arrays, return_tensors="pt", **options)
            mel = inputs["input_features"].to(self._device, self._model.dtype)
            outputs = self._model.audio_model(input_features=mel, is_longer=inputs["is_longer"].to(self._device))
            rows.append(self.normalize(self._model.audio_projection(outputs.pooler_output)))
        return torch.cat(rows).clone()

    @property
    def max_text_length(self) -> int:
        """Largest number of tokens of a text; RoBERTa reserves two positions."""
        return super().max_text_length - 2
