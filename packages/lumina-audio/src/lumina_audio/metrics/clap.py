"""Does a sound say its words: CLAP's cosine between the two, with weights from a folder or the hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lumina_audio.metrics.heard import heard
from lumina_core.config import Use
from lumina_core.measures import similarity
from lumina_core.measures.batches import of_one_size
from lumina_core.measures.similarity import by_default
from lumina_core.measures.towers import CHUNK, Towers

HeardAndRead = Annotated[Use, by_default("audio.clap")]
"""Features of sounds and texts, CLAP's where only options are named."""


class Clap(Towers):
    """Sounds and texts in CLAP's common space, of unit length; transformers' ClapModel with its own front end.

    Of a sound longer than the model hears (10 s) the first part is heard; a shorter one is repeated.
    """

    title, part, network = "CLAP", "audio.clap", "ClapModel"
    reader, projection = "ClapFeatureExtractor", "audio_projection"

    class Config(Towers.Config):
        """Where the weights come from."""

        rate: int = Field(16000, ge=1000, le=192000, description="samples a second of the sounds that are judged")

    config: Config

    @torch.inference_mode()
    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(1, S) in about [-1, 1], of any lengths -> (B, D) float32 of unit length."""
        rate, longest = self._reader.sampling_rate, self._reader.nb_max_samples
        rows = []
        for part in of_one_size([item[:, :longest] for item in heard(items, self.config.rate, rate)], CHUNK):
            said = self._reader(
                list(part[:, 0].numpy()), sampling_rate=rate, return_tensors="pt", padding="repeatpad",
                truncation="rand_trunc",
            )  # fmt: skip
            mel = said["input_features"].to(self._device, self._model.dtype)
            found = self._model.audio_model(input_features=mel, is_longer=said["is_longer"].to(self._device))
            rows.append(self.unit(self._model.audio_projection(found.pooler_output)))
        return torch.cat(rows).clone()

    @property
    def longest(self) -> int:
        """Tokens of a text that are read; RoBERTa keeps its first places for padding."""
        return super().longest - 2


class Similarity(similarity.Similarity):
    """The cosine of sound and caption in CLAP's space: what is called the CLAP score."""

    class Config(similarity.Similarity.Config):
        """By which CLAP: `features: {use: audio.clap, source: FOLDER}`."""

        features: HeardAndRead = Field(Use(use="audio.clap"), description="audio.clap and its source")
