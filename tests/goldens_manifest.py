"""Names of the published layouts: manifests of the full sizes, and the map from the original's names to diffusers'."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import torch
from goldens_model import Network, unread
from goldens_read import Unsupported

from lumina_core.conditioning.class_label import ClassLabelConditioner
from lumina_image.formats.config_mapping import (
    PublishedConfig,
    expected_shapes,
    from_diffusers,
    from_kwargs,
    infer_from_shapes,
)
from lumina_image.formats.key_mapping import PAD_TOKEN, original_key_to_diffusers, to_original
from lumina_image.formats.key_mapping import diffusers_key_to_original as original_name

Shapes = dict[str, list[int]]


def manifest(content: dict[str, Any]) -> float:
    """0 where names, shapes, the number of tensors and of parameters are those of the manifest, else 1."""
    shapes: Shapes = content["shapes"]
    got = _diffusers(content) if "LuminaNextDiT2DModel" in content.get("what", "") else _original(content)
    count = sum(math.prod(shape) for shape in got.values())
    return float(got != shapes or count != content["parameters"] or len(got) != content["tensors"])


def keymap(content: dict[str, Any]) -> float:
    """0 where the map is ours to the last name, there and back, else 1."""
    sizes = from_kwargs({"n_layers": 1, "qk_norm": True, "dim": 64, "n_heads": 4, "cap_feat_dim": 32})
    ours = {name: list(original_key_to_diffusers(name)) for name in expected_shapes(sizes)}
    back = {theirs: original_name(theirs) for names in ours.values() for theirs in names}
    wanted = {_first(name): [_first(theirs) for theirs in names] for name, names in content["map"].items()}
    return float(ours != wanted or back != {theirs: name for name, names in wanted.items() for theirs in names})


def _first(name: str) -> str:
    return name.replace("{i}", "0")


def _diffusers(content: dict[str, Any]) -> Shapes:
    said = re.search(r"\{.*\}", content["what"])
    if said is None:
        raise Unsupported
    published = _published(from_diffusers(json.loads(said[0]), "manifest"))
    return {theirs: shape for name, shape in published.items() for theirs in original_key_to_diffusers(name)}


def _original(content: dict[str, Any]) -> Shapes:
    shapes: Shapes = content["shapes"]
    if not {"x_embedder.weight", "layers.0.attention.wq.weight", "layers.0.feed_forward.w1.weight"} <= shapes.keys():
        raise Unsupported
    if "y_embedder.embedding_table.weight" not in shapes and "layers.0.attention_norm1.weight" not in shapes:
        raise Unsupported
    tuples = {name: tuple(shape) for name, shape in shapes.items()}
    return _published(infer_from_shapes(tuples, {"model": content.get("what", "")}, "manifest"))


def _published(arguments: PublishedConfig) -> Shapes:
    """Shapes by published name, of the modules that a user gets; what the layouts expect must be the same."""
    with torch.device("meta"):
        state = dict(Network(arguments.model_dump(), arguments.imagenet).state_dict())
        if arguments.imagenet:
            label = ClassLabelConditioner(
                ClassLabelConditioner.Config(num_classes=arguments.num_classes, hidden_size=min(arguments.dim, 1024))
            )
            state |= {f"conditioners.label.{name}": tensor for name, tensor in label.state_dict().items()}
    theirs = to_original(unread(state), arguments.in_channels, arguments.patch_size, imagenet=arguments.imagenet)
    found = {name: list(piece.shape) for name, piece in theirs.items()}
    # has no place in our model; see its docstring
    found |= {} if arguments.imagenet else {PAD_TOKEN: [arguments.dim]}
    assert found == {name: list(shape) for name, shape in expected_shapes(arguments).items()}
    return found
