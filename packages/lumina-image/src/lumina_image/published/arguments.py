"""What a published Next-DiT is built with: from its settings or its shapes, and as options of our parts and back."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field

from lumina_core.config import Config
from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.nn.block import hidden_width
from lumina_core.nn.next_dit import MODULATION, NextDiT
from lumina_core.weights.pieces import Held, Piece
from lumina_core.weights.unfilled import unfilled
from lumina_image.published.mapping import to_original
from lumina_image.published.names import PAD

Shapes = Mapping[str, tuple[int, ...]]
HEADS = 32
"""Of every published model; the ImageNet ones do not tell it by a shape."""

IN_DIFFUSERS = {
    "hidden_size": "dim", "num_layers": "n_layers", "num_attention_heads": "n_heads", "num_kv_heads": "n_kv_heads",
    "cross_attention_dim": "cap_feat_dim", "patch_size": "patch_size", "in_channels": "in_channels",
    "multiple_of": "multiple_of", "ffn_dim_multiplier": "ffn_dim_multiplier", "norm_eps": "norm_eps",
    "learn_sigma": "learn_sigma", "qk_norm": "qk_norm",
}  # fmt: skip
"""Arguments of LuminaNextDiT2DModel, and what the original constructor calls them."""


class Arguments(Config):
    """Arguments of the published constructors (NextDiT, DiT_Llama of ImageNet), with their defaults."""

    dim: int = Field(4096, ge=8)
    n_layers: int = Field(32, ge=1)
    n_heads: int = Field(HEADS, ge=1)
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
    def token_width(self) -> int:
        """Numbers of a token."""
        return self.patch_size**2 * self.in_channels


def given(constructor: Mapping[str, Any], *, imagenet: bool = False) -> Arguments:
    """The arguments among those of a constructor; what is left out has the published default, others do not matter."""
    known = {key: value for key, value in constructor.items() if key in Arguments.model_fields}
    if imagenet:
        known = {"num_classes": 1000, **known, "cap_feat_dim": 0}
    return Arguments.read(known, "the published model's arguments")


def options(arguments: Arguments) -> dict[str, dict[str, Any]]:
    """The options of our backbone and head, without the widths that follow from other parts."""
    a, side = arguments, arguments.dim // arguments.n_heads // 2
    backbone: dict[str, Any] = {
        "width": a.dim, "depth": a.n_layers, "heads": a.n_heads, "kv_heads": a.n_kv_heads, "axes": (0, side, side),
        "layout": "interleaved", "multiple_of": a.multiple_of, "multiplier": a.ffn_dim_multiplier, "eps": a.norm_eps,
        "qk_norm": a.qk_norm, "weighted_pre_norm": not a.imagenet, "summary": "plain" if a.imagenet else "norm",
    }  # fmt: skip
    return {"backbone": backbone, "head": {"learn_sigma": a.learn_sigma, "shift": a.imagenet}}


def filled(arguments: Arguments) -> dict[str, dict[str, Any]]:
    """The options with the widths that other parts decide, to build backbone and head alone."""
    a, found = arguments, options(arguments)
    shared = {"width": a.dim, "token_width": a.token_width}
    modulation = min(a.dim, MODULATION)
    memory = {"memory_width": a.cap_feat_dim, "summary_width": modulation if a.imagenet else a.cap_feat_dim}
    return {
        "backbone": {**found["backbone"], **shared, **memory},
        "head": {**found["head"], **shared, "modulation_width": modulation},
    }


def expected(arguments: Arguments) -> dict[str, tuple[int, ...]]:
    """Names and shapes of every tensor of such a model in the original layout."""
    a = arguments
    modulation = min(a.dim, MODULATION)
    with unfilled():
        backbone = NextDiT(NextDiT.Config.read(filled(a)["backbone"], "published")).state_dict()
        made = {f"backbone.{name}": tensor for name, tensor in backbone.items()}
        shapes = {
            "head.modulation": ((2 if a.imagenet else 1) * a.dim, modulation),
            "head.linear": ((2 if a.learn_sigma else 1) * a.token_width, a.dim),
        }
        for name, shape in shapes.items():
            made |= {f"{name}.weight": torch.empty(shape), f"{name}.bias": torch.empty(shape[:1])}
        if a.imagenet:
            made["conditioners.label.table.weight"] = torch.empty(a.num_classes + 1, modulation)
    pieces: dict[str, Piece] = {name: Held(tensor) for name, tensor in made.items()}
    theirs = to_original(pieces, a.in_channels, a.patch_size, imagenet=a.imagenet)
    pad = {} if a.imagenet else {PAD: (a.dim,)}
    return {name: piece.shape for name, piece in theirs.items()} | pad


def from_shapes(shapes: Shapes, said: Mapping[str, Any], where: str) -> Arguments:
    """The arguments that the shapes of an original file speak of, and what settings beside it say.

    Args:
        said: plain values, such as those of `model_args.pth`: the name of the model, and perhaps arguments.

    Raises:
        CheckpointError: tensors are missing without which nothing can be told, or it is no Next-DiT.
    """
    keys = ("x_embedder.weight", "layers.0.attention.wk.weight", "layers.0.feed_forward.w1.weight")
    lacking = [key for key in (*keys, "final_layer.linear.weight") if len(shapes.get(key, ())) != 2]
    if lacking:
        raise CheckpointError(f"{where} holds no Next-DiT: {lacking[0]} is missing; wanted the weights of Lumina-Next")
    dim, numbers = shapes["x_embedder.weight"]
    labels = shapes.get("y_embedder.embedding_table.weight")
    heads = int(said.get("n_heads") or shapes.get("layers.0.attention.gate", (HEADS,))[0])
    patch, channels = _patch(numbers, said)
    known: dict[str, Any] = {
        "dim": dim,
        "n_layers": 1 + max(int(name.split(".")[1]) for name in shapes if re.match(r"layers\.\d+\.", name)),
        "n_heads": heads,
        "n_kv_heads": _kv_heads(shapes["layers.0.attention.wk.weight"][0], dim, heads),
        "qk_norm": "layers.0.attention.q_norm.weight" in shapes,
        "learn_sigma": shapes["final_layer.linear.weight"][0] == 2 * numbers,
        "patch_size": patch, "in_channels": channels, "norm_eps": float(said.get("norm_eps") or 1e-5),
        "cap_feat_dim": 0 if labels else shapes.get("layers.0.attention.wk_y.weight", (0, 0))[1],
        "num_classes": labels[0] - 1 if labels else 0,
    }  # fmt: skip
    return given({**known, **_feed(shapes["layers.0.feed_forward.w1.weight"][0], dim, said)})


def from_diffusers(config: Mapping[str, Any], where: str) -> Arguments:
    """The arguments in the config.json of a LuminaNextDiT2DModel."""
    try:
        return given({ours: config[theirs] for theirs, ours in IN_DIFFUSERS.items() if theirs in config})
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error


def to_diffusers(arguments: Arguments) -> dict[str, Any]:
    """The arguments as LuminaNextDiT2DModel takes them."""
    said = arguments.model_dump()
    config = {theirs: said[ours] for theirs, ours in IN_DIFFUSERS.items()}
    # with query norms its constructor fails on None
    return config | {"num_kv_heads": arguments.n_kv_heads or arguments.n_heads}


def from_options(
    backbone: Mapping[str, Any], head: Mapping[str, Any], token: tuple[int, int], memory: int, classes: int
) -> Arguments:
    """The published arguments of our backbone's and head's options.

    Args:
        token: patch, and channels of the latent.
        memory: its width.
        classes: 0 for a model that is told a text.

    Raises:
        CheckpointError: an option has a value that no published model has.
    """
    patch, channels = token
    # checked without widths, which follow from the other parts
    b = NextDiT.Config.read({key: value for key, value in backbone.items() if not key.endswith("_width")}, "backbone")
    side = b.width // b.heads // 2
    imagenet = classes > 0
    wanted = {
        "axes": (0, side, side), "layout": "interleaved", "base": 10000.0, "timed": True,
        "weighted_pre_norm": not imagenet, "summary": "plain" if imagenet else "norm",
    }  # fmt: skip
    said = {key: getattr(b, key) for key in wanted}
    if bool(head.get("shift", False)) != imagenet:
        said, wanted = {"the head's shift": head.get("shift", False)}, {"the head's shift": imagenet}
    other = [key for key in wanted if said[key] != wanted[key]]
    if other:
        raise CheckpointError(
            f"no published model has {other[0]} {said[other[0]]} (theirs: {wanted[other[0]]}); "
            "it cannot be written so that their code gives the same numbers"
        )
    return Arguments(
        dim=b.width, n_layers=b.depth, n_heads=b.heads, n_kv_heads=b.kv_heads, multiple_of=b.multiple_of,
        ffn_dim_multiplier=b.multiplier, norm_eps=b.eps, qk_norm=b.qk_norm,
        learn_sigma=bool(head.get("learn_sigma", False)), patch_size=patch, in_channels=channels,
        cap_feat_dim=memory, num_classes=classes,
    )  # fmt: skip


def _patch(numbers: int, said: Mapping[str, Any]) -> tuple[int, int]:
    """Patch and channels of a token of so many numbers: from the settings, the model's name, or four channels."""
    named = re.search(r"patch(\d+)", str(said.get("model", "")))
    patch = said.get("patch_size") or (named and named[1])
    channels = said.get("in_channels")
    if patch is None:
        patch = math.isqrt(numbers // int(channels or 4)) or 1
    return int(patch), int(channels or numbers // int(patch) ** 2)


def _kv_heads(rows: int, dim: int, heads: int) -> int:
    return max(1, rows // max(1, dim // heads))


def _feed(hidden: int, dim: int, said: Mapping[str, Any]) -> dict[str, Any]:
    """Rounding and multiplier that make a feed-forward so wide."""
    if said.get("multiple_of") and hidden_width(dim, said["multiple_of"], said.get("ffn_dim_multiplier")) == hidden:
        return {"multiple_of": said["multiple_of"], "ffn_dim_multiplier": said.get("ffn_dim_multiplier")}
    for multiple in (256, 128, 64, 32, 16, 8, 4, 2, 1):
        if hidden_width(dim, multiple, None) == hidden:
            return {"multiple_of": multiple, "ffn_dim_multiplier": None}
    return {"multiple_of": 1, "ffn_dim_multiplier": (hidden + 0.5) / int(2 * (4 * dim) / 3)}
