"""Request -> data, for every modality: noise in the right places, a velocity, a solver along a grid, and back."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lumina_core.conditions import stack
from lumina_core.errors import ConfigError
from lumina_core.flow.path import mix
from lumina_core.flow.solver import Solution, integrate
from lumina_core.flow.times import cut
from lumina_core.given import NOTHING_GIVEN, Draws, Given, condition_of, noise_of, silence_of
from lumina_core.model import Finder, Model
from lumina_core.motion import Guided, Moved
from lumina_core.parts import Velocity
from lumina_core.request import Request
from lumina_core.types import Condition, check_shape
from lumina_core.way import Settings, Way, agreed, blank_tokens, way_of

OnStep = Callable[[int, float, Tensor], "bool | Tensor | None"]
"""(steps done, time reached, values (B, N, D)) -> True to stop there, or other values to go on with."""


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
        on_step: sees every step; may stop the way, or give other values to go on with.
        given: conditions, noise or data to begin from that are handed over instead of being made from the requests.

    Raises:
        ConfigError: the requests disagree in size or settings, or ask what the model cannot do.
    """
    began = clock.perf_counter()
    first = requests[0]
    way = way_of(model, finder, first)
    if any(agreed(model, request) != agreed(model, first) for request in requests):
        raise ConfigError("requests of one batch must agree in steps, solver, grid, guidance and size")
    seeds = [request.seed + k for request in requests for k in range(request.count)]
    places = blank_tokens(model, model.task.extent(first), len(seeds))
    draws = Draws(places.values.shape[1:], seeds, model.device)
    x, grid = _start(model, given, way.grid, noise_of(model, given, draws))
    with model.at_work("conditioners"):
        said = condition_of(model, requests, given)
        silent = None if way.guiding.scale == 1 else silence_of(model, requests, given)
    with model.at_work("backbone", "head"):
        velocity = velocity_of(model, way, len(seeds), model.task.extent(first), said, silent)
        solution = _gone(velocity, x, grid, way, on_step, draws)
    with model.at_work("autoencoder"):
        data = model.autoencoder.decode(model.tokenizer.latent(places.with_values(solution.values)))
    seconds = clock.perf_counter() - began
    return Result(data.float().cpu(), tuple(seeds), solution.evaluations, seconds, way.settings)


def velocity_of(
    model: Model, way: Way, batch: int, extent: tuple[int, ...], said: Condition, silent: Condition | None
) -> Velocity:
    """The velocity of a batch: of what is said alone, or guided away from `silent`."""

    def half(condition: Condition) -> Callable[[], Moved]:
        return lambda: Moved(model, blank_tokens(model, extent, batch), condition, way.scaled)

    if silent is None:
        return half(said)()

    def both() -> Moved:
        return Moved(model, blank_tokens(model, extent, 2 * batch), stack([said, silent]), way.scaled)

    return Guided(half(said), half(silent), both, way.guiding)


def _start(model: Model, given: Given, grid: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """What the way begins with, and the times that it still has to go."""
    if given.data is None:
        return noise, grid
    left = cut(grid, given.strength)
    with model.at_work("autoencoder"):
        latent = model.autoencoder.encode(given.data.to(model.device, model.dtype)).float()
    known = model.tokenizer.tokens(latent).values
    if len(known) == 1:
        known = known.expand(len(noise), -1, -1)
    check_shape(known, noise.shape, "the given data, cut into tokens,")
    path = getattr(model.objective, "path", None)
    if path is None:
        raise ConfigError("this model's objective names no path, so nobody knows how data and noise are mixed on it")
    return mix(path, noise, known, noise.new_full((len(noise),), float(left[0]))), left


def _gone(velocity: Velocity, x: Tensor, grid: Tensor, way: Way, on_step: OnStep | None, draws: Draws) -> Solution:
    if len(grid) == 1:  # a strength of 0: nothing is to change
        return Solution(x, 0, 0)
    return integrate(velocity, x, grid, way.solver, on_step, draws, way.limit)
