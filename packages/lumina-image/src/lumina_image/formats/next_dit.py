"""The published Next-DiT: config, names of tensors and native counterpart, in the original layout and in diffusers'."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lumina_core.checkpoint.lazy_tensors import InMemoryTensor, LazyTensor, Shapes, Weights, init_empty_weights
from lumina_core.checkpoint.state_dict_adapter import (
    TIME_AND_CONTEXT_ROWS,
    KeyMap,
    KeyRow,
    Reorder,
    StateDictAdapter,
    block_rows,
    check_supported,
    read_config,
    rename_tensors,
)
from lumina_core.config import Config
from lumina_core.errors import CheckpointError
from lumina_core.models.heads import VelocityHead
from lumina_core.models.layers import ffn_hidden_dim
from lumina_core.models.next_dit import MAX_MODULATION_DIM, NextDiTBackbone

NUM_HEADS = 32
"""Attention heads of every published model; the shapes of the ImageNet models do not determine them."""
PAD_TOKEN = "pad_token"
"""Published tensor without influence on a result (its gradient is zero); stored so that an export contains it."""
LABEL_TABLE = "conditioners.label.table.weight"
_NATIVE_BACKBONE_OPTIONS = {
    "hidden_size": "dim",
    "num_layers": "n_layers",
    "num_heads": "n_heads",
    "num_kv_heads": "n_kv_heads",
    "multiple_of": "multiple_of",
    "ffn_dim_multiplier": "ffn_dim_multiplier",
    "eps": "norm_eps",
    "qk_norm": "qk_norm",
}
"""Options of the native backbone, and the arguments of the published constructor that they equal."""
_DIFFUSERS_ARGUMENTS = {
    "hidden_size": "dim",
    "num_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_kv_heads": "n_kv_heads",
    "cross_attention_dim": "cap_feat_dim",
    **{name: name for name in ("patch_size", "in_channels", "multiple_of", "ffn_dim_multiplier", "norm_eps")},
    **{name: name for name in ("learn_sigma", "qk_norm")},
}
"""Arguments of LuminaNextDiT2DModel, and those of the original constructor."""
_DIFFUSERS_NAMES = {
    "x_embedder": ("patch_embedder.proj",),
    "t_embedder.mlp.0": ("time_caption_embed.timestep_embedder.linear_1",),
    "t_embedder.mlp.2": ("time_caption_embed.timestep_embedder.linear_2",),
    "cap_embedder": ("time_caption_embed.caption_embedder",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear_1",),
    "final_layer.linear": ("norm_out.linear_2",),
    "adaLN_modulation.1": ("norm1.linear",),
    "attention_norm1": ("norm1.norm",),
    "attention_norm2": ("norm2",),
    "attention_y_norm": ("norm1_context",),
    "attention.gate": ("gate",),
    "attention.wq": ("attn1.to_q", "attn2.to_q"),
    "attention.wk_y": ("attn2.to_k",),
    "attention.wv_y": ("attn2.to_v",),
    "attention.wk": ("attn1.to_k",),
    "attention.wv": ("attn1.to_v",),
    "attention.wo": ("attn2.to_out.0",),
    "attention.q_norm": ("attn1.norm_q", "attn2.norm_q"),
    "attention.k_norm": ("attn1.norm_k",),
    "attention.ky_norm": ("attn2.norm_k",),
    "feed_forward.w1": ("feed_forward.linear_1",),
    "feed_forward.w2": ("feed_forward.linear_2",),
    "feed_forward.w3": ("feed_forward.linear_3",),
}
"""Modules in the original layout and in diffusers, relative to their block; the query is stored twice there."""
_LEGACY_DIFFUSERS_NAMES = {
    **{f"patch_embedder.{end}": f"patch_embedder.proj.{end}" for end in ("weight", "bias")},
    "layers.{}.adaLN_modulation.1.*": "layers.{}.norm1.linear.*",
    "layers.{}.attn_norm1.*": "layers.{}.norm1.norm.*",
    "layers.{}.attn_norm2.*": "layers.{}.norm2.*",
    "final_layer.adaLN_modulation.1.*": "norm_out.linear_1.*",
    "final_layer.linear.*": "norm_out.linear_2.*",
}
"""Names that the conversion script in diffusers' repository still writes, and the model's own."""


class PublishedConfig(Config):
    """Arguments of the published constructors (NextDiT, DiT_Llama of ImageNet), with their defaults."""

    dim: int = Field(4096, ge=8)
    n_layers: int = Field(32, ge=1)
    n_heads: int = Field(NUM_HEADS, ge=1)
    n_kv_heads: int | None = Field(None, ge=1)
    multiple_of: int = Field(256, ge=1)
    ffn_dim_multiplier: float | None = Field(None, gt=0)
    norm_eps: float = Field(1e-5, gt=0)
    qk_norm: bool = False
    learn_sigma: bool = True
    patch_size: int = Field(2, ge=1)
    in_channels: int = Field(4, ge=1)
    cap_feat_dim: int = Field(5120, ge=0, description="width of the text embeddings; 0 for the ImageNet models")
    num_classes: int = Field(0, ge=0, description="0 for the text-to-image models")

    @property
    def imagenet(self) -> bool:
        """Return whether the model is conditioned on a class instead of a text."""
        return self.num_classes > 0

    @property
    def token_dim(self) -> int:
        """Return the numbers per token."""
        return self.patch_size**2 * self.in_channels

    @property
    def modulation_dim(self) -> int:
        """Return the width of the vector that modulates the blocks."""
        return min(self.dim, MAX_MODULATION_DIM)

    def native_options(self) -> dict[str, dict[str, Any]]:
        """Return the options of the native backbone and head, without the widths that other components determine."""
        axis_dim = self.dim // self.n_heads // 2
        backbone = {ours: getattr(self, theirs) for ours, theirs in _NATIVE_BACKBONE_OPTIONS.items()}
        backbone |= {
            "rope_axes_dim": (0, axis_dim, axis_dim),
            "rope_layout": "interleaved",
            "weighted_pre_norm": not self.imagenet,
            "pooled_embed": "add" if self.imagenet else "mlp",
        }
        return {"backbone": backbone, "head": {"learn_sigma": self.learn_sigma, "shift": self.imagenet}}

    def native_network(self, **backbone_options: Any) -> nn.ModuleDict:
        """Build the native `backbone` and `head`.

        Args:
            backbone_options: other options of the backbone.
        """
        options = self.native_options()
        shared = {"hidden_size": self.dim, "token_dim": self.token_dim}
        condition_dims = {
            "cross_attention_dim": self.cap_feat_dim,
            "pooled_dim": self.modulation_dim if self.imagenet else self.cap_feat_dim,
        }
        backbone = {**options["backbone"], **shared, **condition_dims, **backbone_options}
        head = {**options["head"], **shared, "modulation_dim": self.modulation_dim}
        return nn.ModuleDict(
            {
                "backbone": NextDiTBackbone(NextDiTBackbone.Config.read(backbone, "published backbone")),
                "head": VelocityHead(VelocityHead.Config.read(head, "published head")),
            }
        )


def config_from_native(
    backbone: Mapping[str, Any],
    head: Mapping[str, Any],
    patch_size: int,
    in_channels: int,
    context_dim: int = 0,
    num_classes: int = 0,
    format_name: str = "of Next-DiT",
) -> PublishedConfig:
    """Return the published config of native options: the inverse of `PublishedConfig.native_options`.

    Args:
        backbone: options of the backbone.
        head: options of the head.
        patch_size: side of a patch in pixels of the latent.
        in_channels: channels of the latent.
        context_dim: width of the text embeddings.
        num_classes: number of classes; 0 for a text-to-image model.
        format_name: checkpoint format that is written, for messages.

    Raises:
        CheckpointError: an option has a value that no published model has.
    """
    native = NextDiTBackbone.Config.read(dict(backbone), "backbone")
    values = {theirs: getattr(native, ours) for ours, theirs in _NATIVE_BACKBONE_OPTIONS.items()} | {
        "learn_sigma": bool(head.get("learn_sigma", False)),
        "patch_size": patch_size,
        "in_channels": in_channels,
        "cap_feat_dim": context_dim,
        "num_classes": num_classes,
    }
    config = read_config(PublishedConfig, values, "recipe")
    expected = config.native_options()["backbone"] | {"rope_theta": 10000.0, "time_conditioned": True}
    actual = {name: getattr(native, name) for name in expected}
    expected["shift of the head"], actual["shift of the head"] = config.imagenet, bool(head.get("shift", False))
    check_supported(actual, expected, format_name)
    return config


class NextDiTAdapter(StateDictAdapter[PublishedConfig]):
    """Adapter of the original layout (NextDiT of lumina_next_t2i, DiT_Llama of Next-DiT-ImageNet)."""

    optional = (PAD_TOKEN,)

    def config_from(self, settings: Mapping[str, Any], where: str) -> PublishedConfig:
        """Read the arguments of the constructor; others are ignored, missing ones have the published default."""
        known = {key: value for key, value in settings.items() if key in PublishedConfig.model_fields}
        return read_config(PublishedConfig, known, where)

    def config_to(self, config: PublishedConfig) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {k: v for k, v in config.model_dump().items() if k not in ("cap_feat_dim", "num_classes")}

    def key_map(self, config: PublishedConfig) -> KeyMap:
        """Return the key map of the original layout."""
        return KeyMap(self._rows(config))

    def native_shapes(self, config: PublishedConfig) -> Shapes:
        """Return the shapes of backbone, head, label table and pad token."""
        with init_empty_weights():
            shapes = {name: tuple(t.shape) for name, t in config.native_network().state_dict().items()}
        if config.imagenet:
            return shapes | {LABEL_TABLE: (config.num_classes + 1, config.modulation_dim)}
        return shapes | {PAD_TOKEN: (config.dim,)}

    def _rows(self, config: PublishedConfig) -> list[KeyRow]:
        channels, patch_size = config.in_channels, config.patch_size
        reorder = Reorder(
            lambda tensor: permute_final_rows(tensor, channels, patch_size),
            lambda tensor: permute_final_rows(tensor, channels, patch_size, inverse=True),
        )
        # the norms of the ImageNet models stand behind attention and feed-forward only
        norms = {"attention_norm": "attention_norm2", "ffn_norm": "ffn_norm2"}
        if not config.imagenet:
            norms = {name: name for name in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2")}
        return [
            KeyRow("x_embedder.*", "backbone.embed.*"),
            KeyRow("y_embedder.embedding_table.weight", LABEL_TABLE),
            KeyRow("final_layer.linear.*", "head.linear.*", reorder),
            *TIME_AND_CONTEXT_ROWS,
            *block_rows("layers", config.n_heads, config.n_kv_heads or config.n_heads),
            *(KeyRow(f"layers.{{}}.{old}.*", f"backbone.blocks.{{}}.{new}.*") for old, new in norms.items()),
            KeyRow(PAD_TOKEN, PAD_TOKEN),
        ]


class DiffusersNextDiTAdapter(NextDiTAdapter):
    """Adapter of LuminaNextDiT2DModel; names of the older conversion script are read too."""

    def config_from(self, settings: Mapping[str, Any], where: str) -> PublishedConfig:
        """Read the config.json of the model."""
        known = {theirs: settings[key] for key, theirs in _DIFFUSERS_ARGUMENTS.items() if key in settings}
        return super().config_from(known, where)

    def config_to(self, config: PublishedConfig) -> dict[str, Any]:
        """Return the arguments of the model, for its config.json."""
        arguments = {key: getattr(config, theirs) for key, theirs in _DIFFUSERS_ARGUMENTS.items()}
        # with qk_norm its constructor fails if num_kv_heads is None
        return arguments | {"num_kv_heads": config.n_kv_heads or config.n_heads}

    def from_foreign(self, weights: Weights, config: PublishedConfig, where: str) -> dict[str, LazyTensor]:
        """Map tensors with new or legacy names to native ones, unread."""
        return super().from_foreign(rename_tensors(weights, _LEGACY_DIFFUSERS_NAMES), config, where)

    def _rows(self, config: PublishedConfig) -> list[KeyRow]:
        return [
            KeyRow([diffusers_names(name) for (name,) in row.sources], row.native, row.transform)
            for row in super()._rows(config)
        ]


def diffusers_names(name: str) -> tuple[str, ...]:
    """Return the names in diffusers of a tensor of the original layout: two for the query and its norm."""
    block = re.match(r"layers\.(?:\d+|\{\})\.", name)
    prefix, inner = (block[0], name[block.end() :]) if block else ("", name)
    for module, renamed in _DIFFUSERS_NAMES.items():
        if inner == module or inner.startswith(f"{module}."):
            return tuple(prefix + new + inner[len(module) :] for new in renamed)
    return (name,)


def infer_config(weights: Weights, settings: Mapping[str, Any], where: str) -> PublishedConfig:
    """Infer the config from the shapes of an original checkpoint and the settings stored with it.

    Args:
        weights: tensors of the original layout.
        settings: plain values, such as those of `model_args.pth`: the name of the model, possibly arguments.
        where: file of the weights, for messages.

    Raises:
        CheckpointError: the tensors are not those of a Next-DiT.
    """
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    for name in ("x_embedder", "layers.0.attention.wk", "layers.0.feed_forward.w1", "final_layer.linear"):
        if len(shapes.get(f"{name}.weight", ())) != 2:
            raise CheckpointError(
                f"{where}: got no matrix {name}.weight, expected the weights of a Next-DiT. Get those of Lumina-Next."
            )
    dim, token_dim = shapes["x_embedder.weight"]
    label_shape = shapes.get("y_embedder.embedding_table.weight")
    num_heads = int(settings.get("n_heads") or shapes.get("layers.0.attention.gate", (NUM_HEADS,))[0])
    patch_size, channels = _infer_patch(token_dim, settings)
    values = {
        "dim": dim,
        "n_layers": 1 + max(int(name.split(".")[1]) for name in shapes if re.match(r"layers\.\d+\.", name)),
        "n_heads": num_heads,
        "n_kv_heads": max(1, shapes["layers.0.attention.wk.weight"][0] // max(1, dim // num_heads)),
        "qk_norm": "layers.0.attention.q_norm.weight" in shapes,
        "learn_sigma": shapes["final_layer.linear.weight"][0] == 2 * token_dim,
        "patch_size": patch_size,
        "in_channels": channels,
        "norm_eps": float(settings.get("norm_eps") or 1e-5),
        "cap_feat_dim": 0 if label_shape else shapes.get("layers.0.attention.wk_y.weight", (0, 0))[1],
        "num_classes": label_shape[0] - 1 if label_shape else 0,
        **_infer_ffn(shapes["layers.0.feed_forward.w1.weight"][0], dim, settings),
    }
    return read_config(PublishedConfig, values, where)


def _infer_patch(token_dim: int, settings: Mapping[str, Any]) -> tuple[int, int]:
    """Infer patch size and channels from the settings, the model's name, or four channels."""
    match = re.search(r"patch(\d+)", str(settings.get("model", "")))
    channels = settings.get("in_channels")
    patch_size = settings.get("patch_size") or (match and match[1])
    patch_size = int(patch_size or math.isqrt(token_dim // int(channels or 4)) or 1)
    return patch_size, int(channels or token_dim // patch_size**2)


def _infer_ffn(hidden_dim: int, dim: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Infer rounding and multiplier that result in this width of the feed-forward layer."""
    candidates = [(multiple, None) for multiple in (256, 128, 64, 32, 16, 8, 4, 2, 1)]
    if settings.get("multiple_of"):
        candidates.insert(0, (settings["multiple_of"], settings.get("ffn_dim_multiplier")))
    for multiple_of, multiplier in candidates:
        if ffn_hidden_dim(dim, multiple_of, multiplier) == hidden_dim:
            return {"multiple_of": multiple_of, "ffn_dim_multiplier": multiplier}
    return {"multiple_of": 1, "ffn_dim_multiplier": (hidden_dim + 0.5) / int(2 * (4 * dim) / 3)}


def pad_token(stored: Weights, config: PublishedConfig, dtype: torch.dtype) -> dict[str, LazyTensor]:
    """Return the published `pad_token`: the stored one, or zeros (it has no influence on a result)."""
    return {PAD_TOKEN: stored.get(PAD_TOKEN, InMemoryTensor(torch.zeros(config.dim, dtype=dtype)))}


def permute_final_rows(tensor: Tensor, channels: int, patch_size: int, inverse: bool = False) -> Tensor:
    """Reorder the rows of the final layer: published (row, column, half, channel) to (half, channel, row, column).

    Args:
        tensor: (halves * channels * patch_size ** 2, ...); two halves for a model with `learn_sigma`.
        channels: channels of the latent.
        patch_size: side of a patch.
        inverse: reorder in the other direction.

    Returns:
        A contiguous tensor of the same shape.
    """
    halves = tensor.shape[0] // (channels * patch_size * patch_size)
    if inverse:
        shape, source, destination = (halves * channels, patch_size, patch_size), 0, 2
    else:
        shape, source, destination = (patch_size, patch_size, halves * channels), 2, 0
    return tensor.reshape(*shape, *tensor.shape[1:]).movedim(source, destination).flatten(0, 2).contiguous()
