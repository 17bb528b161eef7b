"""Text conditioner with a small trainable encoder and its own subword vocabulary with byte fallback."""

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
"""Least number of captions per batch of the encoder, if there are as many."""


class TextConditioner(nn.Module, Conditioner):
    """Encode captions to a context of fixed length and a pooled vector. This design is not the paper's.

    Token embeddings pass through a few transformer layers and are averaged; a wide layer expands the mean to
    `num_latents` context entries. With a fixed number of entries, captions of all lengths share a batch without a mask
    in the backbone (compare the resampler of Flamingo, arXiv 2204.14198). `predict_targets` predicts coarse data from
    the context, for pretraining with the objective `core.contrastive_text`.
    """

    class Config(Settings):
        """Sizes of the encoder. The vocabulary is learned from the captions and saved with the weights."""

        vocab_size: int = Field(12000, ge=300, le=256000, description="subword tokens, including 256 bytes")
        hidden_size: int = Field(256, ge=16, description="width of the transformer layers")
        num_layers: int = Field(2, ge=1, description="transformer layers")
        num_heads: int = Field(4, ge=1, description="attention heads per layer")
        max_length: int = Field(64, ge=8, le=4096, description="tokens; the end of a longer caption is cut off")
        expand_dim: int = Field(1024, ge=16, description="width of the layer that expands the mean")
        num_latents: int = Field(16, ge=1, description="entries of the context")
        context_dim: int = Field(192, ge=8, description="width of the context")
        target_dim: int = Field(48, ge=0, description="width of predicted data tokens; 0: no prediction")

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.hidden_size % config.num_heads:
            raise ConfigError(
                f"core.text: hidden_size: got {config.hidden_size}, expected a multiple of {config.num_heads} heads."
            )
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
        """Learn the vocabulary (unigram, byte fallback, NFKC, case folding); equal captions give equal vocabularies."""
        model_file = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(values),
            model_writer=model_file,
            vocab_size=self.config.vocab_size,
            hard_vocab_limit=False,
            byte_fallback=True,
            character_coverage=0.9999,
            normalization_rule_name="nmt_nfkc_cf",
            num_threads=1,
            pad_id=PAD_ID,
            bos_id=BOS_ID,
            eos_id=2,
            unk_id=3,
            minloglevel=2,
            max_sentence_length=4096,
        )
        self.vocabulary = torch.frombuffer(bytearray(model_file.getvalue()), dtype=torch.uint8)
        self._sentencepiece = None

    def no_muon(self) -> set[str]:
        """Return the table of tokens and the two output layers."""
        return {"embedding.weight", "to_latents.weight", "to_target.weight"}

    def token_ids(self, text: str) -> list[int]:
        """Return at most `max_length` token ids of a text, the first of which marks the beginning."""
        ids: list[int] = self._processor().encode(text)
        return [BOS_ID, *ids][: self.config.max_length]

    def truncated_text(self, value: str) -> str:
        """Return the end of a text that is longer than `max_length` tokens; empty for most."""
        processor = self._processor()
        remainder: str = processor.decode(processor.encode(value)[self.config.max_length - 1 :])
        return remainder

    def encode(self, values: Sequence[str]) -> Condition:
        """Encode captions to a context (B, num_latents, context_dim) and a pooled vector (B, hidden_size)."""
        rows = [self.token_ids(value) for value in values]
        # captions of similar length share a batch: most are short, and padding to the longest would triple the time
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
        """Encode token ids (B, L) with their mask (B, L) to a context and a pooled vector."""
        x = self.embedding(ids) + self.position_embedding[: ids.shape[1]]
        # broadcast over heads and queries: (B, 1, 1, L)
        bias = torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, float("-inf"))[:, None, None]
        for layer in self.layers:
            x = layer(x, bias)
        weight = mask.to(x.dtype)[..., None]
        pooled = self.norm((x * weight).sum(1) / weight.sum(1))
        latents = self.to_latents(self.expand(pooled)).unflatten(1, (self.config.num_latents, self.config.context_dim))
        return Condition(context=self.latent_norm(latents), pooled=pooled)

    def null_condition(self, batch: int) -> Condition:
        """Return the condition of the empty caption, as published."""
        condition = self.encode([""])
        assert condition.context is not None and condition.pooled is not None
        return Condition(context=condition.context.expand(batch, -1, -1), pooled=condition.pooled.expand(batch, -1))

    def predict_targets(self, condition: Condition) -> Tensor:
        """Predict coarse data tokens (B, num_latents, target_dim) from the context.

        Raises:
            ConfigError: `target_dim` is 0.
        """
        if self.to_target is None or condition.context is None:
            raise ConfigError("core.text: target_dim: got 0, expected the width of data tokens.")
        targets: Tensor = self.to_target(condition.context)
        return targets

    def _processor(self) -> sentencepiece.SentencePieceProcessor:
        if self._sentencepiece is not None:
            return self._sentencepiece
        if self.vocabulary.numel() == 0:
            raise CheckpointError("core.text has no vocabulary yet. Train it, or load weights with a vocabulary.")
        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=bytes(self.vocabulary.cpu().numpy()))
        except RuntimeError as error:
            raise CheckpointError(
                "core.text: the vocabulary among the weights cannot be read. Get the model again."
            ) from error
        if processor.get_piece_size() > self.config.vocab_size:
            raise CheckpointError(
                f"core.text: vocab_size: got {self.config.vocab_size}, expected at least "
                f"{processor.get_piece_size()}, the size of the vocabulary among the weights."
            )
        self._sentencepiece = processor
        return processor

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # the length of the vocabulary is learned: resize the buffer before torch compares shapes
        stored = state_dict.get(prefix + "vocabulary")
        if stored is not None:
            self.vocabulary = torch.zeros_like(stored)
            self._sentencepiece = None
        super()._load_from_state_dict(state_dict, prefix, *rest)


class _EncoderLayer(nn.Module):
    """Bidirectional pre-norm transformer layer."""

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
