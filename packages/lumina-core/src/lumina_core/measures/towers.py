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
from lumina_core.outside import Borrowing, digest, located, needed, verified

INSTALL = "lumina-core[transformers]"
FILES = ("*.json", "*.txt", "*.safetensors")
CHUNK = 32
"""Items or texts that pass through a network at once."""


class Towers:
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
    part: str
    network: str
    reader: str
    projection: str

    class Config(Borrowing):
        """Where the weights come from."""

    def __init__(self, config: Config) -> None:
        self.config = config
        folder = located(config, FILES)
        verified(config, folder)
        self.name = f"{self.title} {Path(config.source).name}"
        self.key = f"{self.title} {digest(folder)}"
        self._device = torch.device(config.device or "cpu")
        dtype = config.chosen(folder, self._device)
        kind = _Kind(self.title, self.part, self.network, self.reader, self.projection)
        self._model, self._tokens, self._reader = _loaded(kind, folder, self._device, dtype)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts, cut to what the model reads -> (M, D) float32 of unit length."""
        rows = []
        for start in range(0, len(texts), CHUNK):
            said = self._tokens(
                list(texts[start : start + CHUNK]), padding=True, truncation=True, return_tensors="pt",
                max_length=self.longest,
            )  # fmt: skip
            read = self._model.text_model(**{k: v.to(self._device) for k, v in said.items() if k != "token_type_ids"})
            rows.append(self.unit(self._model.text_projection(read.pooler_output)))
        return torch.cat(rows).clone()

    @property
    def longest(self) -> int:
        """Tokens of a text that are read."""
        places: int = self._model.config.text_config.max_position_embeddings
        return places

    def unit(self, projected: Tensor) -> Tensor:
        """(B, D) in the common space -> float32 of unit length on the CPU."""
        return F.normalize(projected.float(), dim=1).cpu()


class _Kind(NamedTuple):
    title: str
    part: str
    network: str
    reader: str
    projection: str


@functools.lru_cache(maxsize=1)
def _loaded(kind: _Kind, folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    library = needed("transformers", INSTALL, kind.part)
    with _told(kind.title, folder):
        model = getattr(library, kind.network).from_pretrained(folder, dtype=dtype, use_safetensors=True)
        tokens = library.AutoTokenizer.from_pretrained(folder)
        reader = getattr(library, kind.reader).from_pretrained(folder)
    if not hasattr(model, kind.projection):
        raise CheckpointError(f"{folder} holds no {kind.title}")
    return model.eval().requires_grad_(False).to(device), tokens, reader


@contextlib.contextmanager
def _told(title: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"{folder} cannot be read as {title} ({reason}); wanted weights, tokenizer and preprocessor"
        ) from error
