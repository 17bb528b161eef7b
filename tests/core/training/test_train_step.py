"""One step: parts of a batch add up, what is frozen stays, and the average of the weights follows them."""

from __future__ import annotations

import pytest
import torch
from core.toy import recipe, registry

from lumina_core.errors import ConfigError
from lumina_core.model import build_dataset, build_model
from lumina_core.training import trainer as module
from lumina_core.training.dataloader import RawBatch, SampleKey
from lumina_core.training.distributed import ProcessInfo
from lumina_core.training.optim import build_optimizers
from lumina_core.training.trainer import (
    EMA,
    CompiledPredict,
    LossModule,
    TrainStep,
    _make_dataloader,
    compile_predict,
    freeze,
)
from lumina_core.types import Condition, Loss, Tokens

ALONE = ProcessInfo(0, 1, torch.device("cpu"))


def run(asked):
    """Reports of a short run, and the model before and after."""
    torch.manual_seed(0)
    model, dataset = build_model(asked, registry()), build_dataset(asked, registry())
    freeze(model, asked.training.freeze)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stepper = TrainStep(model, asked.training, ALONE, build_optimizers(model, asked.training))
    reports = [stepper.step(number, raw) for number, raw in enumerate(_make_dataloader(model, dataset, 0, ALONE))]
    return reports, before, model


@pytest.mark.parametrize("parts", [2, 3, 50])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_batch_in_parts_gives_the_losses_of_the_whole(parts, mixed):
    whole, _, _ = run(recipe("word", {"mixed": mixed}, steps=6))
    cut, _, _ = run(recipe("word", {"mixed": mixed}, steps=6, gradient_accumulation_steps=parts))
    assert [r.loss for r in cut] == pytest.approx([r.loss for r in whole], abs=1e-5)
    assert [r.grad_norm for r in cut] == pytest.approx([r.grad_norm for r in whole], rel=1e-3)


def test_frozen_parts_do_not_move_and_the_others_do():
    _, before, model = run(recipe("word", freeze=["conditioners.word"], weight_decay=0.1))
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not [name for name in moved if name.startswith("conditioners.word.")]
    assert {"head.linear.weight", "backbone.embed.weight", "backbone.blocks.0.feed_forward.up.weight"} <= moved
    assert not any(p.requires_grad for p in model.conditioners["word"].parameters())


def test_freezing_what_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"'conditioners\.wrod'"):
        run(recipe("word", freeze=["conditioners.wrod"]))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_learns(optimizer):
    reports, _, _ = run(recipe(steps=80, optimizer=optimizer, global_batch_size=16))
    losses = [report.loss for report in reports]
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])


def test_a_large_gradient_is_shortened_to_the_clip():
    asked = recipe(steps=1, max_norm=1e-3)
    model, dataset = build_model(asked, registry()), build_dataset(asked, registry())
    freeze(model, ())
    optimizers = build_optimizers(model, asked.training)
    optimizers.zero_grad = lambda: None
    report = TrainStep(model, asked.training, ALONE, optimizers).step(
        0, next(iter(_make_dataloader(model, dataset, 0, ALONE)))
    )
    left = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert report.grad_norm > 1e-2
    assert float(left) == pytest.approx(1e-3, rel=1e-3)


def test_the_average_follows_the_weights_and_forgets_early_noise():
    model = build_model(recipe(), registry())
    average, name = EMA(model, 0.9), "backbone.embed.weight"
    weight = dict(model.named_parameters())[name]
    with torch.no_grad():
        weight.fill_(1.0)
    average.update(model, 0)
    # (1 + 0) / (10 + 0) is kept of what was before
    start = average.weights[name].clone()
    for number in range(1, 400):
        average.update(model, number)
    assert average.weights[name].numpy() == pytest.approx(1.0, abs=1e-5)
    assert float((start - 1).abs().max()) < 0.2
    with torch.no_grad():
        weight.fill_(2.0)
    average.update(model, 400)
    assert average.weights[name].numpy() == pytest.approx(0.9 * 1.0 + 0.1 * 2.0, abs=1e-5)


def test_a_kept_share_of_zero_is_the_weights_themselves():
    model = build_model(recipe(), registry())
    average = EMA(model, 0.0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1)
    average.update(model, 5)
    assert all(torch.equal(tensor, average.state_dict(model)[name]) for name, tensor in model.state_dict().items())


def test_the_average_holds_frozen_weights_as_they_are():
    model = build_model(recipe("word"), registry())
    freeze(model, ("conditioners.word",))
    average = EMA(model, 0.9)
    assert not [name for name in average.weights if name.startswith("conditioners.")]
    assert set(average.state_dict(model)) == set(model.state_dict())


def test_without_a_compiler_training_goes_on_uncompiled(monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.warns(UserWarning, match=r"no C\+\+ compiler"):
        assert compile_predict(len, torch.device("cpu")) is len


def test_the_first_number_of_tokens_is_compiled_exactly_and_all_others_once(monkeypatch):
    asked = []

    def fake(predict, device, dynamic=False):
        return lambda tokens, time, condition: asked.append((dynamic, tokens.values.shape[1]))

    monkeypatch.setattr(module, "compile_predict", fake)
    predict = CompiledPredict(len, torch.device("cpu"))
    for count in (6, 6, 4, 9, 6):
        predict(Tokens(torch.zeros(2, count, 3), torch.zeros(2, count, 3), ((count,),) * 2), None, Condition())
    assert asked == [(False, 6), (False, 6), (True, 4), (True, 9), (False, 6)]


def test_data_of_several_sizes_are_rebuilt_size_by_size_each_item_weighing_alike():
    asked = recipe()
    losses = LossModule(build_model(asked, registry()), asked.training, ALONE)

    def autoencoder_loss(autoencoder, data, generators):
        return Loss(data.mean(), {"items": torch.tensor(float(len(data)))})

    losses.model.objective.autoencoder_loss = autoencoder_loss
    data = tuple(torch.full((2, length), value) for length, value in ((6, 1.0), (4, 2.0), (6, 3.0), (4, 4.0)))
    total, terms = losses(RawBatch(data[:3], {}, tuple(SampleKey(k, k) for k in range(3))))
    assert float(total) == pytest.approx(2.0) and float(terms["items"]) == pytest.approx(5 / 3)
    assert float(losses(RawBatch(data[::2], {}, tuple(SampleKey(k, k) for k in range(2))))[0]) == 2.0
