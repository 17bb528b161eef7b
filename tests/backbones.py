"""Small backbones with every weight drawn anew (a fresh one answers zero to everything), and what to ask them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lumina_core.models.flag_dit import FlagDiTBackbone
from lumina_core.models.next_dit import NextDiTBackbone
from lumina_core.types import Condition, Tokens

SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "multiple_of": 16,
    "token_dim": 6, "cross_attention_dim": 12, "pooled_dim": 10,
}  # fmt: skip


def seeded_randn(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def randomize(module: nn.Module, seed: int = 1) -> nn.Module:
    """Matrices of deviation 1/sqrt(fan in), vectors moved by 0.3, so that nothing is zero and everything matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
            else:
                parameter.add_(0.3 * noise)
    return module


def next_dit(**options: Any) -> NextDiTBackbone:
    sizes = {"rope_axes_dim": (0, 4, 4), "rope_layout": "interleaved", **SIZES, **options}
    model = NextDiTBackbone(NextDiTBackbone.Config.read(sizes, "test"))
    randomize(model)
    return model


def flag_dit(**options: Any) -> FlagDiTBackbone:
    model = FlagDiTBackbone(FlagDiTBackbone.Config.read({**SIZES, **options}, "test"))
    randomize(model)
    return model


BACKBONES = {"next_dit": next_dit, "flag_dit": flag_dit}


def make_tokens(rows: int, columns: int, batch: int = 1, seed: int = 0) -> Tokens:
    """Random tokens of width 6 at (0, row, column)."""
    places = torch.tensor([(0, row, column) for row in range(rows) for column in range(columns)])
    count = rows * columns
    positions = places.float().expand(batch, -1, -1)
    return Tokens(seeded_randn((batch, count, 6), seed), positions, ((rows, columns),) * batch)


def make_condition(batch: int, entries: int = 5, seed: int = 7) -> Condition:
    return Condition(context=seeded_randn((batch, entries, 12), seed), pooled=seeded_randn((batch, 10), seed + 1))


def make_times(batch: int) -> Tensor:
    return torch.linspace(0.2, 0.8, batch)
