"""Text -> Condition by a frozen pretrained language model: decoders such as Gemma, encoders such as T5."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lumina_core.builtin.language import Reader, load_network, width_of
from lumina_core.conditions import pooled, select
from lumina_core.errors import ConfigError, LuminaError
from lumina_core.outside import Borrowed, Borrowing, digest, located, verified
from lumina_core.types import Condition

FILES = ("*.json", "*.model", "*.txt", "*.jinja", "model*.safetensors")
GROUP = 32
"""Texts that are read together at most."""
_OF_PLACE = {"device", "release", "sha256"}
"""Options that change no number of what is said."""


class TransformersConditioner(nn.Module):
    """Reads texts with a pretrained network of the library transformers, loaded when the first text is read.

    The defaults are Lumina-Next's (lumina_next_t2i_mini/sample.py): Gemma-2B, the output of the layer before the last,
    at most 256 pieces with <bos> first, padded on the right to a multiple of 8; the summary is the mean of the memory's
    real entries; silence is the empty text, as in its caption dropout. Entries under the mask are zero. Padding is put
    there by us, so that a tokenizer needs no padding piece.

    The network is no part of the model's weights: it is named by `source` and, once saved, held to its sha256.
    """

    costly = True

    class Config(Borrowing):
        """Which network, and what is read of it. `width` spares looking into the source when a model is built."""

        source: str = Field("google/gemma-2b", description="folder with config.json and safetensors, or a hub name")
        tokenizer: str | None = Field(None, description="folder or hub name of the tokenizer; None: the source")
        layer: int = Field(
            -2, description="whose output: -1 the last one's after its norm, -2 the one before, 0 none's"
        )
        length: int = Field(
            256, ge=1, le=131072, description="pieces read; the rest of a longer text is cut off, and said"
        )
        padding: Literal["right", "left"] = Field("right", description="where shorter texts are filled up")
        multiple_of: int = Field(8, ge=1, description="the memory's length is rounded up to a multiple of it")
        full: bool = Field(False, description="always fill up to `length`")
        masked: bool = Field(True, description="False: padding counts as real, as in the published music model")
        prefix: str = Field("", description="put before every text that is not empty")
        chat: bool = Field(False, description="put every text that is not empty into the tokenizer's chat template")
        summary: bool = Field(True, description="the mean of the memory as summary")
        width: int | None = Field(None, ge=1, description="of a memory entry; None: as the source says")
        quantize: Literal["none", "int8", "int4"] = Field(
            "none", description="weights in so few bits (pip install 'lumina-core[quantize]')"
        )
        release: bool = Field(False, description="give the network's memory back after each reading")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.memory_width = config.width or width_of(self._folder())
        self.summary_width = self.memory_width if config.summary else 0
        self.borrowed = Borrowed(self._load, config.device)
        self._reader: Reader | None = None
        self._wider = False  # float16 has overflowed: another format from now on

    def encode(self, values: Sequence[str]) -> Condition:
        """Texts -> memory (B, M, width) with its mask, and their mean as summary.

        Raises:
            CheckpointError: the source is not there, is cut short, or is not what `sha256` says.
            PluginError: transformers is not installed.
        """
        rows = [self._numbers(value) for value in values]
        length = self._filled(max(map(len, rows)))
        read = [self._read(rows[k : k + GROUP], length) for k in range(0, len(rows), GROUP)]
        if self.config.release:
            self.borrowed.release()
        place = self.borrowed.place  # it is moved with the model: say it there, in the model's number format
        memory, real = (torch.cat(parts) for parts in zip(*read, strict=True))
        mask = None if bool(real.all()) else real.to(place.device)
        summary = pooled(memory.float(), real.to(memory.device)) if self.config.summary else None
        return Condition(memory.to(place), mask, None if summary is None else summary.to(place))

    def nothing(self, batch: int) -> Condition:
        """Silence is the empty text, without prefix or template."""
        said = self.encode([""])
        return select(said, torch.zeros(batch, dtype=torch.int64))

    def unread(self, text: str) -> str:
        """The end of a text that is longer than `length` pieces, which `encode` cuts off; empty for most."""
        return self._tokens().unread(self._worded(text), plain=not (self.config.chat and text))

    def fingerprint(self) -> str:
        """What decides the numbers that are said of a text: the files and the options."""
        options = self.config.model_dump(exclude=_OF_PLACE | {"source", "tokenizer", "subfolder", "revision"})
        said = json.dumps({**options, "files": digest(*self._folders())}, sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()

    def referenced(self) -> dict[str, Any]:
        """Options that hold a saved model to the files that it was made with."""
        return {"sha256": digest(*self._folders())}

    def ready(self) -> None:
        """Look whether the source is there, without reading its weights."""
        self._folder()
        self._tokens()

    def _worded(self, text: str) -> str:
        return self._tokens().worded(text, self.config.prefix, self.config.chat) if text else text

    def _numbers(self, text: str) -> list[int]:
        return self._tokens().numbers(self._worded(text), plain=not (self.config.chat and text))

    def _filled(self, length: int) -> int:
        if self.config.full:
            return self.config.length
        return -(-length // self.config.multiple_of) * self.config.multiple_of

    def _read(self, rows: Sequence[Sequence[int]], length: int) -> tuple[Tensor, Tensor]:
        """Memory (B, length, width), zero where nothing is real, and which entries are (B, length)."""
        network = self.borrowed.network()
        ids, real = (tensor.to(self.borrowed.device) for tensor in self._padded(rows, length))
        memory = network(ids, real)
        if not bool(torch.isfinite(memory[real]).all()):
            self._overflowed(network.dtype)
            return self._read(rows, length)
        memory = memory * real.to(memory)[..., None] if self.config.masked else memory
        return memory, real

    def _padded(self, rows: Sequence[Sequence[int]], length: int) -> tuple[Tensor, Tensor]:
        filler, right = self._tokens().filler, self.config.padding == "right"
        ids = torch.full((len(rows), length), filler)
        real = torch.full((len(rows), length), not self.config.masked)
        for place, row in enumerate(rows):
            where = slice(0, len(row)) if right else slice(length - len(row), length)
            ids[place, where] = torch.tensor(row)
            real[place, where] = True
        return ids, real

    def _overflowed(self, dtype: torch.dtype) -> None:
        if dtype != torch.float16 or self._wider:
            raise LuminaError(
                f"{self.config.source} answered what is no number; its weights are broken, or fit no text"
            )
        warnings.warn(f"{self.config.source} overflows in float16; read in float32 instead", stacklevel=4)
        self._wider = True
        self.borrowed.release()

    def _load(self, device: torch.device) -> nn.Module:
        folder = self._folder()
        verified(self.config, *self._folders())
        dtype = torch.float32 if self._wider else self.config.chosen(folder, device)
        network = load_network(folder, self.config.layer, dtype, self.config.quantize)
        if network.width != self.memory_width:
            raise ConfigError(
                f"core.transformers: {self.config.source} is {network.width} wide, and `width` says {self.memory_width}"
            )
        return network

    def _tokens(self) -> Reader:
        if self._reader is None:
            self._reader = Reader(self._tokenizer_folder(), self.config.length)
        return self._reader

    def _folder(self) -> Path:
        return located(self.config, FILES)

    def _tokenizer_folder(self) -> Path:
        if self.config.tokenizer is None:
            return self._folder()
        other = {"source": self.config.tokenizer, "subfolder": ""}
        return located(self.config.model_copy(update=other), FILES[:-1], "tokenizer_config.json")

    def _folders(self) -> tuple[Path, Path]:
        return self._folder(), self._tokenizer_folder()
