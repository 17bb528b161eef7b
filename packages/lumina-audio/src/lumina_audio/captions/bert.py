"""The text tower of Microsoft's CLAP: BERT (arXiv 1810.04805) and a projection, by the names of its checkpoints."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lumina_core.config import Config as Settings


class BertSizes(Settings):
    """Sizes of the tower; the defaults are bert-base-uncased's, projected as CLAP 2022 is."""

    vocabulary: int = Field(30522, ge=1, description="pieces")
    places: int = Field(512, ge=1, description="longest text, in pieces")
    width: int = Field(768, ge=2, description="of the layers")
    depth: int = Field(12, ge=1, description="layers")
    heads: int = Field(12, ge=1, description="of attention")
    hidden: int = Field(3072, ge=1, description="of the feed-forward layers")
    projected: int = Field(1024, ge=1, description="width of what comes out")
    eps: float = Field(1e-12, gt=0, description="of the norms")


class Tower(nn.Module):
    """Piece numbers (B, M) -> one projected vector a piece (B, M, projected); every piece counts, padding too.

    As published in lumina_music/models/encoders/CLAP/clap.py (TextEncoder) and its use in encoders/modules.py, where
    no mask is handed over.
    """

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.base, self.projection = Bert(sizes), Projection(sizes.width, sizes.projected)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, M) int64 -> (B, M, projected)."""
        read: Tensor = self.projection(self.base(ids))
        return read


class Projection(nn.Module):
    """LayerNorm(a + linear(gelu(a))) of a = linear(x)."""

    def __init__(self, width: int, projected: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, projected, bias=False)
        self.linear2 = nn.Linear(projected, projected, bias=False)
        self.layer_norm = nn.LayerNorm(projected)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., projected)."""
        straight = self.linear1(x)
        said: Tensor = self.layer_norm(straight + self.linear2(F.gelu(straight)))
        return said


class Bert(nn.Module):
    """BERT's encoder without pooling, for one sentence."""

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.embeddings, self.encoder = nn.Module(), nn.Module()
        self.embeddings.word_embeddings = nn.Embedding(sizes.vocabulary, sizes.width)
        self.embeddings.position_embeddings = nn.Embedding(sizes.places, sizes.width)
        self.embeddings.token_type_embeddings = nn.Embedding(2, sizes.width)
        self.embeddings.LayerNorm = nn.LayerNorm(sizes.width, sizes.eps)
        self.encoder.layer = nn.ModuleList(Layer(sizes) for _ in range(sizes.depth))

    def forward(self, ids: Tensor) -> Tensor:
        """(B, M) int64 -> (B, M, width)."""
        parts: Any = self.embeddings  # torch types the members as mere modules
        places = torch.arange(ids.shape[1], device=ids.device)
        words: Tensor = parts.word_embeddings(ids)
        x: Tensor = parts.LayerNorm(
            words + parts.token_type_embeddings(torch.zeros_like(ids)) + parts.position_embeddings(places)
        )
        layers: Any = self.encoder.layer
        for layer in layers:
            x = layer(x)
        return x


class Layer(nn.Module):
    """Attention and feed-forward, each added and then normalised."""

    attention: Any  # torch types what a mere module holds as tensors
    intermediate: Any

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        width, self.heads = sizes.width, sizes.heads
        self.attention = nn.Module()
        self.attention.self, self.attention.output = nn.Module(), Added(width, width, sizes.eps)
        for name in ("query", "key", "value"):
            setattr(self.attention.self, name, nn.Linear(width, width))
        self.intermediate, self.output = nn.Module(), Added(sizes.hidden, width, sizes.eps)
        self.intermediate.dense = nn.Linear(width, sizes.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(B, M, width) -> the same."""
        asked = self.attention.self
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (asked.query, asked.key, asked.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.attention.output(mixed, x)
        answer: Tensor = self.output(F.gelu(self.intermediate.dense(x)), x)
        return answer


class Added(nn.Module):
    """LayerNorm(linear(x) + beside)."""

    def __init__(self, width: int, out: int, eps: float) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(width, out), nn.LayerNorm(out, eps)

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        """(B, M, width) and (B, M, out) -> (B, M, out)."""
        added: Tensor = self.LayerNorm(self.dense(x) + beside)
        return added
