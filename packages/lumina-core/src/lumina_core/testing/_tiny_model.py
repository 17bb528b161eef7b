"""One part within a whole model: stand-ins and small parts of the core around it, one training step, one generation."""

from __future__ import annotations

import functools
import importlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.errors import ShapeError
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
from lumina_core.testing._contract import Contract, expect, expect_close, expect_equal, expect_finite, expect_shape
from lumina_core.training.dataloader import RawBatch, SampleKey
from lumina_core.training.distributed import ProcessInfo
from lumina_core.training.objectives import Reconstruction
from lumina_core.training.optim import build_optimizers
from lumina_core.training.trainer import TrainStep
from lumina_core.types import Condition, Size, Tokens

NUM_ROWS = 16
"""Different things that a stand-in for a conditioner can tell apart."""


class CellTokenizer(Tokenizer):
    """Tokenizer: one token a place of the latent, whatever its number of axes (at most three)."""

    def __init__(self, channels: int) -> None:
        self.width = channels

    def patchify(self, latent: Tensor) -> Tokens:
        """(B, C, ...) -> (B, places, C)."""
        empty_tokens = self.empty(len(latent), tuple(latent.shape[2:]))
        return empty_tokens.with_values(latent.flatten(2).transpose(1, 2).contiguous())

    def unpatchify(self, tokens: Tokens) -> Tensor:
        """(B, places, C) -> (B, C, ...)."""
        latent: Tensor = tokens.values.transpose(1, 2).unflatten(2, tokens.sizes[0])
        return latent

    def empty(self, batch: int, size: Size) -> Tokens:
        """The place along each axis is the token's position."""
        if len(size) > 3:
            raise ShapeError(f"tokens have three axes, and a latent of the sizes {size} has {len(size)}")
        axes = torch.meshgrid(*(torch.arange(float(length)) for length in size), indexing="ij")
        table = torch.stack([*(axis.flatten() for axis in axes)], dim=-1)
        table = torch.nn.functional.pad(table, (0, 3 - len(size)))
        return Tokens(torch.zeros(batch, len(table), self.width), table.expand(batch, -1, -1), (size,) * batch)


class IdentityAutoencoder(Autoencoder):
    """Autoencoder: data are their own latent."""

    def __init__(self, channels: int, num_axes: int) -> None:
        self.channels, self.downsample_factor = channels, (1,) * num_axes

    def encode(self, data: Tensor) -> Tensor:
        """The same."""
        return data

    def decode(self, latent: Tensor) -> Tensor:
        """The same."""
        return latent


class FakeConditioner(nn.Module, Conditioner):
    """Conditioner: a row of a table for whatever is said, as memory, summary or both."""

    def __init__(self, cross_attention_dim: int, pooled_dim: int) -> None:
        super().__init__()
        self.cross_attention_dim, self.pooled_dim = cross_attention_dim, pooled_dim
        self.table = nn.Embedding(NUM_ROWS, 2 * cross_attention_dim + pooled_dim)

    def encode(self, values: Sequence[Any]) -> Condition:
        """Two entries of memory and one summary a value."""
        return self._rows([1 + zlib.crc32(repr(value).encode()) % (NUM_ROWS - 1) for value in values])

    def null_condition(self, batch: int) -> Condition:
        """The first row."""
        return self._rows([0] * batch)

    def _rows(self, numbers: list[int]) -> Condition:
        rows = self.table(torch.tensor(numbers))
        context, pooled = rows.split((2 * self.cross_attention_dim, self.pooled_dim), dim=1)
        return Condition(
            context=context.unflatten(1, (2, self.cross_attention_dim)) if self.cross_attention_dim else None,
            pooled=pooled if self.pooled_dim else None,
        )


class EchoTask(GenerationTask):
    """Task: data of one extent; what is said of each is a value for the conditioner called `said`."""

    class Request(Request):
        """What is said, if anything."""

        cond: Any = None

    class Config(Settings):
        """Nothing to choose."""

    data_field, suffixes = "data", (".txt",)

    def __init__(self, size: Size) -> None:
        self._size = size

    def size(self, request: Any) -> Size:
        """Always the same."""
        return self._size

    def train_size(self) -> Size:
        """Half of it, so that every canvas is larger than trained."""
        return tuple(max(1, size // 2) for size in self._size)

    def conditions(self, request: Any) -> Mapping[str, Sequence[Any]]:
        """What was said, if anything."""
        return {} if request.cond is None else {"cond": [request.cond]}

    def encode(self, item: Tensor, format: str, metadata: Mapping[str, Any]) -> bytes:
        """Encode metadata and numbers as text."""
        return f"{dict(metadata)}\n{item.tolist()}\n".encode()

    def save_grid(self, items: Sequence[Tensor], folder: Path, name: str) -> Path:
        """The first item."""
        self.save(items[0], folder / f"{name}.txt", {})
        return folder / f"{name}.txt"


HIDDEN_SIZE = 16
"""Of the small backbone and of what a stand-in says."""

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
_PROVIDED = "kit.component"
SAMPLING_COMPONENTS = ("rope_scaling", "context_drop", "block_cache")
"""Kinds of part that a recipe names under `sampling`."""


@functools.lru_cache(maxsize=1)
def core_registry() -> Registry:
    """The core's own parts, whatever else is installed."""
    module = "lumina_core.components"
    source = PluginSource("core", "lumina-core", "0")
    return load_from([Candidate(source, (), lambda: importlib.import_module(module))], strict=True)


class Prebuilt:
    """A part that is built already, where a builder looks for one to build."""

    class Config(Settings):
        """Nothing to choose."""

    def __init__(self, component: Any) -> None:
        self._component = component

    def __call__(self, config: Config) -> Any:
        """The part."""
        return self._component


class FakeRegistry:
    """Finds the part that is tried under the name `kit.component`, and the core's parts under theirs."""

    def __init__(self, components: Mapping[str, Any]) -> None:
        self._components = dict(components)

    def find(self, component_type: str, name: str) -> Any:
        """As a registry does."""
        return (
            self._components[component_type]
            if name == _PROVIDED and component_type in self._components
            else core_registry().find(component_type, name)
        )


def tiny_backbone(token_dim: int, cross_attention_dim: int = 0, pooled_dim: int = 0) -> NextDiTBackbone:
    """A Next-DiT of two blocks for tokens, memory and summary of these widths."""
    return NextDiTBackbone(
        NextDiTBackbone.Config(
            hidden_size=HIDDEN_SIZE, num_layers=2, num_heads=2, rope_axes_dim=(4, 2, 2), multiple_of=8,
            token_dim=token_dim, cross_attention_dim=cross_attention_dim, pooled_dim=pooled_dim,
        )
    )  # fmt: skip


def tiny_model(data: Tensor, **overrides: Any) -> Model:
    """A model of the given parts, by their kinds, and the plainest others; every trainable weight is moved from zero.

    Args:
        data: (B, channels, ...), what it generates.
        overrides: `conditioners` is a mapping by field; `path` and `time_sampler` go into the objective.
    """
    autoencoder = overrides.get("autoencoder") or IdentityAutoencoder(data.shape[1], data.ndim - 2)
    tokenizer = overrides.get("tokenizer") or CellTokenizer(autoencoder.channels)
    backbone = overrides.get("backbone")
    backbone_config: Any = getattr(backbone, "config", None)
    conditioners: Mapping[str, Any] = overrides.get("conditioners") or {
        "cond": FakeConditioner(
            getattr(backbone_config, "cross_attention_dim", HIDDEN_SIZE),
            getattr(backbone_config, "pooled_dim", HIDDEN_SIZE),
        )
    }
    if backbone is None:
        cross_attention_dim = max(conditioner.cross_attention_dim for conditioner in conditioners.values())
        pooled_dim = sum(conditioner.pooled_dim for conditioner in conditioners.values())
        backbone = tiny_backbone(tokenizer.width, cross_attention_dim, pooled_dim)
    head = overrides.get("head") or VelocityHead(
        VelocityHead.Config(
            hidden_size=cast(Any, backbone).config.hidden_size,
            token_dim=tokenizer.width,
            modulation_dim=cast(Any, backbone).modulation_dim,
        )
    )
    components = {"autoencoder": autoencoder, "tokenizer": tokenizer, "backbone": backbone, "head": head}
    components["task"] = overrides.get("task") or EchoTask(tuple(data.shape[2:]))
    components["objective"] = overrides.get("objective") or flow_matching(
        overrides.get("path"), overrides.get("time_sampler")
    )
    return Model(_make_recipe(overrides, list(conditioners)), components, conditioners)


def flow_matching(path: Any = None, time_sampler: Any = None) -> FlowMatching:
    """The usual objective on this path with this draw of times."""
    return FlowMatching(
        FlowMatching.Config(),
        path or LinearPath(LinearPath.Config()),
        time_sampler or UniformTimeSampler(UniformTimeSampler.Config()),
    )


def _make_recipe(components: Mapping[str, Any], fields: Sequence[str]) -> Recipe:
    spec, sampling = ComponentSpec(type=_PROVIDED), dict[str, Any](steps=2, guidance_scale=2.0)
    if "solver" in components:
        sampling |= {"solver": _PROVIDED}
    if "schedule" in components:
        sampling |= {"schedule": spec, "steps": components.get("steps", 2)}
    sampling |= {component_type: spec for component_type in SAMPLING_COMPONENTS if component_type in components}
    conditioners = tuple(ConditionerSpec(type=_PROVIDED, field=field) for field in fields)
    return Recipe(
        task=spec, tokenizer=spec, autoencoder=spec, conditioners=conditioners, backbone=spec, head=spec, objective=spec,
        sampling=SamplingConfig.read(sampling, "the kit"), training=TRAINING,
    )  # fmt: skip


def check_in_model(
    contract: Contract, data: Tensor, values: Mapping[str, Sequence[Any]] | None = None, **overrides: Any
) -> None:
    """Try a part within a whole model: one training step, then one generation, both with seeds.

    Args:
        data: (B, channels, ...); with it the model is trained, and data of its sizes are generated.
        values: for each conditioner what is said of each item of data.
    """
    component_type = next(iter(overrides)).removesuffix("s")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with contract.clause(f"with the smallest other parts around it, this {component_type} is part of a model"):
            model = tiny_model(data, **overrides)
        cond_values = (
            {field: (None,) * len(data) for field in model.conditioners_by_field} if values is None else values
        )
        with preserve_state(model):
            perturb_weights(model)
            with contract.clause("one training step gives a finite loss and moves weights"):
                _check_step(model, data, cond_values, set(overrides))
            with contract.clause("one generation gives finite data, the same for the same seed, whoever is beside it"):
                _check_generation(model, overrides, data, cond_values)


@contextmanager
def preserve_state(module: nn.Module) -> Iterator[None]:
    """Weights, buffers and modes are afterwards as they were before."""
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
    """Move every trainable weight a little, for fresh gates and heads are zero and would hide everything."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.requires_grad and weight.is_floating_point():
                noise = (
                    torch.randn(weight.shape, generator=generator)
                    / max(1, weight.shape[-1] if weight.ndim else 1) ** 0.5
                )
                weight.add_(0.5 * noise.to(weight))


def _check_step(model: Model, data: Tensor, values: Mapping[str, Sequence[Any]], under_test: set[str]) -> None:
    process = ProcessInfo(0, 1, torch.device("cpu"))
    raw_batch = RawBatch(
        tuple(data), {f: tuple(v) for f, v in values.items()}, tuple(SampleKey(i, i) for i in range(len(data)))
    )
    model.train()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    metrics = TrainStep(model, TRAINING, process, build_optimizers(model, TRAINING)).step(0, raw_batch)
    model.eval()
    expect(metrics.loss == metrics.loss and abs(metrics.loss) != float("inf"), f"a loss of {metrics.loss}")
    changed = {n.partition(".")[0] for n, weight in model.named_parameters() if not torch.equal(weight, before[n])}
    trainable = {n.partition(".")[0] for n, weight in model.named_parameters() if weight.requires_grad}
    unchanged = sorted((trainable & under_test) - changed - {"autoencoder"})  # an autoencoder is trained by itself
    expect(changed and not unchanged, f"no weight of {', '.join(unchanged)} was moved")


def _check_generation(
    model: Model, components: Mapping[str, Any], data: Tensor, values: Mapping[str, Sequence[Any]]
) -> None:
    requests = components.get("requests") or [_echo_request(model, values, item) for item in range(2)]
    prebuilt = {
        component_type: Prebuilt(components[component_type])
        for component_type in SAMPLING_COMPONENTS
        if component_type in components
    }
    prebuilt["schedule"] = Prebuilt(components.get("schedule"))
    if hasattr(components.get("solver"), "Config"):
        prebuilt["solver"] = Prebuilt(components["solver"])
    registry = FakeRegistry({**components, **prebuilt})
    batched = generate_batch(model, registry, requests)
    expect_shape(batched.data, (len(requests), *data.shape[1:]), "what was generated")
    expect_finite(batched.data, "what was generated")
    expect_equal(generate_batch(model, registry, requests).data, batched.data, "the same request again")
    single = generate_batch(model, registry, requests[1:2])
    expect_close(single.data[0], batched.data[1], "the second request asked alone", tolerance=1e-3)


def _echo_request(model: Model, values: Mapping[str, Sequence[Any]], item: int) -> Any:
    task: Any = model.task
    cond = values.get("cond", (None, None))[item]
    return task.Request(seed=item, cond=cond)


def check_autoencoder_training(contract: Contract, autoencoder: Any, data: Tensor) -> None:
    """One training step of an autoencoder that has a loss of its own."""
    with contract.clause("one training step by its own loss is finite and moves weights"), preserve_state(autoencoder):
        model = tiny_model(data, autoencoder=autoencoder, objective=Reconstruction(Reconstruction.Config()))
        for name, weight in model.named_parameters():
            weight.requires_grad_(name.startswith("autoencoder."))
        _check_autoencoder_step(model, data)


def _check_autoencoder_step(model: Model, data: Tensor) -> None:
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    raw_batch = RawBatch(tuple(data), {}, tuple(SampleKey(item, item) for item in range(len(data))))
    process = ProcessInfo(0, 1, torch.device("cpu"))
    metrics = TrainStep(model.train(), TRAINING, process, build_optimizers(model, TRAINING)).step(0, raw_batch)
    expect(metrics.loss == metrics.loss, "a loss that is no number")
    changed = [name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])]
    expect(changed, "no weight was moved")
