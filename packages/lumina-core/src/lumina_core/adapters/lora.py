"""LoRA and DoRA by the library peft: attach them to a model, read and write their weights, merge and remove them.

The update of a matrix W is alpha / rank * B A (LoRA, arXiv 2106.09685, section 4.1). DoRA also trains the norms m of
the rows: W' = m (W + update) / |W + update| (arXiv 2402.09353, equation 5).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lumina_core.errors import CheckpointError, ConfigError, suggest
from lumina_core.model import Model
from lumina_core.models.attention import Attention
from lumina_core.models.layers import FeedForward
from lumina_core.pretrained import require
from lumina_core.recipe import AdapterConfig

INSTALL_EXTRA = "lumina-core[lora]"
TRAINED_NAME = "default"
"""Name of the adapter that a training adds; peft's own default."""
HASHED_VALUES = 4096
"""Values of each tensor that the hash of a base reads."""
MIN_QUANTIZED_BLOCK = 64
"""Sides of a matrix are multiples of it where bitsandbytes stores 4 bits."""


class BaseHash(NamedTuple):
    """SHA-256 of the model that a LoRA is for, see `base_hash`.

    Attributes:
        sha256: of its weights, rounded to bfloat16.
        float16: of its weights, rounded to float16 and then to bfloat16: that of a copy in float16.
    """

    sha256: str
    float16: str


NO_HASH = BaseHash("", "")


@dataclass(frozen=True)
class LoraWeights:
    """Adapter of one matrix (out, in).

    Attributes:
        a: (rank, in).
        b: (out, rank).
        alpha: the update is b a times alpha / rank.
        magnitude: (out,) norms of the rows for DoRA; None for LoRA.
    """

    a: Tensor
    b: Tensor
    alpha: float
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """Rank of the update."""
        return self.a.shape[0]


@dataclass(frozen=True)
class Lora:
    """Adapters of the layers of a model.

    Attributes:
        layers: adapter of each layer, by its name in the model: `backbone.blocks.0.attention.qkv`.
        base_model: name or folder of the model that it was trained on; empty: not stated.
        base_hash: of that model; empty: not stated.
    """

    layers: Mapping[str, LoraWeights]
    base_model: str = ""
    base_hash: BaseHash = NO_HASH


@dataclass(frozen=True)
class Target:
    """A linear layer that gets an adapter.

    Attributes:
        name: name of the layer in the model.
        shape: (out, in).
        rows: outputs that the adapter may change, as (start, stop); empty: all.
    """

    name: str
    shape: tuple[int, int]
    rows: tuple[tuple[int, int], ...] = ()

    @property
    def max_rank(self) -> int:
        """The smaller side of the matrix, or of the rows that change."""
        return min(self.shape[1], sum(stop - start for start, stop in self.rows) or self.shape[0])


def base_hash(model: nn.Module) -> BaseHash:
    """Return SHA-256 of the names, shapes and values of backbone and head, without adapters.

    Up to `HASHED_VALUES` evenly spaced values of each tensor count, so that large models are hashed in a second. They
    are rounded, so that copies of a model in bfloat16 and float16 are recognized.
    """
    digest, float16 = hashlib.sha256(), hashlib.sha256()
    for name, tensor in sorted(_base_tensors(model)):
        values = tensor.detach().flatten()
        values = values[:: max(1, -(-len(values) // HASHED_VALUES))].cpu().contiguous()
        for one, rounded in ((digest, values), (float16, values.half())):
            one.update(f"{name} {tuple(tensor.shape)}".encode())
            one.update(rounded.bfloat16().view(torch.uint8).numpy().tobytes())
    return BaseHash(digest.hexdigest(), float16.hexdigest())


def _base_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in model.named_parameters():
        if name.startswith(("backbone.", "head.")) and ".lora_" not in name:
            yield name.replace(".base_layer.", "."), tensor


# ---- targets


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the linear layers of backbone and head by name; of a layer with an adapter, the layer below it."""
    layers: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.startswith(("backbone.", "head.")) and ".lora_" not in name:
            layers[name.removesuffix(".base_layer")] = module
    return layers


def fused_projections(model: nn.Module) -> dict[str, dict[str, tuple[int, int]]]:
    """Return the projections in each fused matrix as rows (start, stop): q, k and v, or gate and up."""
    fused: dict[str, dict[str, tuple[int, int]]] = {}
    for name, module in model.named_modules():
        if isinstance(module, Attention):
            q_dim, kv_dim, _ = module.qkv_dims
            fused[f"{name}.qkv"] = _consecutive({"q": q_dim, "k": kv_dim, "v": kv_dim})
            if "context_kv" in dict(module.named_children()):
                fused[f"{name}.context_kv"] = _consecutive({"k": kv_dim, "v": kv_dim})
        if isinstance(module, FeedForward):
            width = _weight_shape(_below(module.out))[1]
            fused[f"{name}.up"] = _consecutive({"gate": width, "up": width})
    return fused


def find_targets(model: nn.Module, config: AdapterConfig) -> list[Target]:
    """Return the layers that a config names, in the order of the model.

    Raises:
        ConfigError: a target matches no layer (the nearest names are offered), or the rank exceeds a side of a layer.
    """
    layers, fused = linear_layers(model), fused_projections(model)
    rows: dict[str, list[tuple[int, int]]] = {}
    for target in config.targets:
        path, _, projection = target.partition("[")
        projection = projection.removesuffix("]")
        matches = [name for name in layers if name == path or name.endswith(f".{path}")]
        if not matches:
            raise ConfigError(_no_match("training.adapter.targets", target, path, layers))
        for name in matches:
            names = fused.get(name, {})
            if "[" in target and projection not in names:
                expected = ", ".join(f"{path}[{one}]" for one in names) or f"{path}, which is one projection"
                raise ConfigError(f"training.adapter.targets: got '{target}', expected {expected}.")
            found = rows.setdefault(name, [])
            found.append(names[projection] if "[" in target else (0, _weight_shape(layers[name])[0]))
    targets = [_target(name, layers[name], rows[name]) for name in layers if name in rows]
    smallest = min(targets, key=lambda one: one.max_rank)
    if config.rank > smallest.max_rank:
        raise ConfigError(
            f"training.adapter.rank: got {config.rank}, expected at most {smallest.max_rank}, the smaller side of "
            f"{smallest.name}. Lower the rank, or remove this target."
        )
    return targets


def _target(name: str, layer: nn.Module, rows: Sequence[tuple[int, int]]) -> Target:
    shape = _weight_shape(layer)
    merged = sorted(set(rows))
    is_whole = (0, shape[0]) in merged or sum(stop - start for start, stop in merged) == shape[0]
    return Target(name, shape, () if is_whole else tuple(merged))


def _no_match(setting: str, target: str, path: str, layers: Iterable[str]) -> str:
    """Return the message for a name that no layer has, with the nearest endings of the names."""
    endings = {".".join(name.split(".")[-count:]) for name in layers for count in (1, 2)}
    endings = {ending for ending in endings if not ending.split(".")[0].isdigit()}
    nearest = suggest(path, endings, cutoff=0.3)
    return (
        f"{setting}: got '{target}', expected the end of a layer's name{nearest} Layers: {', '.join(sorted(endings))}."
    )


def _consecutive(sizes: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    rows, start = {}, 0
    for name, size in sizes.items():
        rows[name] = (start, start + size)
        start += size
    return rows


def _below(layer: nn.Module) -> nn.Module:
    """Return the layer that an adapter wraps, or the layer itself."""
    return dict(layer.named_children()).get("base_layer", layer)


def _weight_shape(layer: nn.Module) -> tuple[int, int]:
    # a weight of 4 bits is stored as a column of bytes
    assert isinstance(layer, nn.Linear)
    return layer.out_features, layer.in_features


# ---- training


def add_adapter(model: Model, config: AdapterConfig) -> list[Target]:
    """Add a new adapter to a model and freeze everything else; the outputs stay the same, bit for bit.

    The matrices are stored in `config.base_dtype` before.

    Raises:
        ConfigError: a target matches no layer, or the rank exceeds a side of a layer.
        PluginError: peft, or the library of the quantization, is not installed.
    """
    targets = find_targets(model, config)
    peft = require("peft", INSTALL_EXTRA, "training.adapter")
    model.requires_grad_(False).eval()
    store_base(model, config.base_dtype)
    _inject(peft, model, TRAINED_NAME, {t.name: (config.rank, config.alpha or config.rank) for t in targets},
            config.method == "dora", config.dropout)  # fmt: skip
    for target in targets:
        layer: Any = model.get_submodule(target.name)
        layer.train()
        for part in (layer.lora_A, layer.lora_B, layer.lora_magnitude_vector):
            part.float()  # peft makes them in the dtype of the base
        if target.rows:
            _restrict_rows(layer, target.rows)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    return targets


def store_base(model: Model, dtype: str) -> None:
    """Store the matrices of the backbone's blocks in another dtype, in place; embeddings and head stay.

    Args:
        model: a model without adapters.
        dtype: float32, bfloat16, int8 (torchao, one scale per row) or int4 (bitsandbytes, nf4).

    Raises:
        PluginError: the library of the quantization is not installed.
    """
    layers = {name: layer for name, layer in linear_layers(model).items() if name.startswith("backbone.blocks.")}
    if dtype in ("float32", "bfloat16"):
        for layer in layers.values():
            layer.to(getattr(torch, dtype))
    elif dtype == "int8":
        library = require("torchao.quantization", "lumina-core[quantize]", "training.adapter.base_dtype int8")
        library.quantize_(model, library.Int8WeightOnlyConfig(), lambda module, name: module in set(layers.values()))
    else:
        library = require("bitsandbytes", "lumina-core[quantize]", "training.adapter.base_dtype int4")
        for name, layer in layers.items():
            out_features, in_features = _weight_shape(layer)
            if not (out_features % MIN_QUANTIZED_BLOCK or in_features % MIN_QUANTIZED_BLOCK):
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, _linear_4bit(library, layer))


def _linear_4bit(library: Any, layer: nn.Module) -> nn.Module:
    assert isinstance(layer, nn.Linear)
    has_bias = layer.bias is not None
    quantized: nn.Module = library.nn.Linear4bit(
        layer.in_features, layer.out_features, bias=has_bias, quant_type="nf4", compute_dtype=torch.bfloat16
    )
    quantized.weight = library.nn.Params4bit(layer.weight.data.contiguous(), requires_grad=False, quant_type="nf4")
    quantized.bias = layer.bias
    # the packed layout that bitsandbytes makes for sampling on a CPU stays, and has no gradient
    quantized.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    return quantized.to(layer.weight.device)


class _RowLinear(nn.Linear):
    """Linear layer with some outputs fixed at zero: B of an adapter for single projections of a fused matrix."""

    row_mask: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., rank) to (..., out)."""
        return super().forward(x) * self.row_mask.to(x.dtype)


def _restrict_rows(layer: Any, rows: Sequence[tuple[int, int]]) -> None:
    """Fix the outputs of an adapter outside of some rows at zero; B begins as zeros and stays so there."""
    old = layer.lora_B[TRAINED_NAME]
    new = _RowLinear(old.in_features, old.out_features, bias=False, device=old.weight.device, dtype=old.weight.dtype)
    new.weight = old.weight
    mask = torch.zeros(old.out_features, device=old.weight.device)
    for start, stop in rows:
        mask[start:stop] = 1
    new.register_buffer("row_mask", mask, persistent=False)
    layer.lora_B[TRAINED_NAME] = new
    if TRAINED_NAME in layer.lora_magnitude_vector:
        magnitude = layer.lora_magnitude_vector[TRAINED_NAME].weight
        magnitude.register_hook(lambda grad: grad * mask.to(grad))


def _inject(
    peft: Any, model: nn.Module, name: str, sizes: Mapping[str, tuple[int, float]], dora: bool, dropout: float = 0.0
) -> None:
    """Wrap layers with peft's, as an adapter with this name; `sizes` are rank and alpha of each layer."""
    rank, alpha = next(iter(sizes.values()))
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(sizes),
        rank_pattern={layer: one[0] for layer, one in sizes.items() if one[0] != rank},
        alpha_pattern={layer: one[1] for layer, one in sizes.items() if one[1] != alpha},
        lora_dropout=dropout,
        use_dora=dora,
    )
    with warnings.catch_warnings():
        # a second adapter is meant
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        # torchao: merging would need another argument; the base of a training is never merged
        warnings.filterwarnings("ignore", message=".*get_apply_tensor_subclass.*")
        with _flag_4bit(model):
            peft.inject_adapter_in_model(config, model, name)


@contextmanager
def _flag_4bit(model: Any) -> Iterator[None]:
    """Tell peft that some layers have 4 bits, by the attribute that transformers sets."""
    if not any(type(module).__name__ == "Linear4bit" for module in model.modules()):
        yield
        return
    model.is_loaded_in_4bit = True
    try:
        yield
    finally:
        del model.is_loaded_in_4bit


def adapter_layers(model: nn.Module) -> dict[str, Any]:
    """Return peft's layers of a model by name; empty: the model has no adapter."""
    return {name: module for name, module in model.named_modules() if "lora_A" in dict(module.named_children())}


def extract_lora(
    model: nn.Module, weights: Mapping[str, Tensor] | None = None, name: str = TRAINED_NAME
) -> dict[str, LoraWeights]:
    """Return the weights of an adapter, as copies on the CPU.

    Args:
        model: the model.
        weights: other values of its parameters by name, such as their moving average.
        name: name of the adapter.
    """
    values = dict(model.named_parameters()) | dict(weights or {})

    def copy_of(key: str) -> Tensor:
        return values[key].detach().to("cpu", copy=True).contiguous()

    layers = {}
    for path, layer in adapter_layers(model).items():
        if name in layer.lora_A:
            magnitude_key = f"{path}.lora_magnitude_vector.{name}.weight"
            layers[path] = LoraWeights(
                copy_of(f"{path}.lora_A.{name}.weight"),
                copy_of(f"{path}.lora_B.{name}.weight"),
                float(layer.lora_alpha[name]),
                copy_of(magnitude_key) if magnitude_key in values else None,
            )
    return layers


# ---- use


@dataclass
class LoraStack:
    """LoRAs that a model has loaded, in their order.

    Attributes:
        model: the model.
        weights: weight of each LoRA by its name.
    """

    model: Model
    weights: dict[str, float] = field(default_factory=dict)
    _base_hash: BaseHash = NO_HASH

    def add(self, lora: Lora, weight: float = 1.0, source: str = "lora") -> str:
        """Add a LoRA with a weight; returns its name.

        Raises:
            CheckpointError: it was trained on another model, or a layer has another shape.
            PluginError: peft is not installed.
        """
        if self._base_hash == NO_HASH:  # once: fused LoRAs change the weights
            self._base_hash = base_hash(self.model)
        check_base(self.model, lora, self._base_hash.sha256, source)
        peft = require("peft", INSTALL_EXTRA, "a LoRA")
        name = f"lora_{len(self.weights)}"
        sizes = {path: (one.rank, one.alpha) for path, one in lora.layers.items()}
        uses_dora = {one.magnitude is not None for one in lora.layers.values()}
        if len(uses_dora) > 1:
            raise CheckpointError(f"{source}: got LoRA and DoRA layers in one file, expected one of both.")
        _inject(peft, self.model, name, sizes, uses_dora == {True})
        for path, one in lora.layers.items():
            _copy_weights(self.model.get_submodule(path), name, one)
        self.weights[name] = weight
        self._activate()
        return name

    def fuse(self) -> None:
        """Add the updates to the weights of the model and remove the adapters; the weights are copied once."""
        for layer in adapter_layers(self.model).values():
            layer.merge(safe_merge=True, adapter_names=[name for name in self.weights if name in layer.lora_A])
        self._remove()

    def unload(self) -> None:
        """Remove the adapters; the outputs are those of the model without them, bit for bit."""
        self._remove()

    def _activate(self) -> None:
        for layer in adapter_layers(self.model).values():
            names = [name for name in self.weights if name in layer.lora_A]
            layer.set_adapter(names)
            for name in names:
                layer.set_scale(name, self.weights[name])
        self.model.requires_grad_(False).eval()

    def _remove(self) -> None:
        for path, layer in adapter_layers(self.model).items():
            parent, _, child = path.rpartition(".")
            setattr(self.model.get_submodule(parent), child, layer.get_base_layer())
        vars(self.model).pop("peft_config", None)
        self.weights.clear()


def _copy_weights(layer: Any, name: str, weights: LoraWeights) -> None:
    with torch.no_grad():
        layer.lora_A[name].weight.copy_(weights.a)
        layer.lora_B[name].weight.copy_(weights.b)
        if weights.magnitude is not None:
            layer.lora_magnitude_vector[name].weight.copy_(weights.magnitude)


def check_base(model: nn.Module, lora: Lora, sha256: str, source: str) -> None:
    """Check that a LoRA fits a model.

    Raises:
        CheckpointError: the LoRA was trained on other weights, or a layer is missing or of another shape.
    """
    if lora.base_hash != NO_HASH and sha256 not in lora.base_hash:
        raise CheckpointError(
            f"{source}: got a LoRA of {lora.base_model or 'another model'} (sha256 {lora.base_hash.sha256[:12]}), "
            f"expected one of this model (sha256 {sha256[:12]}). Open the model that it was trained on."
        )
    layers = linear_layers(model)
    for path, one in lora.layers.items():
        if path not in layers:
            raise CheckpointError(f"{source}: {_no_match(path, path, path, layers)}")
        out_features, in_features = _weight_shape(layers[path])
        if one.a.shape != (one.rank, in_features) or one.b.shape != (out_features, one.rank):
            raise CheckpointError(
                f"{source}: {path}: got A {tuple(one.a.shape)} and B {tuple(one.b.shape)}, expected ({one.rank}, "
                f"{in_features}) and ({out_features}, {one.rank}). Open the model that the LoRA was trained on."
            )
