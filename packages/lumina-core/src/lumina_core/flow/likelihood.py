"""Likelihood of data under a flow, by integration from data to noise."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.flow.solvers import Solution, integrate
from lumina_core.protocols import Solver, SolverStep, Velocity


def log_likelihood(
    velocity: Velocity,
    data: Tensor,
    schedule: Tensor,
    solver: Solver | SolverStep,
    sample_probe: Callable[[], Tensor],
    num_probes: int = 1,
) -> tuple[Tensor, Solution]:
    """Return log p(data) of each item in nats, and the solution, whose values are the noise of the data.

    log p(x_1) = log N(x_0; 0, 1) - integral of div v dt (arXiv 1806.07366, FFJORD 1810.01367). The divergence is
    estimated as the mean of e . (dv/dx e) over probes e of zero mean and unit variance, the same at every time.

    Args:
        velocity: differentiable with respect to x.
        data: (B, ...).
        schedule: (steps + 1,) float64, rising; the integration runs from 1 to 0.
        solver: a deterministic solver.
        sample_probe: draws one probe of the shape of `data`, for instance random signs.
        num_probes: probes per item; more are more exact, each costs a backward pass.

    Raises:
        ConfigError: num_probes is less than 1.
    """
    if num_probes < 1:
        raise ConfigError(f"probes: got {num_probes}, expected at least 1.")
    probes = [sample_probe() for _ in range(num_probes)]
    shape, num_dims = data.shape, data[0].numel()

    def augmented_velocity(state: Tensor, t: float) -> Tensor:
        """Return the velocity of x and, as its last number, the divergence."""
        with torch.enable_grad():
            x = state[:, :-1].detach().reshape(shape).requires_grad_()
            v = velocity(x, t)
            divergence = torch.zeros(len(x), dtype=state.dtype, device=state.device)
            for index, probe in enumerate(probes, start=1):
                (vjp,) = torch.autograd.grad(v, x, probe, retain_graph=index < num_probes)
                divergence = divergence + (vjp * probe).flatten(1).sum(dim=1) / num_probes
        return torch.cat([v.detach().flatten(1), divergence[:, None]], dim=1)

    # the integral of the divergence is one more number per item, so that any solver can be used
    state = torch.cat([data.flatten(1), data.new_zeros(len(data), 1)], dim=1)
    solution = integrate(augmented_velocity, state, schedule.flip(0), solver)
    noise, divergence_integral = solution.values[:, :-1], solution.values[:, -1]
    prior_log_prob = -0.5 * noise.double().square().sum(dim=1) - num_dims / 2 * math.log(2 * math.pi)
    # the integration from data to noise has the opposite sign
    return prior_log_prob + divergence_integral.double(), Solution(noise.reshape(shape), solution.nfe, solution.steps)
