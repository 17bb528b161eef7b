"""A tiny model around one component: the simplest other components, one training step, one generation."""

from __future__ import annotations

import functools
import importlib
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.flow.loss import FlowMatching
from lumina_core.flow.path import LinearPath
from lumina_core.flow.schedules import UniformTimeSampler
from lumina_core.model import Model
from lumina_core.models.heads import VelocityHead
from lumina_core.models.next_dit import NextDiTBackbone
from lumina_core.plugins.loader import Candidate, load_from
from lumina_core.plugins.registry import PluginSource, Registry
from lumina_core.protocols import Autoencoder, Conditioner, GenerationTask, Tokenizer
from lumina_core.recipe import ConditionerSpec, Recipe, SamplingConfig, TrainingConfig
from lumina_core.request import Request
from lumina_core.sampling.generate import generate_batch
from lumina_core.testing._contract import Contract, expect, expect_close, expect_equal, expect_tensor
from lumina_core.tokenizers import GridPatchify, Patchify1D, Patchify2D, StackPatchify
from lumina_core.training.dataloader import RawBatch, SampleKey
from lumina_core.training.distributed import ProcessInfo
from lumina_core.training.objectives import Reconstruction
from lumina_core.training.optim import build_optimizers
from lumina_core.training.trainer import LossModule
from lumina_core.types import Condition, Size

NUM_ROWS = 16
"""Number of values that a `FakeConditioner` distinguishes."""
HIDDEN_SIZE = 16
"""Width of the tiny backbone and of the conditions."""
MAX_TOKENS = 1024
"""Tokens of an item, beyond which samples of its latent are joined to patches."""
TRAINING = TrainingConfig(
    global_batch_size=2,
    warmup_steps=0,
    lr=1e-3,
    cond_dropout=0.5,
    compile=False,
    mixed_precision="float32",
    cache_bytes=0,
    lr_decay="constant",
)
SAMPLING_COMPONENTS = ("rope_scaling", "context_drop", "block_cache")
"""Component types that a recipe names under `sampling`."""
_NAME = "kit.component"


class IdentityAutoencoder(Autoencoder):
    """Autoencoder whose latent is the data."""

    def __init__(self, channels: int, num_axes: int) -> None:
        self.channels, self.downsample_factor = channels, (1,) * num_axes

    def encode(self, data: Tensor) -> Tensor:
        """Return the data."""
        return data

    def decode(self, latent: Tensor) -> Tensor:
        """Return the latent."""
        return latent


def grid_tokenizer(autoencoder: Autoencoder, data_size: Size) -> Tokenizer:
    """Return the simplest tokenizer of data: a token per latent sample, of large data per patch; at most three axes."""
    grids: dict[int, type[GridPatchify]] = {1: Patchify1D, 2: Patchify2D}
    grid, patch = grids.get(len(data_size), StackPatchify), 1
    sides = [side // factor for side, factor in zip(data_size, autoencoder.downsample_factor, strict=True)]
    cut = sides[grid.whole :]
    while math.prod(sides) > MAX_TOKENS * patch ** len(cut) and all(side % (2 * patch) == 0 for side in cut):
        patch *= 2
    return grid(grid.Config(patch_size=min(patch, 64), channels=autoencoder.channels))


class FakeConditioner(nn.Module, Conditioner):
    """Conditioner that maps any value to a row of a table: context, pooled condition or both."""

    def __init__(self, cross_attention_dim: int, pooled_dim: int) -> None:
        super().__init__()
        self.cross_attention_dim, self.pooled_dim = cross_attention_dim, pooled_dim
        self.table = nn.Embedding(NUM_ROWS, 2 * cross_attention_dim + pooled_dim)

    def encode(self, values: Sequence[Any]) -> Condition:
        """Return two context entries and one pooled condition per value."""
        return self._rows([1 + zlib.crc32(repr(value).encode()) % (NUM_ROWS - 1) for value in values])

    def null_condition(self, batch: int) -> Condition:
        """Return the first row."""
        return self._rows([0] * batch)

    def _rows(self, numbers: list[int]) -> Condition:
        rows = self.table(torch.tensor(numbers))
        context, pooled = rows.split((2 * self.cross_attention_dim, self.pooled_dim), dim=1)
        return Condition(
            context=context.unflatten(1, (2, self.cross_attention_dim)) if self.cross_attention_dim else None,
            pooled=pooled if self.pooled_dim else None,
        )


class EchoTask(GenerationTask):
    """Task that generates data of one size; the request holds the value of the conditioner `cond`."""

    class Request(Request):
        """Value of the condition; None for no condition."""

        cond: Any = None

    class Config(Settings):
        """No options."""

    data_field, suffixes = "data", (".txt",)

    def __init__(self, size: Size) -> None:
        self._size = size

    def size(self, request: Any) -> Size:
        """Return the size."""
        return self._size

    def train_size(self) -> Size:
        """Return half the size, so that position scaling takes effect."""
        return tuple(max(1, size // 2) for size in self._size)

    def conditions(self, request: Any) -> Mapping[str, Sequence[Any]]:
        """Return the value, if there is one."""
        return {} if request.cond is None else {"cond": [request.cond]}

    def encode(self, item: Tensor, format: str, metadata: Mapping[str, Any]) -> bytes:
        """Encode metadata and numbers as text."""
        return f"{dict(metadata)}\n{item.tolist()}\n".encode()

    def save_grid(self, items: Sequence[Tensor], folder: Path, name: str) -> Path:
        """Write the first item."""
        self.save(items[0], folder / f"{name}.txt", {})
        return folder / f"{name}.txt"


@functools.lru_cache(maxsize=1)
def core_registry() -> Registry:
    """Return a registry of the core's components alone."""
    source = PluginSource("core", "lumina-core", "0")
    return load_from([Candidate(source, (), lambda: importlib.import_module("lumina_core.components"))], strict=True)


class Prebuilt:
    """Component class whose "constructor" returns an existing component."""

    class Config(Settings):
        """No options."""

    def __init__(self, component: Any) -> None:
        self._component = component

    def __call__(self, config: Config) -> Any:
        """Return the component."""
        return self._component


class FakeRegistry:
    """Registry of the core's components, and of the checked ones under the name `kit.component`."""

    def __init__(self, components: Mapping[str, Any]) -> None:
        self._components = dict(components)

    def find(self, component_type: str, name: str) -> Any:
        """Return a component, as `Registry.find`."""
        if name == _NAME and component_type in self._components:
            return self._components[component_type]
        return core_registry().find(component_type, name)


def tiny_model(data: Tensor, **overrides: Any) -> Model:
    """Build a model of the given components and the simplest others.

    Args:
        data: (B, channels, ...), data of the shape to generate.
        overrides: components by type; `conditioners` is a mapping by field, `path` and `time_sampler` go into the
            objective.
    """
    autoencoder = overrides.get("autoencoder") or IdentityAutoencoder(data.shape[1], data.ndim - 2)
    tokenizer = overrides.get("tokenizer") or grid_tokenizer(autoencoder, tuple(data.shape[2:]))
    backbone: Any = overrides.get("backbone")
    dims = {"cross_attention_dim": HIDDEN_SIZE, "pooled_dim": HIDDEN_SIZE}
    if backbone is not None:
        dims = {name: getattr(backbone.config, name, HIDDEN_SIZE) for name in dims}
    conditioners: Mapping[str, Any] = overrides.get("conditioners") or {"cond": FakeConditioner(**dims)}
    if backbone is None:
        config = NextDiTBackbone.Config(
            hidden_size=HIDDEN_SIZE,
            num_layers=2,
            num_heads=2,
            rope_axes_dim=(4, 2, 2),
            multiple_of=8,
            token_dim=tokenizer.width,
            cross_attention_dim=max(conditioner.cross_attention_dim for conditioner in conditioners.values()),
            pooled_dim=sum(conditioner.pooled_dim for conditioner in conditioners.values()),
            token_condition_dim=sum(conditioner.token_condition_dim for conditioner in conditioners.values()),
        )
        backbone = NextDiTBackbone(config)
    head_config = VelocityHead.Config(
        hidden_size=backbone.config.hidden_size, token_dim=tokenizer.width, modulation_dim=backbone.modulation_dim
    )
    components = {
        "autoencoder": autoencoder,
        "tokenizer": tokenizer,
        "backbone": backbone,
        "head": overrides.get("head") or VelocityHead(head_config),
        "task": overrides.get("task") or EchoTask(tuple(data.shape[2:])),
        "objective": overrides.get("objective")
        or FlowMatching(
            FlowMatching.Config(),
            overrides.get("path") or LinearPath(LinearPath.Config()),
            overrides.get("time_sampler") or UniformTimeSampler(UniformTimeSampler.Config()),
        ),
    }
    return Model(_make_recipe(overrides, list(conditioners)), components, conditioners)


def _make_recipe(overrides: Mapping[str, Any], fields: Sequence[str]) -> Recipe:
    spec, sampling = ComponentSpec(type=_NAME), dict[str, Any](steps=2, guidance_scale=2.0)
    sampling |= {name: _NAME for name in ("solver", "guidance") if name in overrides}
    if "schedule" in overrides:
        sampling |= {"schedule": spec, "steps": overrides.get("steps", 2)}
    sampling |= {component_type: spec for component_type in SAMPLING_COMPONENTS if component_type in overrides}
    return Recipe(
        task=spec,
        tokenizer=spec,
        autoencoder=spec,
        conditioners=tuple(ConditionerSpec(type=_NAME, field=field) for field in fields),
        backbone=spec,
        head=spec,
        objective=spec,
        sampling=SamplingConfig.read(sampling, "the kit"),
        training=TRAINING,
    )


def check_in_model(
    contract: Contract, data: Tensor, values: Mapping[str, Sequence[Any]] | None = None, **overrides: Any
) -> None:
    """Check a component inside a tiny model: one training step and one generation.

    Args:
        contract: the contract of the component.
        data: (B, channels, ...), data to train on.
        values: for each conditioner the value of each item.
        overrides: the component by its type, and others, as for `tiny_model`.
    """
    component_type = next(iter(overrides)).removesuffix("s")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with contract.clause(f"a {component_type} fits into a model with the simplest other components"):
            model = tiny_model(data, **overrides)
        if values is None:
            values = {field: (None,) * len(data) for field in model.conditioners_by_field}
        with preserve_state(model):
            perturb_weights(model)
            with contract.clause("one training step gives a finite loss and changes weights"):
                trainable = {n.partition(".")[0] for n, weight in model.named_parameters() if weight.requires_grad}
                changed = {name.partition(".")[0] for name in train_step(model, data, values)}
                # an autoencoder is trained on its own
                unchanged = sorted((trainable & set(overrides)) - changed - {"autoencoder"})
                expect(changed and not unchanged, f"no changed weight of {', '.join(unchanged)}")
            with contract.clause("one generation gives finite data, the same for the same seed, whatever the batch"):
                _check_generation(model, overrides, data, values)


@contextmanager
def preserve_state(module: nn.Module) -> Iterator[None]:
    """Restore weights, buffers and modes afterwards."""
    state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    modes = {name: child.training for name, child in module.named_modules()}
    try:
        yield
    finally:
        module.load_state_dict(state)
        for name, child in module.named_modules():
            child.training = modes[name]
        module.zero_grad(set_to_none=True)


def perturb_weights(module: nn.Module) -> None:
    """Add noise to every trainable weight: gates and heads that are initialised to zero would hide everything."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.requires_grad and weight.is_floating_point():
                fan_in = max(1, weight.shape[-1] if weight.ndim else 1)
                weight.add_(0.5 * (torch.randn(weight.shape, generator=generator) / fan_in**0.5).to(weight))


def train_step(model: Model, data: Tensor, values: Mapping[str, Sequence[Any]]) -> list[str]:
    """Train a model for one step, check that the loss is finite, and return the names of the weights that changed."""
    keys = tuple(SampleKey(item, item) for item in range(len(data)))
    raw_batch = RawBatch(tuple(data), {field: tuple(value) for field, value in values.items()}, keys)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    process = ProcessInfo(0, 1, torch.device("cpu"))
    loss, _ = LossModule(model.train(), TRAINING, process)(raw_batch)
    loss.backward()
    build_optimizers(model, TRAINING).step()
    model.eval()
    expect(bool(torch.isfinite(loss)), f"a loss of {loss.item()}")
    return [name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])]


def _check_generation(
    model: Model, overrides: Mapping[str, Any], data: Tensor, values: Mapping[str, Sequence[Any]]
) -> None:
    task: Any = model.task
    conds = values.get("cond", (None, None))
    requests = overrides.get("requests") or [task.Request(seed=item, cond=conds[item]) for item in range(2)]
    prebuilt = {name: Prebuilt(overrides[name]) for name in (*SAMPLING_COMPONENTS, "schedule") if name in overrides}
    registry = FakeRegistry({**overrides, **prebuilt})
    batched = generate_batch(model, registry, requests)
    expect_tensor(batched.data, (len(requests), *data.shape[1:]), "the generated data")
    expect_equal(generate_batch(model, registry, requests).data, batched.data, "the data of the same requests")
    single = generate_batch(model, registry, requests[1:2])
    expect_close(single.data[0], batched.data[1], "the data of the second request alone", tolerance=1e-3)


def check_autoencoder_training(contract: Contract, autoencoder: Any, data: Tensor) -> None:
    """Check one training step of an autoencoder with its own loss."""
    with (
        contract.clause("one training step with its own loss is finite and changes weights"),
        preserve_state(autoencoder),
    ):
        model = tiny_model(data, autoencoder=autoencoder, objective=Reconstruction(Reconstruction.Config()))
        for name, weight in model.named_parameters():
            weight.requires_grad_(name.startswith("autoencoder."))
        expect(train_step(model, data, {}), "no changed weight")
