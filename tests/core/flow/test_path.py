"""Paths: their ends, derivatives, and conversions between predictions."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lumina_core.errors import ConfigError
from lumina_core.flow.path import (
    GVPPath,
    LinearPath,
    PredictionType,
    VPPath,
    compute_drift,
    convert_prediction,
    sample_x_t,
    train_time,
    velocity_target,
)

PATHS = [LinearPath(LinearPath.Config()), GVPPath(GVPPath.Config()), VPPath(VPPath.Config())]
PREDICTIONS = get_args(PredictionType)
EACH_PATH = pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
# away from the ends, where a coefficient vanishes and the conversion is infinite
TIMES = st.floats(0.02, 0.98)


def ends(seed=0, batch=3):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, 4, 2, generator=generator, dtype=torch.float64) for _ in range(2))


def truths(path, noise, data, time):
    at = time.view(-1, 1, 1)
    score = -noise / path.sigma(at)
    return {"velocity": velocity_target(path, noise, data, time), "data": data, "noise": noise, "score": score}


@EACH_PATH
def test_at_one_x_t_is_the_data(path):
    noise, data = ends()
    one = torch.ones(3, dtype=torch.float64)
    assert sample_x_t(path, noise, data, one).numpy() == pytest.approx(data.numpy(), abs=1e-12)


@EACH_PATH
def test_at_zero_x_t_is_the_noise(path):
    noise, data = ends()
    # VP keeps exp(-5) of the data at its beginning
    left = 1e-12 if not isinstance(path, VPPath) else 0.03
    assert sample_x_t(path, noise, data, torch.zeros(3, dtype=torch.float64)).numpy() == pytest.approx(
        noise.numpy(), abs=left
    )


@EACH_PATH
@given(TIMES)
def test_derivatives_equal_autograd_and_difference_quotients(path, time):
    at = torch.tensor([time], dtype=torch.float64, requires_grad=True)
    for curve, slope in ((path.alpha, path.d_alpha), (path.sigma, path.d_sigma)):
        (expected,) = torch.autograd.grad(curve(at).sum(), at)
        assert float(slope(at.detach())) == pytest.approx(float(expected), rel=1e-9)
        step = 1e-6
        numerical = (curve(at.detach() + step) - curve(at.detach() - step)) / (2 * step)
        assert float(slope(at.detach())) == pytest.approx(float(numerical), rel=1e-5, abs=1e-7)
    ratio = path.d_alpha(at.detach()) / path.alpha(at.detach())
    assert float(path.d_log_alpha(at.detach())) == pytest.approx(float(ratio), rel=1e-9)


@EACH_PATH
@given(TIMES)
def test_velocity_target_is_the_derivative_of_x_t(path, time):
    noise, data = ends()
    at, step = torch.full((3,), time, dtype=torch.float64), 1e-6
    numerical = (sample_x_t(path, noise, data, at + step) - sample_x_t(path, noise, data, at - step)) / (2 * step)
    assert velocity_target(path, noise, data, at).numpy() == pytest.approx(numerical.numpy(), rel=1e-5, abs=1e-5)


@given(TIMES)
def test_variance_preserving_paths_keep_the_variance(time):
    at = torch.tensor([time], dtype=torch.float64)
    for path in PATHS[1:]:
        assert float(path.alpha(at) ** 2 + path.sigma(at) ** 2) == pytest.approx(1.0, abs=1e-12)


@EACH_PATH
@given(st.lists(TIMES, min_size=3, max_size=3))
def test_conversions_are_exact_and_invertible(path, times):
    noise, data = ends()
    time = torch.tensor(times, dtype=torch.float64)
    x, truth = sample_x_t(path, noise, data, time), truths(path, noise, data, time)
    for source, target in itertools.product(PREDICTIONS, PREDICTIONS):
        there = convert_prediction(path, truth[source], x, time, source, target)
        scale = float(truth[target].abs().max())
        assert float((there - truth[target]).abs().max()) <= 1e-7 * scale
        back = convert_prediction(path, there, x, time, target, source)
        assert float((back - truth[source]).abs().max()) <= 1e-6 * float(truth[source].abs().max())


@EACH_PATH
def test_min_coef_keeps_conversions_finite_at_the_ends(path):
    noise, data = ends(batch=2)
    # the slope of VP's sigma is itself infinite at the data
    time = torch.tensor([0.0, 1.0 if not isinstance(path, VPPath) else 0.0], dtype=torch.float64)
    x = sample_x_t(path, noise, data, time)
    for source, target in itertools.product(PREDICTIONS, PREDICTIONS):
        if "score" not in (source, target):
            assert bool(convert_prediction(path, noise, x, time, source, target, min_coef=0.05).isfinite().all()), (
                source,
                target,
            )


@EACH_PATH
def test_min_coef_changes_nothing_above_it(path):
    noise, data = ends()
    time = torch.full((3,), 0.6, dtype=torch.float64)
    x = sample_x_t(path, noise, data, time)
    plain = convert_prediction(path, data, x, time, "data", "velocity")
    assert torch.equal(convert_prediction(path, data, x, time, "data", "velocity", min_coef=0.05), plain)


def test_an_unknown_prediction_is_an_error():
    x = torch.zeros(1, 1, 1)
    with pytest.raises(ConfigError, match="'velocty'"):
        convert_prediction(PATHS[0], x, x, torch.zeros(1), "velocty", "data")


@pytest.mark.parametrize("source", PREDICTIONS)
@pytest.mark.parametrize("target", PREDICTIONS)
def test_conversions_on_the_vp_path_are_finite_at_the_data(source, target):
    noise, data = ends()
    one = torch.ones(3, dtype=torch.float64)
    assert bool(convert_prediction(PATHS[2], noise, data, one, source, target).isfinite().all())


def test_drift_and_variance_of_the_vp_path_are_finite_at_the_data():
    drift, variance = compute_drift(PATHS[2], ends()[1], torch.ones(3, dtype=torch.float64))
    assert bool(drift.isfinite().all()) and bool(variance.isfinite().all())


def test_times_for_training_end_before_the_data_on_the_vp_path_only():
    times = torch.linspace(0, 1, 5, dtype=torch.float64)
    assert torch.equal(train_time(PATHS[0], times), times) and torch.equal(train_time(PATHS[1], times), times)
    # as in SiT: 1e-5 for training, 1e-3 for sampling
    assert train_time(PATHS[2], times).tolist() == pytest.approx([t * (1 - 1e-5) for t in times.tolist()], abs=1e-15)
    assert bool(PATHS[2].d_sigma(train_time(PATHS[2], times)).isfinite().all())
    assert PATHS[2].sample_eps == 1e-3
    exact = VPPath(VPPath.Config(train_eps=0.0))
    assert torch.equal(train_time(exact, times), times)
