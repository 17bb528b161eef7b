"""A recipe: which parts make a model, how it is trained and how it is asked. Plain settings; builds nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from lumina_core.config import Config, Use, read_file
from lumina_core.errors import ConfigError

SCHEMA = 1
"""Number of this form of recipe; a file with a higher one was written by a newer lumina-core."""


class NamedUse(Use):
    """A conditioner, and the field of an example that it reads."""

    name: str = Field(description="field of the example, for instance `caption`")


class Sampling(Config):
    """How a model is asked where the request leaves it open."""

    steps: int = Field(10, ge=1, le=1000, description="steps of the solver")
    solver: str = Field(
        "core.midpoint", description="how the velocity is followed; with options: `core.dopri5:relative=1e-4`"
    )
    grid: Use = Field(Use(use="core.uniform_grid"), description="times between noise and data")
    fitted: tuple[float, ...] = Field(
        (), description="times fitted to this model, written by `lumina grid --fit`; for grid: `core.fitted_grid`"
    )
    guidance: float = Field(1.0, ge=0, le=100, description="1 adds nothing")
    guidance_channels: int | None = Field(
        None, ge=1, description="guide only the first channels of the latent; None: all"
    )
    guidance_interval: tuple[float, float] | None = Field(
        None, description="times between which it guides, noise 0, data 1; None: always"
    )
    guidance_rescale: float = Field(0.0, ge=0, le=1, description="how far its spread is brought back to the unguided")
    guidance_split: Literal["auto", "together", "apart"] = Field(
        "auto", description="both halves in one batch, or one after the other in half the memory"
    )
    extrapolation: Use | None = Field(None, description="rotary frequencies on larger canvases; None: the trained ones")
    context_drop: Use | None = Field(
        None, description="keys and values averaged over space where that is little missed; None: never"
    )
    step_cache: Use | None = Field(
        None, description="blocks left out where little has changed since they were asked; None: never"
    )
    proportional: int | None = Field(
        None, ge=2, description="tokens in training, for proportional attention; None: attention's usual scale"
    )


class Training(Config):
    """How a model is trained. Defaults are published ones where there are any (AdamW, 1e-4, clip 2.0, EMA 0.9999)."""

    steps: int = Field(1000, ge=1, description="optimizer steps")
    batch: int = Field(64, ge=1, description="examples a step, over all processes and accumulated parts")
    accumulate: int = Field(1, ge=1, description="parts that a process cuts its share of the batch into")
    optimizer: Literal["adamw", "muon"] = Field("adamw", description="muon turns matrices, adamw does the rest")
    rate: float = Field(1e-4, gt=0, description="peak learning rate of AdamW")
    rates: dict[str, float] = Field(
        {}, description="other peak rates of AdamW, by a part of the weights' names: {embedding: 1e-2, gate: 1e-2}"
    )
    muon_rate: float = Field(0.02, gt=0, description="peak learning rate of Muon's matrices")
    betas: tuple[float, float] = Field((0.9, 0.95), description="of AdamW")
    weight_decay: float = Field(0.0, ge=0, description="of matrices, times the rate; norms, gates and biases have none")
    warmup: int = Field(100, ge=0, description="steps over which the rate rises from 0")
    decay: Literal["constant", "cosine", "linear"] = Field(
        "constant", description="shape of the fall after `decay_from`"
    )
    decay_from: float = Field(0.0, ge=0, le=1, description="share of the steps after which the rate falls")
    clip: float = Field(2.0, gt=0, description="largest norm of the gradient")
    ema: float = Field(0.9999, ge=0, lt=1, description="share of the average that is kept a step (warmed up)")
    drop: float = Field(0.1, ge=0, le=1, description="share of the conditions replaced by silence")
    freeze: tuple[str, ...] = Field((), description="parts that are not trained: `conditioners.caption`, `autoencoder`")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="auto: bfloat16 where the machine is fast at it; float32: a batch cut otherwise gives equal losses",
    )
    compile: bool = Field(True, description="torch.compile the step's forward and backward")
    keep_latents: bool = Field(
        False, description="encode each example alone and keep its latent, by content: for a frozen autoencoder"
    )
    cache_bytes: int = Field(
        2**29, ge=0, description="room for what costly frozen conditioners said, and as much for latents; 0: none"
    )
    cache_folder: str | None = Field(
        None, description="folder where they are kept on disk as well, by content; runs may share it"
    )
    cache_folder_bytes: int = Field(2**36, ge=0, description="room in that folder; once it is full nothing is added")
    workers: int = Field(0, ge=0, description="processes that read examples")
    seed: int = Field(0, ge=0, description="of the first weights, the order of examples, times, noise, crops, captions")
    save_every: int = Field(500, ge=1, description="steps between checkpoints")
    keep: int = Field(2, ge=1, description="checkpoints kept")
    sample_every: int = Field(500, ge=0, description="steps between grids of samples; 0: none")
    samples: tuple[dict[str, Any], ...] = Field((), description="requests that the grid of samples answers")


class Recipe(Config):
    """Which parts make a model. Reads as a shopping list; parts check their own options when they are built."""

    lumina: int = Field(SCHEMA, ge=1, description="number of this form of recipe")
    task: Use = Field(description="what is asked of the model and handed back")
    dataset: Use | None = Field(None, description="what it learns from; a model that is only asked needs none")
    tokenizer: Use = Field(description="cuts a latent into tokens; its `channels` are the autoencoder's")
    autoencoder: Use = Field(description="data <-> latents")
    conditioners: tuple[NamedUse, ...] = Field((), description="what is said -> conditions, one a field of an example")
    backbone: Use | None = Field(None, description="None: only the conditioners are taught (objective core.alignment)")
    head: Use | None = Field(None, description="reads the backbone into an answer; none where there is no backbone")
    objective: Use = Field(description="batch -> loss")
    sampling: Sampling = Field(Sampling(), description="how it is asked")
    training: Training = Field(Training(), description="how it is trained")

    def used(self) -> list[tuple[str, str]]:
        """(kind, part name) of every part of the recipe and of the parts named inside their options."""
        single = [("task", self.task), ("dataset", self.dataset), ("tokenizer", self.tokenizer)]
        single += [("autoencoder", self.autoencoder), ("backbone", self.backbone), ("head", self.head)]
        single += [("objective", self.objective)]
        single += [("times", self.sampling.grid), ("extrapolation", self.sampling.extrapolation)]
        single += [("context_drop", self.sampling.context_drop), ("step_cache", self.sampling.step_cache)]
        single += [("conditioner", use) for use in self.conditioners]
        named = [
            part for kind, use in single if use is not None for part in _named(kind, {"use": use.use, **use.options})
        ]
        return [*named, ("solver", self.sampling.solver.partition(":")[0])]


def _named(kind: str, options: Mapping[str, Any]) -> list[tuple[str, str]]:
    # an option that names a part, or several, is called after the kind of that part
    listed = [(key, one) for key, value in options.items() for one in (value if isinstance(value, list) else [value])]
    inner = [(key, one) for key, one in listed if isinstance(one, Mapping) and "use" in one]
    return [(kind, str(options["use"])), *(part for key, value in inner for part in _named(key, value))]


def read_recipe(values: dict[str, Any], where: str) -> Recipe:
    """Check plain data as a recipe.

    Raises:
        ConfigError: a key is unknown or missing, a value out of range, or the schema is newer than this lumina-core.
    """
    schema = values.get("lumina", SCHEMA)
    if isinstance(schema, int) and schema > SCHEMA:
        raise ConfigError(
            f"{where} is of schema {schema}; this lumina-core reads up to {SCHEMA}. "
            "Install a newer one: pip install -U lumina-core"
        )
    return Recipe.read(values, where)


PLACES = ("source", "tokenizer")
"""Options of parts that name what lies outside: a folder, or a name on a hub."""


def with_places(values: Any, change: Callable[[str], str]) -> Any:
    """A recipe as plain data with every place of something outside put through `change`."""
    if isinstance(values, Mapping):
        part = "use" in values
        return {
            key: change(value) if part and key in PLACES and isinstance(value, str) else with_places(value, change)
            for key, value in values.items()
        }
    if isinstance(values, list | tuple):
        return [with_places(value, change) for value in values]
    return values


def load_recipe(path: Path) -> Recipe:
    """A recipe from a YAML or JSON file."""
    return read_recipe(read_file(path), str(path))


def write_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, without what is left at its default."""
    return yaml.safe_dump(recipe.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)
