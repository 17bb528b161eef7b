"""Networks of the released audio models: config, names of tensors and native counterpart of Flag-DiT, VAE and CLAP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import nn

from lumina_audio.autoencoders.vae import VAE, VAEConfig
from lumina_audio.formats.components import DiscreteTimeFlagDiT
from lumina_audio.text.clap import BertConfig, ClapTextTower
from lumina_core.checkpoint.lazy_tensors import Shapes, Weights, check_tensors, init_empty_weights
from lumina_core.checkpoint.state_dict_adapter import (
    TIME_AND_CONTEXT_ROWS,
    KeyMap,
    KeyRow,
    StateDictAdapter,
    block_rows,
    check_supported,
    read_config,
)
from lumina_core.config import Config
from lumina_core.errors import CheckpointError
from lumina_core.models.heads import VelocityHead
from lumina_core.models.layers import ffn_hidden_dim

ROPE_THETA = 10000.0
"""Base of the published rotary frequencies, multiplied by `ntk_factor`."""
N_MELS = 80
"""Mel bands of every released model."""
V2_FIELDS = ("in_channels", "context_dim", "hidden_size", "num_heads", "depth", "max_len")
"""Arguments of FlagDiTv2; FlagDiT has more."""
_NATIVE_BACKBONE_OPTIONS = {
    "hidden_size": "hidden_size",
    "num_layers": "depth",
    "num_heads": "num_heads",
    "num_kv_heads": "n_kv_heads",
    "multiple_of": "multiple_of",
    "ffn_dim_multiplier": "ffn_dim_multiplier",
    "eps": "norm_eps",
    "rope_scaling_factor": "rope_scaling_factor",
}
"""Options of the native backbone, and the arguments of FlagDiT that they equal."""


class FlagDiTConfig(Config):
    """Arguments of FlagDiT (flag_large_dit.py) with their defaults."""

    in_channels: int = Field(ge=1)
    context_dim: int = Field(ge=1)
    hidden_size: int = Field(1152, ge=8)
    depth: int = Field(28, ge=1)
    num_heads: int = Field(16, ge=1)
    max_len: int = Field(1000, ge=1, description="length of the published table of rotary angles; ours has no limit")
    n_kv_heads: int | None = Field(None, ge=1)
    multiple_of: int = Field(256, ge=1)
    ffn_dim_multiplier: float | None = Field(None, gt=0)
    norm_eps: float = Field(1e-5, gt=0)
    qk_norm: bool | None = None
    rope_scaling_factor: float = Field(1.0, gt=0)
    ntk_factor: float = Field(1.0, gt=0)
    base_seqlen: int | None = Field(None, description="not used by the published network in float32")
    proportional_attn: bool = Field(False, description="not used by the published network in float32")

    def native_options(self) -> dict[str, dict[str, Any]]:
        """Return the options of the native backbone and head, without the widths that other components determine."""
        backbone = {ours: getattr(self, theirs) for ours, theirs in _NATIVE_BACKBONE_OPTIONS.items()}
        backbone |= {"qk_norm": bool(self.qk_norm), "rope_theta": ROPE_THETA * self.ntk_factor}
        return {"backbone": backbone, "head": {"shift": True}}

    def native_network(self) -> nn.ModuleDict:
        """Build the native `backbone` and `head`."""
        options = self.native_options()
        shared = {"hidden_size": self.hidden_size, "token_dim": self.in_channels}
        backbone = {"cross_attention_dim": self.context_dim, "pooled_dim": self.context_dim}
        backbone = {**options["backbone"], **shared, **backbone}
        head = {**options["head"], **shared, "modulation_dim": self.hidden_size}
        return nn.ModuleDict(
            {
                "backbone": DiscreteTimeFlagDiT(DiscreteTimeFlagDiT.Config.read(backbone, "published backbone")),
                "head": VelocityHead(VelocityHead.Config.read(head, "published head")),
            }
        )


def config_from_native(
    backbone: Mapping[str, Any], in_channels: int, context_dim: int, format_name: str = "of Flag-DiT"
) -> FlagDiTConfig:
    """Return the published config of native options: the inverse of `FlagDiTConfig.native_options`.

    Args:
        backbone: options of the backbone.
        in_channels: channels of the latent.
        context_dim: width of the text embeddings.
        format_name: checkpoint format that is written, for messages.

    Raises:
        CheckpointError: an option has a value that no released model has.
    """
    native = DiscreteTimeFlagDiT.Config.read(dict(backbone), "backbone")
    expected = {"position_ids": "index", "time_conditioned": True, "pooled_embed": "mlp"}
    check_supported({name: getattr(native, name) for name in expected}, expected, format_name)
    values = {theirs: getattr(native, ours) for ours, theirs in _NATIVE_BACKBONE_OPTIONS.items()} | {
        "in_channels": in_channels,
        "context_dim": context_dim,
        "qk_norm": native.qk_norm or None,
        "ntk_factor": native.rope_theta / ROPE_THETA,
    }
    return read_config(FlagDiTConfig, values, "recipe")


class FlagDiTAdapter(StateDictAdapter[FlagDiTConfig]):
    """Adapter of FlagDiT and FlagDiTv2 (lumina_music/models/diffusion/flag_large_dit.py)."""

    component = "network"

    def config_from(self, settings: Mapping[str, Any], where: str) -> FlagDiTConfig:
        """Read the arguments of the constructor."""
        return read_config(FlagDiTConfig, settings, where)

    def config_to(self, config: FlagDiTConfig) -> dict[str, Any]:
        """Return the arguments of the constructor: those of FlagDiTv2 if the others have their defaults."""
        values = config.model_dump()
        return {
            key: value
            for key, value in values.items()
            if key in V2_FIELDS or value != FlagDiTConfig.model_fields[key].default
        }

    def key_map(self, config: FlagDiTConfig) -> KeyMap:
        """Return the key map."""
        norms = [KeyRow(f"blocks.{{}}.{n}.*", f"backbone.blocks.{{}}.{n}.*") for n in ("attention_norm", "ffn_norm")]
        return KeyMap(
            [
                KeyRow("proj_in.*", "backbone.embed.*"),
                KeyRow("final_layer.linear.*", "head.linear.*"),
                *TIME_AND_CONTEXT_ROWS,
                *block_rows("blocks", config.num_heads, config.n_kv_heads or config.num_heads),
                *norms,
            ]
        )

    def native_shapes(self, config: FlagDiTConfig) -> Shapes:
        """Return the shapes of backbone and head."""
        with init_empty_weights():
            return _shapes(config.native_network())


class PublishedVAEConfig(Config):
    """Arguments of AutoencoderKL (autoencoder1d.py): `ddconfig` and `embed_dim`."""

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
    dropout: float = Field(0.0, description="used by training only")
    resamp_with_conv: bool = True
    embed_dim: int | None = Field(None, ge=1, description="channels of the latent; None: z_channels")


class VAEAdapter(StateDictAdapter[VAEConfig]):
    """Adapter of AutoencoderKL; its tensors have the same names here.

    Args:
        n_mels: mel bands of the spectrograms.
    """

    component = "autoencoder"

    def __init__(self, n_mels: int = N_MELS) -> None:
        self.n_mels = n_mels

    def config_from(self, settings: Mapping[str, Any], where: str) -> VAEConfig:
        """Read `params` of a config of AutoencoderKL.

        Raises:
            CheckpointError: a size is missing, or a value that the native VAE cannot compute.
        """
        sizes = dict(settings.get("ddconfig") or {})
        if "embed_dim" in settings:
            sizes["embed_dim"] = settings["embed_dim"]
        published = read_config(PublishedVAEConfig, sizes, f"{where}: ddconfig")
        expected = {"double_z": True, "resamp_with_conv": True, "in_channels": self.n_mels, "out_ch": self.n_mels}
        for name, value in expected.items():
            if getattr(published, name) != value:
                raise CheckpointError(
                    f"{where}: ddconfig.{name}: got {getattr(published, name)}, expected {value} as in every released "
                    "model. Get a released autoencoder."
                )
        # a released config names an attention layer at a level that does not exist
        attn_layers = tuple(level for level in published.attn_layers if level < len(published.ch_mult))
        shared = ("z_channels", "ch", "ch_mult", "num_res_blocks", "kernel_size", "down_layers")
        options = {name: getattr(published, name) for name in shared}
        latent_channels = published.embed_dim or published.z_channels
        return read_config(
            VAEConfig, {**options, "attn_layers": attn_layers, "latent_channels": latent_channels}, where
        )

    def config_to(self, config: VAEConfig) -> dict[str, Any]:
        """Return `params` of a config of AutoencoderKL."""
        sizes = config.model_dump(mode="json", exclude={"latent_channels"})
        sizes |= {"double_z": True, "in_channels": self.n_mels, "out_ch": self.n_mels, "dropout": 0.0}
        return {"embed_dim": config.latent_channels, "ddconfig": sizes}

    def key_map(self, config: VAEConfig) -> KeyMap:
        """Return the key map: every name stays."""
        return KeyMap([KeyRow("*", "*")])

    def native_shapes(self, config: VAEConfig) -> Shapes:
        """Return the shapes of encoder and decoder."""
        with init_empty_weights():
            return _shapes(VAE(config, self.n_mels))


def check_text_tower(config: BertConfig, weights: Weights, where: str) -> None:
    """Check the tensors of CLAP's text tower; they have the same names here.

    Raises:
        CheckpointError: tensors are missing, unexpected or of another shape.
    """
    with init_empty_weights():
        expected = _shapes(ClapTextTower(config))
    check_tensors(weights, expected, "text tower", where)


def infer_network_config(weights: Weights, where: str) -> FlagDiTConfig:
    """Infer the arguments of a FlagDiT from its tensors.

    Raises:
        CheckpointError: the tensors are not those of a FlagDiT.
    """
    hidden_size, in_channels = _shape(weights, "proj_in.weight", where, 2)
    (num_heads,) = _shape(weights, "blocks.0.attention.gate", where, 1)
    kv_dim, _ = _shape(weights, "blocks.0.attention.wk.weight", where, 2)
    ffn_dim, _ = _shape(weights, "blocks.0.feed_forward.w1.weight", where, 2)
    multiples = [m for m in (256, 128, 64, 32, 16, 8, 4, 2, 1) if ffn_hidden_dim(hidden_size, m, None) == ffn_dim]
    if not multiples:
        raise CheckpointError(
            f"{where}: got a feed-forward width of {ffn_dim}, expected a rounded 8/3 of {hidden_size}. "
            "Put the YAML config of the model into its folder."
        )
    values = {
        "in_channels": in_channels,
        "context_dim": _shape(weights, "blocks.0.attention.wk_y.weight", where, 2)[1],
        "hidden_size": hidden_size,
        "num_heads": num_heads,
        "depth": _count(weights, r"blocks\.(\d+)\."),
        "multiple_of": multiples[0],
        "n_kv_heads": None if kv_dim == hidden_size else kv_dim * num_heads // hidden_size,
        "qk_norm": True if "blocks.0.attention.q_norm.weight" in weights else None,
    }
    return read_config(FlagDiTConfig, values, where)


def infer_vae_config(weights: Weights, where: str) -> VAEConfig:
    """Infer the sizes of an AutoencoderKL from its tensors.

    Raises:
        CheckpointError: the tensors are not those of an AutoencoderKL.
    """
    ch, _, kernel_size = _shape(weights, "encoder.conv_in.weight", where, 3)
    z_channels, latent_channels, _ = _shape(weights, "post_quant_conv.weight", where, 3)
    levels = range(_count(weights, r"encoder\.down\.(\d+)\."))
    channels = [_shape(weights, f"encoder.down.{level}.block.0.conv1.weight", where, 3)[0] for level in levels]
    values = {
        "latent_channels": latent_channels,
        "z_channels": z_channels,
        "ch": ch,
        "ch_mult": tuple(count // ch for count in channels),
        "num_res_blocks": _count(weights, r"encoder\.down\.0\.block\.(\d+)\."),
        "kernel_size": kernel_size,
        "down_layers": tuple(level for level in levels if f"encoder.down.{level}.downsample.conv.weight" in weights),
        "attn_layers": tuple(level for level in levels if f"encoder.down.{level}.attn.0.q.weight" in weights),
    }
    return read_config(VAEConfig, values, where)


def infer_bert_config(weights: Weights, where: str) -> BertConfig:
    """Infer the sizes of CLAP's text tower from its tensors; heads have 64 channels, as in every BERT.

    Raises:
        CheckpointError: the tensors are not those of CLAP's text tower.
    """
    vocab_size, hidden_size = _shape(weights, "base.embeddings.word_embeddings.weight", where, 2)
    values = {
        "vocab_size": vocab_size,
        "max_position_embeddings": _shape(weights, "base.embeddings.position_embeddings.weight", where, 2)[0],
        "hidden_size": hidden_size,
        "intermediate_size": _shape(weights, "base.encoder.layer.0.intermediate.dense.weight", where, 2)[0],
        "projection_dim": _shape(weights, "projection.linear1.weight", where, 2)[0],
        "num_heads": max(1, hidden_size // 64),
        "num_layers": _count(weights, r"base\.encoder\.layer\.(\d+)\."),
    }
    return read_config(BertConfig, values, where)


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _shape(weights: Weights, name: str, where: str, ndim: int) -> tuple[int, ...]:
    shape = weights[name].shape if name in weights else ()
    if len(shape) != ndim:
        raise CheckpointError(
            f"{where}: {name} is missing or has other than {ndim} dimensions. Get the checkpoint of a released model."
        )
    return shape


def _count(weights: Weights, pattern: str) -> int:
    return 1 + max((int(match[1]) for match in map(re.compile(pattern).match, weights) if match), default=-1)
