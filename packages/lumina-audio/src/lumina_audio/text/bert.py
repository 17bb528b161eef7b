"""The text tower of Microsoft's CLAP: BERT (arXiv 1810.04805) and a projection, by the names of its checkpoints."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lumina_core.config import Config as Settings


class BertConfig(Settings):
    """Sizes of the tower; the defaults are bert-base-uncased's, projected as CLAP 2022 is."""

    vocab_size: int = Field(30522, ge=1, description="pieces")
    max_position_embeddings: int = Field(512, ge=1, description="longest text, in pieces")
    hidden_size: int = Field(768, ge=2, description="of the layers")
    num_layers: int = Field(12, ge=1, description="layers")
    num_heads: int = Field(12, ge=1, description="of attention")
    intermediate_size: int = Field(3072, ge=1, description="of the feed-forward layers")
    projection_dim: int = Field(1024, ge=1, description="width of what comes out")
    layer_norm_eps: float = Field(1e-12, gt=0, description="of the norms")


class ClapTextTower(nn.Module):
    """Piece numbers (B, M) -> one projected vector a piece (B, M, projected); every piece counts, padding too.

    As published in lumina_music/models/encoders/CLAP/clap.py (TextEncoder) and its use in encoders/modules.py, where
    no mask is handed over.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.base, self.projection = Bert(config), Projection(config.hidden_size, config.projection_dim)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, M) int64 -> (B, M, projected)."""
        out: Tensor = self.projection(self.base(input_ids))
        return out


class Projection(nn.Module):
    """LayerNorm(a + linear(gelu(a))) of a = linear(x)."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(in_dim, out_dim, bias=False)
        self.linear2 = nn.Linear(out_dim, out_dim, bias=False)
        self.layer_norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., projected)."""
        linear = self.linear1(x)
        out: Tensor = self.layer_norm(linear + self.linear2(F.gelu(linear)))
        return out


class Bert(nn.Module):
    """BERT's encoder without pooling, for one sentence."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.embeddings, self.encoder = nn.Module(), nn.Module()
        self.embeddings.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embeddings.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.embeddings.token_type_embeddings = nn.Embedding(2, config.hidden_size)
        self.embeddings.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.encoder.layer = nn.ModuleList(BertLayer(config) for _ in range(config.num_layers))

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, M) int64 -> (B, M, width)."""
        embeddings: Any = self.embeddings  # torch types the members as mere modules
        position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)
        word_embeddings: Tensor = embeddings.word_embeddings(input_ids)
        x: Tensor = embeddings.LayerNorm(
            word_embeddings
            + embeddings.token_type_embeddings(torch.zeros_like(input_ids))
            + embeddings.position_embeddings(position_ids)
        )
        layers: Any = self.encoder.layer
        for layer in layers:
            x = layer(x)
        return x


class BertLayer(nn.Module):
    """Attention and feed-forward, each added and then normalised."""

    attention: Any  # torch types what a mere module holds as tensors
    intermediate: Any

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        hidden_size, self.num_heads = config.hidden_size, config.num_heads
        self.attention = nn.Module()
        self.attention.self, self.attention.output = (
            nn.Module(),
            BertOutput(hidden_size, hidden_size, config.layer_norm_eps),
        )
        for name in ("query", "key", "value"):
            setattr(self.attention.self, name, nn.Linear(hidden_size, hidden_size))
        self.intermediate, self.output = (
            nn.Module(),
            BertOutput(config.intermediate_size, hidden_size, config.layer_norm_eps),
        )
        self.intermediate.dense = nn.Linear(hidden_size, config.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, M, width) -> the same."""
        self_attention = self.attention.self
        q, k, v = (
            proj(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for proj in (self_attention.query, self_attention.key, self_attention.value)
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.attention.output(attended, x)
        out: Tensor = self.output(F.gelu(self.intermediate.dense(x)), x)
        return out


class BertOutput(nn.Module):
    """LayerNorm(linear(x) + beside)."""

    def __init__(self, in_dim: int, out_dim: int, eps: float) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(in_dim, out_dim), nn.LayerNorm(out_dim, eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """(B, M, width) and (B, M, out) -> (B, M, out)."""
        out: Tensor = self.LayerNorm(self.dense(x) + residual)
        return out
