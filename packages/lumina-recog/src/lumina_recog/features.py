"""Features of the built-in classifier, for the evaluation of generated images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

import lumina_core
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.protocols import FeatureExtractor
from lumina_recog.packing import is_packable, pack, packed_states


class ClassifierFeatures(FeatureExtractor):
    """The pooled features of a classifier of this package, at each image's own size."""

    libraries = ("lumina-recog",)

    class Config(Settings):
        """Model and device."""

        model: str = Field("recog.emoji", description="model folder, or the name of an installed model")
        device: str = Field("cpu", description="device of the network")

    def __init__(self, config: Config) -> None:
        self.config = config
        model: Any = lumina_core.load_model(config.model, device=config.device)
        if not is_packable(model.backbone, model.head):
            raise ConfigError(f"recog.features model: got {config.model}, expected a classifier of lumina-recog.")
        self._model = model
        self.name, self.key = f"features of {config.model}", f"recog.features {config.model}"

    @torch.inference_mode()
    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """Map B images (3, H, W) in about [-1, 1] of any sizes to (B, D) float32."""
        if not items or any(item.ndim != 3 or item.shape[0] != 3 for item in items):
            raise ShapeError("recog.features: got no images or other shapes, expected images (3, H, W).")
        tokens = [self._model.tokenizer.patchify(item[None].to(self.config.device).float()) for item in items]
        rows: dict[int, Tensor] = {}
        for one in pack(tokens):
            pooled = self._model.head.pool(packed_states(self._model.backbone, one), one.segments)
            rows |= dict(zip(one.indices, pooled.unbind(0), strict=True))
        return torch.stack([rows[index] for index in range(len(items))]).float().cpu()
