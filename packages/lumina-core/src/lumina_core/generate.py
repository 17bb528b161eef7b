"""Request -> data, for every modality: noise in the right places, a velocity, a solver along a grid, and back."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lumina_core.config import Use, named
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.flow.solver import integrate
from lumina_core.given import NOTHING_GIVEN, Given, condition_of, noise_of
from lumina_core.model import Finder, Model, build
from lumina_core.motion import Guided, Moved, Scaled
from lumina_core.parts import Extrapolation, Grid, Solver, Velocity
from lumina_core.request import Request
from lumina_core.types import Condition, Extent, Tokens

OnStep = Callable[[int, float, Tensor], bool | None]
"""(steps done, time reached, values (B, N, D)) -> True to stop there."""


@dataclass(frozen=True)
class Settings:
    """How the way from noise to data was gone, in full."""

    steps: int
    solver: str
    grid: str
    guidance: float
    extrapolation: str | None
    proportional: int | None


@dataclass(frozen=True)
class Result:
    """What came of one batch: data (B, channels, ...) in about [-1, 1], and what it took."""

    data: Tensor
    seeds: tuple[int, ...]
    evaluations: int
    seconds: float
    settings: Settings

    def record(self) -> dict[str, Any]:
        """What belongs beside the data; nothing that differs when the same is asked again."""
        settings = {key: value for key, value in asdict(self.settings).items() if value is not None}
        return {"evaluations": self.evaluations, "settings": settings}


@torch.inference_mode()
def generate(
    model: Model, finder: Finder, requests: Sequence[Request], on_step: OnStep | None = None,
    given: Given = NOTHING_GIVEN,
) -> Result:  # fmt: skip
    """Answer requests that agree in everything but what they say and their seeds, in one batch.

    Item by item the result is the same as if it had been asked alone (up to the rounding of larger matrix products).

    Args:
        given: conditions or noise that are handed over instead of being made from the requests.

    Raises:
        ConfigError: the requests disagree in size or settings, or ask what the model cannot do.
    """
    began = clock.perf_counter()
    first = requests[0]
    settings, solver, grid = _way(model, finder, first)
    if any(_way_of(model, request) != _way_of(model, first) for request in requests):
        raise ConfigError("requests of one batch must agree in steps, solver, grid, guidance and size")
    seeds = [request.seed + k for request in requests for k in range(request.count)]
    halves = 1 if settings.guidance == 1 else 2
    blank = blank_tokens(model, model.task.extent(first), halves * len(seeds))
    noise = noise_of(model, blank.values.shape[1:], given, seeds)
    with model.at_work("conditioners"):
        said = condition_of(model, requests, given, settings.guidance)
    with model.at_work("backbone", "head"):
        velocity = _velocity(model, blank, said, settings.guidance, _scaled(model, finder, first))
        solution = integrate(velocity, noise, grid, solver, on_step)
    tokens = blank_tokens(model, model.task.extent(first), len(seeds)).with_values(solution.values)
    with model.at_work("autoencoder"):
        data = model.autoencoder.decode(model.tokenizer.latent(tokens))
    seconds = clock.perf_counter() - began
    return Result(data.float().cpu(), tuple(seeds), solution.evaluations, seconds, settings)


def _way_of(model: Model, request: Request) -> tuple[Any, ...]:
    way = (request.steps, request.solver, request.grid, request.guidance, request.extrapolation, request.proportional)
    return (*model.task.extent(request), *way)


def _way(model: Model, finder: Finder, request: Request) -> tuple[Settings, Solver, Tensor]:
    usual = model.recipe.sampling
    steps = request.steps if request.steps is not None else usual.steps
    guidance = request.guidance if request.guidance is not None else usual.guidance
    name = request.solver if request.solver is not None else usual.solver
    solver: Solver = finder.find("solver", name)
    # draws and grids are one kind of part; on the command line `shift` means the grid
    use = _chosen(request.grid, usual.grid, "_grid")
    grid: Grid = build(finder, "times", use)
    scaling = _extrapolation(model, request)
    said = None if scaling is None else scaling.use
    return Settings(steps, name, use.use, guidance, said, _proportional(model, request)), solver, grid(steps)


def _chosen(said: str | None, usual: Use, ending: str = "") -> Use:
    """The part that a request names, or the recipe's; the recipe's options serve where only its name is said."""
    if said is None:
        return usual
    use = named(said)
    if not use.use.endswith(ending):
        use = use.model_copy(update={"use": use.use + ending})
    same = use.use in (usual.use, usual.use.rpartition(".")[2])
    return usual if same and not use.options else use


def _extrapolation(model: Model, request: Request) -> Use | None:
    usual = model.recipe.sampling.extrapolation
    return usual if request.extrapolation is None else _chosen(request.extrapolation, usual or Use(use="core.none"))


def _proportional(model: Model, request: Request) -> int | None:
    asked = model.recipe.sampling.proportional if request.proportional is None else request.proportional
    if asked == 1:
        raise ConfigError(
            "proportional: 1 token in training has no logarithm to divide by; wanted 2 or more, or 0 for off"
        )
    return asked or None


def _scaled(model: Model, finder: Finder, request: Request) -> Scaled:
    """What fits attention to the canvas of a request, beside that of training."""
    use, proportional = _extrapolation(model, request), _proportional(model, request)
    if use is None:
        return Scaled(proportional=proportional)
    part: Extrapolation = build(finder, "extrapolation", use)
    sides = _trained(model, part, len(model.task.extent(request)))
    return Scaled(part, None if sides is None else blank_tokens(model, sides, 1), proportional)


def _trained(model: Model, part: Extrapolation, sides: int) -> Extent | None:
    if part.trained is None:
        known = getattr(model.task, "trained", None)
        return None if known is None else known()
    told = part.trained * sides if len(part.trained) == 1 else part.trained
    if len(told) != sides:
        raise ConfigError(f"extrapolation: trained has {len(told)} sizes; this model's data has {sides}")
    return told


def blank_tokens(model: Model, extent: Extent, batch: int) -> Tokens:
    """Tokens of zeros at the places of data of this extent, on the CPU.

    Raises:
        ConfigError: the model cannot do this extent; the message names the nearest that it can.
    """
    stride = model.autoencoder.stride
    uneven = [(side, step) for side, step in zip(extent, stride, strict=True) if side % step]
    if uneven:
        side, step = uneven[0]
        raise ConfigError(
            f"a side of {side} is no multiple of the autoencoder's {step}; try {max(1, round(side / step)) * step}"
        )
    try:
        return model.tokenizer.blank(batch, tuple(side // step for side, step in zip(extent, stride, strict=True)))
    except ShapeError as error:
        asked = " x ".join(map(str, extent))
        latent = f" (a latent is {' x '.join(map(str, stride))} times smaller)" if any(s > 1 for s in stride) else ""
        raise ConfigError(f"this model cannot do {asked}: {error}{latent}") from error


def _velocity(model: Model, blank: Tokens, condition: Condition, guidance: float, scaled: Scaled) -> Velocity:
    """The velocity of the way; with guidance `blank` and `condition` hold the silent half behind the other."""
    moved = Moved(model, blank, condition, scaled)
    return moved if guidance == 1 else Guided(moved, guidance, _guided_numbers(model))


def _guided_numbers(model: Model) -> slice | None:
    channels = model.recipe.sampling.guidance_channels
    if channels is None:
        return None
    # the numbers of a token are ordered by channel first
    return slice(0, channels * (model.tokenizer.width // model.autoencoder.channels))
