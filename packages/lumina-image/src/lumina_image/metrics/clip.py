"""Features of images and texts by CLIP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lumina_core.metrics.base import batch_by_shape
from lumina_core.metrics.dual_encoder import CHUNK_SIZE, DualEncoder
from lumina_image.metrics.features import to_uint8_images


class ClipFeatures(DualEncoder):
    """Features of unit length in the joint space of CLIP: CLIPModel of transformers with its own preprocessing."""

    title, component, model_class = "CLIP", "image.clip", "CLIPModel"
    processor_class, projection_attr = "AutoImageProcessor", "visual_projection"

    class Config(DualEncoder.Config):
        """Source of the weights."""

    @torch.inference_mode()
    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """Map B images (3, H, W) in about [-1, 1] of any sizes to (B, D) float32 of unit length."""
        rows = []
        for batch in batch_by_shape(to_uint8_images(items), CHUNK_SIZE):
            pixel_values = self._processor(images=list(batch), return_tensors="pt")["pixel_values"]
            vision = self._model.vision_model(pixel_values.to(self._device, self._model.dtype))
            rows.append(self.normalize(self._model.visual_projection(vision.pooler_output)))
        return torch.cat(rows).clone()
