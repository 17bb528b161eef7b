"""Models: the components of a recipe, built and wired together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from lumina_core.checkpoint.lazy_tensors import init_empty_weights
from lumina_core.conditioning.ops import condition_to, join
from lumina_core.config import ComponentSpec, Config
from lumina_core.device import available_memory
from lumina_core.errors import ConfigError, LuminaError, PluginError, ShapeError
from lumina_core.plugins.loader import load_plugins
from lumina_core.plugins.registry import Registry
from lumina_core.protocols import (
    BASE_CLASSES,
    Autoencoder,
    Backbone,
    Conditioner,
    Dataset,
    GenerationTask,
    Head,
    Objective,
    PredictionTask,
    ProbPath,
    SupportsPath,
    SupportsReferences,
    Task,
    Tokenizer,
)
from lumina_core.recipe import Recipe
from lumina_core.types import Condition, Size, Tokens

SpecT = TypeVar("SpecT", bound=ComponentSpec)


class ComponentRegistry(Protocol):
    """A source of components by type and name: `lumina_core.plugins.registry.Registry`, or a smaller one in tests."""

    def find(self, component_type: str, name: str) -> Any:
        """Return a component by its name."""
        ...


class Model(nn.Module):
    """The components of a recipe as one module.

    Attributes:
        recipe: the recipe.
        task, tokenizer, autoencoder, backbone, head, objective: its components; their weights are named by component
            (`backbone.blocks.0...`).
        conditioners: those conditioners that are modules, by the field that they encode (`conditioners.caption...`).
    """

    def __init__(self, recipe: Recipe, components: Mapping[str, Any], conditioners: Mapping[str, Any]) -> None:
        super().__init__()
        self.recipe = recipe
        self.task: Task = components["task"]
        self.tokenizer: Tokenizer = components["tokenizer"]
        self.autoencoder: Autoencoder = components["autoencoder"]
        self.backbone: Backbone | None = components["backbone"]
        self.head: Head | None = components["head"]
        self.objective: Objective = components["objective"]
        reserved = next((field for field in conditioners if hasattr(nn.ModuleDict, field)), None)
        if reserved is not None:
            raise ConfigError(f"conditioners: got the field '{reserved}', which is reserved. Choose another name.")
        self.conditioners = nn.ModuleDict({n: c for n, c in conditioners.items() if isinstance(c, nn.Module)})
        self._conditioners_by_field: dict[str, Conditioner] = dict(conditioners)
        self._exec_device: torch.device | None = None

    @property
    def conditioners_by_field(self) -> Mapping[str, Conditioner]:
        """All conditioners by the field that they encode, in the order of the recipe."""
        return self._conditioners_by_field

    @property
    def generation_task(self) -> GenerationTask:
        """The task as a GenerationTask.

        Raises:
            ConfigError: the task does not generate data.
        """
        if not isinstance(self.task, GenerationTask):
            raise ConfigError(
                f"task {self.recipe.task.type}: got a {type(self.task).__name__}, expected a GenerationTask. "
                "Derive the task's class from lumina_core.protocols.GenerationTask."
            )
        return self.task

    @property
    def device(self) -> torch.device:
        """Device of the computation: of the weights, or of an offloaded model the one that components move to."""
        return self._exec_device or next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the backbone's weights and inputs."""
        module = self.backbone if isinstance(self.backbone, nn.Module) else self
        return next(p.dtype for p in module.parameters() if p.is_floating_point())

    def offload(self, device: torch.device) -> None:
        """Keep the weights where they are, and move each component to `device` only while it computes."""
        self._exec_device = device

    @contextmanager
    def onload(self, *components: str) -> Iterator[None]:
        """Move components (`conditioners`, `backbone`, ...) of an offloaded model to its device, within `with`."""
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
        """Encode values of each field, one per item; fields without values have the null condition.

        Raises:
            ConfigError: a field has no conditioner.
        """
        return condition_to(encode_conditions(self._conditioners_by_field, values, batch), self.device, self.dtype)

    def encode_data(self, data: Tensor) -> Tensor:
        """Return the latent of data, computed in the dtype of the autoencoder's weights, if it has any."""
        return self.autoencoder.encode(self._as_autoencoder(data))

    def decode_latent(self, latent: Tensor) -> Tensor:
        """Return the data of a latent, computed in the dtype of the autoencoder's weights, if it has any."""
        return self.autoencoder.decode(self._as_autoencoder(latent))

    def _as_autoencoder(self, x: Tensor) -> Tensor:
        module = self.autoencoder if isinstance(self.autoencoder, nn.Module) else None
        weights = () if module is None else module.parameters()
        return x.to(next((weight.dtype for weight in weights if weight.is_floating_point()), x.dtype))

    def null_condition(self, batch: int) -> Condition:
        """Return the null condition of all conditioners."""
        return self.encode_condition({}, batch)

    def predict(self, tokens: Tokens, t: Tensor | None, condition: Condition, *, precomputed: Any = None) -> Tensor:
        """Return the output of the head, (B, N, D) for generation; without a backbone, the conditioner's prediction."""
        if self.backbone is None or self.head is None:
            return self._predict_targets(condition)
        return self.head(self.backbone(tokens, t, condition, precomputed=precomputed), tokens)

    def velocity(self, tokens: Tokens, t: Tensor, condition: Condition, *, precomputed: Any = None) -> Tensor:
        """Return the velocity (B, N, D) at noisy tokens and time (B,), whatever the network predicts.

        Raises:
            ConfigError: the model has no backbone.
        """
        if self.backbone is None or self.head is None:
            raise ConfigError("backbone: got none, expected one. This model trains a conditioner and cannot generate.")
        # x keeps the dtype of its noise, whatever the network computes in
        network_input = tokens.with_values(tokens.values.to(self.dtype))
        hidden = self.backbone(network_input, t, condition, precomputed=precomputed)
        return self.objective.velocity(self.head(hidden, tokens).to(tokens.values), tokens.values, t)

    @property
    def path(self) -> ProbPath | None:
        """The probability path of the objective; None if it has none."""
        return self.objective.path if isinstance(self.objective, SupportsPath) else None

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
        raise ConfigError(
            "backbone: got none, expected one, or a conditioner that predicts targets, such as core.text."
        )


def empty_tokens(model: Model, size: Size, batch: int) -> Tokens:
    """Return tokens of zeros with the positions of data of a size, on the CPU.

    Args:
        model: the model whose autoencoder and tokenizer determine the tokens.
        size: size of the data, without batch and channels.
        batch: number of items.

    Raises:
        ConfigError: the model does not support the size; the message names the nearest supported one.
    """
    factors = model.autoencoder.downsample_factor
    indivisible = [(side, step) for side, step in zip(size, factors, strict=True) if side % step]
    if indivisible:
        side, step = indivisible[0]
        raise ConfigError(
            f"size: got a side of {side}, expected a multiple of {step} (the autoencoder's factor); try "
            f"{max(1, round(side / step)) * step}"
        )
    try:
        return model.tokenizer.empty(batch, tuple(side // step for side, step in zip(size, factors, strict=True)))
    except ShapeError as error:
        size_text = " x ".join(map(str, size))
        hint = f" (a latent is {' x '.join(map(str, factors))} times smaller)" if any(s > 1 for s in factors) else ""
        raise ConfigError(f"size: got {size_text}, which this model does not support: {error}{hint}") from error


def has_adapter(model: nn.Module) -> bool:
    """Return whether a model has an adapter of `lumina_core.adapters`."""
    return any(".lora_A." in name for name, _ in model.named_parameters())


def encode_conditions(
    conditioners: Mapping[str, Conditioner], values: Mapping[str, Sequence[Any]], batch: int
) -> Condition:
    """Encode values of each field, one per item, and join the conditions; other fields have the null condition.

    Raises:
        ConfigError: a field has no conditioner.
    """
    unknown = sorted(set(values) - set(conditioners))
    if unknown:
        names = ", ".join(conditioners) or "none"
        raise ConfigError(f"condition: got '{unknown[0]}', expected fields with a conditioner: {names}.")
    conditions = [
        conditioner.encode(values[n]) if n in values else conditioner.null_condition(batch)
        for n, conditioner in conditioners.items()
    ]
    return join(conditions) if conditions else Condition()


def build_model(recipe: Recipe, registry: ComponentRegistry | None = None) -> Model:
    """Build the components of a recipe; dimensions that follow from other components are filled in.

    Args:
        registry: where components are found; default: all installed plugins.

    Raises:
        PluginError: a component is unknown.
        ConfigError: a component does not accept its options.
    """
    registry = load_plugins() if registry is None else registry
    if (recipe.backbone is None) != (recipe.head is None):
        missing = "head" if recipe.head is None else "backbone"
        raise ConfigError(f"{missing}: got none, expected one: backbone and head go together, or a recipe has neither.")
    autoencoder = build_component(registry, "autoencoder", recipe.autoencoder)
    tokenizer = build_component(registry, "tokenizer", recipe.tokenizer, channels=autoencoder.channels)
    conditioners = {spec.field: build_component(registry, "conditioner", spec) for spec in recipe.conditioners}
    for conditioner in conditioners.values():
        if isinstance(conditioner, SupportsReferences):
            conditioner.set_codec(autoencoder, tokenizer)
    backbone = head = None
    if recipe.backbone is not None and recipe.head is not None:
        context_dims = [c.cross_attention_dim for c in conditioners.values() if c.cross_attention_dim]
        backbone = build_component(
            registry,
            "backbone",
            recipe.backbone,
            token_dim=tokenizer.width,
            cross_attention_dim=context_dims[0] if context_dims else 0,
            pooled_dim=sum(c.pooled_dim for c in conditioners.values()),
            token_condition_dim=sum(c.token_condition_dim for c in conditioners.values()),
        )
        head = build_component(
            registry,
            "head",
            recipe.head,
            hidden_size=backbone.config.hidden_size,
            token_dim=tokenizer.width,
            modulation_dim=backbone.modulation_dim,
        )
    components = {
        "autoencoder": autoencoder,
        "tokenizer": tokenizer,
        "backbone": backbone,
        "head": head,
        "task": build_component(registry, "task", recipe.task, **_fixed_task_options(autoencoder, recipe.task)),
        "objective": build_component(registry, "objective", recipe.objective),
    }
    return Model(recipe, components, conditioners)


def check_pretrained(recipe: Recipe, registry: ComponentRegistry) -> None:
    """Check that the pretrained weights of a recipe exist and that the model fits the memory, before it is built.

    Raises:
        CheckpointError: some are missing; the message names the option for a folder.
        ConfigError: the weights alone need more memory than there is.
    """
    specs = [("autoencoder", recipe.autoencoder), *(("conditioner", spec) for spec in recipe.conditioners)]
    for component_type, spec in specs:
        with init_empty_weights():
            component = build_component(registry, component_type, spec)
        component.check_available()
    with init_empty_weights():
        model = build_model(recipe, registry)
    needed = sum(tensor.numel() for tensor in model.parameters()) * torch.float32.itemsize
    available = available_memory(torch.device("cpu"))
    if available is not None and needed > available and recipe.training.parallel == "ddp":
        needed_text, free_text = (f"{size / 2**30:,.1f} GiB" for size in (needed, available))
        raise ConfigError(
            f"the model needs {needed_text} for its weights, and {free_text} are free. Choose smaller sizes."
        )


def with_class_names(recipe: Recipe, dataset: Dataset, registry: ComponentRegistry) -> Recipe:
    """Return a recipe with the names of the data set's classes, so that a model keeps them.

    Class conditioners have them, and a task that predicts and whose config has `classes`.

    Raises:
        ConfigError: the data set has other classes than the recipe, or more than the conditioner or the head.
    """
    specs = [
        _named_classes(spec, "class_names", dataset.class_names(spec.field), f"conditioners.{spec.field}", spec.options)
        if spec.type == "core.class_label"
        else spec
        for spec in recipe.conditioners
    ]
    update: dict[str, Any] = {"conditioners": tuple(specs)}
    task_type = registry.find("task", recipe.task.type)
    if issubclass(task_type, PredictionTask) and "classes" in task_type.Config.model_fields and recipe.head:
        names = dataset.class_names(task_type.target_field)
        update["task"] = _named_classes(recipe.task, "classes", names, "task", recipe.head.options)
    return recipe.model_copy(update=update)


def _named_classes(spec: SpecT, key: str, dataset_names: Sequence[str], title: str, sizes: Mapping[str, Any]) -> SpecT:
    """Return a component with the names of the data set's classes under a key, if it has none."""
    names, known = tuple(dataset_names), tuple(spec.options.get(key) or ())
    if known and names and known != names:
        new = [name for name in names if name not in known] or list(names)
        raise ConfigError(
            f"{title}.{key}: got {len(names)} classes in the data set ({new[0]} ...), expected the {len(known)} of the "
            f"recipe in their order: {', '.join(known[:8])}. A class keeps its number."
        )
    count = sizes.get("num_classes", len(names))
    if names and isinstance(count, int) and count < len(names):
        owner = "head" if title == "task" else title
        raise ConfigError(
            f"{owner}.num_classes: got {count}, expected at least {len(names)}, the classes of the data set: "
            f"{', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
        )
    is_named = bool(known) or not names or (title == "task" and count != len(names))
    return spec if is_named else spec.model_copy(update={key: list(names)})


def build_dataset(recipe: Recipe, registry: ComponentRegistry | None = None) -> Dataset:
    """Build the data set of a recipe.

    Raises:
        ConfigError: the recipe has none.
    """
    if recipe.dataset is None:
        raise ConfigError("dataset: got none, expected a data set, such as `dataset: {type: NAME, folder: DIR}`.")
    dataset = build_component(load_plugins() if registry is None else registry, "dataset", recipe.dataset)
    if isinstance(dataset, Dataset):
        return dataset
    from lumina_core.data.dataset import as_dataset  # only plain data sets of PyTorch need it

    return as_dataset(dataset)


def build_component(registry: ComponentRegistry, component_type: str, spec: ComponentSpec, **derived: Any) -> Any:
    """Build one component; components in its options are built first and passed after the config.

    Args:
        derived: options that follow from other components (dimensions), for those keys that the Config has.

    Raises:
        PluginError: the component is unknown, or does not derive from the base class of its type.
        ConfigError: it does not accept its options.
    """
    component = registry.find(component_type, spec.type)
    config_type: type[Config] | None = getattr(component, "Config", None)
    if config_type is None:
        raise ConfigError(
            f"{component_type} '{spec.type}': got a component without Config, expected one with a Config."
        )
    if not (isinstance(config_type, type) and issubclass(config_type, Config)):
        raise PluginError(
            f"{component_type} '{spec.type}': got the Config {config_type!r}, expected a subclass of "
            "lumina_core.config.Config."
        )
    options = {key: value for key, value in derived.items() if key in config_type.model_fields} | spec.options
    options.pop("field", None)  # of a conditioner's spec
    config = config_type.read(options, f"{component_type} {spec.type}")
    children = list(_child_components(registry, config))
    try:
        with registry.guarded_component(component_type, spec.type) if isinstance(registry, Registry) else nullcontext():
            built = component(config, *children)
    except LuminaError:
        raise
    except Exception as error:  # torch raises many types for sizes that do not fit together or into the memory
        reason = " ".join(str(error).split())[:300] or "no message"
        raise ConfigError(
            f"{component_type} {spec.type} cannot be built with its options ({type(error).__name__}: {reason})."
        ) from error
    base = BASE_CLASSES.get(component_type)
    if base is not None and not isinstance(built, base):
        raise PluginError(
            f"{component_type} '{spec.type}': got {type(built).__module__}.{type(built).__qualname__}, expected a "
            f"subclass of {base.__module__}.{base.__qualname__}. Derive the class from it."
        )
    return built


def _child_components(registry: ComponentRegistry, config: Config) -> Iterator[Any]:
    """Build the components in the options of a config, in order; the key is the type, and a tuple holds several."""
    for component_type in type(config).model_fields:
        value = getattr(config, component_type)
        if isinstance(value, ComponentSpec):
            yield build_component(registry, component_type, value, **config.child_options())
        elif isinstance(value, tuple) and value and all(isinstance(one, ComponentSpec) for one in value):
            yield tuple(build_component(registry, component_type, one) for one in value)


def _fixed_task_options(autoencoder: Autoencoder, task: ComponentSpec) -> Mapping[str, Any]:
    """Return the task options that the autoencoder fixes, after a comparison with those of the recipe."""
    for key, value in autoencoder.fixed_task_options.items():
        if task.options.get(key, value) != value:
            raise ConfigError(
                f"task.{key}: got {task.options[key]}, expected {value}, which the autoencoder fixes. Remove the key."
            )
    return autoencoder.fixed_task_options
