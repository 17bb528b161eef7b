"""Inversion: noise that reconstructs the data, and its likelihood."""

from __future__ import annotations

import math

import pytest
import torch
from core.sampling.test_generate import MODEL, model
from core.toy import ToyRequest, registry

from lumina_core.errors import ConfigError, ShapeError
from lumina_core.sampling.generate import generate_batch
from lumina_core.sampling.inputs import PrecomputedInputs
from lumina_core.sampling.inversion import invert, likelihood

GENTLE = model()
"""The same with weights so small that the flow is smooth."""
with torch.no_grad():
    for weight in GENTLE.parameters():
        weight.mul_(0.3)


def make_request(**more):
    return ToyRequest(
        word="low", guidance_scale=more.pop("guidance_scale", 1.0), solver="rk4", steps=more.pop("steps", 40), **more
    )


def test_noise_of_an_inversion_reconstructs_the_data():
    request = make_request(count=2)
    data = generate_batch(GENTLE, registry(), [request]).data
    found = invert(GENTLE, registry(), [request], data)
    assert found.noise.shape == data.shape and found.nfe == 4 * 40
    again = generate_batch(GENTLE, registry(), [request], inputs=PrecomputedInputs(noise=found.noise)).data
    assert again.numpy() == pytest.approx(data.numpy(), abs=1e-2)
    noises = torch.stack([torch.randn(6, 2, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)])
    assert found.noise.numpy() == pytest.approx(noises.transpose(1, 2).numpy(), abs=5e-2)


def test_the_likelihood_agrees_with_the_noise_and_the_volume_of_the_exact_derivative():
    request = make_request(steps=4)
    data = generate_batch(GENTLE, registry(), [request]).data
    found = likelihood(GENTLE, registry(), [request], data, probes=100)

    def noise_of(flat):
        from lumina_core.flow.solvers import integrate
        from lumina_core.sampling.inversion import velocity_of_requests

        start, velocity, _ = velocity_of_requests(GENTLE, registry(), [request])
        values = flat.view(1, 2, 6).transpose(1, 2)
        return integrate(velocity, values, start.schedule.flip(0), start.solver).values.flatten()

    flat = data.flatten()
    volume = torch.autograd.functional.jacobian(noise_of, flat).slogdet().logabsdet
    expected_log_prob = -0.5 * float(found.noise.square().sum()) - 6 * math.log(2 * math.pi) + float(volume)
    assert float(found.log_prob) == pytest.approx(expected_log_prob, abs=0.5)
    assert found.num_dims == 12 and found.nfe == 16
    assert float(found.bits_per_dim) == pytest.approx(-float(found.log_prob) / 12 / math.log(2))


def test_guidance_in_a_likelihood_and_a_stochastic_inversion_are_refused():
    data = torch.zeros(1, 2, 6)
    with pytest.raises(ConfigError, match="guidance_scale: got 2, expected 1 for a likelihood"):
        likelihood(MODEL, registry(), [make_request(guidance_scale=2.0)], data)
    with pytest.raises(ConfigError, match="solver: got a stochastic solver without noise"):
        invert(MODEL, registry(), [ToyRequest(word="low", guidance_scale=1.0, solver="sde")], data)
    with pytest.raises(ShapeError, match="data as tokens"):
        invert(MODEL, registry(), [make_request(count=2)], data)


def test_nan_in_data_or_noise_is_refused():
    data = torch.zeros(1, 2, 6)
    data[0, 1, 2] = float("nan")
    with pytest.raises(ConfigError, match="data: got 1 of 12 values that are NaN"):
        invert(MODEL, registry(), [make_request()], data)
    for bad_inputs, what in (
        (PrecomputedInputs(noise=data / 0), "noise"),
        (PrecomputedInputs(data=data, strength=0.5), "data"),
    ):
        with pytest.raises(ConfigError, match=f"{what}: got .* values that are NaN"):
            generate_batch(MODEL, registry(), [make_request()], inputs=bad_inputs)
