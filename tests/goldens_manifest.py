"""Names of the published layouts: manifests of the full sizes, and the map from the original's names to diffusers'."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import torch
from goldens_read import Unsupported

from lumina_core.checkpoint.lazy_tensors import InMemoryTensor, init_empty_weights
from lumina_core.conditioning.class_label import ClassLabelConditioner
from lumina_image.formats.next_dit import (
    LABEL_TABLE,
    DiffusersNextDiTAdapter,
    NextDiTAdapter,
    PublishedConfig,
    infer_config,
)

ORIGINAL, DIFFUSERS = NextDiTAdapter(), DiffusersNextDiTAdapter()
Shapes = dict[str, list[int]]


def manifest(content: dict[str, Any]) -> float:
    """0 where names, shapes, the number of tensors and of parameters are those of the manifest, else 1."""
    shapes: Shapes = content["shapes"]
    got = _diffusers(content) if "LuminaNextDiT2DModel" in content.get("what", "") else _original(content)
    count = sum(math.prod(shape) for shape in got.values())
    return float(got != shapes or count != content["parameters"] or len(got) != content["tensors"])


def keymap(content: dict[str, Any]) -> float:
    """0 where the map is ours to the last name, there and back, else 1."""
    config = PublishedConfig(n_layers=1, qk_norm=True, dim=64, n_heads=4, cap_feat_dim=32)
    original, diffusers = ORIGINAL.key_map(config), DIFFUSERS.key_map(config)
    ours: dict[str, list[str]] = {}
    for native in ORIGINAL.native_shapes(config):
        for (name,), renamed in zip(original.foreign_names(native), diffusers.foreign_names(native), strict=True):
            ours[name] = list(renamed)
            assert all(diffusers.native_name(theirs) == native == original.native_name(name) for theirs in renamed)
    return float(ours != {_first(name): [_first(theirs) for theirs in names] for name, names in content["map"].items()})


def _first(name: str) -> str:
    return name.replace("{i}", "0")


def _diffusers(content: dict[str, Any]) -> Shapes:
    match = re.search(r"\{.*\}", content["what"])
    if match is None:
        raise Unsupported
    return _published(DIFFUSERS, DIFFUSERS.config_from(json.loads(match[0]), "manifest"))


def _original(content: dict[str, Any]) -> Shapes:
    shapes: Shapes = content["shapes"]
    if not {"x_embedder.weight", "layers.0.attention.wq.weight", "layers.0.feed_forward.w1.weight"} <= shapes.keys():
        raise Unsupported
    if "y_embedder.embedding_table.weight" not in shapes and "layers.0.attention_norm1.weight" not in shapes:
        raise Unsupported
    tensors = {name: InMemoryTensor(torch.empty(shape, device="meta")) for name, shape in shapes.items()}
    return _published(ORIGINAL, infer_config(tensors, {"model": content.get("what", "")}, "manifest"))


def _published(adapter: NextDiTAdapter, config: PublishedConfig) -> Shapes:
    """Shapes by published name; the label table must be that of the conditioner that a user gets."""
    if config.imagenet:
        sizes = ClassLabelConditioner.Config(num_classes=config.num_classes, hidden_size=min(config.dim, 1024))
        with init_empty_weights():
            table = ClassLabelConditioner(sizes).state_dict()["table.weight"]
        assert tuple(table.shape) == adapter.native_shapes(config)[LABEL_TABLE]
    return {name: list(shape) for name, shape in adapter.foreign_shapes(config).items()}
