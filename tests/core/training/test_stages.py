"""Stages of a training: each with its data, batch size and learning rate, resumable within any of them."""

from __future__ import annotations

import csv

import pytest
import torch
from core.toy import LENGTH, recipe, registry, values
from core.training.test_trainer import StopBy, interrupt, make_trainer, rows, train, weights_are_equal

from lumina_core.errors import ConfigError
from lumina_core.recipe import Recipe, read_recipe
from lumina_core.training import distributed
from lumina_core.training import trainer as trainer_module
from lumina_core.training.dataloader import build_stages
from lumina_core.training.distributed import ProcessInfo

STAGES = [
    {"steps": 3, "global_batch_size": 6},
    {"steps": 4, "lr": 5e-3, "dataset": {"length": 12}},
    {"steps": 2, "global_batch_size": 2, "dataset": {"length": 18, "mixed": True}},
]


def staged(**training):
    plain = values("word", **{"checkpoint_interval": 2, "stages": STAGES, **training})
    plain["training"].pop("steps")
    return read_recipe(plain, "toy")


def test_each_stage_has_its_data_batch_and_learning_rate(tmp_path):
    toy_recipe = staged(warmup_steps=0)
    assert toy_recipe.training.steps == 9
    shapes, lrs = [], []
    with make_trainer(tmp_path, toy_recipe) as trainer:
        for batch in trainer.batches():
            shapes.append((len(batch.data), max(item.shape[-1] for item in batch.data)))
            lrs.append(trainer.train_step(batch).lr)
    assert shapes[:3] == [(6, LENGTH)] * 3
    assert shapes[3:7] == [(4, 12)] * 4
    assert [size for size, _ in shapes[7:]] == [2, 2] and all(16 <= length <= 18 for _, length in shapes[7:])
    assert lrs == pytest.approx([1e-2] * 3 + [5e-3] * 4 + [1e-2] * 2)


@pytest.mark.parametrize("step", [3, 5, 8])
def test_a_training_interrupted_in_any_stage_resumes_with_the_same_numbers(tmp_path, step):
    train(tmp_path / "whole", staged())
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", staged(), callbacks=[StopBy(step, interrupt)])
    train(tmp_path / "run", staged(), resume=True)
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    assert weights_are_equal(tmp_path / "run" / "model", tmp_path / "whole" / "model")


def test_a_recipe_with_stages_is_saved_and_read_as_it_was(tmp_path):
    toy_recipe = staged()
    (tmp_path / "recipe.yaml").write_text(toy_recipe.to_yaml(), encoding="utf-8")
    assert Recipe.load(tmp_path / "recipe.yaml", registry=registry()) == toy_recipe


def test_another_number_of_steps_than_the_sum_is_refused():
    with pytest.raises(ConfigError, match="steps: got 12, expected 9, the sum of the stages; remove it"):
        recipe(stages=STAGES)


def test_an_unknown_key_of_a_stage_is_named():
    with pytest.raises(ConfigError, match=r"unknown key 'training\.stages\.0\.batch'"):
        staged(stages=[{"steps": 3, "batch": 4}])


def test_a_stage_whose_batch_processes_cannot_share_is_refused_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "init_distributed", lambda device: ProcessInfo(0, 4, torch.device("cpu")))
    monkeypatch.setattr(trainer_module, "build_stages", lambda *_: pytest.fail("a data set was built"))
    stages = [{"steps": 3}, {"steps": 1, "global_batch_size": 6}]
    with pytest.raises(ConfigError, match=r"training\.stages\[1\]\.global_batch_size: got 6 for 4 processes"):
        make_trainer(tmp_path / "run", staged(stages=stages))
    assert not list(tmp_path.iterdir())


def test_options_for_a_data_set_that_is_passed_are_refused(tmp_path):
    dataset = build_stages(recipe(), registry())[0].dataset
    with pytest.raises(ConfigError, match=r"training\.stages\[1\]\.dataset: got options, expected none"):
        make_trainer(tmp_path, staged(), dataset=dataset)


def test_stages_with_the_same_data_read_it_in_other_orders():
    first, second = build_stages(staged(stages=[{"steps": 3}, {"steps": 3}]), registry())
    assert second.dataset is first.dataset
    assert (first.start, first.stop, second.start, second.stop) == (0, 3, 3, 6)
    assert second.seed != first.seed == 0


def test_metrics_have_the_columns_of_throughput(tmp_path):
    train(tmp_path, staged(peak_tflops=0.001))
    with (tmp_path / "metrics.csv").open(newline="", encoding="utf-8") as file:
        first, *_, last = list(csv.DictReader(file))
    tokens_per_sample = float(first["tokens_per_second"]) / float(first["samples_per_second"])
    assert tokens_per_sample == pytest.approx(LENGTH)
    assert 0 < float(first["mfu"]) < 1
    assert float(first["memory_bytes"]) > 1e7
    assert float(first["data_seconds"]) > 0
    assert float(last["seconds_left"]) == 0 < float(first["seconds_left"])
