"""Names of layers in LoRA files of other programs: kohya's scripts, ComfyUI, diffusers.

A fused matrix (query, key and value) is several layers there, which share A and have the rows of B. Names follow the
layout of the paper's code (`layers.0.attention.wq`): in kohya's files as `lora_unet_layers_0_attention_wq`
(sd-scripts, networks/lora_lumina.py), in ComfyUI's behind `diffusion_model.`, in diffusers' by its own names behind
`transformer.`. The fused names of Lumina-Image 2 (`attention.qkv`) are read too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from lumina_core.adapters.lora import LoraWeights, linear_layers
from lumina_core.checkpoint.lazy_tensors import InMemoryTensor, read_tensor
from lumina_core.checkpoint.state_dict_adapter import TIME_AND_CONTEXT_ROWS, KeyMap, KeyRow, block_rows
from lumina_core.errors import CheckpointError
from lumina_core.model import Model
from lumina_core.models.dit import DiTBackbone
from lumina_core.plugins.registry import Registry
from lumina_core.protocols import CheckpointFormat

FILE_FORMATS = ("peft", "kohya", "comfyui")
"""Formats of LoRA files, besides those of checkpoint formats that name layers in their own way."""
_PREFIXES = (
    *("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer."),
    *("lycoris_", "lora_unet_", "lora_transformer_", "unet."),
)


@dataclass(frozen=True)
class LayerPart:
    """A layer of a foreign file: all outputs of a native layer, or one part of a fused one.

    Attributes:
        layer: name of the native layer.
        index: index of the part.
        count: number of parts.
        rows: outputs of the part in the native layer, (start, stop).
    """

    layer: str
    index: int
    count: int
    rows: tuple[int, int]


class LayerNames:
    """Native and foreign names of the layers of a model.

    Args:
        model: the model.
        registry: checkpoint formats that add names of their own.
    """

    def __init__(self, model: Model, registry: Registry) -> None:
        self._layers = linear_layers(model)
        self._maps = {"kohya": _published_map(model)}
        for name in registry.registrations("checkpoint_format"):
            checkpoint_format: CheckpointFormat = registry.find("checkpoint_format", name)()
            if checkpoint_format.lora_names("layers.0.attention.wq.weight"):
                self._maps[name] = _renamed_map(_published_map(model), checkpoint_format.lora_names)
        self._maps["comfyui"] = self._maps["kohya"]
        self._parts = self._all_parts()

    @property
    def formats(self) -> tuple[str, ...]:
        """Names of the formats that can be written."""
        return (*FILE_FORMATS, *(name for name in self._maps if name not in FILE_FORMATS))

    def find(self, name: str) -> LayerPart | None:
        """Return the layer of a name in a file, without the end for its tensors; None: there is no such layer."""
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        return self._parts.get(name.replace(".", "_"))

    def foreign(self, layer: str, weights: LoraWeights, file_format: str) -> dict[str, LoraWeights]:
        """Return an adapter by the foreign names of its layer, in parts where the layer is fused."""
        result: dict[str, LoraWeights] = {}
        for part, names in self._sources(layer, file_format):
            b = weights.b[slice(*part.rows)].contiguous()
            magnitude = None if weights.magnitude is None else weights.magnitude[slice(*part.rows)].contiguous()
            one = replace(weights, b=b, magnitude=magnitude)
            # a part that a single projection does not change has no entry
            if part.count == 1 or magnitude is not None or not _is_zero(b) or _is_zero(weights.b):
                result |= dict.fromkeys(names, one)
        return result

    def native(self, parts: Mapping[LayerPart, LoraWeights]) -> LoraWeights:
        """Join the parts of one native layer; parts with the same A keep their rank, others add up."""
        (layer,) = {part.layer for part in parts}
        first = next(iter(parts.values()))
        size = self._layers[layer].out_features
        assert isinstance(size, int)
        is_shared = all(torch.equal(one.a, first.a) and one.alpha == first.alpha for one in parts.values())
        if is_shared:
            a, alpha = first.a, first.alpha
        else:
            a = torch.cat([one.a for one in parts.values()])
            alpha = float(len(a))
        b = first.b.new_zeros(size, len(a))
        column = 0
        for part, one in parts.items():
            columns = slice(0, len(a)) if is_shared else slice(column, column + one.rank)
            b[slice(*part.rows), columns] = one.b if is_shared else one.b * (one.alpha / one.rank)
            column += one.rank
        return LoraWeights(a, b, alpha, self._join_magnitudes(layer, parts, size))

    def _join_magnitudes(self, layer: str, parts: Mapping[LayerPart, LoraWeights], size: int) -> Tensor | None:
        magnitudes = {part: one.magnitude for part, one in parts.items() if one.magnitude is not None}
        if not magnitudes:
            return None
        if sum(part.rows[1] - part.rows[0] for part in magnitudes) != size:
            raise CheckpointError(f"{layer}: got DoRA norms of some rows, expected those of all {size}.")
        joined = next(iter(magnitudes.values())).new_zeros(size)
        for part, magnitude in magnitudes.items():
            joined[slice(*part.rows)] = magnitude
        return joined

    def _sources(self, layer: str, file_format: str) -> list[tuple[LayerPart, tuple[str, ...]]]:
        """Return the parts of a layer with their foreign names; a layer without any has its native name."""
        size = self._layers[layer].out_features
        assert isinstance(size, int)
        index_column = torch.arange(size).double()[:, None]
        try:
            key_map = self._maps[file_format]
            sources = key_map.foreign_names(f"{layer}.weight")
            tensors = key_map.to_foreign({f"{layer}.weight": InMemoryTensor(index_column)})
        except CheckpointError:
            return [(LayerPart(layer, 0, 1, (0, size)), (layer.removeprefix("backbone."),))]
        parts = []
        for index, names in enumerate(sources):
            rows = read_tensor(tensors[names[0]]).flatten().long()
            part = LayerPart(layer, index, len(sources), (int(rows[0]), int(rows[-1]) + 1))
            parts.append((part, tuple(name.removesuffix(".weight") for name in names)))
        return parts

    def _all_parts(self) -> dict[str, LayerPart]:
        parts: dict[str, LayerPart] = {}
        for layer, module in self._layers.items():
            size = module.out_features
            assert isinstance(size, int)
            whole = LayerPart(layer, 0, 1, (0, size))
            inner = layer.removeprefix("backbone.")
            names: list[tuple[LayerPart, tuple[str, ...]]] = [
                (whole, (layer, inner, inner.replace("blocks.", "layers.", 1)))
            ]
            names += chain.from_iterable(self._sources(layer, file_format) for file_format in self._maps)
            for part, part_names in names:
                for name in part_names:
                    parts.setdefault(name.replace(".", "_"), part)
        return parts


def _published_map(model: Model) -> KeyMap:
    """Return the map of the layers to the layout of the paper's code."""
    rows = [KeyRow("x_embedder.*", "backbone.embed.*"), *TIME_AND_CONTEXT_ROWS]
    if isinstance(model.backbone, DiTBackbone):
        config = model.backbone.config
        rows += block_rows("layers", config.num_heads, config.num_kv_heads or config.num_heads)
    return KeyMap(rows)


def _renamed_map(key_map: KeyMap, renamed: Callable[[str], tuple[str, ...]]) -> KeyMap:
    return KeyMap([
        KeyRow([list(chain.from_iterable(map(renamed, names))) for names in row.sources], row.native, row.transform)
        for row in key_map.rows
    ])  # fmt: skip


def _is_zero(tensor: Tensor) -> bool:
    return not bool(tensor.any())
