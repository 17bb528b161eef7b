"""Recipes: the components of a model, its training and its sampling defaults, as plain settings. Builds nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, field_validator, model_validator

from lumina_core.config import (
    ComponentSpec,
    Config,
    apply_override,
    merge_configs,
    read_file,
    read_text,
    suggest_or_list,
)
from lumina_core.errors import ConfigError, PluginError
from lumina_core.io import user_path
from lumina_core.plugins.loader import load_plugins
from lumina_core.plugins.registry import Registry
from lumina_core.request import check_guidance_name

SCHEMA_VERSION = 2
"""Version of the form of recipes; a file of a higher version needs a newer lumina-core."""
PATH_OPTIONS = ("source", "tokenizer")
"""Options of components that name pretrained files: a folder, or a name on the hub."""
MODEL_KEYS = ("task", "tokenizer", "autoencoder", "conditioners", "backbone", "head", "objective", "sampling")
"""Keys of a recipe that describe the model; the others describe its training."""
FREE_OPTIONS = ("attn_backend", "gradient_checkpointing")
"""Options of components that change speed and memory alone."""
RECIPE_SUFFIXES = {".yaml", ".yml", ".json"}


class ConditionerSpec(ComponentSpec):
    """A conditioner, and the field of an example that it encodes."""

    field: str = Field(
        pattern=r"^[^\W\d]\w{0,63}$", description="field of the example, one word, for instance `caption`"
    )


class SamplingConfig(Config):
    """Sampling defaults, for settings that a request does not have."""

    steps: int = Field(10, ge=1, le=1000, description="solver steps")
    solver: str = Field("core.midpoint", description="solver; with options: `core.dopri5:rtol=1e-4`")
    schedule: ComponentSpec = Field(
        ComponentSpec(type="core.uniform_schedule"), description="times from noise (0) to data (1)"
    )
    fitted_schedule: tuple[float, ...] = Field(
        (), description="times fitted to this model by `lumina schedule fit`, for the schedule `core.fitted_schedule`"
    )
    guidance_scale: float = Field(1.0, ge=0, le=100, description="classifier-free guidance scale; 1: no guidance")
    guidance: str = Field("core.cfg", description="guidance function; with options: `mine.apg:norm=2`")

    @field_validator("guidance")
    @classmethod
    def _check_guidance(cls, value: str) -> str:
        return check_guidance_name(value) or value

    guidance_channels: int | None = Field(
        None, ge=1, description="number of latent channels that are guided, the first ones; None: all"
    )
    guidance_interval: tuple[float, float] | None = Field(
        None, description="first and last time with guidance, noise 0, data 1; None: always"
    )
    guidance_rescale: float = Field(
        0.0, ge=0, le=1, description="fraction by which the guided velocity is rescaled to the conditional std"
    )
    cfg_batching: Literal["auto", "batched", "sequential"] = Field(
        "auto", description="both passes of guidance in one batch, or one after the other in half the memory"
    )
    rope_scaling: ComponentSpec | None = Field(
        None, description="rotary frequencies for sizes larger than trained; None: the trained frequencies"
    )
    context_drop: ComponentSpec | None = Field(
        None, description="spatial averaging of keys and values in some blocks; None: never"
    )
    block_cache: ComponentSpec | None = Field(
        None, description="reuse of block outputs between steps that change little; None: never"
    )
    base_sequence_length: int | None = Field(
        None, ge=2, description="tokens in training, for proportional attention; None: no scaling of attention"
    )

    @field_validator("guidance_interval")
    @classmethod
    def _check_interval(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 <= value[0] < value[1] <= 1:
            raise ValueError(f"got {value[0]:g}, {value[1]:g}, expected 0 <= first < last <= 1")
        return value


class AdapterConfig(Config):
    """Low-rank adapter of a frozen model: LoRA (arXiv 2106.09685) or DoRA (arXiv 2402.09353), by the library peft."""

    method: Literal["lora", "dora"] = Field(
        "lora", description="dora: also trains the norm of each row of a matrix; better at small ranks, slower"
    )
    rank: int = Field(
        16, ge=1, description="rank of the update of each matrix, at most the smaller side of every target"
    )
    alpha: float | None = Field(None, gt=0, description="the update is multiplied by alpha / rank; None: the rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the adapter's inputs")
    targets: tuple[str, ...] = Field(
        ("attention.qkv", "attention.out", "attention.context_kv", "feed_forward.up", "feed_forward.out"),
        min_length=1,
        description="linear layers of backbone and head, by the end of their names; one projection of a fused matrix: "
        "`attention.qkv[v]`",
    )
    base_dtype: Literal["float32", "bfloat16", "int8", "int4"] = Field(
        "float32",
        description="storage of the frozen blocks; bfloat16 and int4 compute in bfloat16; int8 (torchao) and int4 "
        "(bitsandbytes)",
    )


_Beta = Annotated[float, Field(ge=0, lt=1)]


class StageConfig(Config):
    """A stage of a training: some steps with data, batch size and learning rate of their own."""

    steps: int = Field(ge=1, description="optimizer steps of the stage")
    global_batch_size: int | None = Field(None, ge=1, description="examples per step; None: that of the training")
    lr: float | None = Field(None, gt=0, description="peak learning rate; None: that of the training")
    dataset: dict[str, Any] = Field(
        {}, description="options of the data set that differ from the recipe's: {image_size: 256}"
    )


class TrainingConfig(Config):
    """Training settings. Defaults are the published ones if there are any (AdamW, 1e-4, clip 2.0, EMA 0.9999)."""

    steps: int = Field(1000, ge=1, description="optimizer steps; with `stages` their sum")
    stages: tuple[StageConfig, ...] = Field(
        (), description="consecutive stages, such as sizes of images: [{steps: 9000, dataset: {image_size: 256}}, ...]"
    )
    global_batch_size: int = Field(64, ge=1, description="examples per step, over all processes and micro-batches")
    gradient_accumulation_steps: int = Field(1, ge=1, description="micro-batches per step in each process")
    optimizer: Literal["adamw", "muon"] = Field("adamw", description="muon: for hidden matrices, AdamW for the rest")
    lr: float = Field(1e-4, gt=0, description="peak learning rate of AdamW")
    lr_overrides: dict[str, float | None] = Field(
        {},
        description="other peak learning rates of AdamW, by a substring of parameter names: {embedding: 1e-2}; "
        "None: no other one, although `base` has one",
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="factor of the learning rate from each block to the one before it, for fine-tuning"
    )
    muon_lr: float = Field(0.02, gt=0, description="peak learning rate of Muon")
    betas: tuple[_Beta, _Beta] = Field((0.9, 0.95), description="betas of AdamW")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of matrices; norms, gates and biases have none")
    warmup_steps: int = Field(100, ge=0, description="steps over which the learning rate rises from 0")
    lr_decay: Literal["constant", "cosine", "linear"] = Field(
        "constant", description="decay of the learning rate after `decay_start`"
    )
    decay_start: float = Field(0.0, ge=0, le=1, description="fraction of the steps before the learning rate decays")
    max_norm: float = Field(2.0, gt=0, description="largest norm of the gradient; longer gradients are clipped")
    on_nonfinite: Literal["stop", "skip"] = Field(
        "stop", description="what a step with a loss or gradient that is not finite leads to; its examples are written"
    )
    spike_factor: float | None = Field(
        None, gt=1, description="a gradient norm above this times the median of the last 50 is a spike; None: no check"
    )
    on_spike: Literal["skip", "stop"] = Field("skip", description="what a spike leads to; its examples are written")
    ema_decay: float = Field(0.9999, ge=0, lt=1, description="decay of the weight average per step, with warm-up")
    cond_dropout: float = Field(0.1, ge=0, le=1, description="fraction of conditions replaced by the null condition")
    freeze: tuple[str, ...] = Field(
        (), description="components without training: `conditioners.caption`, `autoencoder`"
    )
    adapter: AdapterConfig | None = Field(
        None, description="train a LoRA or DoRA of `base_model` instead of its weights; None: the weights"
    )
    mixed_precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="dtype of matrix products; auto: bfloat16 on devices with native support"
    )
    compile: bool = Field(
        True, description="compile forward and backward by torch.compile, with fsdp and hsdp block by block"
    )
    cache_latents: bool = Field(False, description="cache the latents of a frozen autoencoder, by content")
    cache_bytes: int = Field(
        2**29,
        ge=0,
        description="memory in bytes of the cache that conditions and latents share; 0: no cache in memory",
    )
    cache_dir: str | None = Field(None, description="folder of a cache on disk, which runs may share; None: none")
    cache_dir_bytes: int = Field(2**36, ge=0, description="bytes of the cache on disk; a full one only reads")
    parallel: Literal["ddp", "fsdp", "hsdp"] = Field(
        "ddp",
        description="several processes: ddp: each holds the whole model; fsdp: weights, gradients, averages and "
        "optimizer state are divided over all of them (FSDP2); hsdp: over groups of `shard_size` processes",
    )
    shard_size: int | None = Field(
        None, ge=1, description="processes per copy of the weights with hsdp; None: those of one machine"
    )
    shard_frozen: bool = Field(
        False, description="divide frozen weights over the processes too; they are gathered for each step"
    )
    peak_tflops: float | None = Field(
        None, gt=0, description="peak of a device in 10^12 operations per second, for `mfu`; None: of known GPUs"
    )
    num_workers: int = Field(0, ge=0, description="processes that read examples")
    seed: int = Field(0, ge=0, lt=2**62, description="seed of initial weights, order, times, noise, crops and captions")
    checkpoint_interval: int = Field(500, ge=1, description="steps between checkpoints")
    keep_latest_k: int = Field(2, ge=1, description="number of latest checkpoints to keep")
    sample_interval: int = Field(500, ge=0, description="steps between grids of samples; 0: none")
    sample_requests: tuple[dict[str, Any], ...] = Field((), description="requests of the grid of samples")

    @model_validator(mode="before")
    @classmethod
    def _sum_steps(cls, values: Any) -> Any:
        """Set `steps` to the sum of the stages."""
        stages = values.get("stages") if isinstance(values, Mapping) else None
        if not isinstance(stages, (list, tuple)) or not stages:
            return values
        counts: list[Any] = [one.get("steps") if isinstance(one, Mapping) else vars(one).get("steps") for one in stages]
        if not all(isinstance(one, int) for one in counts):  # reported with the name of the stage
            return values
        if values.get("steps", sum(counts)) != sum(counts):
            raise ValueError(f"steps: got {values['steps']}, expected {sum(counts)}, the sum of the stages; remove it")
        return {**values, "steps": sum(counts)}


class Recipe(Config):
    """The components of a model and its settings; components check their options when they are built."""

    schema_version: int = Field(SCHEMA_VERSION, description="version of the form of recipes")
    base_model: str | None = Field(
        None, description="model that training starts from, a name or a folder; components left out here are its own"
    )
    task: ComponentSpec = Field(description="requests, results and files of the model")
    dataset: ComponentSpec | None = Field(None, description="training data; None: the model is not trained")
    tokenizer: ComponentSpec = Field(description="latent <-> tokens; `channels` follows from the autoencoder")
    autoencoder: ComponentSpec = Field(description="data <-> latent")
    conditioners: tuple[ConditionerSpec, ...] = Field(
        (), description="values -> conditions, one per field of an example"
    )
    backbone: ComponentSpec | None = Field(
        None, description="network on tokens; None: only conditioners are trained (objective core.contrastive_text)"
    )
    head: ComponentSpec | None = Field(None, description="hidden states -> velocity or logits; None without a backbone")
    objective: ComponentSpec = Field(description="batch -> loss")
    sampling: SamplingConfig = Field(SamplingConfig(), description="sampling defaults")
    training: TrainingConfig = Field(TrainingConfig(), description="training settings")

    @field_validator("conditioners")
    @classmethod
    def _check_fields(cls, value: tuple[ConditionerSpec, ...]) -> tuple[ConditionerSpec, ...]:
        fields = [spec.field for spec in value]
        twice = next((field for field in fields if fields.count(field) > 1), None)
        if twice is not None:
            raise ValueError(f"got two conditioners of the field '{twice}', expected one per field")
        return value

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Sequence[str] = (), registry: Registry | None = None) -> Recipe:
        """Load an installed recipe by its name, or a recipe file (.yaml, .yml, .json).

        A key `base` names another recipe, or a file relative to this one; its values apply unless this recipe has
        others. Mappings are merged key by key; lists, and components of another `type`, are replaced. If one of the
        components that every recipe has is missing, the same is done with those of the model that `base_model` names.

        Args:
            overrides: changes of single keys, `a.b=c`, made before the recipe is checked.
            registry: where installed recipes are found; default: all installed plugins.

        Raises:
            ConfigError: the recipe or file does not exist, a chain of `base` is a cycle, a key is unknown or missing,
                or a value is out of its range.
            PluginError: the plugin that has the recipe could not be loaded.
        """
        registry = load_plugins() if registry is None else registry
        values = _load_values(str(name_or_path), registry)
        for override in overrides:
            values = override_recipe(values, override, registry)
        return read_recipe(values, str(name_or_path))

    def component_names(self) -> list[tuple[str, str]]:
        """Return (component type, name) of every component, including those inside options."""
        names = [(component_type, spec["type"]) for component_type, spec in iter_components(self.to_dict(False))]
        guidance = self.sampling.guidance.partition(":")[0]
        named = [("solver", self.sampling.solver.partition(":")[0]), ("guidance", guidance)]
        return [*names, *(named if guidance != "core.cfg" else named[:1])]

    def to_dict(self, exclude_defaults: bool = True) -> dict[str, Any]:
        """Return the recipe as plain data, by default without the keys that have their default value."""
        return self.model_dump(mode="json", exclude_defaults=exclude_defaults)

    def to_yaml(self) -> str:
        """Return the recipe as YAML, without the keys that have their default value."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


def override_recipe(values: Mapping[str, Any], override: str, registry: Registry) -> dict[str, Any]:
    """Return a copy of a recipe as plain data with one `a.b=c` applied; texts are taken as they were typed.

    Raises:
        ConfigError: the override has no `=`, or its path does not lead to a key or an index.
    """
    return apply_override(values, override, lambda path: _is_text(values, path, registry))


def takes_text(config: type[BaseModel] | None, field: str) -> bool:
    """Return whether a field of a config takes texts only (besides None): a folder, a name, one of some words."""
    if config is None or field not in config.model_fields:
        return False
    annotation = config.model_fields[field].annotation
    is_union = get_origin(annotation) in (Union, UnionType)
    kinds = [kind for kind in (get_args(annotation) if is_union else (annotation,)) if kind is not type(None)]
    return all(
        kind is str or (get_origin(kind) is Literal and all(isinstance(word, str) for word in get_args(kind)))
        for kind in kinds
    )


def _is_text(values: Mapping[str, Any], path: Sequence[str], registry: Registry) -> bool:
    """Return whether the value at a path of a recipe is a text, by the Config of the component that has it."""
    node: Any = values
    config: type[BaseModel] | None = Recipe
    component_type = ""
    for key in path[:-1]:
        if isinstance(node, Mapping):
            component_type = "conditioner" if key == "conditioners" else key
            field = None if config is None else config.model_fields.get(key)
            node, config = node.get(key), _nested_config(None if field is None else field.annotation)
        elif isinstance(node, Sequence) and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        if isinstance(node, Mapping) and "type" in node:
            config = None
            with suppress(PluginError, AttributeError, TypeError):
                config = registry.find(component_type, node["type"]).Config
    return path[-1] == "type" or takes_text(config, path[-1])


def _nested_config(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def read_recipe(values: Mapping[str, Any], source: str) -> Recipe:
    """Check plain data as a recipe.

    Raises:
        ConfigError: a key is unknown or missing, a value is out of its range, or the schema version is another one.
    """
    check_schema_version(values, source)
    return Recipe.read(values, source)


def check_schema_version(values: Mapping[str, Any], source: str) -> None:
    """Raise ConfigError if a recipe or a config.json has another schema version.

    Version 1 is also recognised by its keys (`lumina: 1`, components named by `use:`). It was never released and
    is not supported.
    """
    version = values.get("schema_version", SCHEMA_VERSION)
    has_old_keys = "lumina" in values or any(
        isinstance(value, Mapping) and "use" in value and "type" not in value for value in values.values()
    )
    if has_old_keys or (isinstance(version, int) and version < SCHEMA_VERSION):
        raise ConfigError(
            f"{source}: got schema version 1 (`lumina: 1`, components named by `use:`), expected {SCHEMA_VERSION} "
            "(`schema_version: 2`, components named by `type:`). Version 1 was never released: write the recipe anew, "
            "or train or convert the model again."
        )
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise ConfigError(
            f"{source}: got schema version {version}, expected {SCHEMA_VERSION}. "
            "Install a newer lumina-core (git pull, if it is a clone)."
        )


def iter_components(values: Any, component_type: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (component type, plain spec) of every component in plain data, outer ones first.

    The key of a component is its type; a list holds several of one type.
    """
    if isinstance(values, Mapping):
        if "type" in values and component_type:
            yield component_type, values  # type: ignore[misc]  # plain data are dicts
        for key, value in values.items():
            yield from iter_components(value, "conditioner" if key == "conditioners" else key)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from iter_components(value, component_type)


def map_paths(values: Any, transform: Callable[[str], str]) -> Any:
    """Return plain data of a recipe with `transform` applied to every path of pretrained files."""
    if isinstance(values, Mapping):
        is_component = "type" in values
        return {
            key: transform(value)
            if is_component and key in PATH_OPTIONS and isinstance(value, str)
            else map_paths(value, transform)
            for key, value in values.items()
        }
    if isinstance(values, list | tuple):
        return [map_paths(value, transform) for value in values]
    return values


def _load_values(name: str, registry: Registry, derived: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read the plain data of a recipe, merged with those of its `base`; `derived` are the recipes based on it."""
    if name in derived:
        raise ConfigError(f"base: got a cycle of recipes, {' -> '.join([*derived, name])}. Remove one `base`.")
    values = _read_source(name, registry)
    check_schema_version(values, name)
    base = values.pop("base", None)
    if base is None:
        is_complete = values.keys() >= {"task", "tokenizer", "autoencoder", "objective"}
        return values if is_complete or "base_model" not in values else _with_components(values, registry)
    if not isinstance(base, str):
        raise ConfigError(f"{name}: base: got {base!r}, expected the name of a recipe or of a recipe file.")
    if Path(base).suffix in RECIPE_SUFFIXES and registry.entry("recipe", name) is None:
        base = str(Path(name).parent / user_path(base))
    return merge_configs(_load_values(base, registry, (*derived, name)), values)


def _with_components(values: dict[str, Any], registry: Registry) -> dict[str, Any]:
    """Merge plain data with the components of their `base_model`."""
    from lumina_core.model_dir import read_model_recipe  # imports this module

    name = values["base_model"]
    if not isinstance(name, str):
        raise ConfigError(f"base_model: got {name!r}, expected the name of a model or its folder.")
    model_values = read_model_recipe(name, registry).to_dict()
    return merge_configs({key: model_values[key] for key in MODEL_KEYS if key in model_values}, values)


def check_data_dirs(recipe: Recipe) -> None:
    """Check the folders of the data sets of a recipe: by convention, their option `folder` names an existing one.

    Raises:
        ConfigError: there is no such folder, or it cannot be read.
    """
    data = {} if recipe.dataset is None else recipe.dataset.model_dump()
    stages = [{**data, **stage.dataset} for stage in recipe.training.stages]
    for _, spec in iter_components(stages or data, "dataset"):
        if isinstance(spec.get("folder"), str):
            from lumina_core.data.source import require_dir

            require_dir(spec["folder"], spec["type"])


def recipe_text(name: str, registry: Registry) -> str:
    """Return the text of an installed recipe, with its comments, or of a recipe file.

    Raises:
        PluginError: the recipe of a plugin cannot be read.
        ConfigError: the file cannot be read.
    """
    installed = registry.entry("recipe", name)
    if installed is None:
        read_file(user_path(name))
        return user_path(name).read_text(encoding="utf-8-sig")
    package, _, path = installed.target.partition(":")
    try:
        return (files(package) / path).read_text(encoding="utf-8")
    except (OSError, ImportError, TypeError, UnicodeDecodeError) as error:
        raise PluginError(f"recipe {name}: cannot read {installed.target} ({error}). Reinstall its plugin.") from error


def _read_source(name: str, registry: Registry) -> dict[str, Any]:
    if registry.entry("recipe", name) is not None:
        return read_text(recipe_text(name, registry), f"recipe {name}")
    if Path(name).suffix.lower() in RECIPE_SUFFIXES:
        return read_file(user_path(name))
    if reason := registry.missing_reason(name.partition(".")[0]):
        raise PluginError(reason)
    raise ConfigError(
        f"recipe: got '{name}', expected an installed recipe or a .yaml file{suggest_or_list(name, registry.recipes())}"
    )
