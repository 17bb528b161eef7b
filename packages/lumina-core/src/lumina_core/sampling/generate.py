"""Request -> data, for every modality: noise in the right places, a velocity, a solver along a grid, and back."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lumina_core.conditions import stack
from lumina_core.errors import ConfigError
from lumina_core.flow.solver import Solution, integrate
from lumina_core.model import Finder, Model
from lumina_core.parts import Velocity
from lumina_core.request import Request
from lumina_core.sampling.given import NOTHING_GIVEN, Draws, Given, condition_of, noise_of, silence_of
from lumina_core.sampling.known import Begun, begin, known_of
from lumina_core.sampling.motion import Guided, Moved, twice
from lumina_core.sampling.reach import check_reach
from lumina_core.sampling.regional import said_in_regions
from lumina_core.sampling.seen import Seen, Watched
from lumina_core.sampling.sizes import Sizes, one_size, sizes_of
from lumina_core.sampling.way import Settings, Way, agreed, way_of
from lumina_core.types import Condition, Known, Tokens, stack_tokens

OnStep = Callable[[Seen], "bool | Tensor | None"]
"""Sees a step; answers True to stop there, or other values (B, N, D) to go on with."""


@dataclass(frozen=True)
class Result:
    """What came of one batch: data (B, channels, ...) in about [-1, 1], and what it took.

    Results of several sizes stand in data as large as the largest, zeros behind them: `items()` has each in its own.
    """

    data: Tensor
    seeds: tuple[int, ...]
    evaluations: int
    seconds: float
    settings: Settings
    stopped: float | None = None
    """The time at which it was stopped; None: it went to its end."""
    sizes: Sizes | None = None
    """Of the results, where they differ; None: all are as large as `data`."""

    reused: tuple[float, ...] | None = None
    """Of the evaluations, how many each result did without the blocks, a half of guidance counting a half; None: no
    step cache was asked for."""

    def items(self) -> list[Tensor]:
        """The data of each result in its own size, (channels, ...)."""
        return list(self.data) if self.sizes is None else self.sizes.items(self.data)

    def record(self) -> dict[str, Any]:
        """What belongs beside the data; nothing that differs when the same is asked again."""
        settings = {key: value for key, value in asdict(self.settings).items() if value is not None}
        stopped = {} if self.stopped is None else {"stopped_at": self.stopped}
        return {"evaluations": self.evaluations, "settings": settings, **stopped}


@torch.inference_mode()
def generate(
    model: Model, finder: Finder, requests: Sequence[Request], on_step: OnStep | None = None,
    given: Given = NOTHING_GIVEN,
) -> Result:  # fmt: skip
    """Answer requests that agree in everything but what they say, their sizes and their seeds, in one batch.

    Item by item the result is the same as if it had been asked alone (up to the rounding of larger matrix products).

    Args:
        on_step: sees every step; may stop the way, or give other values to go on with. Of a way that was stopped the
            result is what the last step foretells: the same as its `data`.
        given: conditions, noise or data to begin from that are handed over instead of being made from the requests.

    Raises:
        ConfigError: the requests disagree in settings, or ask what the model cannot do.
    """
    began = clock.perf_counter()
    first = requests[0]
    way = way_of(model, finder, first)
    if any(agreed(request) != agreed(first) for request in requests):
        raise ConfigError("requests of one batch must agree in steps, solver, grid and guidance")
    seeds = [request.seed + k for request in requests for k in range(request.count)]
    sizes, known = _sizes(model, requests, given, way)
    places = sizes.blank(model)
    draws = Draws(places, seeds, model.device)
    begun = begin(model, known, sizes.filled[0], way.grid, noise_of(model, given, draws))
    watched = Watched(model, begun, places, sizes, on_step)
    regional = partial(one_size, sizes.filled, "results of which parts are described")
    with model.at_work("conditioners"):
        said = condition_of(model, requests, given)
        silent = None if way.guiding.scale == 1 or given.weaker else silence_of(model, requests, given)
        if given.said is None:
            said, silent = said_in_regions(model, requests, said, silent, regional)
    with model.at_work("backbone", "head"):
        if given.weaker is not None and way.guiding.scale != 1:
            same = condition_of(given.weaker, requests, given)
            if given.said is None:
                same, _ = said_in_regions(given.weaker, requests, same, None, regional)
            plain: Velocity = _led_from(given.weaker, model, way, places, said, same)
        else:
            plain = velocity_of(model, way, places, said, silent)
        solution = _gone(begun.velocity(plain), begun, way, watched, draws)
    data = watched.decoded(solution.values) if watched.last is None else watched.last.data
    seconds = clock.perf_counter() - began
    return Result(
        data.float().cpu(), tuple(seeds), solution.evaluations, seconds, way.settings, watched.stopped, sizes,
        _reused(plain, solution.evaluations),
    )  # fmt: skip


def _reused(velocity: Velocity, evaluations: int) -> tuple[float, ...] | None:
    saved = velocity.saved() if isinstance(velocity, Moved | Guided) else None
    if saved is None:
        return None
    asked, reused = saved
    return tuple(round(evaluations * share, 2) for share in (reused / asked).tolist())


def _sizes(model: Model, requests: Sequence[Request], given: Given, way: Way) -> tuple[Sizes, Known | None]:
    """How large all results are, and what they begin from."""
    sizes = sizes_of(model, requests)
    for extent in dict.fromkeys(sizes.asked):
        check_reach(model, requests[0], extent)
    known = known_of(model, requests, given, partial(one_size, sizes.asked, "results that begin from data"))
    if hasattr(way.solver, "solve"):
        one_size(sizes.filled, "results of a solver that chooses its own steps")
    return (sizes if known is None else sizes_of(model, requests, filled_up=True)), known


def velocity_of(model: Model, way: Way, places: Tokens, said: Condition, silent: Condition | None) -> Velocity:
    """The velocity of a batch at places on the CPU: of what is said alone, or guided away from `silent`."""

    def half(condition: Condition) -> Callable[[], Moved]:
        return lambda: Moved(model, places, condition, way.scaled)

    if silent is None:
        return half(said)()

    def both() -> Moved:
        return Moved(model, twice(places), stack([said, silent]), way.scaled)

    return _guided(Guided(half(said), half(silent), both, way.guiding), places, model)


def _guided(guided: Guided, places: Tokens, model: Model) -> Guided:
    guided.real = None if places.mask is None else places.mask.to(model.device)
    return guided


def _led_from(weaker: Model, model: Model, way: Way, places: Tokens, said: Condition, same: Condition) -> Velocity:
    """Guided away from what a weaker model answers to the same words."""
    blank = [weaker.tokenizer.blank(1, extent) for extent in places.extents]
    others = stack_tokens(blank)
    if places.values.shape != others.values.shape:
        raise ConfigError(
            f"the weaker model's tokens are {tuple(others.values.shape[1:])}, this model's "
            f"{tuple(places.values.shape[1:])}: autoguidance needs two models of the same latents and patches"
        )
    halves = Guided(
        lambda: Moved(model, places, said, way.scaled),
        lambda: Moved(weaker, others, same, way.scaled),
        None,
        way.guiding,
    )
    return _guided(halves, places, model)


def _gone(velocity: Velocity, begun: Begun, way: Way, watched: Watched, draws: Draws) -> Solution:
    if len(begun.grid) == 1:  # a strength of 0: nothing is to change
        return Solution(begun.x, 0, 0)
    watched.steps = None if way.settings.steps is None else len(begun.grid) - 1
    return integrate(velocity, begun.x, begun.grid, way.solver, watched, draws, way.limit)
