"""What a published Next-DiT is built with: from its settings or its shapes, and as options of our parts and back."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field

from lumina_core.checkpoint.lazy_tensors import InMemoryTensor, LazyTensor, init_empty_weights
from lumina_core.config import Config
from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.models.layers import ffn_hidden_dim
from lumina_core.models.next_dit import MAX_MODULATION_DIM, NextDiTBackbone
from lumina_image.formats.key_mapping import PAD_TOKEN, to_original

Shapes = Mapping[str, tuple[int, ...]]
NUM_HEADS = 32
"""Of every published model; the ImageNet ones do not tell it by a shape."""

DIFFUSERS_ARGUMENTS = {
    "hidden_size": "dim", "num_layers": "n_layers", "num_attention_heads": "n_heads", "num_kv_heads": "n_kv_heads",
    "cross_attention_dim": "cap_feat_dim", "patch_size": "patch_size", "in_channels": "in_channels",
    "multiple_of": "multiple_of", "ffn_dim_multiplier": "ffn_dim_multiplier", "norm_eps": "norm_eps",
    "learn_sigma": "learn_sigma", "qk_norm": "qk_norm",
}  # fmt: skip
"""Arguments of LuminaNextDiT2DModel, and what the original constructor calls them."""


COMPONENT_DIMS = frozenset({"token_dim", "cross_attention_dim", "pooled_dim"})
"""Options of a backbone that follow from the other components."""


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
    cap_feat_dim: int = Field(5120, ge=0, description="0 for the ImageNet models")
    num_classes: int = Field(0, ge=0, description="0 for the text-to-image models")

    @property
    def imagenet(self) -> bool:
        """Whether it is told a class instead of a text."""
        return self.num_classes > 0

    @property
    def token_dim(self) -> int:
        """Numbers of a token."""
        return self.patch_size**2 * self.in_channels


def from_kwargs(kwargs: Mapping[str, Any], *, imagenet: bool = False) -> PublishedConfig:
    """The arguments among those of a constructor; what is left out has the published default, others do not matter."""
    values = {key: value for key, value in kwargs.items() if key in PublishedConfig.model_fields}
    if imagenet:
        values = {"num_classes": 1000, **values, "cap_feat_dim": 0}
    return PublishedConfig.read(values, "the published model's arguments")


def to_options(config: PublishedConfig) -> dict[str, dict[str, Any]]:
    """The options of our backbone and head, without the widths that follow from other parts."""
    a, axis_dim = config, config.dim // config.n_heads // 2
    backbone: dict[str, Any] = {
        "hidden_size": a.dim, "num_layers": a.n_layers, "num_heads": a.n_heads, "num_kv_heads": a.n_kv_heads,
        "rope_axes_dim": (0, axis_dim, axis_dim), "rope_layout": "interleaved", "multiple_of": a.multiple_of,
        "ffn_dim_multiplier": a.ffn_dim_multiplier, "eps": a.norm_eps,
        "qk_norm": a.qk_norm, "weighted_pre_norm": not a.imagenet, "pooled_embed": "add" if a.imagenet else "mlp",
    }  # fmt: skip
    return {"backbone": backbone, "head": {"learn_sigma": a.learn_sigma, "shift": a.imagenet}}


def with_dims(config: PublishedConfig) -> dict[str, dict[str, Any]]:
    """The options with the widths that other parts decide, to build backbone and head alone."""
    a, component_options = config, to_options(config)
    shared = {"hidden_size": a.dim, "token_dim": a.token_dim}
    modulation = min(a.dim, MAX_MODULATION_DIM)
    condition_dims = {"cross_attention_dim": a.cap_feat_dim, "pooled_dim": modulation if a.imagenet else a.cap_feat_dim}
    return {
        "backbone": {**component_options["backbone"], **shared, **condition_dims},
        "head": {**component_options["head"], **shared, "modulation_dim": modulation},
    }


def expected_shapes(config: PublishedConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of every tensor of such a model in the original layout."""
    a = config
    modulation = min(a.dim, MAX_MODULATION_DIM)
    with init_empty_weights():
        backbone = NextDiTBackbone(NextDiTBackbone.Config.read(with_dims(a)["backbone"], "published")).state_dict()
        tensors = {f"backbone.{name}": tensor for name, tensor in backbone.items()}
        shapes = {
            "head.modulation": ((2 if a.imagenet else 1) * a.dim, modulation),
            "head.linear": ((2 if a.learn_sigma else 1) * a.token_dim, a.dim),
        }
        for name, shape in shapes.items():
            tensors |= {f"{name}.weight": torch.empty(shape), f"{name}.bias": torch.empty(shape[:1])}
        if a.imagenet:
            tensors["conditioners.label.table.weight"] = torch.empty(a.num_classes + 1, modulation)
    lazy_tensors: dict[str, LazyTensor] = {name: InMemoryTensor(tensor) for name, tensor in tensors.items()}
    original = to_original(lazy_tensors, a.in_channels, a.patch_size, imagenet=a.imagenet)
    pad = {} if a.imagenet else {PAD_TOKEN: (a.dim,)}
    return {name: lazy_tensor.shape for name, lazy_tensor in original.items()} | pad


def infer_from_shapes(shapes: Shapes, settings: Mapping[str, Any], where: str) -> PublishedConfig:
    """The arguments that the shapes of an original file speak of, and what settings beside it say.

    Args:
        said: plain values, such as those of `model_args.pth`: the name of the model, and perhaps arguments.

    Raises:
        CheckpointError: tensors are missing without which nothing can be told, or it is no Next-DiT.
    """
    keys = ("x_embedder.weight", "layers.0.attention.wk.weight", "layers.0.feed_forward.w1.weight")
    missing = [key for key in (*keys, "final_layer.linear.weight") if len(shapes.get(key, ())) != 2]
    if missing:
        raise CheckpointError(f"{where} holds no Next-DiT: {missing[0]} is missing; wanted the weights of Lumina-Next")
    dim, token_dim = shapes["x_embedder.weight"]
    label_shape = shapes.get("y_embedder.embedding_table.weight")
    heads = int(settings.get("n_heads") or shapes.get("layers.0.attention.gate", (NUM_HEADS,))[0])
    patch_size, channels = _infer_patch(token_dim, settings)
    values: dict[str, Any] = {
        "dim": dim,
        "n_layers": 1 + max(int(name.split(".")[1]) for name in shapes if re.match(r"layers\.\d+\.", name)),
        "n_heads": heads,
        "n_kv_heads": _infer_kv_heads(shapes["layers.0.attention.wk.weight"][0], dim, heads),
        "qk_norm": "layers.0.attention.q_norm.weight" in shapes,
        "learn_sigma": shapes["final_layer.linear.weight"][0] == 2 * token_dim,
        "patch_size": patch_size, "in_channels": channels, "norm_eps": float(settings.get("norm_eps") or 1e-5),
        "cap_feat_dim": 0 if label_shape else shapes.get("layers.0.attention.wk_y.weight", (0, 0))[1],
        "num_classes": label_shape[0] - 1 if label_shape else 0,
    }  # fmt: skip
    return from_kwargs({**values, **_infer_ffn(shapes["layers.0.feed_forward.w1.weight"][0], dim, settings)})


def from_diffusers(config: Mapping[str, Any], where: str) -> PublishedConfig:
    """The arguments in the config.json of a LuminaNextDiT2DModel."""
    try:
        return from_kwargs(
            {
                original_key: config[diffusers_key]
                for diffusers_key, original_key in DIFFUSERS_ARGUMENTS.items()
                if diffusers_key in config
            }
        )
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error


def to_diffusers(config: PublishedConfig) -> dict[str, Any]:
    """The arguments as LuminaNextDiT2DModel takes them."""
    values = config.model_dump()
    diffusers_config = {
        diffusers_key: values[original_key] for diffusers_key, original_key in DIFFUSERS_ARGUMENTS.items()
    }
    # with query norms its constructor fails on None
    return diffusers_config | {"num_kv_heads": config.n_kv_heads or config.n_heads}


def from_options(
    backbone: Mapping[str, Any], head: Mapping[str, Any], token: tuple[int, int], context_dim: int, num_classes: int
) -> PublishedConfig:
    """The published arguments of our backbone's and head's options.

    Args:
        token: patch, and channels of the latent.
        memory: its width.
        classes: 0 for a model that is told a text.

    Raises:
        CheckpointError: an option has a value that no published model has.
    """
    patch_size, channels = token
    # checked without widths, which follow from the other parts
    b = NextDiTBackbone.Config.read(
        {key: value for key, value in backbone.items() if key not in COMPONENT_DIMS}, "backbone"
    )
    axis_dim = b.hidden_size // b.num_heads // 2
    imagenet = num_classes > 0
    expected = {
        "rope_axes_dim": (0, axis_dim, axis_dim), "rope_layout": "interleaved", "rope_theta": 10000.0,
        "time_conditioned": True,
        "weighted_pre_norm": not imagenet, "pooled_embed": "add" if imagenet else "mlp",
    }  # fmt: skip
    actual = {key: getattr(b, key) for key in expected}
    if bool(head.get("shift", False)) != imagenet:
        actual, expected = {"the head's shift": head.get("shift", False)}, {"the head's shift": imagenet}
    mismatched = [key for key in expected if actual[key] != expected[key]]
    if mismatched:
        raise CheckpointError(
            f"no published model has {mismatched[0]} {actual[mismatched[0]]} (theirs: {expected[mismatched[0]]}); "
            "it cannot be written so that their code gives the same numbers"
        )
    return PublishedConfig(
        dim=b.hidden_size, n_layers=b.num_layers, n_heads=b.num_heads, n_kv_heads=b.num_kv_heads, multiple_of=b.multiple_of,
        ffn_dim_multiplier=b.ffn_dim_multiplier, norm_eps=b.eps, qk_norm=b.qk_norm,
        learn_sigma=bool(head.get("learn_sigma", False)), patch_size=patch_size, in_channels=channels,
        cap_feat_dim=context_dim, num_classes=num_classes,
    )  # fmt: skip


def _infer_patch(token_dim: int, settings: Mapping[str, Any]) -> tuple[int, int]:
    """Patch and channels of a token of so many numbers: from the settings, the model's name, or four channels."""
    match = re.search(r"patch(\d+)", str(settings.get("model", "")))
    patch_size = settings.get("patch_size") or (match and match[1])
    channels = settings.get("in_channels")
    if patch_size is None:
        patch_size = math.isqrt(token_dim // int(channels or 4)) or 1
    return int(patch_size), int(channels or token_dim // int(patch_size) ** 2)


def _infer_kv_heads(rows: int, dim: int, heads: int) -> int:
    return max(1, rows // max(1, dim // heads))


def _infer_ffn(hidden: int, dim: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Rounding and multiplier that make a feed-forward so wide."""
    if (
        settings.get("multiple_of")
        and ffn_hidden_dim(dim, settings["multiple_of"], settings.get("ffn_dim_multiplier")) == hidden
    ):
        return {"multiple_of": settings["multiple_of"], "ffn_dim_multiplier": settings.get("ffn_dim_multiplier")}
    for multiple in (256, 128, 64, 32, 16, 8, 4, 2, 1):
        if ffn_hidden_dim(dim, multiple, None) == hidden:
            return {"multiple_of": multiple, "ffn_dim_multiplier": None}
    return {"multiple_of": 1, "ffn_dim_multiplier": (hidden + 0.5) / int(2 * (4 * dim) / 3)}
