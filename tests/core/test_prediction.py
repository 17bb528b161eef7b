"""A classifier, trained end to end on a toy data set and used for predictions."""

from __future__ import annotations

import copy
import csv
import math
import random

import pytest
import torch
from core import toy
from core.training.test_trainer import make_trainer

from lumina_core.config import Config
from lumina_core.errors import ConfigError
from lumina_core.model_dir import load_model
from lumina_core.models.heads import ClassificationHead
from lumina_core.plugins.loader import Candidate, load_from
from lumina_core.plugins.registry import PluginSource
from lumina_core.prediction import predict
from lumina_core.protocols import PredictionTask
from lumina_core.recipe import read_recipe
from lumina_core.training.objectives import CrossEntropy
from lumina_core.training.trainer import Trainer
from lumina_core.types import BackboneOutput, Batch, Condition, Tokens, stack_tokens


class SignalRequest(Config):
    """A signal as nested lists."""

    signal: tuple[tuple[float, ...], ...]


class Classify(PredictionTask):
    """Task: a signal in, its label and the label's probability out."""

    Request, data_field, target_field = SignalRequest, "signal", "label"

    class Config(Config):
        pass

    def __init__(self, config):
        self.config = config

    def data(self, request):
        return torch.tensor(request.signal)

    def answer(self, prediction, request):
        return {"label": int(prediction.argmax()), "probability": float(prediction.softmax(0).max())}


def registry():
    """The toy registry and a task that classifies."""
    found = load_from(
        [
            Candidate(PluginSource(n, f"lumina-{n}", "0"), (), lambda m=m: __import__(m, fromlist=["_"]))
            for n, m in {"core": "lumina_core.components", "toy": "core.toy"}.items()
        ],
        strict=True,
    )
    found.add_component("task", "toy.classify", Classify)
    return found


def classifier(**training):
    plain = copy.deepcopy(toy.values(dataset={"mixed": True, "count": 21}, steps=150, lr=3e-3, **training))
    plain |= {"task": {"type": "toy.classify"}, "conditioners": [], "objective": {"type": "core.cross_entropy"}}
    plain["head"] = {"type": "core.classification", "num_classes": toy.LABELS}
    plain["backbone"] |= {"time_conditioned": False, "hidden_size": 32}
    plain["backbone"]["rope_axes_dim"] = [16, 0, 0]
    return read_recipe(plain, "classifier")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("classifier")
    return make_trainer_with(registry(), out, classifier(global_batch_size=16, ema_decay=0.9)).train()


def make_trainer_with(found, out, recipe, **kwargs):
    return Trainer(recipe, out, device="cpu", registry=found, **kwargs)


def signals():
    """Return signals of several lengths that were not in training, with their labels."""
    dataset = toy.Signals(toy.Signals.Config(mixed=True, count=21))
    return [dataset.get(index, random.Random(1000 + index)) for index in range(21)]


def test_a_trained_classifier_predicts_new_signals(trained):
    examples = signals()
    requests = [{"signal": example["signal"].tolist()} for example in examples]
    model = load_model(trained, registry())
    answers = predict(model, requests)
    correct = [answer["label"] == example["label"] for answer, example in zip(answers, examples, strict=True)]
    assert sum(correct) >= 19
    # one by one, without padding, the answers are the same
    alone = [predict(model, [request])[0] for request in requests]
    assert [a["label"] for a in alone] == [a["label"] for a in answers]
    assert [a["probability"] for a in alone] == pytest.approx([a["probability"] for a in answers], abs=1e-4)


def test_accuracy_is_logged(trained):
    with (trained.parent / "metrics.csv").open(newline="") as file:
        accuracies = [float(row["accuracy"]) for row in csv.DictReader(file)]
    assert sum(accuracies[-20:]) > sum(accuracies[:20])


def test_the_batch_has_the_targets_of_the_data_set(tmp_path):
    targets = []
    with make_trainer_with(registry(), tmp_path, classifier()) as trainer:
        loss = trainer.model.objective.loss
        trainer.model.objective.loss = lambda predict, batch, g: targets.append(batch.target) or loss(predict, batch, g)
        batch = next(trainer.batches())
        trainer.train_step(batch)
    assert targets[0].tolist() == [key.index % toy.LABELS for key in batch.keys] == list(batch.targets)


def test_a_bad_request_or_another_task_is_one_clear_error(trained, tmp_path):
    model = load_model(trained, registry())
    with pytest.raises(ConfigError, match=r"requests\[1\].*'signl'; did you mean 'signal'"):
        predict(model, [{"signal": [[0.0], [0.0]]}, {"signl": []}])
    with make_trainer(tmp_path) as trainer, pytest.raises(ConfigError, match="got Make, expected a PredictionTask"):
        predict(trainer.model, [])


def test_samples_of_a_classifier_are_refused(tmp_path):
    recipe = classifier(sample_interval=1, sample_requests=[{"signal": [[0.0], [0.0]]}])
    with pytest.raises(ConfigError, match=r"training\.sample_requests: got requests for task toy\.classify"):
        make_trainer_with(registry(), tmp_path, recipe)


# ---- head and objective


def test_logits_are_those_of_the_mean_of_the_real_tokens():
    torch.manual_seed(0)
    head = ClassificationHead(ClassificationHead.Config(num_classes=4, hidden_size=8))
    torch.nn.init.normal_(head.linear.weight)
    items = [Tokens(torch.zeros(1, n, 2), torch.zeros(1, n, 3), ((n,),)) for n in (3, 5)]
    tokens, states = stack_tokens(items), torch.randn(2, 5, 8)
    expected = torch.stack([head.linear(head.norm(states[k, :n].mean(0))) for k, n in enumerate((3, 5))])
    assert torch.allclose(head(BackboneOutput(states), tokens), expected, atol=1e-6)


def batch(target):
    return Batch(Tokens(torch.zeros(2, 3, 2), torch.zeros(2, 3, 3), ((3,), (3,))), Condition(), target)


def cross_entropy(logits, target, **options):
    objective = CrossEntropy(CrossEntropy.Config(**options))
    return objective.loss(lambda tokens, t, condition: torch.tensor(logits), batch(target), [])


def test_cross_entropy_is_the_mean_negative_log_probability():
    loss = cross_entropy([[0.0, 0.0], [0.0, 2.0]], torch.tensor([0, 1]))
    assert float(loss.total) == pytest.approx((math.log(2) + math.log(1 + math.exp(-2))) / 2, rel=1e-6)
    assert float(loss.terms["accuracy"]) == 1.0


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, r"batch\.target: got none, expected class indices"),
        (torch.tensor([0.5, 1.0]), r"batch\.target: got torch.float32 of shape \(2,\)"),
        (torch.tensor([0, 2]), r"batch\.target: got classes 0 to 2, expected 0 to 1"),
    ],
)
def test_a_target_that_does_not_fit_is_one_clear_error(target, message):
    with pytest.raises(ConfigError, match=message):
        cross_entropy([[0.0, 0.0], [0.0, 2.0]], target)
