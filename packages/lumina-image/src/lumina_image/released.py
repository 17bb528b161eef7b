"""Weights published by Alpha-VLLM <-> our names: the same numbers, some of them joined or in another order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lumina_core.errors import CheckpointError

_OUTER = {
    "x_embedder.": "backbone.embed.",
    "t_embedder.mlp.0.": "backbone.time.inner.",
    "t_embedder.mlp.2.": "backbone.time.outer.",
    "cap_embedder.0.": "backbone.summary.norm.",
    "cap_embedder.1.": "backbone.summary.linear.",
    "y_embedder.embedding_table.": "conditioners.label.table.",
    "final_layer.adaLN_modulation.1.": "head.modulation.",
    "final_layer.linear.": "head.linear.",
}
_INNER = {
    "attention_norm1.": "attention_norm1.",
    "attention_norm2.": "attention_norm2.",
    "attention_y_norm.": "memory_norm.",
    "ffn_norm1.": "feed_norm1.",
    "ffn_norm2.": "feed_norm2.",
    "attention_norm.": "attention_norm2.",  # the ImageNet models' only norms stand behind the branches
    "ffn_norm.": "feed_norm2.",
    "adaLN_modulation.1.": "modulation.",
    "attention.wo.": "attention.out.",
    "attention.q_norm.": "attention.q_norm.",
    "attention.k_norm.": "attention.k_norm.",
    "attention.ky_norm.": "attention.memory_k_norm.",
    "attention.gate": "attention.gate",
    "feed_forward.w2.": "feed.out.",
}
_TOGETHER = {
    "attention.qkv.weight": ("attention.wq.weight", "attention.wk.weight", "attention.wv.weight"),
    "attention.memory_kv.weight": ("attention.wk_y.weight", "attention.wv_y.weight"),
    "feed.up.weight": ("feed_forward.w1.weight", "feed_forward.w3.weight"),
}
_BLOCK = re.compile(r"layers\.(\d+)\.(.+)")
PAD = "pad_token"
"""Published, without any influence on a result (its gradient is zero); kept for the way back."""


def options_from_original(constructor: Mapping[str, Any], *, imagenet: bool = False) -> dict[str, dict[str, Any]]:
    """The options of our backbone and head for the arguments of the published NextDiT (or DiT_Llama of ImageNet).

    Args:
        constructor: dim, n_layers, n_heads, n_kv_heads, multiple_of, ffn_dim_multiplier, norm_eps, qk_norm,
            learn_sigma, patch_size, in_channels, cap_feat_dim; what is left out has the published default.
    """
    dim, heads = int(constructor.get("dim", 4096)), int(constructor.get("n_heads", 32))
    patch, channels = int(constructor.get("patch_size", 2)), int(constructor.get("in_channels", 4))
    side = dim // heads // 2
    shared = {"width": dim, "token_width": patch * patch * channels}
    backbone = {
        **shared,
        "depth": int(constructor.get("n_layers", 32)),
        "heads": heads,
        "kv_heads": constructor.get("n_kv_heads"),
        "axes": (0, side, side),
        "layout": "interleaved",
        "multiple_of": int(constructor.get("multiple_of", 256)),
        "multiplier": constructor.get("ffn_dim_multiplier"),
        "eps": float(constructor.get("norm_eps", 1e-5)),
        "qk_norm": bool(constructor.get("qk_norm", False)),
        "weighted_pre_norm": not imagenet,
        "summary": "plain" if imagenet else "norm",
        "memory_width": 0 if imagenet else int(constructor.get("cap_feat_dim", 5120)),
        "summary_width": min(dim, 1024) if imagenet else int(constructor.get("cap_feat_dim", 5120)),
    }
    sigma = bool(constructor.get("learn_sigma", True))
    return {
        "backbone": backbone,
        "head": {**shared, "modulation_width": min(dim, 1024), "learn_sigma": sigma, "shift": imagenet},
    }


def from_original(state: Mapping[str, Tensor], channels: int, patch: int) -> dict[str, Tensor]:
    """Published tensors under our names, `backbone.*` and `head.*`; `pad_token` stays as it is called.

    Args:
        channels: of the latent (4).
        patch: side of a patch (2).

    Raises:
        CheckpointError: a name is unknown, or a part of a fused matrix is missing.
    """
    rest = dict(state)
    ours: dict[str, Tensor] = {}
    for block in sorted({int(m[1]) for m in map(_BLOCK.match, state) if m}):
        for name, parts in _TOGETHER.items():
            found = [rest.pop(f"layers.{block}.{part}", None) for part in parts]
            present = [tensor for tensor in found if tensor is not None]
            if 0 < len(present) < len(parts):
                raise CheckpointError(f"layers.{block} lacks one of {', '.join(parts)}")
            if present:
                ours[f"backbone.blocks.{block}.{name}"] = torch.cat(present)
    ours |= {_renamed(name): tensor for name, tensor in rest.items()}
    return {n: reordered(t, channels, patch) if n.startswith("head.linear.") else t for n, t in ours.items()}


def to_original(state: Mapping[str, Tensor], channels: int, patch: int, *, imagenet: bool = False) -> dict[str, Tensor]:
    """The exact inverse of `from_original`.

    Args:
        imagenet: name the norms as the ImageNet models do.

    Raises:
        CheckpointError: a tensor has no published name.
    """
    theirs: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith("head.linear."):
            tensor = reordered(tensor, channels, patch, back=True)
        fused = re.fullmatch(r"backbone\.blocks\.(\d+)\.(.+)", name)
        if fused and fused[2] in _TOGETHER:
            theirs |= _taken_apart(fused[1], _TOGETHER[fused[2]], tensor, _query_rows(state, fused[1]))
        else:
            theirs[_named_back(name, imagenet)] = tensor
    return theirs


def reordered(tensor: Tensor, channels: int, patch: int, back: bool = False) -> Tensor:
    """Rows of the final layer: (row, column, half and channel), as published <-> (half, channel, row, column)."""
    halves = tensor.shape[0] // (channels * patch * patch)
    published, tokens = (patch, patch, halves * channels), (halves * channels, patch, patch)
    if back:
        return tensor.reshape(*tokens, *tensor.shape[1:]).movedim(0, 2).flatten(0, 2).contiguous()
    return tensor.reshape(*published, *tensor.shape[1:]).movedim(2, 0).flatten(0, 2).contiguous()


def _query_rows(state: Mapping[str, Tensor], block: str) -> int:
    return state[f"backbone.blocks.{block}.attention.out.weight"].shape[1]


def _taken_apart(block: str, parts: tuple[str, ...], tensor: Tensor, queries: int) -> dict[str, Tensor]:
    rest = tensor.shape[0] - queries
    sizes = (queries, rest // 2, rest // 2) if len(parts) == 3 else (tensor.shape[0] // 2,) * 2
    return {
        f"layers.{block}.{part}": piece.contiguous() for part, piece in zip(parts, tensor.split(sizes), strict=True)
    }


def _renamed(name: str) -> str:
    if name == PAD:
        return name
    inner = _BLOCK.match(name)
    text, table = (inner[2], _INNER) if inner else (name, _OUTER)
    for theirs, ours in table.items():
        if text.startswith(theirs):
            return (f"backbone.blocks.{inner[1]}." if inner else "") + ours + text[len(theirs) :]
    raise CheckpointError(f"no tensor of a published Next-DiT is called '{name}'")


def _named_back(name: str, imagenet: bool) -> str:
    if name == PAD:
        return name
    inner = re.fullmatch(r"backbone\.blocks\.(\d+)\.(.+)", name)
    text, table = (inner[2], _INNER) if inner else (name, _OUTER)
    single = {"attention_norm.", "ffn_norm."}
    for theirs, ours in table.items():
        if text.startswith(ours) and (theirs in single) == (imagenet and ours in ("attention_norm2.", "feed_norm2.")):
            return (f"layers.{inner[1]}." if inner else "") + theirs + text[len(ours) :]
    raise CheckpointError(f"'{name}' has no name in the published layout")
