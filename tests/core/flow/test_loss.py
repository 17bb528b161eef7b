"""The objective: independence of padding and batch, and zero loss of an exact prediction."""

from __future__ import annotations

import pytest
import torch

from lumina_core.flow.loss import FlowMatching, noise_like
from lumina_core.flow.path import (
    GVPPath,
    LinearPath,
    VPPath,
    convert_prediction,
    sample_x_t,
    train_time,
    velocity_target,
)
from lumina_core.flow.schedules import LogitNormalTimeSampler, UniformTimeSampler
from lumina_core.types import Batch, Condition, Tokens, stack_tokens

PREDICTIONS = ("velocity", "data", "noise", "score")


def objective(path=None, time_sampler=None, **settings):
    sampler = time_sampler or UniformTimeSampler(UniformTimeSampler.Config())
    return FlowMatching(FlowMatching.Config(**settings), path or LinearPath(LinearPath.Config()), sampler)


def item(length, seed=0):
    values = torch.randn(1, length, 5, generator=torch.Generator().manual_seed(100 + seed))
    return Tokens(values, torch.zeros(1, length, 3), ((length,),))


def generators(seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def simple(tokens, time, condition):
    """A prediction that depends only on the values of the token and the time."""
    return torch.sin(tokens.values) * time[:, None, None] + 0.3


def oracle(task, tokens, seeds):
    """An exact predictor: it draws the same noise as the objective."""
    item_generators = generators(seeds)
    time = train_time(task.path, task.time_sampler(item_generators))
    noise = noise_like(Batch(tokens, Condition()), item_generators)

    def predict(noisy, when, condition):
        assert torch.equal(when, time)
        velocity = velocity_target(task.path, noise, tokens.values, time)
        truth = {"velocity": velocity, "data": tokens.values, "noise": noise}
        if task.config.prediction == "score":
            return convert_prediction(task.path, noise, noisy.values, time, "noise", "score", task.config.min_coef)
        return truth[task.config.prediction]

    return predict


@pytest.mark.parametrize("lengths", [(7, 7, 7), (3, 9, 6)])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_of_a_padded_batch_is_the_mean_of_the_losses_of_its_items(lengths, prediction):
    task = objective(prediction=prediction)
    items = [item(length, seed) for seed, length in enumerate(lengths)]
    alone = [task.loss(simple, Batch(one, Condition()), generators([k])).total for k, one in enumerate(items)]
    together = task.loss(simple, Batch(stack_tokens(items), Condition()), generators(range(3))).total
    assert float(together) == pytest.approx(float(torch.stack(alone).mean()), rel=1e-5)


def test_values_in_the_padding_do_not_change_the_loss():
    task, tokens = objective(), stack_tokens([item(3), item(8)])

    def loud(noisy, time, condition):
        return torch.where(noisy.mask[..., None], simple(noisy, time, condition), 1e6)

    quiet = task.loss(simple, Batch(tokens, Condition()), generators([0, 1])).total
    assert torch.equal(task.loss(loud, Batch(tokens, Condition()), generators([0, 1])).total, quiet)


def test_noise_is_normal_on_real_tokens_and_zero_on_padding():
    tokens = stack_tokens([item(2), item(400)])
    noise = noise_like(Batch(tokens, Condition()), generators([0, 1]))
    assert bool((noise[0, 2:] == 0).all())
    assert float(noise[1].mean()) == pytest.approx(0, abs=0.1)
    assert float(noise[1].std()) == pytest.approx(1, abs=0.05)
    alone = noise_like(Batch(item(2), Condition()), generators([0]))
    assert torch.equal(noise[0, :2], alone[0])


@pytest.mark.parametrize("loss_space", ["velocity", "prediction"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", [LinearPath(LinearPath.Config()), GVPPath(GVPPath.Config()), VPPath(VPPath.Config())])
def test_a_perfect_predictor_has_no_loss(path, prediction, loss_space):
    task = objective(path, prediction=prediction, loss_space=loss_space)
    tokens, seeds = stack_tokens([item(4, seed) for seed in range(5)]), range(5)
    loss = task.loss(oracle(task, tokens, seeds), Batch(tokens, Condition()), generators(seeds)).total
    # VP's slopes reach some hundred near the data, and float32 has seven digits
    assert float(loss) == pytest.approx(0, abs=1e-9 if not isinstance(path, VPPath) else 1e-4)


@pytest.mark.parametrize("path", [LinearPath(LinearPath.Config()), GVPPath(GVPPath.Config()), VPPath(VPPath.Config())])
def test_exact_data_gives_the_exact_velocity_above_min_coef(path):
    task = objective(path, prediction="data", min_coef=0.05)
    time = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)
    noise, data = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = task.velocity(data, sample_x_t(path, noise, data, time), time)
    assert found.numpy() == pytest.approx(velocity_target(path, noise, data, time).numpy(), abs=1e-9)


def test_near_data_min_coef_bounds_the_loss_of_a_data_error():
    task = objective(prediction="data", min_coef=0.05)
    time, data = torch.tensor([0.9999]), torch.zeros(1, 2, 5)
    error = task.velocity(data + 0.01, data, time) - task.velocity(data, data, time)
    # by itself 1 / sigma would make it ten thousandfold
    assert float(error.abs().max()) <= 0.01 / 0.05 + 0.011


def test_the_loss_equals_the_mean_square_error_of_the_formula():
    data, noise = torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[0.0], [1.0]]])
    batch = Batch(Tokens(data, torch.zeros(1, 2, 3), ((2,),)), Condition())
    # the velocity is data - noise = 1, 2; zero is answered: (1 + 4) / 2
    found = objective().per_sample_loss(
        lambda tokens, *_: torch.zeros_like(tokens.values), batch, torch.tensor([0.5]), noise
    )
    assert found.tolist() == [2.5]


def test_an_item_has_the_same_time_and_x_t_in_every_batch():
    inputs = {}

    def watch(name):
        def predict(tokens, time, condition):
            inputs[name] = (float(time[-1]), tokens.values[-1].clone())
            return tokens.values

        return predict

    task = objective(time_sampler=LogitNormalTimeSampler(LogitNormalTimeSampler.Config()))
    task.loss(watch("alone"), Batch(item(4, 2), Condition()), generators([7]))
    task.loss(watch("late"), Batch(stack_tokens([item(4, 1), item(4, 2)]), Condition()), generators([3, 7]))
    assert inputs["alone"][0] == inputs["late"][0]
    assert torch.equal(inputs["alone"][1], inputs["late"][1])
