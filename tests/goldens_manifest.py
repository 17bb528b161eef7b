"""Manifests of the published sizes: names, shapes and parameter counts, from models built without memory."""

from __future__ import annotations

import json
import re
from typing import Any

import torch
from goldens_model import Network
from goldens_read import Unsupported

from lumina_core.builtin.label import LabelConditioner
from lumina_image.released import to_original

Shapes = dict[str, list[int]]

DIFFUSERS_ARGUMENTS = {
    "hidden_size": "dim", "num_layers": "n_layers", "num_attention_heads": "n_heads", "num_kv_heads": "n_kv_heads",
    "cross_attention_dim": "cap_feat_dim", "patch_size": "patch_size", "in_channels": "in_channels",
    "multiple_of": "multiple_of", "ffn_dim_multiplier": "ffn_dim_multiplier", "norm_eps": "norm_eps",
    "learn_sigma": "learn_sigma", "qk_norm": "qk_norm",
}  # fmt: skip
DIFFUSERS_NAMES = {
    "x_embedder": ["patch_embedder.proj"],
    "t_embedder.mlp.0": ["time_caption_embed.timestep_embedder.linear_1"],
    "t_embedder.mlp.2": ["time_caption_embed.timestep_embedder.linear_2"],
    "cap_embedder": ["time_caption_embed.caption_embedder"],
    "final_layer.adaLN_modulation.1": ["norm_out.linear_1"],
    "final_layer.linear": ["norm_out.linear_2"],
    "adaLN_modulation.1": ["norm1.linear"],
    "attention_norm1": ["norm1.norm"],
    "attention_norm2": ["norm2"],
    "attention_y_norm": ["norm1_context"],
    "attention.gate": ["gate"],
    "attention.wq": ["attn1.to_q", "attn2.to_q"],
    "attention.wk_y": ["attn2.to_k"],
    "attention.wv_y": ["attn2.to_v"],
    "attention.wk": ["attn1.to_k"],
    "attention.wv": ["attn1.to_v"],
    "attention.wo": ["attn2.to_out.0"],
    "attention.q_norm": ["attn1.norm_q", "attn2.norm_q"],
    "attention.k_norm": ["attn1.norm_k"],
    "attention.ky_norm": ["attn2.norm_k"],
    "feed_forward.w1": ["feed_forward.linear_1"],
    "feed_forward.w2": ["feed_forward.linear_2"],
    "feed_forward.w3": ["feed_forward.linear_3"],
}
"""Beginnings of names, those of a block without `layers.N.`; the query is stored twice. Others keep their names."""


def manifest(content: dict[str, Any]) -> float:
    """0 where names, shapes, the number of tensors and of parameters are those of the manifest, else 1."""
    shapes: Shapes = content["shapes"]
    got = _diffusers(content) if "LuminaNextDiT2DModel" in content.get("what", "") else _original(content)
    if "pad_token" in shapes:
        got["pad_token"] = shapes["pad_token"]  # see released.PAD
    count = sum(torch.Size(shape).numel() for shape in got.values())
    return float(got != shapes or count != content["parameters"] or len(got) != content["tensors"])


def _diffusers(content: dict[str, Any]) -> Shapes:
    said = re.search(r"\{.*\}", content["what"])
    if said is None:
        raise Unsupported
    arguments = json.loads(said[0])
    constructor = {ours: arguments[theirs] for theirs, ours in DIFFUSERS_ARGUMENTS.items() if theirs in arguments}
    published = _published(constructor)
    return {theirs: shape for name, shape in published.items() for theirs in diffusers_names(name)}


def diffusers_names(name: str) -> list[str]:
    """The names that a tensor of the original layout has in diffusers."""
    block = re.match(r"layers\.\d+\.", name)
    front = block[0] if block else ""
    rest = name[len(front) :]
    for begin, theirs in DIFFUSERS_NAMES.items():
        if rest == begin or rest.startswith(begin + "."):
            return [front + other + rest[len(begin) :] for other in theirs]
    return [name]


def _original(content: dict[str, Any]) -> Shapes:
    shapes: Shapes = content["shapes"]
    if not {"x_embedder.weight", "layers.0.attention.wq.weight", "layers.0.feed_forward.w1.weight"} <= shapes.keys():
        raise Unsupported
    classes = shapes.get("y_embedder.embedding_table.weight")
    if classes is None and "layers.0.attention_norm1.weight" not in shapes:
        raise Unsupported
    return _published(_constructor(shapes, content.get("what", "")), classes)


def _published(constructor: dict[str, Any], classes: list[int] | None = None) -> Shapes:
    """Shapes by published name; `classes` is the shape of the ImageNet models' table of labels."""
    imagenet = classes is not None
    with torch.device("meta"):
        state = dict(Network(constructor, imagenet).state_dict())
        if classes is not None:
            label = LabelConditioner(LabelConditioner.Config(classes=classes[0] - 1, width=classes[1]))
            state |= {f"conditioners.label.{name}": tensor for name, tensor in label.state_dict().items()}
        theirs = to_original(state, constructor["in_channels"], constructor["patch_size"], imagenet=imagenet)
    return {name: list(tensor.shape) for name, tensor in theirs.items()}


def _constructor(shapes: Shapes, what: str) -> dict[str, Any]:
    """The arguments that the shapes speak of; the patch is part of a model's name (`NextDiT_2B_GQA_patch2`)."""
    dim, numbers = shapes["x_embedder.weight"]
    heads = shapes.get("layers.0.attention.gate", [32])[0]
    named = re.search(r"patch(?:_size=)?(\d+)", what)
    patch = int(named[1]) if named else 2
    hidden, two_thirds = shapes["layers.0.feed_forward.w1.weight"][0], int(2 * (4 * dim) / 3)
    usual = 256 * -(-two_thirds // 256)
    return {
        "dim": dim,
        "n_layers": len({name.split(".")[1] for name in shapes if name.startswith("layers.")}),
        "n_heads": heads,
        "n_kv_heads": shapes["layers.0.attention.wk.weight"][0] // (dim // heads),
        "qk_norm": "layers.0.attention.q_norm.weight" in shapes,
        "in_channels": numbers // patch**2,
        "patch_size": patch,
        "learn_sigma": shapes["final_layer.linear.weight"][0] == 2 * numbers,
        "multiple_of": 256 if usual == hidden else 1,
        "ffn_dim_multiplier": None if usual == hidden else (hidden + 0.5) / two_thirds,
        "cap_feat_dim": shapes.get("layers.0.attention.wk_y.weight", [0, 0])[1],
    }
