"""Likelihood: the way back to noise and its volume, against Gaussians whose density is known."""

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


def test_the_density_of_a_gaussian_comes_out_and_its_noise():
    data = torch.tensor([[2.0, 1.0, 2.5], [3.0, 2.0, 2.0]], dtype=torch.float64)
    found, way = log_likelihood(gaussian, data, GRID, rk4, signs(data.shape))
    wanted = (-0.5 * ((data - 2) / 0.5) ** 2 - math.log(0.5) - 0.5 * math.log(2 * math.pi)).sum(dim=1)
    assert found.numpy() == pytest.approx(wanted.numpy(), abs=1e-3)
    assert way.values.numpy() == pytest.approx(((data - 2) / 0.5).numpy(), abs=1e-3)
    assert way.nfe == 4 * 32


def test_more_probes_come_nearer_where_directions_mix():
    turn = torch.tensor([[0.5, 2.0], [1.0, -0.3]], dtype=torch.float64)
    data = torch.tensor([[0.5, -1.0]], dtype=torch.float64)

    def velocity(x, t):
        return x @ turn.T

    def off(count):
        found, way = log_likelihood(velocity, data, GRID, rk4, signs(data.shape, 3), count)
        normal = -0.5 * float(way.values.square().sum()) - math.log(2 * math.pi)
        return abs(float(found) - (normal - float(turn.trace())))

    assert off(400) < 0.2 < off(1)


def test_data_goes_to_noise_and_back():
    data = torch.tensor([[2.2], [1.1]], dtype=torch.float64)
    noise = integrate(gaussian, data, GRID.flip(0), rk4).values
    assert integrate(gaussian, noise, GRID, rk4).values.numpy() == pytest.approx(data.numpy(), abs=1e-3)


def test_no_probe_is_refused():
    with pytest.raises(ConfigError, match="probes: got 0, expected at least 1"):
        log_likelihood(gaussian, torch.zeros(1, 1), GRID, rk4, signs((1, 1)), 0)
