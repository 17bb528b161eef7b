"""Does a picture show its words: CLIP's cosine between the two, with weights from a folder or the hub."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lumina_core.config import Use
from lumina_core.errors import CheckpointError
from lumina_core.measures import similarity
from lumina_core.outside import Borrowing, digest, located, needed, verified
from lumina_image.metrics.looks import ReadAndLookedAt, as_saved, of_one_size

INSTALL = "lumina-core[transformers]"
FILES = ("*.json", "*.txt", "*.safetensors")
CHUNK = 32


class Clip:
    """Pictures and texts in CLIP's common space, of unit length; transformers' CLIPModel with its own preprocessing."""

    libraries = ("transformers",)

    class Config(Borrowing):
        """Where the weights come from."""

    def __init__(self, config: Config) -> None:
        self.config = config
        folder = located(config, FILES)
        verified(config, folder)
        self.name = f"CLIP {Path(config.source).name}"
        self.key = f"clip {digest(folder)}"
        self._device = torch.device(config.device or "cpu")
        self._model, self._tokens, self._look = _loaded(folder, self._device, config.chosen(folder, self._device))

    @torch.inference_mode()
    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(3, H, W) in about [-1, 1], of any sizes -> (B, D) float32 of unit length."""
        rows = []
        for part in of_one_size(as_saved(items)):
            for start in range(0, len(part), CHUNK):
                shown = self._look(images=list(part[start : start + CHUNK]), return_tensors="pt")["pixel_values"]
                vision = self._model.vision_model(shown.to(self._device, self._model.dtype))
                rows.append(F.normalize(self._model.visual_projection(vision.pooler_output).float(), dim=1).cpu())
        return torch.cat(rows).clone()

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts, cut to what the model reads -> (M, D) float32 of unit length."""
        rows = []
        for start in range(0, len(texts), CHUNK):
            said = self._tokens(
                list(texts[start : start + CHUNK]), padding=True, truncation=True, return_tensors="pt",
                max_length=self._model.config.text_config.max_position_embeddings,
            )  # fmt: skip
            read = self._model.text_model(**{k: v.to(self._device) for k, v in said.items() if k != "token_type_ids"})
            rows.append(F.normalize(self._model.text_projection(read.pooler_output).float(), dim=1).cpu())
        return torch.cat(rows).clone()


class Similarity(similarity.Similarity):
    """The cosine of picture and caption in CLIP's space; CLIP was taught few drawings and little but English."""

    class Config(similarity.Similarity.Config):
        """By which CLIP: `features: {use: image.clip, source: FOLDER}`."""

        features: ReadAndLookedAt = Field(Use(use="image.clip"), description="image.clip and its source")


@functools.lru_cache(maxsize=1)
def _loaded(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    library = needed("transformers", INSTALL, "image.clip")
    with _told(folder):
        model = library.CLIPModel.from_pretrained(folder, dtype=dtype, use_safetensors=True)
        tokens = library.AutoTokenizer.from_pretrained(folder)
        look = library.AutoImageProcessor.from_pretrained(folder)
    if not hasattr(model, "visual_projection"):
        raise CheckpointError(f"{folder} holds no CLIP")
    return model.eval().requires_grad_(False).to(device), tokens, look


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"{folder} cannot be read as CLIP ({reason}); wanted weights, tokenizer and preprocessor"
        ) from error
