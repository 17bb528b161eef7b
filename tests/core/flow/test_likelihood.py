"""Likelihood by integration to noise, compared with the density of Gaussians."""

from __future__ import annotations

import math

import pytest
import torch
from core.flow.test_multistep_solvers import gaussian

from lumina_core.errors import ConfigError
from lumina_core.flow.likelihood import log_likelihood
from lumina_core.flow.solvers import integrate, rk4

GRID = torch.linspace(0, 1, 33, dtype=torch.float64)


def signs(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randint(0, 2, shape, generator=generator).double() * 2 - 1


def test_the_log_density_and_noise_of_a_gaussian_are_exact():
    data = torch.tensor([[2.0, 1.0, 2.5], [3.0, 2.0, 2.0]], dtype=torch.float64)
    found, result = log_likelihood(gaussian, data, GRID, rk4, signs(data.shape))
    exact = (-0.5 * ((data - 2) / 0.5) ** 2 - math.log(0.5) - 0.5 * math.log(2 * math.pi)).sum(dim=1)
    assert found.numpy() == pytest.approx(exact.numpy(), abs=1e-3)
    assert result.values.numpy() == pytest.approx(((data - 2) / 0.5).numpy(), abs=1e-3)
    assert result.nfe == 4 * 32


def test_more_probes_reduce_the_error_of_the_trace_estimate():
    turn = torch.tensor([[0.5, 2.0], [1.0, -0.3]], dtype=torch.float64)
    data = torch.tensor([[0.5, -1.0]], dtype=torch.float64)

    def velocity(x, t):
        return x @ turn.T

    def off(count):
        found, result = log_likelihood(velocity, data, GRID, rk4, signs(data.shape, 3), count)
        normal = -0.5 * float(result.values.square().sum()) - math.log(2 * math.pi)
        return abs(float(found) - (normal - float(turn.trace())))

    assert off(400) < 0.2 < off(1)


def test_integration_to_noise_and_back_restores_the_data():
    data = torch.tensor([[2.2], [1.1]], dtype=torch.float64)
    noise = integrate(gaussian, data, GRID.flip(0), rk4).values
    assert integrate(gaussian, noise, GRID, rk4).values.numpy() == pytest.approx(data.numpy(), abs=1e-3)


def test_zero_probes_are_refused():
    with pytest.raises(ConfigError, match="probes: got 0, expected at least 1"):
        log_likelihood(gaussian, torch.zeros(1, 1), GRID, rk4, signs((1, 1)), 0)
