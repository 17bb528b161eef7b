"""How likely data is under a flow: the way back to noise, and what the volume around it grows by on the way."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.flow.solvers import Solution, Solver, integrate
from lumina_core.protocols import Velocity


def log_likelihood(
    velocity: Velocity,
    data: Tensor,
    schedule: Tensor,
    solver: Solver,
    sample_probe: Callable[[], Tensor],
    num_probes: int = 1,
) -> tuple[Tensor, Solution]:
    """log p(data) of each item in nats, and the solution whose values are the noise that the data came from.

    log p(x_1) = log N(x_0; 0, 1) - integral of div v dt (arXiv 1806.07366, FFJORD 1810.01367). The divergence is
    Hutchinson's: the mean of e . (dv/dx e) over probes e of zero mean and unit variance, the same along the whole way.

    Args:
        velocity: must be differentiable at x.
        data: (B, ...).
        grid: (steps + 1,) float64, rising; it is gone backwards.
        probes: gives one probe of the shape of `data`, for instance signs.
        count: probes an item; more are nearer the truth, each as dear as a backward pass.

    Raises:
        ConfigError: count is less than 1.
    """
    if num_probes < 1:
        raise ConfigError(f"a likelihood needs at least one probe; got {num_probes}")
    probe_list = [sample_probe() for _ in range(num_probes)]
    shape, num_dims = data.shape, data[0].numel()
    augmented = _AugmentedVelocity(velocity, probe_list, shape)
    # the integral travels as one more number an item, so that any solver will do
    state = torch.cat([data.flatten(1), data.new_zeros(len(data), 1)], dim=1)
    solution = integrate(augmented, state, schedule.flip(0), solver)
    noise, divergence_integral = solution.values[:, :-1], solution.values[:, -1]
    prior_log_prob = -0.5 * noise.double().square().sum(dim=1) - num_dims / 2 * math.log(2 * math.pi)
    # from data to noise the integral of the divergence has run the other way
    return prior_log_prob + divergence_integral.double(), Solution(noise.reshape(shape), solution.nfe, solution.steps)


class _AugmentedVelocity:
    """A velocity of x and, as its last number, of the divergence."""

    def __init__(self, velocity: Velocity, probes: list[Tensor], shape: torch.Size) -> None:
        self.velocity, self.probes, self.shape = velocity, probes, shape
        set_time = getattr(velocity, "set_time", None)
        if set_time is not None:
            self.set_time = set_time

    def __call__(self, state: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            x = state[:, :-1].detach().reshape(self.shape).requires_grad_()
            v = self.velocity(x, t)
            divergence = torch.zeros(len(x), dtype=state.dtype, device=state.device)
            for index, probe in enumerate(self.probes, start=1):
                retain_graph = index < len(self.probes)
                (vjp,) = torch.autograd.grad(v, x, probe, retain_graph=retain_graph)
                divergence = divergence + (vjp * probe).flatten(1).sum(dim=1) / len(self.probes)
        return torch.cat([v.detach().flatten(1), divergence[:, None]], dim=1)
