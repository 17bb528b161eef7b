"""Inversion: the noise of data under a model, the likelihood of data, and variations of data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.flow.likelihood import log_likelihood
from lumina_core.flow.solvers import integrate
from lumina_core.model import ComponentRegistry, Model, empty_tokens
from lumina_core.protocols import Velocity
from lumina_core.request import Request
from lumina_core.sampling.inputs import (
    NO_INPUTS,
    Item,
    PrecomputedInputs,
    check_values,
    encode_cond,
    encode_uncond,
    expand_requests,
)
from lumina_core.sampling.resolve import SamplingPlan, batch_key, resolve_sampling
from lumina_core.sampling.velocity import make_velocity
from lumina_core.types import Tokens


@dataclass(frozen=True)
class Inversion:
    """Noise of data.

    Attributes:
        noise: latents (B, channels, ...), to be passed as `PrecomputedInputs.noise`.
        nfe: number of evaluations.
    """

    noise: Tensor
    nfe: int


@dataclass(frozen=True)
class Likelihood:
    """Likelihood of data.

    Attributes:
        log_prob: log p of the latent of each item in nats, (B,).
        num_dims: numbers of a latent.
        noise: latents (B, channels, ...) of noise that the data come from.
        nfe: number of evaluations.
    """

    log_prob: Tensor
    num_dims: int
    noise: Tensor
    nfe: int

    @property
    def bits_per_dim(self) -> Tensor:
        """(B,) bits per number of the latent; less is likelier."""
        return -self.log_prob / (self.num_dims * math.log(2))


@torch.inference_mode()
def invert(model: Model, registry: ComponentRegistry, requests: Sequence[Request], data: Tensor) -> Inversion:
    """Integrate from data (B, channels, ...) in [-1, 1] to noise.

    The same requests with this noise generate the data again, up to the error of their solver and steps.

    Raises:
        ConfigError: the requests disagree, their solver needs noise, or the data are not finite.
        ShapeError: the data differ from the requests in size or number.
    """
    plan, velocity, tokens = velocity_of_requests(model, registry, requests)
    x = _encode_tokens(model, data, tokens)
    with model.onload("backbone", "head"):
        solution = integrate(velocity, x, plan.schedule.flip(0), plan.solver, max_nfe=plan.max_nfe)
    return Inversion(model.tokenizer.unpatchify(tokens.with_values(solution.values)), solution.nfe)


def likelihood(
    model: Model, registry: ComponentRegistry, requests: Sequence[Request], data: Tensor, probes: int = 1
) -> Likelihood:
    """Compute log p of data (B, channels, ...) under requests; probes are random signs from the requests' seeds.

    Raises:
        ConfigError: guidance is on (its samples have no known density), the requests disagree, or their solver needs
            noise.
        ShapeError: the data differ from the requests in size or number.
    """
    plan, velocity, tokens = velocity_of_requests(model, registry, requests)
    if plan.guidance.scale != 1:
        raise ConfigError(f"guidance_scale: got {plan.guidance.scale:g}, expected 1 for a likelihood.")
    with torch.no_grad():
        x = _encode_tokens(model, data, tokens)
    generators = [torch.Generator().manual_seed(one.seed) for request in requests for one in request.per_result()]

    def sample_probe() -> Tensor:
        rows = [torch.randint(0, 2, x.shape[1:], generator=generator) for generator in generators]
        return (2 * torch.stack(rows) - 1).to(x)

    with model.onload("backbone", "head"):
        log_prob, solution = log_likelihood(velocity, x, plan.schedule, plan.solver, sample_probe, probes)
    noise = model.tokenizer.unpatchify(tokens.with_values(solution.values))
    return Likelihood(log_prob, x[0].numel(), noise, solution.nfe)


@torch.no_grad()
def velocity_of_requests(
    model: Model, registry: ComponentRegistry, requests: Sequence[Request]
) -> tuple[SamplingPlan, Velocity, Tokens]:
    """Return plan, velocity and empty tokens (on the CPU) of requests of one size.

    Raises:
        ConfigError: the requests differ in size or settings.
    """
    items = expand_requests(model.generation_task, requests)
    if any((item.size, batch_key(item.request)) != (items[0].size, batch_key(items[0].request)) for item in items):
        raise ConfigError("requests: got several settings, expected equal steps, solver, schedule, guidance and size.")
    plan = resolve_sampling(model, registry, items[0].request)
    with model.onload("conditioners"):
        cond = encode_cond(model, items, NO_INPUTS)
        uncond = None if plan.guidance.scale == 1 else encode_uncond(model, items, NO_INPUTS)
    tokens = empty_tokens(model, items[0].size, len(items))
    with model.onload("backbone", "head"):
        return plan, make_velocity(model, plan.guidance, plan.attention, tokens, cond, uncond), tokens


def _encode_tokens(model: Model, data: Tensor, tokens: Tokens) -> Tensor:
    with model.onload("autoencoder"):
        latent = model.encode_data(data.to(model.device, model.dtype)).float()
    values = model.tokenizer.patchify(latent).values
    check_values(values, tokens.values.shape, "data")
    return values


def invert_for_variation(
    model: Model, registry: ComponentRegistry, items: Sequence[Item], inputs: PrecomputedInputs
) -> tuple[PrecomputedInputs, int]:
    """Return the inputs with the noise of the data that the items vary, and the number of evaluations.

    The inversion uses the items' own solver and steps, without guidance. A share s of new noise e is mixed as
    sqrt(1 - s^2) n + s e, which keeps the variance.

    Raises:
        ConfigError: only some items vary data, or noise is passed in.
    """
    variations = [item.variation for item in items if item.variation is not None]
    if not variations:
        return inputs, 0
    if len(variations) < len(items) or inputs.noise is not None:
        raise ConfigError("variation_of: got it for some requests of a batch or together with noise, expected neither.")
    requests = [
        item.request.model_copy(update={**variation.cond_fields, "guidance_scale": 1.0})
        for item, variation in zip(items, variations, strict=True)
    ]
    inversion = invert(model, registry, requests, torch.stack([variation.data for variation in variations]))
    mixed = []
    for noise, variation, item in zip(inversion.noise, variations, items, strict=True):
        fresh_noise = torch.randn(noise.shape, generator=torch.Generator().manual_seed(item.request.seed)).to(noise)
        mixed.append((1 - variation.noise_fraction**2) ** 0.5 * noise + variation.noise_fraction * fresh_noise)
    return replace(inputs, noise=torch.stack(mixed)), inversion.nfe
