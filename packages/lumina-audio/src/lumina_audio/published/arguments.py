"""What a released Flag-DiT is built with, as its configuration says it, and as options of our parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field

from lumina_audio.published.conventions import WholeTimeFlagDiT
from lumina_audio.published.names import to_published
from lumina_audio.vae_settings import VaeSettings
from lumina_core.config import Config
from lumina_core.errors import ConfigError
from lumina_core.weights.pieces import Held
from lumina_core.weights.unfilled import unfilled

BASE = 10000.0
"""Of the rotary frequencies, times `ntk_factor`."""


class Arguments(Config):
    """Arguments of FlagDiT, with their defaults; FlagDiTv2 takes the first six alone (flag_large_dit.py)."""

    in_channels: int = Field(ge=1)
    context_dim: int = Field(ge=1)
    hidden_size: int = Field(1152, ge=8)
    depth: int = Field(28, ge=1)
    num_heads: int = Field(16, ge=1)
    max_len: int = Field(1000, ge=1, description="places that their table of angles has; ours has no end")
    n_kv_heads: int | None = Field(None, ge=1)
    multiple_of: int = Field(256, ge=1)
    ffn_dim_multiplier: float | None = Field(None, gt=0)
    norm_eps: float = Field(1e-5, gt=0)
    qk_norm: bool | None = None
    rope_scaling_factor: float = Field(1.0, gt=0)
    ntk_factor: float = Field(1.0, gt=0)
    base_seqlen: int | None = Field(None, description="not used by their network in float32")
    proportional_attn: bool = Field(False, description="not used by their network in float32")


def options(arguments: Arguments) -> dict[str, dict[str, Any]]:
    """The options of our backbone and head, without the widths that follow from other parts."""
    a = arguments
    backbone: dict[str, Any] = {
        "width": a.hidden_size, "depth": a.depth, "heads": a.num_heads, "kv_heads": a.n_kv_heads,
        "multiple_of": a.multiple_of, "multiplier": a.ffn_dim_multiplier, "eps": a.norm_eps,
        "qk_norm": bool(a.qk_norm), "base": BASE * a.ntk_factor, "stretch": a.rope_scaling_factor,
    }  # fmt: skip
    return {"backbone": backbone, "head": {"shift": True}}


def filled(arguments: Arguments) -> dict[str, dict[str, Any]]:
    """The options with the widths that other parts decide, to build backbone and head alone."""
    a, found = arguments, options(arguments)
    shared = {"width": a.hidden_size, "token_width": a.in_channels}
    return {
        "backbone": {**found["backbone"], **shared, "memory_width": a.context_dim, "summary_width": a.context_dim},
        "head": {**found["head"], **shared, "modulation_width": a.hidden_size},
    }


def expected(arguments: Arguments) -> dict[str, tuple[int, ...]]:
    """Names and shapes of every tensor of such a model, as published."""
    a = arguments
    with unfilled():
        settings = WholeTimeFlagDiT.Config.read(filled(a)["backbone"], "published")
        made = {f"backbone.{name}": tensor for name, tensor in WholeTimeFlagDiT(settings).state_dict().items()}
        made |= {
            "head.modulation.weight": torch.empty(2 * a.hidden_size, a.hidden_size),
            "head.modulation.bias": torch.empty(2 * a.hidden_size),
            "head.linear.weight": torch.empty(a.in_channels, a.hidden_size),
            "head.linear.bias": torch.empty(a.in_channels),
        }
    theirs = to_published({name: Held(tensor) for name, tensor in made.items()})
    return {name: piece.shape for name, piece in theirs.items()}


class DdConfig(Config):
    """`ddconfig` of their AutoencoderKL (autoencoder1d.py): sizes of encoder and decoder."""

    in_channels: int = Field(ge=1)
    out_ch: int = Field(ge=1)
    z_channels: int = Field(ge=1)
    ch: int = Field(ge=1)
    ch_mult: tuple[int, ...] = (1, 2, 4, 8)
    num_res_blocks: int = Field(ge=1)
    attn_layers: tuple[int, ...] = ()
    down_layers: tuple[int, ...] = ()
    kernel_size: int = Field(3, ge=1)
    double_z: bool = True
    dropout: float = Field(0.0, description="of training alone")
    resamp_with_conv: bool = True


def vae_settings(constructor: Mapping[str, Any], where: str) -> tuple[VaeSettings, int]:
    """The sizes that an AutoencoderKL's configuration says, and its bands.

    Raises:
        ConfigError: sizes are missing, or ours cannot compute such a one.
    """
    said = DdConfig.read(dict(constructor.get("ddconfig") or {}), f"{where}: ddconfig")
    if not (said.double_z and said.resamp_with_conv and said.in_channels == said.out_ch):
        raise ConfigError(
            f"{where}: ddconfig has double_z {said.double_z}, resamp_with_conv {said.resamp_with_conv}, "
            f"{said.in_channels} channels in and {said.out_ch} out; wanted true, true, and as many out as in"
        )
    levels = range(len(said.ch_mult))  # published: attention at a level that there is none of
    sizes = {
        "channels": constructor.get("embed_dim", said.z_channels), "inner": said.z_channels, "width": said.ch,
        "growth": said.ch_mult, "blocks": said.num_res_blocks, "kernel": said.kernel_size,
        "halved": said.down_layers, "attended": tuple(level for level in said.attn_layers if level in levels),
    }  # fmt: skip
    return VaeSettings.read(sizes, where), said.in_channels
