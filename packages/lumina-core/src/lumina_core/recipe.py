"""A recipe: which parts make a model, how it is trained and how it is asked. Plain settings; builds nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from lumina_core.config import ComponentSpec, Config, apply_override, read_file, read_text, suggest_or_list
from lumina_core.errors import ConfigError, PluginError
from lumina_core.plugins.loader import load_plugins
from lumina_core.plugins.registry import Registry

SCHEMA_VERSION = 2
"""Number of this form of recipe; a file with a higher one was written by a newer lumina-core."""


class ConditionerSpec(ComponentSpec):
    """A conditioner, and the field of an example that it reads."""

    field: str = Field(description="field of the example, for instance `caption`")


class SamplingConfig(Config):
    """How a model is asked where the request leaves it open."""

    steps: int = Field(10, ge=1, le=1000, description="steps of the solver")
    solver: str = Field(
        "core.midpoint", description="how the velocity is followed; with options: `core.dopri5:rtol=1e-4`"
    )
    schedule: ComponentSpec = Field(
        ComponentSpec(type="core.uniform_schedule"), description="times between noise and data"
    )
    fitted_schedule: tuple[float, ...] = Field(
        (),
        description="times fitted to this model, written by `lumina schedule --fit`; for schedule: `core.fitted_schedule`",
    )
    guidance_scale: float = Field(1.0, ge=0, le=100, description="1 adds nothing")
    guidance_channels: int | None = Field(
        None, ge=1, description="guide only the first channels of the latent; None: all"
    )
    guidance_interval: tuple[float, float] | None = Field(
        None, description="times between which it guides, noise 0, data 1; None: always"
    )
    guidance_rescale: float = Field(0.0, ge=0, le=1, description="how far its spread is brought back to the unguided")
    cfg_batching: Literal["auto", "batched", "sequential"] = Field(
        "auto", description="both halves in one batch, or one after the other in half the memory"
    )
    rope_scaling: ComponentSpec | None = Field(
        None, description="rotary frequencies on larger canvases; None: the trained ones"
    )
    context_drop: ComponentSpec | None = Field(
        None, description="keys and values averaged over space where that is little missed; None: never"
    )
    block_cache: ComponentSpec | None = Field(
        None, description="blocks left out where little has changed since they were asked; None: never"
    )
    base_sequence_length: int | None = Field(
        None, ge=2, description="tokens in training, for proportional attention; None: attention's usual scale"
    )


class TrainingConfig(Config):
    """How a model is trained. Defaults are published ones where there are any (AdamW, 1e-4, clip 2.0, EMA 0.9999)."""

    steps: int = Field(1000, ge=1, description="optimizer steps")
    global_batch_size: int = Field(64, ge=1, description="examples a step, over all processes and accumulated parts")
    gradient_accumulation_steps: int = Field(
        1, ge=1, description="parts that a process cuts its share of the batch into"
    )
    optimizer: Literal["adamw", "muon"] = Field("adamw", description="muon turns matrices, adamw does the rest")
    lr: float = Field(1e-4, gt=0, description="peak learning rate of AdamW")
    lr_overrides: dict[str, float] = Field(
        {}, description="other peak rates of AdamW, by a part of the weights' names: {embedding: 1e-2, gate: 1e-2}"
    )
    muon_lr: float = Field(0.02, gt=0, description="peak learning rate of Muon's matrices")
    betas: tuple[float, float] = Field((0.9, 0.95), description="of AdamW")
    weight_decay: float = Field(0.0, ge=0, description="of matrices, times the rate; norms, gates and biases have none")
    warmup_steps: int = Field(100, ge=0, description="steps over which the rate rises from 0")
    lr_decay: Literal["constant", "cosine", "linear"] = Field(
        "constant", description="shape of the fall after `decay_start`"
    )
    decay_start: float = Field(0.0, ge=0, le=1, description="share of the steps after which the rate falls")
    max_norm: float = Field(2.0, gt=0, description="largest norm of the gradient")
    ema_decay: float = Field(0.9999, ge=0, lt=1, description="share of the average that is kept a step (warmed up)")
    cond_dropout: float = Field(0.1, ge=0, le=1, description="share of the conditions replaced by silence")
    freeze: tuple[str, ...] = Field((), description="parts that are not trained: `conditioners.caption`, `autoencoder`")
    mixed_precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="auto: bfloat16 where the machine is fast at it; float32: a batch cut otherwise gives equal losses",
    )
    compile: bool = Field(True, description="torch.compile the step's forward and backward")
    cache_latents: bool = Field(
        False, description="encode each example alone and keep its latent, by content: for a frozen autoencoder"
    )
    cache_bytes: int = Field(
        2**29, ge=0, description="room for what costly frozen conditioners said, and as much for latents; 0: none"
    )
    cache_dir: str | None = Field(
        None, description="folder where they are kept on disk as well, by content; runs may share it"
    )
    cache_dir_bytes: int = Field(2**36, ge=0, description="room in that folder; once it is full nothing is added")
    num_workers: int = Field(0, ge=0, description="processes that read examples")
    seed: int = Field(0, ge=0, description="of the first weights, the order of examples, times, noise, crops, captions")
    checkpoint_interval: int = Field(500, ge=1, description="steps between checkpoints")
    keep_latest_k: int = Field(2, ge=1, description="checkpoints kept")
    sample_interval: int = Field(500, ge=0, description="steps between grids of samples; 0: none")
    sample_requests: tuple[dict[str, Any], ...] = Field((), description="requests that the grid of samples answers")


class Recipe(Config):
    """Which parts make a model. Reads as a shopping list; parts check their own options when they are built."""

    schema_version: int = Field(SCHEMA_VERSION, description="number of this form of recipe")
    task: ComponentSpec = Field(description="what is asked of the model and handed back")
    dataset: ComponentSpec | None = Field(
        None, description="what it learns from; a model that is only asked needs none"
    )
    tokenizer: ComponentSpec = Field(description="cuts a latent into tokens; its `channels` are the autoencoder's")
    autoencoder: ComponentSpec = Field(description="data <-> latents")
    conditioners: tuple[ConditionerSpec, ...] = Field(
        (), description="what is said -> conditions, one a field of an example"
    )
    backbone: ComponentSpec | None = Field(
        None, description="None: only the conditioners are taught (objective core.contrastive_text)"
    )
    head: ComponentSpec | None = Field(
        None, description="reads the backbone into an answer; none where there is no backbone"
    )
    objective: ComponentSpec = Field(description="batch -> loss")
    sampling: SamplingConfig = Field(SamplingConfig(), description="how it is asked")
    training: TrainingConfig = Field(TrainingConfig(), description="how it is trained")

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Sequence[str] = (), registry: Registry | None = None) -> Recipe:
        """Load an installed recipe by its name, or a recipe file (.yaml, .yml, .json).

        Args:
            overrides: changes of single keys, `a.b=c`, made before the recipe is checked.
            registry: where installed recipes are found; default: all installed plugins.

        Raises:
            ConfigError: there is no such recipe or file, a key is unknown or missing, or a value is out of its range.
            PluginError: the plugin that has the recipe could not be loaded.
        """
        values = _read_source(str(name_or_path), load_plugins() if registry is None else registry)
        for override in overrides:
            values = apply_override(values, override)
        return read_recipe(values, str(name_or_path))

    def component_names(self) -> list[tuple[str, str]]:
        """(kind, part name) of every part of the recipe and of the parts named inside their options."""
        specs = [("task", self.task), ("dataset", self.dataset), ("tokenizer", self.tokenizer)]
        specs += [("autoencoder", self.autoencoder), ("backbone", self.backbone), ("head", self.head)]
        specs += [("objective", self.objective)]
        specs += [("schedule", self.sampling.schedule), ("rope_scaling", self.sampling.rope_scaling)]
        specs += [("context_drop", self.sampling.context_drop), ("block_cache", self.sampling.block_cache)]
        specs += [("conditioner", spec) for spec in self.conditioners]
        names = [
            name
            for component_type, spec in specs
            if spec is not None
            for name in _nested_component_names(component_type, {"type": spec.type, **spec.options})
        ]
        return [*names, ("solver", self.sampling.solver.partition(":")[0])]


def _nested_component_names(component_type: str, options: Mapping[str, Any]) -> list[tuple[str, str]]:
    # an option that names a part, or several, is called after the kind of that part
    items = [(key, item) for key, value in options.items() for item in (value if isinstance(value, list) else [value])]
    nested = [(key, item) for key, item in items if isinstance(item, Mapping) and "type" in item]
    return [
        (component_type, str(options["type"])),
        *(name for key, value in nested for name in _nested_component_names(key, value)),
    ]


def read_recipe(values: dict[str, Any], source: str) -> Recipe:
    """Check plain data as a recipe.

    Raises:
        ConfigError: a key is unknown or missing, a value out of range, or the schema is another than this lumina-core's.
    """
    check_schema_version(values, source)
    return Recipe.read(values, source)


def check_schema_version(values: Mapping[str, Any], source: str) -> None:
    """Raise ConfigError where a recipe or a config.json is of another schema, whatever else it holds.

    Those of schema 1 are told apart by their keys too (`lumina: 1`, components named by `use:`): none was ever released,
    so there is nothing that reads them.
    """
    version = values.get("schema_version", SCHEMA_VERSION)
    has_old_keys = "lumina" in values or any(
        isinstance(value, Mapping) and "use" in value and "type" not in value for value in values.values()
    )
    if has_old_keys or (isinstance(version, int) and version < SCHEMA_VERSION):
        raise ConfigError(
            f"{source} is of schema 1 (`lumina: 1`, components named by `use:`), from before the first release; this "
            f"lumina-core reads schema {SCHEMA_VERSION} only, where components are named by `type:` and most options have "
            "other names: write it anew, after one of `lumina models`"
        )
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ConfigError(
            f"{source} is of schema {version}; this lumina-core reads up to {SCHEMA_VERSION}. "
            "Install a newer one: pip install -U lumina-core"
        )


PATH_OPTIONS = ("source", "tokenizer")
"""Options of parts that name what lies outside: a folder, or a name on a hub."""


def map_paths(values: Any, transform: Callable[[str], str]) -> Any:
    """A recipe as plain data with every place of something outside put through `change`."""
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


def _read_source(name: str, registry: Registry) -> dict[str, Any]:
    """Read the plain data of an installed recipe, or of the file `name`."""
    installed = registry.recipes()
    if name in installed:
        package, _, path = installed[name].target.partition(":")
        try:
            text = (files(package) / path).read_text(encoding="utf-8")
        except (OSError, ImportError, TypeError, UnicodeDecodeError) as error:
            raise PluginError(f"the recipe {name} cannot be read from {installed[name].target}: {error}") from error
        return read_text(text, f"recipe {name}")
    if Path(name).suffix in {".yaml", ".yml", ".json"}:
        return read_file(Path(name))
    if reason := registry.missing_reason(name.partition(".")[0]):
        raise PluginError(reason)
    raise ConfigError(f"no recipe is called '{name}', and it is no .yaml file{suggest_or_list(name, installed)}")


def write_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, without what is left at its default."""
    return yaml.safe_dump(recipe.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)
