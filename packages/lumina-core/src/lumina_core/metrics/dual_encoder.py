"""Two networks that put data and texts into one space, as the library transformers publishes them (CLIP's children)."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lumina_core.errors import CheckpointError
from lumina_core.pretrained import PretrainedConfig, digest, require, resolve_path, verify_sha256
from lumina_core.protocols import TextFeatureExtractor

INSTALL_TARGET = "lumina-core[transformers]"
FILE_PATTERNS = ("*.json", "*.txt", "*.safetensors")
CHUNK_SIZE = 32
"""Items or texts that pass through a network at once."""


class DualEncoder(TextFeatureExtractor):
    """Data and texts in one space, of unit length. A child says what reads the data, and how they go in.

    Attributes:
        title: what the network is called: `CLIP`.
        part: what asks for it, for messages.
        network: class of the library.
        reader: class of the library that prepares data.
        projection: a part that such a network must have.
    """

    libraries: Sequence[str] = ("transformers",)
    title: str
    component: str
    model_class: str
    processor_class: str
    projection_attr: str

    class Config(PretrainedConfig):
        """Where the weights come from."""

    def __init__(self, config: Config) -> None:
        self.config = config
        folder = resolve_path(config, FILE_PATTERNS)
        verify_sha256(config, folder)
        self.name = f"{self.title} {Path(config.source).name}"
        self.key = f"{self.title} {digest(folder)}"
        self._device = torch.device(config.device or "cpu")
        dtype = config.resolve_dtype(folder, self._device)
        spec = _DualEncoderSpec(
            self.title, self.component, self.model_class, self.processor_class, self.projection_attr
        )
        self._model, self._tokenizer, self._processor = _load(spec, folder, self._device, dtype)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts, cut to what the model reads -> (M, D) float32 of unit length."""
        rows = []
        for start in range(0, len(texts), CHUNK_SIZE):
            token_ids = self._tokenizer(
                list(texts[start : start + CHUNK_SIZE]), padding=True, truncation=True, return_tensors="pt",
                max_length=self.max_text_length,
            )  # fmt: skip
            outputs = self._model.text_model(
                **{k: v.to(self._device) for k, v in token_ids.items() if k != "token_type_ids"}
            )
            rows.append(self.normalize(self._model.text_projection(outputs.pooler_output)))
        return torch.cat(rows).clone()

    @property
    def max_text_length(self) -> int:
        """Tokens of a text that are read."""
        length: int = self._model.config.text_config.max_position_embeddings
        return length

    def normalize(self, projected: Tensor) -> Tensor:
        """(B, D) in the common space -> float32 of unit length on the CPU."""
        return F.normalize(projected.float(), dim=1).cpu()


class _DualEncoderSpec(NamedTuple):
    title: str
    component: str
    model_class: str
    processor_class: str
    projection_attr: str


@functools.lru_cache(maxsize=1)
def _load(spec: _DualEncoderSpec, folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    library = require("transformers", INSTALL_TARGET, spec.component)
    with _checkpoint_errors(spec.title, folder):
        model = getattr(library, spec.model_class).from_pretrained(folder, dtype=dtype, use_safetensors=True)
        tokenizer = library.AutoTokenizer.from_pretrained(folder)
        processor = getattr(library, spec.processor_class).from_pretrained(folder)
    if not hasattr(model, spec.projection_attr):
        raise CheckpointError(f"{folder} holds no {spec.title}")
    return model.eval().requires_grad_(False).to(device), tokenizer, processor


@contextlib.contextmanager
def _checkpoint_errors(title: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"{folder} cannot be read as {title} ({reason}); wanted weights, tokenizer and preprocessor"
        ) from error
