"""The way back, from data to noise: the noise that a model would make data from, and how likely data is to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.flow.likelihood import log_likelihood
from lumina_core.flow.solver import integrate
from lumina_core.model import Finder, Model
from lumina_core.parts import Velocity
from lumina_core.request import Request
from lumina_core.sampling.generate import velocity_of
from lumina_core.sampling.given import NOTHING_GIVEN, check_values, condition_of, silence_of
from lumina_core.sampling.way import Way, agreed, blank_tokens, way_of
from lumina_core.types import Tokens


@dataclass(frozen=True)
class Inversion:
    """The noise that data comes from: latents (B, channels, ...), to be handed to `Given.noise`, and what it took."""

    noise: Tensor
    evaluations: int


@dataclass(frozen=True)
class Likelihood:
    """log p of each item's latent in nats (B,), its count of numbers, the noise it comes from, and what it took."""

    nats: Tensor
    numbers: int
    noise: Tensor
    evaluations: int

    @property
    def bits(self) -> Tensor:
        """Bits a number of the latent needs, (B,); less is likelier."""
        return -self.nats / (self.numbers * math.log(2))


@torch.inference_mode()
def invert(model: Model, finder: Finder, requests: Sequence[Request], data: Tensor) -> Inversion:
    """Go back along the way of these requests, from data (B, channels, ...) in [-1, 1] to noise.

    The same requests with this noise lead to the data again, as nearly as their solver and steps allow.

    Raises:
        ConfigError: the requests disagree, their solver needs noise, or not every value of the data is a number.
        ShapeError: the data is not of the requests' size and number.
    """
    way, velocity, places = _way_back(model, finder, requests)
    x = _tokens(model, data, places)
    solution = integrate(velocity, x, way.grid.flip(0), way.solver, limit=way.limit)
    return Inversion(model.tokenizer.latent(places.with_values(solution.values)), solution.evaluations)


def likelihood(model: Model, finder: Finder, requests: Sequence[Request], data: Tensor, probes: int = 1) -> Likelihood:
    """log p of data under what the requests say, by the way back; probes are signs drawn by the requests' seeds.

    Raises:
        ConfigError: guidance is on (what it draws from has no known density), the requests disagree, or their solver
            needs noise.
        ShapeError: the data is not of the requests' size and number.
    """
    way, velocity, places = _way_back(model, finder, requests)
    if way.guiding.scale != 1:
        raise ConfigError(
            f"a likelihood is of the flow without guidance; ask with guidance 1, not {way.guiding.scale:g}"
        )
    with torch.no_grad():
        x = _tokens(model, data, places)
    generators = [torch.Generator().manual_seed(request.seed + k) for request in requests for k in range(request.count)]

    def signs() -> Tensor:
        drawn = [torch.randint(0, 2, x.shape[1:], generator=generator) for generator in generators]
        return (2 * torch.stack(drawn) - 1).to(x)

    found, solution = log_likelihood(velocity, x, way.grid, way.solver, signs, probes)
    noise = model.tokenizer.latent(places.with_values(solution.values))
    return Likelihood(found, x[0].numel(), noise, solution.evaluations)


def _way_back(model: Model, finder: Finder, requests: Sequence[Request]) -> tuple[Way, Velocity, Tokens]:
    first = requests[0]
    way, extent = way_of(model, finder, first), model.task.extent(first)
    alike = [(model.task.extent(request), agreed(request)) for request in requests]
    if any(one != alike[0] for one in alike):
        raise ConfigError("requests of one batch must agree in steps, solver, grid, guidance and size")
    count = sum(request.count for request in requests)
    with torch.no_grad():
        said = condition_of(model, requests, NOTHING_GIVEN)
        silent = None if way.guiding.scale == 1 else silence_of(model, requests, NOTHING_GIVEN)
        places = blank_tokens(model, extent, count)
        velocity = velocity_of(model, way, places, said, silent)
    return way, velocity, places


def _tokens(model: Model, data: Tensor, places: Tokens) -> Tensor:
    latent = model.autoencoder.encode(data.to(model.device, model.dtype)).float()
    values = model.tokenizer.tokens(latent).values
    check_values(values, places.values.shape, "the given data")
    return values
