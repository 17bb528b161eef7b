"""Diffusion: drift, variance and score together are the velocity."""

from __future__ import annotations

import math

import pytest
import torch

from lumina_core.errors import ConfigError
from lumina_core.flow.path import (
    GVPPath,
    LinearPath,
    VPPath,
    compute_diffusion,
    compute_drift,
    convert_prediction,
    sample_x_t,
    velocity_target,
)

TIMES = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)


@pytest.mark.parametrize("path", [LinearPath(LinearPath.Config()), GVPPath(GVPPath.Config()), VPPath(VPPath.Config())])
def test_the_velocity_is_the_variance_times_the_score_less_the_drift(path):
    noise, data = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise, data = noise[..., None], data[..., None]
    x, velocity = sample_x_t(path, noise, data, TIMES), velocity_target(path, noise, data, TIMES)
    drifted, variance = compute_drift(path, x, TIMES)
    score = convert_prediction(path, velocity, x, TIMES, "velocity", "score")
    assert (variance * score - drifted).numpy() == pytest.approx(velocity.numpy(), rel=1e-9, abs=1e-9)


def test_diffusion_forms_have_the_values_of_their_formulas():
    path, x = LinearPath(LinearPath.Config()), torch.zeros(3, 2, 1, dtype=torch.float64)
    found = {f: compute_diffusion(path, x, TIMES, f, 2.0)[:, 0, 0].tolist() for f in ("constant", "sigma", "linear")}
    assert found["constant"] == [2.0, 2.0, 2.0]
    assert found["sigma"] == pytest.approx([1.8, 1.0, 0.2])
    assert found["linear"] == pytest.approx([1.8, 1.0, 0.2])
    waves = [compute_diffusion(path, x, TIMES, f, 1.0)[1, 0, 0] for f in ("decreasing", "increasing_decreasing")]
    assert [float(wave) for wave in waves] == pytest.approx([0.25 * (math.cos(math.pi / 2) + 1) ** 2, 1.0])
    # of a straight path (alpha'/alpha) sigma^2 - sigma sigma' = sigma / t
    assert compute_diffusion(path, x, TIMES, "sbdm", 1.0)[:, 0, 0].tolist() == pytest.approx([9.0, 1.0, 1 / 9])


def test_an_unknown_diffusion_form_is_refused_with_a_list_of_forms():
    with pytest.raises(ConfigError, match=r"'heat', expected one of constant, sbdm"):
        compute_diffusion(LinearPath(LinearPath.Config()), torch.zeros(1, 1, 1), torch.zeros(1), "heat")
