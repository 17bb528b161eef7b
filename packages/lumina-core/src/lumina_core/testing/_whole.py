"""One part within a whole model: stand-ins and small parts of the core around it, one training step, one generation."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from lumina_core.builtin.reconstruction import Reconstruction
from lumina_core.builtin.velocity import VelocityHead
from lumina_core.config import Config as Settings
from lumina_core.config import Use
from lumina_core.flow.objective import FlowMatching
from lumina_core.flow.path import Linear
from lumina_core.flow.times import Uniform
from lumina_core.model import Model
from lumina_core.nn.next_dit import NextDiT
from lumina_core.plugins.loader import Candidate, load_from
from lumina_core.plugins.registry import Registry, Source
from lumina_core.recipe import NamedUse, Recipe, Sampling, Training
from lumina_core.sampling.generate import generate
from lumina_core.testing._contract import Contract, want, want_close, want_finite, want_same, want_shape
from lumina_core.testing._stand_ins import Cells, Echo, Plain, Said
from lumina_core.train.batch import Raw
from lumina_core.train.distributed import Place
from lumina_core.train.optimizer import make_optimizers
from lumina_core.train.order import Draw
from lumina_core.train.step import Stepper

WIDTH = 16
"""Of the small backbone and of what a stand-in says."""

TRAINING = Training(
    batch=2, warmup=0, rate=1e-3, drop=0.5, compile=False, precision="float32", cache_bytes=0, decay="constant"
)
_GIVEN = "kit.given"
FITTING = ("extrapolation", "context_drop", "step_cache")
"""Kinds of part that a recipe names under `sampling`."""


@functools.lru_cache(maxsize=1)
def core() -> Registry:
    """The core's own parts, whatever else is installed."""
    module = "lumina_core.builtin.plugin"
    source = Source("core", "lumina-core", "0")
    return load_from([Candidate(source, (), lambda: importlib.import_module(module))], strict=True)


class Ready:
    """A part that is built already, where a builder looks for one to build."""

    class Config(Settings):
        """Nothing to choose."""

    def __init__(self, part: Any) -> None:
        self._part = part

    def __call__(self, config: Config) -> Any:
        """The part."""
        return self._part


class Given:
    """Finds the part that is tried under the name `kit.given`, and the core's parts under theirs."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self._parts = dict(parts)

    def find(self, kind: str, name: str) -> Any:
        """As a registry does."""
        return self._parts[kind] if name == _GIVEN and kind in self._parts else core().find(kind, name)


def small_backbone(token_width: int, memory_width: int = 0, summary_width: int = 0) -> NextDiT:
    """A Next-DiT of two blocks for tokens, memory and summary of these widths."""
    return NextDiT(
        NextDiT.Config(
            width=WIDTH, depth=2, heads=2, axes=(4, 2, 2), multiple_of=8,
            token_width=token_width, memory_width=memory_width, summary_width=summary_width,
        )
    )  # fmt: skip


def whole_model(data: Tensor, **given: Any) -> Model:
    """A model of the given parts, by their kinds, and the plainest others; every trainable weight is moved from zero.

    Args:
        data: (B, channels, ...), what it generates.
        given: `conditioners` is a mapping by field; `path` and `draw` go into the objective.
    """
    autoencoder = given.get("autoencoder") or Plain(data.shape[1], data.ndim - 2)
    tokenizer = given.get("tokenizer") or Cells(autoencoder.channels)
    backbone = given.get("backbone")
    settings: Any = getattr(backbone, "config", None)
    speakers: Mapping[str, Any] = given.get("conditioners") or {
        "said": Said(getattr(settings, "memory_width", WIDTH), getattr(settings, "summary_width", WIDTH))
    }
    if backbone is None:
        memory = max(speaker.memory_width for speaker in speakers.values())
        summary = sum(speaker.summary_width for speaker in speakers.values())
        backbone = small_backbone(tokenizer.width, memory, summary)
    head = given.get("head") or VelocityHead(
        VelocityHead.Config(
            width=cast(Any, backbone).config.width,
            token_width=tokenizer.width,
            modulation_width=cast(Any, backbone).modulation_width,
        )
    )
    parts = {"autoencoder": autoencoder, "tokenizer": tokenizer, "backbone": backbone, "head": head}
    parts["task"] = given.get("task") or Echo(tuple(data.shape[2:]))
    parts["objective"] = given.get("objective") or flow_matching(given.get("path"), given.get("draw"))
    return Model(_recipe(given, list(speakers)), parts, speakers)


def flow_matching(path: Any = None, draw: Any = None) -> FlowMatching:
    """The usual objective on this path with this draw of times."""
    return FlowMatching(FlowMatching.Config(), path or Linear(Linear.Config()), draw or Uniform(Uniform.Config()))


def _recipe(given: Mapping[str, Any], fields: Sequence[str]) -> Recipe:
    use, sampling = Use(use=_GIVEN), dict[str, Any](steps=2, guidance=2.0)
    if "solver" in given:
        sampling |= {"solver": _GIVEN}
    if "grid" in given:
        sampling |= {"grid": use, "steps": given.get("steps", 2)}
    sampling |= {kind: use for kind in FITTING if kind in given}
    said = tuple(NamedUse(use=_GIVEN, name=field) for field in fields)
    return Recipe(
        task=use, tokenizer=use, autoencoder=use, conditioners=said, backbone=use, head=use, objective=use,
        sampling=Sampling.read(sampling, "the kit"), training=TRAINING,
    )  # fmt: skip


def check_whole(
    contract: Contract, data: Tensor, values: Mapping[str, Sequence[Any]] | None = None, **given: Any
) -> None:
    """Try a part within a whole model: one training step, then one generation, both with seeds.

    Args:
        data: (B, channels, ...); with it the model is trained, and data of its sizes are generated.
        values: for each conditioner what is said of each item of data.
    """
    kind = next(iter(given)).removesuffix("s")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with contract.line(f"with the smallest other parts around it, this {kind} is part of a model"):
            model = whole_model(data, **given)
        said = {field: (None,) * len(data) for field in model.speakers} if values is None else values
        with undisturbed(model):
            awake(model)
            with contract.line("one training step gives a finite loss and moves weights"):
                _check_step(model, data, said, set(given))
            with contract.line("one generation gives finite data, the same for the same seed, whoever is beside it"):
                _check_generation(model, given, data, said)


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Weights, buffers and modes are afterwards as they were before."""
    kept = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    modes = {name: child.training for name, child in module.named_modules()}
    try:
        yield
    finally:
        module.load_state_dict(kept)
        for name, child in module.named_modules():
            child.training = modes[name]
        module.zero_grad(set_to_none=True)


def awake(module: nn.Module) -> None:
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


def _check_step(model: Model, data: Tensor, values: Mapping[str, Sequence[Any]], tried: set[str]) -> None:
    place = Place(0, 1, torch.device("cpu"))
    raw = Raw(tuple(data), {f: tuple(v) for f, v in values.items()}, tuple(Draw(i, i) for i in range(len(data))))
    model.train()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    report = Stepper(model, TRAINING, place, make_optimizers(model, TRAINING)).step(0, raw)
    model.eval()
    want(report.loss == report.loss and abs(report.loss) != float("inf"), f"a loss of {report.loss}")
    moved = {n.partition(".")[0] for n, weight in model.named_parameters() if not torch.equal(weight, before[n])}
    learners = {n.partition(".")[0] for n, weight in model.named_parameters() if weight.requires_grad}
    still = sorted((learners & tried) - moved - {"autoencoder"})  # an autoencoder is trained by itself
    want(moved and not still, f"no weight of {', '.join(still)} was moved")


def _check_generation(
    model: Model, given: Mapping[str, Any], data: Tensor, values: Mapping[str, Sequence[Any]]
) -> None:
    requests = given.get("requests") or [_echo(model, values, item) for item in range(2)]
    ready = {kind: Ready(given[kind]) for kind in FITTING if kind in given}
    ready["times"] = Ready(given.get("grid"))
    if hasattr(given.get("solver"), "Config"):
        ready["solver"] = Ready(given["solver"])
    finder = Given({**given, **ready})
    together = generate(model, finder, requests)
    want_shape(together.data, (len(requests), *data.shape[1:]), "what was generated")
    want_finite(together.data, "what was generated")
    want_same(generate(model, finder, requests).data, together.data, "the same request again")
    alone = generate(model, finder, requests[1:2])
    want_close(alone.data[0], together.data[1], "the second request asked alone", within=1e-3)


def _echo(model: Model, values: Mapping[str, Sequence[Any]], item: int) -> Any:
    task: Any = model.task
    said = values.get("said", (None, None))[item]
    return task.Request(seed=item, said=said)


def check_rebuilding(contract: Contract, autoencoder: Any, data: Tensor) -> None:
    """One training step of an autoencoder that has a loss of its own."""
    with contract.line("one training step by its own loss is finite and moves weights"), undisturbed(autoencoder):
        model = whole_model(data, autoencoder=autoencoder, objective=Reconstruction(Reconstruction.Config()))
        for name, weight in model.named_parameters():
            weight.requires_grad_(name.startswith("autoencoder."))
        _check_rebuilt(model, data)


def _check_rebuilt(model: Model, data: Tensor) -> None:
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    raw = Raw(tuple(data), {}, tuple(Draw(item, item) for item in range(len(data))))
    place = Place(0, 1, torch.device("cpu"))
    report = Stepper(model.train(), TRAINING, place, make_optimizers(model, TRAINING)).step(0, raw)
    want(report.loss == report.loss, "a loss that is no number")
    moved = [name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])]
    want(moved, "no weight was moved")
