"""Builds the parts of a recipe and holds them together: Model.condition, Model.predict, Model.velocity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from lumina_core.conditions import fitted, join
from lumina_core.config import Config, Use
from lumina_core.errors import ConfigError
from lumina_core.parts import Autoencoder, Backbone, Conditioner, Dataset, Head, Objective, Task, Tokenizer
from lumina_core.recipe import Recipe
from lumina_core.types import Condition, Tokens


class Finder(Protocol):
    """What a registry of parts can do for a builder."""

    def find(self, kind: str, name: str) -> Any:
        """The part called `name`, imported."""
        ...


class Model(nn.Module):
    """A recipe come to life. Parts are attributes; weights are keyed by part (`backbone.`, `conditioners.caption.`)."""

    def __init__(self, recipe: Recipe, parts: Mapping[str, Any], conditioners: Mapping[str, Any]) -> None:
        super().__init__()
        self.recipe = recipe
        self.task: Task = parts["task"]
        self.tokenizer: Tokenizer = parts["tokenizer"]
        self.autoencoder: Autoencoder = parts["autoencoder"]
        self.backbone: Backbone | None = parts["backbone"]
        self.head: Head | None = parts["head"]
        self.objective: Objective = parts["objective"]
        # only modules have weights; a conditioner may be a plain object
        self.conditioners = nn.ModuleDict({n: c for n, c in conditioners.items() if isinstance(c, nn.Module)})
        self._conditioners: dict[str, Conditioner] = dict(conditioners)
        self._worked_on: torch.device | None = None

    @property
    def speakers(self) -> Mapping[str, Conditioner]:
        """The conditioners by the field that they read, in the recipe's order."""
        return self._conditioners

    @property
    def device(self) -> torch.device:
        """Where the weights are, or where they go to work."""
        return self._worked_on or next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the backbone's weights, in which it is asked."""
        weighed = self.backbone if isinstance(self.backbone, nn.Module) else self
        return next(p.dtype for p in weighed.parameters() if p.is_floating_point())

    def offload(self, device: torch.device) -> None:
        """From now on the weights rest where they are, and each part is on `device` only while it works."""
        self._worked_on = device

    @contextmanager
    def at_work(self, *parts: str) -> Iterator[None]:
        """These parts (`conditioners`, `backbone`, `head`, `autoencoder`) stand on the device of an offloaded model."""
        found = [getattr(self, part) for part in parts] if self._worked_on is not None else []
        modules = [part for part in found if isinstance(part, nn.Module)]
        for module in modules:
            module.to(self._worked_on)
        try:
            yield
        finally:
            for module in modules:
                module.to("cpu")

    def condition(self, values: Mapping[str, Sequence[Any]], batch: int) -> Condition:
        """What is said of each of `batch` items; a conditioner without values says nothing.

        Raises:
            ConfigError: values for a conditioner that this model has not.
        """
        return fitted(spoken(self._conditioners, values, batch), self.device, self.dtype)

    def nothing(self, batch: int) -> Condition:
        """The condition of having said nothing at all."""
        return self.condition({}, batch)

    def predict(self, tokens: Tokens, time: Tensor | None, condition: Condition, *, prepared: Any = None) -> Tensor:
        """What the head answers, (B, N, D) for a generator; without a backbone, what the conditioner foretells."""
        if self.backbone is None or self.head is None:
            return self._foretell(condition)
        return self.head(self.backbone(tokens, time, condition, prepared=prepared), tokens)

    def velocity(self, tokens: Tokens, time: Tensor, condition: Condition, *, prepared: Any = None) -> Tensor:
        """The velocity (B, N, D) at noisy tokens and time (B,), whatever the network was taught to predict."""
        # a way is gone in the format of its noise, whatever the network computes in
        seen = tokens.with_values(tokens.values.to(self.dtype))
        answer = self.predict(seen, time, condition, prepared=prepared).to(tokens.values)
        return self.objective.velocity(answer, tokens.values, time)

    def prepare(self, tokens: Tokens, condition: Condition) -> Any:
        """What stays the same through all evaluations of a request; hand it to `velocity`."""
        if self.backbone is None:
            raise ConfigError("this model has no backbone: it was made to teach a conditioner and cannot generate")
        return self.backbone.prepare(tokens, condition)

    def _foretell(self, condition: Condition) -> Tensor:
        for conditioner in self._conditioners.values():
            if hasattr(conditioner, "foretell"):
                return cast(Tensor, conditioner.foretell(condition))
        raise ConfigError("a recipe without backbone needs a conditioner that foretells, such as core.text")


def spoken(speakers: Mapping[str, Conditioner], values: Mapping[str, Sequence[Any]], batch: int) -> Condition:
    """What conditioners say together of `batch` items, those without values nothing.

    Raises:
        ConfigError: values for a conditioner that is not there.
    """
    unknown = sorted(set(values) - set(speakers))
    if unknown:
        known = ", ".join(speakers) or "none"
        raise ConfigError(f"this model has no conditioner '{unknown[0]}'; it has: {known}")
    said = [speaker.encode(values[n]) if n in values else speaker.nothing(batch) for n, speaker in speakers.items()]
    return join(said) if said else Condition()


def build_model(recipe: Recipe, finder: Finder) -> Model:
    """Every part of the recipe, built from the floor up: widths that follow from other parts are filled in.

    Raises:
        PluginError: a part is not there.
        ConfigError: a part does not take its options.
    """
    autoencoder = build(finder, "autoencoder", recipe.autoencoder)
    tokenizer = build(finder, "tokenizer", recipe.tokenizer, channels=autoencoder.channels)
    conditioners = {use.name: build(finder, "conditioner", use) for use in recipe.conditioners}
    parts = dict(_network(recipe, finder, tokenizer, conditioners))
    parts |= {"autoencoder": autoencoder, "tokenizer": tokenizer}
    parts["task"] = build(finder, "task", recipe.task, **_decided(autoencoder, recipe.task))
    parts["objective"] = build(finder, "objective", recipe.objective)
    return Model(recipe, parts, conditioners)


def look_outside(recipe: Recipe, finder: Finder) -> None:
    """Look whether the weights that a recipe borrows are there, before anything large is built.

    Raises:
        CheckpointError: some are not; the message says how to give a folder.
    """
    for kind, use in (("autoencoder", recipe.autoencoder), *(("conditioner", use) for use in recipe.conditioners)):
        if hasattr(finder.find(kind, use.use), "ready"):
            build(finder, kind, use).ready()


def _decided(autoencoder: Any, task: Use) -> Mapping[str, Any]:
    """Options of the task that the autoencoder's data decide, and that the recipe may leave out of it."""
    decided: Mapping[str, Any] = getattr(autoencoder, "decides", {})
    for key, value in decided.items():
        said = task.options.get(key, value)
        if said != value:
            raise ConfigError(
                f"task.{key} is {said}, and the autoencoder's data are of {key} {value}; leave it out of the task, or "
                "take weights of the other"
            )
    return decided


def build_dataset(recipe: Recipe, finder: Finder) -> Dataset:
    """The recipe's data set.

    Raises:
        ConfigError: the recipe names none.
    """
    if recipe.dataset is None:
        raise ConfigError(
            "this recipe names no data set; add one: --set dataset.use=image.folder --set dataset.folder=DIR"
        )
    return cast(Dataset, build(finder, "dataset", recipe.dataset))


def build(finder: Finder, kind: str, use: Use, **filled: Any) -> Any:
    """One part by its name and options; parts named inside its options are built first and handed over.

    Args:
        filled: what other parts decide (widths); given to the part where its Config knows the key.
    """
    part = finder.find(kind, use.use)
    settings_type: type[Config] | None = getattr(part, "Config", None)
    if settings_type is None:
        raise ConfigError(f"{use.use} takes no options and cannot be built from a recipe")
    known = {key: value for key, value in filled.items() if key in settings_type.model_fields}
    settings = settings_type.read(
        {**known, **{k: v for k, v in use.options.items() if k != "name"}}, f"{kind} {use.use}"
    )
    return part(settings, *_inner(finder, settings))


def _inner(finder: Finder, settings: Config) -> Iterator[Any]:
    """Parts that a part's own options name, in their order; the option's name is the kind, and it may name several."""
    for kind in type(settings).model_fields:
        value = getattr(settings, kind)
        if isinstance(value, Use):
            yield build(finder, kind, value)
        elif isinstance(value, tuple) and value and all(isinstance(one, Use) for one in value):
            yield tuple(build(finder, kind, one) for one in value)


def _network(
    recipe: Recipe, finder: Finder, tokenizer: Tokenizer, conditioners: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    if recipe.backbone is None or recipe.head is None:
        yield from (("backbone", None), ("head", None))
        return
    widths = [c.memory_width for c in conditioners.values() if c.memory_width]
    summary = sum(c.summary_width for c in conditioners.values())
    backbone = build(
        finder, "backbone", recipe.backbone,
        token_width=tokenizer.width, memory_width=widths[0] if widths else 0, summary_width=summary,
    )  # fmt: skip
    yield "backbone", backbone
    yield "head", build(
        finder, "head", recipe.head,
        width=backbone.config.width, token_width=tokenizer.width, modulation_width=backbone.modulation_width,
    )  # fmt: skip
