"""Text -> Condition by a small trainable encoder with its own subword vocabulary; any script, at worst as bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import sentencepiece
import torch
from pydantic import Field
from torch import Tensor, nn

from lumina_core.conditions import select, stack
from lumina_core.config import Config as Settings
from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.types import Condition

PAD, BEGIN = 0, 1
GROUP = 16
"""Captions that are read together at least."""


class TextConditioner(nn.Module):
    """Reads a caption into a fixed number of memory slots and a summary. Our own design, not the paper's.

    The pieces of the caption pass through a few transformer layers and are averaged; a wide layer unfolds the average
    into `slots` memory entries. A fixed number of entries means that captions of all lengths share a batch without any
    mask in the backbone (compare the resampler of Flamingo, arXiv 2204.14198). `foretell` reads the slots as a guess of
    coarse data, which the objective `core.alignment` teaches before the backbone is trained.
    """

    class Config(Settings):
        """Sizes of the encoder. The vocabulary itself is learnt from the captions and kept with the weights."""

        vocabulary: int = Field(12000, ge=300, le=256000, description="pieces, with 256 bytes among them")
        width: int = Field(256, ge=16, description="width of the layers")
        depth: int = Field(2, ge=1, description="layers")
        heads: int = Field(4, ge=1, description="heads of a layer")
        length: int = Field(64, ge=8, le=4096, description="pieces read; the rest of a longer caption is cut off")
        hidden: int = Field(1024, ge=16, description="width of the layer that unfolds the average into slots")
        slots: int = Field(16, ge=1, description="entries of the memory")
        memory: int = Field(192, ge=8, description="width of a memory entry")
        foretold: int = Field(48, ge=0, description="numbers a slot foretells of the data; 0: none")

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.width % config.heads:
            raise ConfigError(f"core.text: width {config.width} cannot be cut into {config.heads} heads")
        self.config = config
        self.memory_width, self.summary_width = config.memory, config.width
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        nn.init.normal_(self.embedding.weight, std=1.0)
        self.places = nn.Parameter(torch.zeros(config.length, config.width))
        self.layers = nn.ModuleList(_Layer(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.unfold = nn.Sequential(nn.Linear(config.width, config.hidden), nn.GELU())
        self.to_slots = nn.Linear(config.hidden, config.slots * config.memory)
        self.slot_norm = nn.LayerNorm(config.memory)
        self.to_foretold = nn.Linear(config.memory, config.foretold) if config.foretold else None
        self.register_buffer("vocabulary", torch.zeros(0, dtype=torch.uint8))
        self._pieces: sentencepiece.SentencePieceProcessor | None = None

    def learn(self, values: Sequence[str]) -> None:
        """Learn the vocabulary (unigram pieces, byte fallback, NFKC). The same captions give the same one."""
        written = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(values), model_writer=written, vocab_size=self.config.vocabulary,
            hard_vocab_limit=False, byte_fallback=True, character_coverage=0.9999,
            normalization_rule_name="nmt_nfkc_cf", num_threads=1,
            pad_id=PAD, bos_id=BEGIN, eos_id=2, unk_id=3, minloglevel=2, max_sentence_length=4096,
        )  # fmt: skip
        self.vocabulary = torch.frombuffer(bytearray(written.getvalue()), dtype=torch.uint8)
        self._pieces = None

    def pieces(self, text: str) -> list[int]:
        """Piece numbers of a text, the beginning mark first, at most `length` of them."""
        numbers: list[int] = self._processor().encode(text)
        return [BEGIN, *numbers][: self.config.length]

    def unread(self, text: str) -> str:
        """The end of a text that is longer than `length` pieces, which `encode` cuts off; empty for most."""
        rest: str = self._processor().decode(self._processor().encode(text)[self.config.length - 1 :])
        return rest

    def encode(self, values: Sequence[str]) -> Condition:
        """Captions -> memory (B, slots, W') and summary (B, width)."""
        rows = [self.pieces(value) for value in values]
        # captions of like length are read together: most are short, and padding to the longest would cost thrice
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        share = max(GROUP, -(-len(rows) // 8))
        read = stack([self._read(rows, order[k : k + share]) for k in range(0, len(rows), share)])
        return select(read, torch.tensor(order).argsort())

    def _read(self, rows: Sequence[Sequence[int]], places: Sequence[int]) -> Condition:
        length = max(len(rows[place]) for place in places)
        padded = torch.tensor([[*rows[place], *[PAD] * (length - len(rows[place]))] for place in places])
        numbers = padded.to(self.places.device, non_blocking=True)
        return self.read(numbers, numbers != PAD)

    def read(self, numbers: Tensor, real: Tensor) -> Condition:
        """Piece numbers (B, L) and which are real (B, L) -> memory and summary."""
        x = self.embedding(numbers) + self.places[: numbers.shape[1]]
        # one extra dimension for the heads and one for the queries: (B, 1, 1, L)
        bias = torch.zeros_like(real, dtype=x.dtype).masked_fill(~real, float("-inf"))[:, None, None]
        for layer in self.layers:
            x = layer(x, bias)
        weight = real.to(x.dtype)[..., None]
        summary = self.norm((x * weight).sum(1) / weight.sum(1))
        slots = self.to_slots(self.unfold(summary)).unflatten(1, (self.config.slots, self.config.memory))
        return Condition(memory=self.slot_norm(slots), summary=summary)

    def nothing(self, batch: int) -> Condition:
        """Silence is the empty caption, as published."""
        said = self.encode([""])
        return Condition(memory=_repeated(said.memory, batch), summary=_repeated(said.summary, batch))

    def foretell(self, condition: Condition) -> Tensor:
        """(B, slots, foretold): a guess of the data's coarse tokens, one a slot."""
        if self.to_foretold is None or condition.memory is None:
            raise ConfigError("core.text foretells nothing with `foretold: 0`; give it the width of the data's tokens")
        foretold: Tensor = self.to_foretold(condition.memory)
        return foretold

    def _processor(self) -> sentencepiece.SentencePieceProcessor:
        if self._pieces is None:
            if self.vocabulary.numel() == 0:
                raise CheckpointError("core.text has no vocabulary yet: train it, or load weights that bring one")
            self._pieces = self._opened()
        return self._pieces

    def _opened(self) -> sentencepiece.SentencePieceProcessor:
        try:
            opened = sentencepiece.SentencePieceProcessor(model_proto=bytes(self.vocabulary.cpu().numpy()))
        except RuntimeError as error:
            raise CheckpointError(
                "core.text: the vocabulary among the weights cannot be read; get the model again"
            ) from error
        if opened.get_piece_size() > self.config.vocabulary:
            raise CheckpointError(
                f"core.text: the weights bring {opened.get_piece_size()} pieces, "
                f"the recipe has {self.config.vocabulary}"
            )
        return opened

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # the vocabulary is as long as it was learnt: give the buffer that length before torch compares the shapes
        stored = state_dict.get(prefix + "vocabulary")
        if stored is not None:
            self.vocabulary = torch.zeros_like(stored)
            self._pieces = None
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _repeated(tensor: Tensor | None, batch: int) -> Tensor | None:
    return None if tensor is None else tensor.expand(batch, *tensor.shape[1:])


class _Layer(nn.Module):
    """One pre-norm transformer layer over the pieces, reading both ways."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).flatten(2))
        fed: Tensor = self.feed(self.feed_norm(x))
        return x + fed
