"""Builds the parts of a recipe and holds them together: Model.condition, Model.predict, Model.velocity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lumina_core.checkpoint.lazy_tensors import init_empty_weights
from lumina_core.conditioning.ops import condition_to, join
from lumina_core.config import ComponentSpec, Config
from lumina_core.data.dataset import as_dataset
from lumina_core.errors import ConfigError, PluginError
from lumina_core.protocols import (
    BASE_CLASSES,
    Autoencoder,
    Backbone,
    Conditioner,
    Dataset,
    GenerationTask,
    Head,
    Objective,
    Task,
    Tokenizer,
)
from lumina_core.recipe import Recipe
from lumina_core.types import Condition, Tokens


class ComponentRegistry(Protocol):
    """What a registry of parts can do for a builder."""

    def find(self, component_type: str, name: str) -> Any:
        """The part called `name`, imported."""
        ...


class Model(nn.Module):
    """A recipe come to life. Parts are attributes; weights are keyed by part (`backbone.`, `conditioners.caption.`)."""

    def __init__(self, recipe: Recipe, components: Mapping[str, Any], conditioners: Mapping[str, Any]) -> None:
        super().__init__()
        self.recipe = recipe
        self.task: Task = components["task"]
        self.tokenizer: Tokenizer = components["tokenizer"]
        self.autoencoder: Autoencoder = components["autoencoder"]
        self.backbone: Backbone | None = components["backbone"]
        self.head: Head | None = components["head"]
        self.objective: Objective = components["objective"]
        # only modules have weights; a conditioner may be a plain object
        self.conditioners = nn.ModuleDict({n: c for n, c in conditioners.items() if isinstance(c, nn.Module)})
        self._conditioners_by_field: dict[str, Conditioner] = dict(conditioners)
        self._exec_device: torch.device | None = None

    @property
    def conditioners_by_field(self) -> Mapping[str, Conditioner]:
        """The conditioners by the field that they read, in the recipe's order."""
        return self._conditioners_by_field

    @property
    def generation_task(self) -> GenerationTask:
        """The task, if it generates data.

        Raises:
            ConfigError: it does not.
        """
        if not isinstance(self.task, GenerationTask):
            raise ConfigError(
                f"task {self.recipe.task.type}: got a {type(self.task).__name__}, expected a GenerationTask. "
                "Derive the task's class from lumina_core.protocols.GenerationTask."
            )
        return self.task

    @property
    def device(self) -> torch.device:
        """Where the weights are, or where they go to work."""
        return self._exec_device or next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the backbone's weights, in which it is asked."""
        module = self.backbone if isinstance(self.backbone, nn.Module) else self
        return next(p.dtype for p in module.parameters() if p.is_floating_point())

    def offload(self, device: torch.device) -> None:
        """From now on the weights rest where they are, and each part is on `device` only while it works."""
        self._exec_device = device

    @contextmanager
    def onload(self, *components: str) -> Iterator[None]:
        """These parts (`conditioners`, `backbone`, `head`, `autoencoder`) stand on the device of an offloaded model."""
        selected = [getattr(self, component) for component in components] if self._exec_device is not None else []
        modules = [component for component in selected if isinstance(component, nn.Module)]
        for module in modules:
            module.to(self._exec_device)
        try:
            yield
        finally:
            for module in modules:
                module.to("cpu")

    def encode_condition(self, values: Mapping[str, Sequence[Any]], batch: int) -> Condition:
        """What is said of each of `batch` items; a conditioner without values says nothing.

        Raises:
            ConfigError: values for a conditioner that this model has not.
        """
        return condition_to(encode_conditions(self._conditioners_by_field, values, batch), self.device, self.dtype)

    def null_condition(self, batch: int) -> Condition:
        """The condition of having said nothing at all."""
        return self.encode_condition({}, batch)

    def predict(self, tokens: Tokens, t: Tensor | None, condition: Condition, *, precomputed: Any = None) -> Tensor:
        """What the head answers, (B, N, D) for a generator; without a backbone, what the conditioner foretells."""
        if self.backbone is None or self.head is None:
            return self._predict_targets(condition)
        return self.head(self.backbone(tokens, t, condition, precomputed=precomputed), tokens)

    def velocity(self, tokens: Tokens, t: Tensor, condition: Condition, *, precomputed: Any = None) -> Tensor:
        """The velocity (B, N, D) at noisy tokens and time (B,), whatever the network was taught to predict."""
        # a way is gone in the format of its noise, whatever the network computes in
        network_input = tokens.with_values(tokens.values.to(self.dtype))
        prediction = self.predict(network_input, t, condition, precomputed=precomputed).to(tokens.values)
        return self.objective.velocity(prediction, tokens.values, t)

    def precompute(self, tokens: Tokens, condition: Condition) -> Any:
        """What stays the same through all evaluations of a request; hand it to `velocity`."""
        if self.backbone is None:
            raise ConfigError("this model has no backbone: it was made to teach a conditioner and cannot generate")
        return self.backbone.precompute(tokens, condition)

    def _predict_targets(self, condition: Condition) -> Tensor:
        for conditioner in self._conditioners_by_field.values():
            targets = conditioner.predict_targets(condition)
            if targets is not None:
                return targets
        raise ConfigError("a recipe without backbone needs a conditioner that foretells, such as core.text")


def encode_conditions(
    conditioners: Mapping[str, Conditioner], values: Mapping[str, Sequence[Any]], batch: int
) -> Condition:
    """What conditioners say together of `batch` items, those without values nothing.

    Raises:
        ConfigError: values for a conditioner that is not there.
    """
    unknown = sorted(set(values) - set(conditioners))
    if unknown:
        names = ", ".join(conditioners) or "none"
        raise ConfigError(f"this model has no conditioner '{unknown[0]}'; it has: {names}")
    conditions = [
        conditioner.encode(values[n]) if n in values else conditioner.null_condition(batch)
        for n, conditioner in conditioners.items()
    ]
    return join(conditions) if conditions else Condition()


def build_model(recipe: Recipe, registry: ComponentRegistry) -> Model:
    """Every part of the recipe, built from the floor up: widths that follow from other parts are filled in.

    Raises:
        PluginError: a part is not there.
        ConfigError: a part does not take its options.
    """
    autoencoder = build_component(registry, "autoencoder", recipe.autoencoder)
    tokenizer = build_component(registry, "tokenizer", recipe.tokenizer, channels=autoencoder.channels)
    conditioners = {spec.field: build_component(registry, "conditioner", spec) for spec in recipe.conditioners}
    components = dict(_backbone_and_head(recipe, registry, tokenizer, conditioners))
    components |= {"autoencoder": autoencoder, "tokenizer": tokenizer}
    components["task"] = build_component(
        registry, "task", recipe.task, **_options_from_autoencoder(autoencoder, recipe.task)
    )
    components["objective"] = build_component(registry, "objective", recipe.objective)
    return Model(recipe, components, conditioners)


def check_pretrained(recipe: Recipe, registry: ComponentRegistry) -> None:
    """Look whether the weights that a recipe borrows are there, before anything large is built.

    Raises:
        CheckpointError: some are not; the message says how to give a folder.
    """
    for component_type, spec in (
        ("autoencoder", recipe.autoencoder),
        *(("conditioner", spec) for spec in recipe.conditioners),
    ):
        with init_empty_weights():
            component = build_component(registry, component_type, spec)
        component.check_available()


def _options_from_autoencoder(autoencoder: Autoencoder, task: ComponentSpec) -> Mapping[str, Any]:
    """Options of the task that the autoencoder's data decide, and that the recipe may leave out of it."""
    options = autoencoder.fixed_task_options
    for key, value in options.items():
        requested = task.options.get(key, value)
        if requested != value:
            raise ConfigError(
                f"task.{key} is {requested}, and the autoencoder's data are of {key} {value}; leave it out of the task, or "
                "take weights of the other"
            )
    return options


def build_dataset(recipe: Recipe, registry: ComponentRegistry) -> Dataset:
    """The recipe's data set.

    Raises:
        ConfigError: the recipe names none.
    """
    if recipe.dataset is None:
        raise ConfigError(
            "this recipe names no data set; add one: --set dataset.type=image.folder --set dataset.folder=DIR"
        )
    return as_dataset(build_component(registry, "dataset", recipe.dataset))


def build_component(registry: ComponentRegistry, component_type: str, spec: ComponentSpec, **derived: Any) -> Any:
    """One part by its name and options; parts named inside its options are built first and handed over.

    Args:
        filled: what other parts decide (widths); given to the part where its Config knows the key.
    """
    component = registry.find(component_type, spec.type)
    base = BASE_CLASSES.get(component_type)
    if base is not None and not (isinstance(component, type) and issubclass(component, base)):
        raise PluginError(
            f"{component_type} '{spec.type}': got {component.__module__}.{component.__qualname__}, expected a subclass of "
            f"{base.__module__}.{base.__qualname__}. Derive the class from it."
        )
    config_type: type[Config] | None = getattr(component, "Config", None)
    if config_type is None:
        raise ConfigError(f"{spec.type} takes no options and cannot be built from a recipe")
    accepted = {key: value for key, value in derived.items() if key in config_type.model_fields}
    config = config_type.read(
        {**accepted, **{k: v for k, v in spec.options.items() if k != "field"}}, f"{component_type} {spec.type}"
    )
    return component(config, *_child_components(registry, config))


def _child_components(registry: ComponentRegistry, config: Config) -> Iterator[Any]:
    """Parts that a part's own options name, in their order; the option's name is the kind, and it may name several."""
    for component_type in type(config).model_fields:
        value = getattr(config, component_type)
        if isinstance(value, ComponentSpec):
            yield build_component(registry, component_type, value, **config.child_options())
        elif isinstance(value, tuple) and value and all(isinstance(one, ComponentSpec) for one in value):
            yield tuple(build_component(registry, component_type, one) for one in value)


def _backbone_and_head(
    recipe: Recipe, registry: ComponentRegistry, tokenizer: Tokenizer, conditioners: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    if recipe.backbone is None or recipe.head is None:
        yield from (("backbone", None), ("head", None))
        return
    context_dims = [c.cross_attention_dim for c in conditioners.values() if c.cross_attention_dim]
    pooled_dim = sum(c.pooled_dim for c in conditioners.values())
    backbone = build_component(
        registry, "backbone", recipe.backbone,
        token_dim=tokenizer.width, cross_attention_dim=context_dims[0] if context_dims else 0, pooled_dim=pooled_dim,
    )  # fmt: skip
    yield "backbone", backbone
    yield "head", build_component(
        registry, "head", recipe.head,
        hidden_size=backbone.config.hidden_size, token_dim=tokenizer.width, modulation_dim=backbone.modulation_dim,
    )  # fmt: skip
