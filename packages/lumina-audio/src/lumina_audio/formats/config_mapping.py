"""What a released Flag-DiT is built with, as its configuration says it, and as options of our parts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pydantic import Field

from lumina_audio.autoencoders.vae import VAEConfig
from lumina_audio.formats.components import DiscreteTimeFlagDiT
from lumina_audio.text.clap import BertConfig
from lumina_core.checkpoint.key_mapping import (
    BLOCK_PREFIXES,
    NATIVE_BLOCKS,
    OUTER_PREFIXES,
    fuse_weights,
    replace_prefix,
    split_block_name,
    split_fused_weights,
)
from lumina_core.checkpoint.lazy_tensors import InMemoryTensor, LazyTensor, Weights, init_empty_weights
from lumina_core.config import Config, ConfigT
from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.models.layers import ffn_hidden_dim

BLOCKS_PREFIX = "blocks"
"""What the list of blocks is called in their files."""
_OUTER_KEYS = {"proj_in.": "backbone.embed.", **OUTER_PREFIXES}
_INNER_KEYS = {"attention_norm.": "attention_norm.", "ffn_norm.": "ffn_norm.", **BLOCK_PREFIXES}


def from_published(weights: Weights) -> dict[str, LazyTensor]:
    """A FlagDiT's tensors under our names, `backbone.*` and `head.*`, unread.

    Raises:
        CheckpointError: a name is unknown, or a part of a joined matrix is missing.
    """
    result, remaining = fuse_weights(weights, BLOCKS_PREFIX, require_all=True)
    return result | {_to_our_key(name): tensor for name, tensor in remaining.items()}


def to_published(weights: Weights) -> dict[str, LazyTensor]:
    """The exact inverse of `from_published`.

    Raises:
        CheckpointError: a tensor has no published name.
    """
    result, remaining = split_fused_weights(weights, BLOCKS_PREFIX)
    return result | {_to_published_key(name): tensor for name, tensor in remaining.items()}


def _to_our_key(name: str) -> str:
    block, suffix = split_block_name(name, BLOCKS_PREFIX)
    renamed_key = replace_prefix(suffix, _INNER_KEYS if block else _OUTER_KEYS)
    if renamed_key is None:
        raise CheckpointError(f"no tensor of a published Flag-DiT is called '{name}'")
    return f"{NATIVE_BLOCKS}.{block}.{renamed_key}" if block else renamed_key


def _to_published_key(name: str) -> str:
    block, suffix = split_block_name(name, NATIVE_BLOCKS)
    renamed_key = replace_prefix(
        suffix, {here: theirs for theirs, here in (_INNER_KEYS if block else _OUTER_KEYS).items()}
    )
    if renamed_key is None:
        raise CheckpointError(f"'{name}' has no name in the published layout")
    return f"{BLOCKS_PREFIX}.{block}.{renamed_key}" if block else renamed_key


ROPE_THETA = 10000.0
"""Of the rotary frequencies, times `ntk_factor`."""


class PublishedConfig(Config):
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


def to_options(config: PublishedConfig) -> dict[str, dict[str, Any]]:
    """The options of our backbone and head, without the widths that follow from other parts."""
    c = config
    backbone: dict[str, Any] = {
        "hidden_size": c.hidden_size, "num_layers": c.depth, "num_heads": c.num_heads, "num_kv_heads": c.n_kv_heads,
        "multiple_of": c.multiple_of, "ffn_dim_multiplier": c.ffn_dim_multiplier, "eps": c.norm_eps,
        "qk_norm": bool(c.qk_norm), "rope_theta": ROPE_THETA * c.ntk_factor,
        "rope_scaling_factor": c.rope_scaling_factor,
    }  # fmt: skip
    return {"backbone": backbone, "head": {"shift": True}}


def with_dims(config: PublishedConfig) -> dict[str, dict[str, Any]]:
    """The options with the widths that other parts decide, to build backbone and head alone."""
    c, component_options = config, to_options(config)
    shared = {"hidden_size": c.hidden_size, "token_dim": c.in_channels}
    return {
        "backbone": {
            **component_options["backbone"],
            **shared,
            "cross_attention_dim": c.context_dim,
            "pooled_dim": c.context_dim,
        },
        "head": {**component_options["head"], **shared, "modulation_dim": c.hidden_size},
    }


def expected_shapes(config: PublishedConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of every tensor of such a model, as published."""
    c = config
    with init_empty_weights():
        backbone_config = DiscreteTimeFlagDiT.Config.read(with_dims(c)["backbone"], "published")
        tensors = {
            f"backbone.{name}": tensor for name, tensor in DiscreteTimeFlagDiT(backbone_config).state_dict().items()
        }
        tensors |= {
            "head.modulation.weight": torch.empty(2 * c.hidden_size, c.hidden_size),
            "head.modulation.bias": torch.empty(2 * c.hidden_size),
            "head.linear.weight": torch.empty(c.in_channels, c.hidden_size),
            "head.linear.bias": torch.empty(c.in_channels),
        }
    theirs = to_published({name: InMemoryTensor(tensor) for name, tensor in tensors.items()})
    return {name: lazy.shape for name, lazy in theirs.items()}


class PublishedVAEConfig(Config):
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


def vae_config_from_published(params: Mapping[str, Any], where: str) -> tuple[VAEConfig, int]:
    """The sizes that an AutoencoderKL's configuration says, and its bands.

    Raises:
        ConfigError: sizes are missing, or ours cannot compute such a one.
    """
    dd_config = PublishedVAEConfig.read(dict(params.get("ddconfig") or {}), f"{where}: ddconfig")
    if not (dd_config.double_z and dd_config.resamp_with_conv and dd_config.in_channels == dd_config.out_ch):
        raise ConfigError(
            f"{where}: ddconfig has double_z {dd_config.double_z}, resamp_with_conv {dd_config.resamp_with_conv}, "
            f"{dd_config.in_channels} channels in and {dd_config.out_ch} out; wanted true, true, and as many out as in"
        )
    levels = range(len(dd_config.ch_mult))  # published: attention at a level that there is none of
    options = {
        "latent_channels": params.get("embed_dim", dd_config.z_channels), "z_channels": dd_config.z_channels,
        "ch": dd_config.ch, "ch_mult": dd_config.ch_mult, "num_res_blocks": dd_config.num_res_blocks,
        "kernel_size": dd_config.kernel_size, "down_layers": dd_config.down_layers,
        "attn_layers": tuple(level for level in dd_config.attn_layers if level in levels),
    }  # fmt: skip
    return VAEConfig.read(options, where), dd_config.in_channels


def infer_network_config(state: Weights, where: str) -> PublishedConfig:
    """The arguments of the FlagDiT that these tensors are of.

    Raises:
        CheckpointError: they are of none.
    """
    keys = (
        "proj_in.weight",
        "blocks.0.attention.gate",
        "blocks.0.attention.wk_y.weight",
        "blocks.0.feed_forward.w1.weight",
    )
    proj_shape, gate_shape, context_shape, ffn_shape = (_require_shape(state, key, where, "FlagDiT") for key in keys)
    num_heads = gate_shape[0]
    kv_dim = _require_shape(state, "blocks.0.attention.wk.weight", where, "FlagDiT")[0]
    multiple_of = next(
        (m for m in (256, 128, 64, 32, 16, 8, 4, 2, 1) if ffn_hidden_dim(proj_shape[0], m, None) == ffn_shape[0]), None
    )
    if multiple_of is None:
        raise CheckpointError(
            f"{where}: a feed-forward {ffn_shape[0]} wide follows from no settings but those of a YAML file"
        )
    return _read_config(
        PublishedConfig,
        {
            "in_channels": proj_shape[1], "context_dim": context_shape[1], "hidden_size": proj_shape[0], "num_heads": num_heads,
            "depth": _count_indices(state, r"blocks\.(\d+)\."), "multiple_of": multiple_of,
            "n_kv_heads": None if kv_dim == proj_shape[0] else kv_dim * num_heads // proj_shape[0],
            "qk_norm": True if "blocks.0.attention.q_norm.weight" in state else None,
        },
        where,
    )  # fmt: skip


def infer_vae_config(state: Weights, where: str) -> tuple[VAEConfig, int]:
    """The sizes of the autoencoder that these tensors are of, and its bands.

    Raises:
        CheckpointError: they are of none.
    """
    conv_in = _require_shape(state, "encoder.conv_in.weight", where, "autoencoder")
    post_quant = _require_shape(state, "post_quant_conv.weight", where, "autoencoder")
    levels = range(_count_indices(state, r"encoder\.down\.(\d+)\."))
    level_channels = [
        _require_shape(state, f"encoder.down.{level}.block.0.conv1.weight", where, "autoencoder")[0] for level in levels
    ]
    options = {
        "latent_channels": post_quant[1], "z_channels": post_quant[0], "ch": conv_in[0],
        "ch_mult": tuple(channels // conv_in[0] for channels in level_channels),
        "num_res_blocks": _count_indices(state, r"encoder\.down\.0\.block\.(\d+)\."), "kernel_size": conv_in[2],
        "down_layers": tuple(level for level in levels if f"encoder.down.{level}.downsample.conv.weight" in state),
        "attn_layers": tuple(level for level in levels if f"encoder.down.{level}.attn.0.q.weight" in state),
    }  # fmt: skip
    return _read_config(VAEConfig, options, where), conv_in[1]


def infer_bert_config(state: Weights, where: str) -> BertConfig:
    """The sizes of the CLAP text tower that these tensors are of; its heads are 64 wide, as all of BERT's are.

    Raises:
        CheckpointError: they are of none.
    """
    word_shape = _require_shape(state, "base.embeddings.word_embeddings.weight", where, "text tower")
    position_shape = _require_shape(state, "base.embeddings.position_embeddings.weight", where, "text tower")
    ffn_shape = _require_shape(state, "base.encoder.layer.0.intermediate.dense.weight", where, "text tower")
    projection_shape = _require_shape(state, "projection.linear1.weight", where, "text tower")
    options = {
        "vocab_size": word_shape[0], "max_position_embeddings": position_shape[0], "hidden_size": word_shape[1],
        "intermediate_size": ffn_shape[0], "projection_dim": projection_shape[0],
        "num_heads": max(1, word_shape[1] // 64),
        "num_layers": _count_indices(state, r"base\.encoder\.layer\.(\d+)\."),
    }  # fmt: skip
    return _read_config(BertConfig, options, where)


def _require_shape(state: Weights, name: str, where: str, component: str) -> tuple[int, ...]:
    if name not in state:
        raise CheckpointError(f"{where} holds no {component}: {name} is missing")
    return state[name].shape


def _count_indices(names: Iterable[str], pattern: str) -> int:
    return 1 + max((int(match[1]) for match in map(re.compile(pattern).match, names) if match), default=-1)


def _read_config(config_type: type[ConfigT], options: dict[str, Any], where: str) -> ConfigT:
    try:
        return config_type.read(options, where)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
