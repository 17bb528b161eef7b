"""The way back, from data to noise: the noise that a model would make data from, and how likely data is to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.flow.likelihood import log_likelihood
from lumina_core.flow.solvers import integrate
from lumina_core.model import ComponentRegistry, Model
from lumina_core.protocols import Velocity
from lumina_core.request import Request
from lumina_core.sampling.generate import make_velocity
from lumina_core.sampling.inputs import NO_INPUTS, PrecomputedInputs, check_values, encode_cond, encode_uncond
from lumina_core.sampling.resolve import SamplingPlan, batch_key, empty_tokens, resolve_sampling
from lumina_core.types import Tokens


@dataclass(frozen=True)
class Inversion:
    """The noise that data comes from: latents (B, channels, ...), to be handed to `Given.noise`, and what it took."""

    noise: Tensor
    nfe: int


@dataclass(frozen=True)
class Likelihood:
    """log p of each item's latent in nats (B,), its count of numbers, the noise it comes from, and what it took."""

    log_prob: Tensor
    num_dims: int
    noise: Tensor
    nfe: int

    @property
    def bits_per_dim(self) -> Tensor:
        """Bits a number of the latent needs, (B,); less is likelier."""
        return -self.log_prob / (self.num_dims * math.log(2))


@torch.inference_mode()
def invert(model: Model, registry: ComponentRegistry, requests: Sequence[Request], data: Tensor) -> Inversion:
    """Go back along the way of these requests, from data (B, channels, ...) in [-1, 1] to noise.

    The same requests with this noise lead to the data again, as nearly as their solver and steps allow.

    Raises:
        ConfigError: the requests disagree, their solver needs noise, or not every value of the data is a number.
        ShapeError: the data is not of the requests' size and number.
    """
    plan, velocity, tokens = _prepare_inversion(model, registry, requests)
    x = _encode_tokens(model, data, tokens)
    solution = integrate(velocity, x, plan.schedule.flip(0), plan.solver, max_nfe=plan.max_nfe)
    return Inversion(model.tokenizer.unpatchify(tokens.with_values(solution.values)), solution.nfe)


def likelihood(
    model: Model, registry: ComponentRegistry, requests: Sequence[Request], data: Tensor, probes: int = 1
) -> Likelihood:
    """log p of data under what the requests say, by the way back; probes are signs drawn by the requests' seeds.

    Raises:
        ConfigError: guidance is on (what it draws from has no known density), the requests disagree, or their solver
            needs noise.
        ShapeError: the data is not of the requests' size and number.
    """
    plan, velocity, tokens = _prepare_inversion(model, registry, requests)
    if plan.guidance.scale != 1:
        raise ConfigError(
            f"a likelihood is of the flow without guidance; ask with guidance 1, not {plan.guidance.scale:g}"
        )
    with torch.no_grad():
        x = _encode_tokens(model, data, tokens)
    generators = [torch.Generator().manual_seed(request.seed + k) for request in requests for k in range(request.count)]

    def draw_probe() -> Tensor:
        rows = [torch.randint(0, 2, x.shape[1:], generator=generator) for generator in generators]
        return (2 * torch.stack(rows) - 1).to(x)

    log_prob, solution = log_likelihood(velocity, x, plan.schedule, plan.solver, draw_probe, probes)
    noise = model.tokenizer.unpatchify(tokens.with_values(solution.values))
    return Likelihood(log_prob, x[0].numel(), noise, solution.nfe)


def _prepare_inversion(
    model: Model, registry: ComponentRegistry, requests: Sequence[Request]
) -> tuple[SamplingPlan, Velocity, Tokens]:
    first = requests[0]
    plan, size = resolve_sampling(model, registry, first), model.generation_task.size(first)
    keys = [(model.generation_task.size(request), batch_key(request)) for request in requests]
    if any(key != keys[0] for key in keys):
        raise ConfigError("requests of one batch must agree in steps, solver, grid, guidance and size")
    count = sum(request.count for request in requests)
    with torch.no_grad():
        cond = encode_cond(model, requests, NO_INPUTS)
        uncond = None if plan.guidance.scale == 1 else encode_uncond(model, requests, NO_INPUTS)
        tokens = empty_tokens(model, size, count)
        velocity = make_velocity(model, plan, tokens, cond, uncond)
    return plan, velocity, tokens


def _encode_tokens(model: Model, data: Tensor, tokens: Tokens) -> Tensor:
    latent = model.autoencoder.encode(data.to(model.device, model.dtype)).float()
    values = model.tokenizer.patchify(latent).values
    check_values(values, tokens.values.shape, "the given data")
    return values


def invert_for_variation(
    model: Model, registry: ComponentRegistry, requests: Sequence[Request], inputs: PrecomputedInputs
) -> tuple[PrecomputedInputs, int]:
    """What is given, with the noise of the data that the requests vary; and the evaluations that it took.

    The data go to noise by the requests' own solver and steps, without guidance: that way back is the exact one. New
    noise e by a share s mixes as sqrt(1 - s^2) n + s e, which is as much noise as n.

    Raises:
        ConfigError: some of the requests vary data and others do not, noise is given as well, or it is refused.
    """
    per_request = [model.generation_task.variation(request) for request in requests]
    variations = [variation for variation in per_request if variation is not None]
    if not variations:
        return inputs, 0
    if len(variations) < len(per_request) or inputs.noise is not None:
        raise ConfigError("requests of one batch must all vary data, or none of them, and then no noise is given")
    rows = [variation for variation, request in zip(variations, requests, strict=True) for _ in range(request.count)]
    source_requests = [
        request.model_copy(update={**variation.cond_fields, "guidance_scale": 1.0})
        for variation, request in zip(variations, requests, strict=True)
    ]
    inversion = invert(model, registry, source_requests, torch.stack([variation.data for variation in rows]))
    seeds = [request.seed + k for request in requests for k in range(request.count)]
    mixed = []
    for noise, variation, seed in zip(inversion.noise, rows, seeds, strict=True):
        fresh_noise = torch.randn(noise.shape, generator=torch.Generator().manual_seed(seed)).to(noise)
        mixed.append((1 - variation.noise_fraction**2) ** 0.5 * noise + variation.noise_fraction * fresh_noise)
    return replace(inputs, noise=torch.stack(mixed)), inversion.nfe
