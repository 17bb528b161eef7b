"""One step: micro-batches add up, frozen components stay, and the moving average follows the weights."""

from __future__ import annotations

import pytest
import torch
from core.toy import recipe, registry
from core.training.test_trainer import make_trainer
from torch import nn

from lumina_core.errors import ConfigError
from lumina_core.model import build_model
from lumina_core.training import trainer as trainer_module
from lumina_core.training.dataloader import RawBatch, SampleKey
from lumina_core.training.distributed import ProcessInfo
from lumina_core.training.optim import EMA
from lumina_core.training.trainer import CompiledPredict, LossModule, compile_predict, freeze
from lumina_core.types import Condition, Loss, Tokens

PROCESS = ProcessInfo(0, 1, torch.device("cpu"))


def run_steps(out, toy_recipe):
    """Return the metrics of all steps, the weights before, and the model."""
    with make_trainer(out, toy_recipe) as trainer:
        before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
        return [trainer.train_step(batch) for batch in trainer.batches()], before, trainer.model


@pytest.mark.parametrize("count", [2, 3, 50])
@pytest.mark.parametrize("mixed", [False, True])
def test_micro_batches_give_the_losses_of_the_batch(tmp_path, count, mixed):
    one, _, _ = run_steps(tmp_path / "1", recipe("word", {"mixed": mixed}, steps=6))
    several, _, _ = run_steps(
        tmp_path / "2", recipe("word", {"mixed": mixed}, steps=6, gradient_accumulation_steps=count)
    )
    assert [m.loss for m in several] == pytest.approx([m.loss for m in one], abs=1e-5)
    assert [m.grad_norm for m in several] == pytest.approx([m.grad_norm for m in one], rel=1e-3)


def test_training_changes_only_components_that_are_not_frozen(tmp_path):
    _, before, model = run_steps(tmp_path, recipe("word", freeze=["conditioners.word"], weight_decay=0.1))
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not [name for name in moved if name.startswith("conditioners.word.")]
    assert {"head.linear.weight", "backbone.embed.weight", "backbone.blocks.0.feed_forward.up.weight"} <= moved
    assert not any(p.requires_grad for p in model.conditioners["word"].parameters())


def test_freezing_an_unknown_component_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"training\.freeze: got 'conditioners\.wrod'"):
        make_trainer(tmp_path, recipe("word", freeze=["conditioners.wrod"]))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_loss_falls(tmp_path, optimizer):
    metrics, _, _ = run_steps(tmp_path, recipe(steps=80, optimizer=optimizer, global_batch_size=16))
    losses = [one.loss for one in metrics]
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])


def test_metrics_hold_learning_rate_and_throughput(tmp_path):
    metrics, _, _ = run_steps(tmp_path, recipe(steps=4, lr=0.5, warmup_steps=3, global_batch_size=8))
    assert [one.lr for one in metrics] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    assert [one.step for one in metrics] == [1, 2, 3, 4]
    assert all(one.samples_per_second == pytest.approx(8 / one.step_seconds) for one in metrics)


def test_a_large_gradient_is_clipped(tmp_path):
    with make_trainer(tmp_path, recipe(steps=1, max_norm=1e-3)) as trainer:
        trainer.optimizers.zero_grad = lambda: None
        metrics = trainer.train_step(next(trainer.batches()))
        clipped = torch.stack([p.grad.norm() for p in trainer.model.parameters() if p.grad is not None]).norm()
    assert metrics.grad_norm > 1e-2
    assert float(clipped) == pytest.approx(1e-3, rel=1e-3)


def test_terms_of_only_some_micro_batches_are_reported(tmp_path, monkeypatch):
    with make_trainer(tmp_path, recipe(steps=1, gradient_accumulation_steps=2)) as trainer:
        loss, calls = trainer.model.objective.loss, []

        def with_terms(*args):
            calls.append(args)
            return Loss(loss(*args).total, {f"term{len(calls)}": torch.tensor(4.0)})

        monkeypatch.setattr(trainer.model.objective, "loss", with_terms)
        assert trainer.train_step(next(trainer.batches())).terms == {"term1": 2.0, "term2": 2.0}


def test_the_average_follows_the_weights_and_discounts_early_values():
    model = build_model(recipe(), registry())
    average, name = EMA(model, 0.9), "backbone.embed.weight"
    weight = dict(model.named_parameters())[name]
    with torch.no_grad():
        weight.fill_(1.0)
    average.update(model, 0)
    # the decay of the first step is (1 + 0) / (10 + 0)
    start = average.weights[name].clone()
    for step in range(1, 400):
        average.update(model, step)
    assert average.weights[name].numpy() == pytest.approx(1.0, abs=1e-5)
    assert float((start - 1).abs().max()) < 0.2
    with torch.no_grad():
        weight.fill_(2.0)
    average.update(model, 400)
    assert average.weights[name].numpy() == pytest.approx(0.9 * 1.0 + 0.1 * 2.0, abs=1e-5)


def test_with_a_decay_of_zero_the_average_is_the_weights():
    model = build_model(recipe(), registry())
    average = EMA(model, 0.0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1)
    average.update(model, 5)
    assert all(torch.equal(tensor, average.state_dict(model)[name]) for name, tensor in model.state_dict().items())


def test_the_average_has_frozen_weights_as_they_are():
    model = build_model(recipe("word"), registry())
    freeze(model, ("conditioners.word",))
    average = EMA(model, 0.9)
    assert not [name for name in average.weights if name.startswith("conditioners.")]
    assert set(average.state_dict(model)) == set(model.state_dict())


def test_the_average_covers_running_statistics():
    model = nn.Sequential(nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2))
    average, expected = EMA(model, 0.5), torch.zeros(2)
    for step in range(20):
        model(torch.randn(8, 2, 5, generator=torch.Generator().manual_seed(step)) + 3)
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model[1].running_mean
    state = average.state_dict(model)
    assert state["1.running_mean"].numpy() == pytest.approx(expected.numpy(), rel=1e-5)
    assert int(state["1.num_batches_tracked"]) == 20


def test_without_a_compiler_training_is_not_compiled(monkeypatch):
    monkeypatch.setattr(trainer_module.shutil, "which", lambda name: None)
    with pytest.warns(UserWarning, match=r"no C\+\+ compiler"):
        assert compile_predict(len, torch.device("cpu")) is len


def test_compiled_and_eager_losses_agree(tmp_path, monkeypatch):
    real = torch.compile
    # without the compiler of machine code, which takes a minute: the graphs are what can go wrong
    monkeypatch.setattr(torch, "compile", lambda fn, dynamic: real(fn, dynamic=dynamic, backend="aot_eager"))
    eager, _, _ = run_steps(tmp_path / "eager", recipe("word", {"mixed": True}, steps=4))
    compiled, _, _ = run_steps(tmp_path / "compiled", recipe("word", {"mixed": True}, steps=4, compile=True))
    assert [m.loss for m in compiled] == pytest.approx([m.loss for m in eager], rel=1e-4)


def test_the_first_number_of_tokens_has_a_static_graph_and_all_others_one_dynamic_graph(monkeypatch):
    calls = []

    def fake(predict, device, dynamic=False):
        return lambda tokens, time, condition: calls.append((dynamic, tokens.values.shape[1]))

    monkeypatch.setattr(trainer_module, "compile_predict", fake)
    predict = CompiledPredict(len, torch.device("cpu"))
    for count in (6, 6, 4, 9, 6):
        predict(Tokens(torch.zeros(2, count, 3), torch.zeros(2, count, 3), ((count,),) * 2), None, Condition())
    assert calls == [(False, 6), (False, 6), (True, 4), (True, 9), (False, 6)]


def test_data_of_several_sizes_are_reconstructed_size_by_size_and_each_item_counts_equally():
    class Mean:
        def autoencoder_loss(self, autoencoder, data, generators):
            return Loss(data.mean(), {"items": torch.tensor(float(len(data)))})

    toy_recipe = recipe()
    loss = LossModule(build_model(toy_recipe, registry()), toy_recipe.training, PROCESS)
    loss.model.objective = Mean()
    data = tuple(torch.full((2, length), value) for length, value in ((6, 1.0), (4, 2.0), (6, 3.0), (4, 4.0)))
    total, terms = loss(RawBatch(data[:3], {}, tuple(SampleKey(k, k) for k in range(3))))
    assert float(total) == pytest.approx(2.0) and float(terms["items"]) == pytest.approx(5 / 3)
    assert float(loss(RawBatch(data[::2], {}, tuple(SampleKey(k, k) for k in range(2))))[0]) == 2.0
