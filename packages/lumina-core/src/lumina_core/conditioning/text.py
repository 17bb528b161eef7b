"""Text -> Condition by a small trainable encoder with its own subword vocabulary; any script, at worst as bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import sentencepiece
import torch
from pydantic import Field
from torch import Tensor, nn

from lumina_core.conditioning.ops import select, stack
from lumina_core.config import Config as Settings
from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.protocols import Conditioner
from lumina_core.types import Condition

PAD_ID, BOS_ID = 0, 1
MIN_BATCH_SIZE = 16
"""Captions that are read together at least."""


class TextConditioner(nn.Module, Conditioner):
    """Reads a caption into a fixed number of memory slots and a summary. Our own design, not the paper's.

    The pieces of the caption pass through a few transformer layers and are averaged; a wide layer unfolds the average
    into `slots` memory entries. A fixed number of entries means that captions of all lengths share a batch without any
    mask in the backbone (compare the resampler of Flamingo, arXiv 2204.14198). `foretell` reads the slots as a guess of
    coarse data, which the objective `core.contrastive_text` teaches before the backbone is trained.
    """

    class Config(Settings):
        """Sizes of the encoder. The vocabulary itself is learnt from the captions and kept with the weights."""

        vocab_size: int = Field(12000, ge=300, le=256000, description="pieces, with 256 bytes among them")
        hidden_size: int = Field(256, ge=16, description="width of the layers")
        num_layers: int = Field(2, ge=1, description="layers")
        num_heads: int = Field(4, ge=1, description="heads of a layer")
        max_length: int = Field(64, ge=8, le=4096, description="pieces read; the rest of a longer caption is cut off")
        expand_dim: int = Field(1024, ge=16, description="width of the layer that unfolds the average into slots")
        num_latents: int = Field(16, ge=1, description="entries of the memory")
        context_dim: int = Field(192, ge=8, description="width of a memory entry")
        target_dim: int = Field(48, ge=0, description="numbers a slot foretells of the data; 0: none")

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.hidden_size % config.num_heads:
            raise ConfigError(f"core.text: width {config.hidden_size} cannot be cut into {config.num_heads} heads")
        self.config = config
        self.cross_attention_dim, self.pooled_dim = config.context_dim, config.hidden_size
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        nn.init.normal_(self.embedding.weight, std=1.0)
        self.position_embedding = nn.Parameter(torch.zeros(config.max_length, config.hidden_size))
        self.layers = nn.ModuleList(
            _EncoderLayer(config.hidden_size, config.num_heads) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size)
        self.expand = nn.Sequential(nn.Linear(config.hidden_size, config.expand_dim), nn.GELU())
        self.to_latents = nn.Linear(config.expand_dim, config.num_latents * config.context_dim)
        self.latent_norm = nn.LayerNorm(config.context_dim)
        self.to_target = nn.Linear(config.context_dim, config.target_dim) if config.target_dim else None
        self.register_buffer("vocabulary", torch.zeros(0, dtype=torch.uint8))
        self._sentencepiece: sentencepiece.SentencePieceProcessor | None = None

    def fit(self, values: Sequence[str]) -> None:
        """Learn the vocabulary (unigram pieces, byte fallback, NFKC). The same captions give the same one."""
        model_file = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(values), model_writer=model_file, vocab_size=self.config.vocab_size,
            hard_vocab_limit=False, byte_fallback=True, character_coverage=0.9999,
            normalization_rule_name="nmt_nfkc_cf", num_threads=1,
            pad_id=PAD_ID, bos_id=BOS_ID, eos_id=2, unk_id=3, minloglevel=2, max_sentence_length=4096,
        )  # fmt: skip
        self.vocabulary = torch.frombuffer(bytearray(model_file.getvalue()), dtype=torch.uint8)
        self._sentencepiece = None

    def no_muon(self) -> set[str]:
        """Return the table of tokens and the two output layers."""
        return {"embedding.weight", "to_latents.weight", "to_target.weight"}

    def token_ids(self, text: str) -> list[int]:
        """Piece numbers of a text, the beginning mark first, at most `length` of them."""
        ids: list[int] = self._load_processor().encode(text)
        return [BOS_ID, *ids][: self.config.max_length]

    def truncated_text(self, text: str) -> str:
        """The end of a text that is longer than `length` pieces, which `encode` cuts off; empty for most."""
        remainder: str = self._load_processor().decode(
            self._load_processor().encode(text)[self.config.max_length - 1 :]
        )
        return remainder

    def encode(self, values: Sequence[str]) -> Condition:
        """Captions -> memory (B, slots, W') and summary (B, width)."""
        rows = [self.token_ids(value) for value in values]
        # captions of like length are read together: most are short, and padding to the longest would cost thrice
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        batch_size = max(MIN_BATCH_SIZE, -(-len(rows) // 8))
        encoded = stack([self._encode_rows(rows, order[k : k + batch_size]) for k in range(0, len(rows), batch_size)])
        return select(encoded, torch.tensor(order).argsort())

    def _encode_rows(self, rows: Sequence[Sequence[int]], indices: Sequence[int]) -> Condition:
        length = max(len(rows[index]) for index in indices)
        padded = torch.tensor([[*rows[index], *[PAD_ID] * (length - len(rows[index]))] for index in indices])
        ids = padded.to(self.position_embedding.device, non_blocking=True)
        return self.encode_ids(ids, ids != PAD_ID)

    def encode_ids(self, ids: Tensor, mask: Tensor) -> Condition:
        """Piece numbers (B, L) and which are real (B, L) -> memory and summary."""
        x = self.embedding(ids) + self.position_embedding[: ids.shape[1]]
        # one extra dimension for the heads and one for the queries: (B, 1, 1, L)
        bias = torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, float("-inf"))[:, None, None]
        for layer in self.layers:
            x = layer(x, bias)
        weight = mask.to(x.dtype)[..., None]
        pooled = self.norm((x * weight).sum(1) / weight.sum(1))
        latents = self.to_latents(self.expand(pooled)).unflatten(1, (self.config.num_latents, self.config.context_dim))
        return Condition(context=self.latent_norm(latents), pooled=pooled)

    def null_condition(self, batch: int) -> Condition:
        """Silence is the empty caption, as published."""
        condition = self.encode([""])
        return Condition(context=_expand_batch(condition.context, batch), pooled=_expand_batch(condition.pooled, batch))

    def predict_targets(self, condition: Condition) -> Tensor:
        """(B, slots, foretold): a guess of the data's coarse tokens, one a slot."""
        if self.to_target is None or condition.context is None:
            raise ConfigError(
                "core.text foretells nothing with `target_dim: 0`; give it the width of the data's tokens"
            )
        targets: Tensor = self.to_target(condition.context)
        return targets

    def _load_processor(self) -> sentencepiece.SentencePieceProcessor:
        if self._sentencepiece is None:
            if self.vocabulary.numel() == 0:
                raise CheckpointError("core.text has no vocabulary yet: train it, or load weights that bring one")
            self._sentencepiece = self._parse_vocabulary()
        return self._sentencepiece

    def _parse_vocabulary(self) -> sentencepiece.SentencePieceProcessor:
        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=bytes(self.vocabulary.cpu().numpy()))
        except RuntimeError as error:
            raise CheckpointError(
                "core.text: the vocabulary among the weights cannot be read; get the model again"
            ) from error
        if processor.get_piece_size() > self.config.vocab_size:
            raise CheckpointError(
                f"core.text: the weights bring {processor.get_piece_size()} pieces, "
                f"the recipe has {self.config.vocab_size}"
            )
        return processor

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # the vocabulary is as long as it was learnt: give the buffer that length before torch compares the shapes
        stored = state_dict.get(prefix + "vocabulary")
        if stored is not None:
            self.vocabulary = torch.zeros_like(stored)
            self._sentencepiece = None
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _expand_batch(tensor: Tensor | None, batch: int) -> Tensor | None:
    return None if tensor is None else tensor.expand(batch, *tensor.shape[1:])


class _EncoderLayer(nn.Module):
    """One pre-norm transformer layer over the pieces, reading both ways."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.ffn_norm = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.qkv, self.out = nn.Linear(hidden_size, 3 * hidden_size), nn.Linear(hidden_size, hidden_size)
        self.feed_forward = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size), nn.GELU(), nn.Linear(4 * hidden_size, hidden_size)
        )

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).flatten(2))
        ffn_out: Tensor = self.feed_forward(self.ffn_norm(x))
        return x + ffn_out
