"""A grid of times fitted to a model by how quickly its velocity turns, and how a grid is kept in its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lumina_core.errors import CheckpointError
from lumina_core.files import whole_file
from lumina_core.flow.grids import fitted_times
from lumina_core.flow.solver import euler, integrate
from lumina_core.flow.times import equal_steps
from lumina_core.folders import CONFIG, read_config
from lumina_core.model import Finder, Model
from lumina_core.parts import Velocity
from lumina_core.request import Request
from lumina_core.sampling.generate import velocity_of
from lumina_core.sampling.given import NOTHING_GIVEN, Draws, condition_of, silence_of
from lumina_core.sampling.way import blank_tokens, way_of

FINE = 64
"""Steps of the ways that are measured."""


class _Measured:
    """A velocity that remembers how far it has turned from one time to the next."""

    def __init__(self, velocity: Velocity) -> None:
        self.velocity = velocity
        self.turned: list[Tensor] = []
        self.before: Tensor | None = None
        at = getattr(velocity, "at", None)
        if at is not None:
            self.at = at

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        now = self.velocity(x, time)
        if self.before is not None:
            self.turned.append((now - self.before).square().mean().sqrt())
        self.before = now
        return now


@torch.inference_mode()
def fit_grid(model: Model, finder: Finder, requests: Sequence[Request], fine: int = FINE) -> tuple[float, ...]:
    """Times at equal shares of the steps, measured along `fine` Euler steps of these requests, with their guidance.

    Returns:
        From 0 to 1, rising (SharpEuler, arXiv 2605.11547).

    Raises:
        ConfigError: the model cannot do the requests, or answers with no numbers.
    """
    return sharp_times(*ways_of(model, finder, requests), fine)


def ways_of(model: Model, finder: Finder, requests: Sequence[Request]) -> tuple[Velocity, Tensor]:
    """The velocity of requests in one batch, all of one size and guidance, and the noises (B, N, D) they begin from."""
    plain = {"solver": "core.euler", "grid": "uniform", "step_cache": "none", "evaluations": None, "steps": None}
    asked = [request.model_copy(update=plain) for request in requests]
    way, extent = way_of(model, finder, asked[0]), model.task.extent(asked[0])
    said = condition_of(model, asked, NOTHING_GIVEN)
    silent = None if way.guiding.scale == 1 else silence_of(model, asked, NOTHING_GIVEN)
    seeds = [request.seed + k for request in asked for k in range(request.count)]
    places = blank_tokens(model, extent, len(seeds))
    return velocity_of(model, way, places, said, silent), Draws(places, seeds, model.device)()


def sharp_times(velocity: Velocity, noise: Tensor, fine: int = FINE) -> tuple[float, ...]:
    """Times at equal shares of the steps, by how far a velocity turns along `fine` Euler steps from noise (B, ...)."""
    measured = _Measured(velocity)
    integrate(measured, noise, equal_steps(fine), euler)
    # the last interval has no velocity at its end: it is taken to turn as much as the one before
    turned = torch.stack([*measured.turned, measured.turned[-1]]).tolist()
    return fitted_times([value * fine for value in turned])


def keep_grid(folder: Path, values: tuple[float, ...]) -> None:
    """Write a fitted grid into the config.json of a model folder, whole or not at all.

    Raises:
        CheckpointError: the folder is no model folder of ours, or cannot be written to.
    """
    read_config(folder)
    path = folder / CONFIG
    content = json.loads(path.read_text(encoding="utf-8"))
    content["recipe"].setdefault("sampling", {})["fitted"] = list(values)
    try:
        with whole_file(path) as partial:
            partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error
