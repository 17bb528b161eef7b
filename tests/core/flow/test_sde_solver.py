"""Stochastic sampling: the distribution of the data for every diffusion form, with finite coefficients."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from core.flow.test_multistep_solvers import gaussian

from lumina_core.errors import ConfigError
from lumina_core.flow.path import DiffusionForm, GVPPath, LinearPath, VPPath, velocity_target
from lumina_core.flow.solvers import SDESolver, euler, heun, integrate

GRID = torch.linspace(0, 1, 41, dtype=torch.float64)


def solver(path=LinearPath, **options):
    return SDESolver(SDESolver.Config.read(options, "test"), path(path.Config()))


def ended(of, velocity=gaussian, count=4000, grid=GRID):
    """End points of many trajectories."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, generator=generator, dtype=torch.float64)
    found = integrate(velocity, x, grid, of, sample_noise=lambda: torch.randn(x.shape, generator=generator).double())
    return found.values, found


@pytest.mark.parametrize("form", get_args(DiffusionForm))
@pytest.mark.parametrize("method", ["euler", "heun"])
def test_every_diffusion_form_ends_at_the_data(form, method):
    values, found = ended(solver(diffusion_form=form, method=method))
    assert values.isfinite().all()
    assert float(values.mean()) == pytest.approx(2, abs=0.06)
    assert float(values.std()) == pytest.approx(0.5, abs=0.06)
    # the last step asks once, whatever the method
    assert found.nfe == (40 if method == "euler" else 2 * 39 + 1)


@pytest.mark.parametrize("last", ["tweedie", "euler", "mean", "none"])
@pytest.mark.parametrize("path", [LinearPath, GVPPath, VPPath])
@pytest.mark.parametrize("form", ["sbdm", "constant", "sigma"])
def test_every_path_form_and_last_step_is_finite_at_both_ends(path, form, last):
    road = path(path.Config())

    def velocity(x, t):  # to data that is always 2, from the noise that x has now
        at = torch.full_like(x, t).clamp(1e-3, 1 - 1e-3)
        noise = (x - 2 * road.alpha(at)) / road.sigma(at)
        return velocity_target(road, noise, torch.full_like(x, 2.0), at[:, 0])

    values, _ = ended(
        solver(path, diffusion_form=form, last_step=last), velocity, 16, torch.linspace(0, 1, 6, dtype=torch.float64)
    )
    assert values.isfinite().all()


def test_zero_diffusion_equals_the_ode():
    for method, plain in (("euler", euler), ("heun", heun)):
        got, _ = ended(solver(method=method, diffusion_norm=0, last_step="euler"), count=8)
        # the last step is Euler's in both
        grid = torch.cat([GRID[:-1]])
        x = torch.randn(8, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        expected = integrate(gaussian, integrate(gaussian, x, grid, plain).values, GRID[-2:], euler).values
        assert got.numpy() == pytest.approx(expected.numpy(), abs=1e-12)


def test_a_stochastic_solver_without_a_noise_source_is_refused():
    with pytest.raises(ConfigError, match="solver: got a stochastic solver without noise"):
        integrate(gaussian, torch.zeros(1, 1), GRID, solver())
