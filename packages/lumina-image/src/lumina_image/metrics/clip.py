"""Does a picture show its words: CLIP's cosine between the two, with weights from a folder or the hub."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Use
from lumina_core.measures import similarity
from lumina_core.measures.batches import of_one_size
from lumina_core.measures.towers import CHUNK, Towers
from lumina_image.metrics.looks import ReadAndLookedAt, as_saved


class Clip(Towers):
    """Pictures and texts in CLIP's common space, of unit length; transformers' CLIPModel with its own preprocessing."""

    title, part, network = "CLIP", "image.clip", "CLIPModel"
    reader, projection = "AutoImageProcessor", "visual_projection"

    class Config(Towers.Config):
        """Where the weights come from."""

    @torch.inference_mode()
    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(3, H, W) in about [-1, 1], of any sizes -> (B, D) float32 of unit length."""
        rows = []
        for part in of_one_size(as_saved(items), CHUNK):
            shown = self._reader(images=list(part), return_tensors="pt")["pixel_values"]
            vision = self._model.vision_model(shown.to(self._device, self._model.dtype))
            rows.append(self.unit(self._model.visual_projection(vision.pooler_output)))
        return torch.cat(rows).clone()


class Similarity(similarity.Similarity):
    """The cosine of picture and caption in CLIP's space; CLIP was taught few drawings and little but English."""

    class Config(similarity.Similarity.Config):
        """By which CLIP: `features: {use: image.clip, source: FOLDER}`."""

        features: ReadAndLookedAt = Field(Use(use="image.clip"), description="image.clip and its source")
