"""Couplings: which noise goes with which data."""

from __future__ import annotations

import itertools
import sys

import pytest
import torch

from lumina_core.errors import ConfigError
from lumina_core.flow.coupling import IndependentCoupling, OptimalTransportCoupling
from lumina_core.flow.loss import FlowMatching, noise_like
from lumina_core.flow.path import LinearPath
from lumina_core.flow.schedules import UniformTimeSampler
from lumina_core.types import Batch, Condition, Tokens, stack_tokens

pytest.importorskip("scipy")


def optimal(scope):
    return OptimalTransportCoupling(OptimalTransportCoupling.Config(scope=scope))


def random_tokens(batch, length, seed=0):
    values = torch.randn(batch, length, 2, generator=torch.Generator().manual_seed(seed))
    return Tokens(values, torch.zeros(batch, length, 3), ((length,),) * batch)


def random_noise(tokens, seed=1):
    noise = torch.randn(tokens.values.shape, generator=torch.Generator().manual_seed(seed))
    return noise if tokens.mask is None else noise * tokens.mask[..., None]


def cost(noise, data):
    return float((noise - data).square().sum())


def test_independent_coupling_leaves_noise_unchanged():
    tokens = random_tokens(3, 4)
    noise = random_noise(tokens)
    assert IndependentCoupling(IndependentCoupling.Config())(noise, tokens) is noise


def test_within_a_batch_the_cost_is_the_least_of_all_permutations():
    tokens = random_tokens(5, 3)
    noise = random_noise(tokens)
    coupled = optimal("batch")(noise, tokens)
    least = min(cost(noise[list(order)], tokens.values) for order in itertools.permutations(range(5)))
    assert cost(coupled, tokens.values) == pytest.approx(least, rel=1e-5)
    assert least < cost(noise, tokens.values)


def test_within_a_set_the_cost_of_each_example_is_the_least_of_all_permutations():
    tokens = random_tokens(2, 5)
    noise = random_noise(tokens)
    coupled = optimal("set")(noise, tokens)
    for row in range(2):
        orders = itertools.permutations(range(5))
        least = min(cost(noise[row, list(order)], tokens.values[row]) for order in orders)
        assert cost(coupled[row], tokens.values[row]) == pytest.approx(least, rel=1e-5)
        assert sorted(coupled[row, :, 0].tolist()) == sorted(noise[row, :, 0].tolist())


@pytest.mark.parametrize("scope", ["batch", "set"])
def test_only_noise_of_equally_large_examples_is_exchanged_and_padding_stays_zero(scope):
    tokens = stack_tokens([random_tokens(2, 3), random_tokens(2, 5, seed=3)])
    noise = random_noise(tokens)
    coupled = optimal(scope)(noise, tokens)
    assert not bool(coupled[:2, 3:].any())
    for rows in (slice(0, 2), slice(2, 4)):
        assert sorted(coupled[rows].flatten().tolist()) == sorted(noise[rows].flatten().tolist())


def test_the_loss_uses_the_coupled_noise_and_is_repeatable():
    tokens = random_tokens(6, 3)
    inputs = []

    def predict(noisy, t, condition):
        inputs.append((noisy.values, t))
        return torch.zeros_like(noisy.values)

    path, times = LinearPath(LinearPath.Config()), UniformTimeSampler(UniformTimeSampler.Config())
    objective = FlowMatching(FlowMatching.Config(), path, times, optimal("batch"))

    def loss():
        generators = [torch.Generator().manual_seed(seed) for seed in range(6)]
        return objective.loss(predict, Batch(tokens, Condition()), generators).total

    assert torch.equal(loss(), loss())
    generators = [torch.Generator().manual_seed(seed) for seed in range(6)]
    t = times(generators)
    noise = optimal("batch")(noise_like(Batch(tokens, Condition()), generators), tokens)
    expected = t[:, None, None] * tokens.values + (1 - t[:, None, None]) * noise
    assert torch.allclose(inputs[0][0], expected, atol=1e-6)


def test_without_scipy_there_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    tokens = random_tokens(2, 3)
    with pytest.raises(ConfigError, match=r"pip install"):
        optimal("batch")(random_noise(tokens), tokens)
