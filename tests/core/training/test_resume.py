"""Resuming: from the latest checkpoint that can be read, with the recipe of the run, and with all its files."""

from __future__ import annotations

import csv

import pytest
from core.toy import recipe
from core.training.test_trainer import StopBy, make_trainer, rows, train, weights_are_equal
from safetensors.torch import save_file

from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.locate import LOCK_FILE
from lumina_core.model_dir import read_weights

SETTINGS = {"steps": 8, "checkpoint_interval": 2, "keep_latest_k": 3}


def interrupt(trainer):
    raise KeyboardInterrupt


def interrupted(out, step=5, **settings):
    """Run a training that ends after a step, as by a kill; returns its recipe."""
    toy_recipe = recipe("word", **{**SETTINGS, **settings})
    with pytest.raises(KeyboardInterrupt):
        train(out, toy_recipe, callbacks=[StopBy(step, interrupt)])
    return toy_recipe


@pytest.mark.parametrize("file", ["model.safetensors", "ema.safetensors", "training/optimizer.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "zeros"])
def test_a_damaged_latest_checkpoint_is_passed_over_with_a_message(tmp_path, file, damage):
    toy_recipe = interrupted(tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "step-00000004" / file
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage == "cut" else bytes(len(content)))
    trainer = make_trainer(tmp_path / "run", toy_recipe, resume=True)
    assert trainer.step == 2
    assert trainer.messages[0].startswith("step-00000004 is damaged; resumed from step-00000002 instead")
    model = trainer.train()
    train(tmp_path / "whole", toy_recipe)
    assert weights_are_equal(model, tmp_path / "whole" / "model")
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def test_a_damaged_checkpoint_does_not_push_out_the_one_that_is_resumed(tmp_path):
    toy_recipe = interrupted(tmp_path, keep_latest_k=1)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]
    (tmp_path / "checkpoints" / "step-00000004").rename(tmp_path / "whole")
    interrupted(tmp_path / "other", 7, keep_latest_k=1)
    damaged = tmp_path / "checkpoints" / "step-00000006"
    (tmp_path / "other" / "checkpoints" / "step-00000006").rename(damaged)
    (tmp_path / "whole").rename(tmp_path / "checkpoints" / "step-00000004")
    (damaged / "model.safetensors").write_bytes(b"half")
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, toy_recipe, resume=True, callbacks=[StopBy(5, interrupt)]).train()
    assert (tmp_path / "checkpoints" / "step-00000004").is_dir()


def test_if_all_checkpoints_are_damaged_the_training_is_refused(tmp_path):
    toy_recipe = interrupted(tmp_path)
    for folder in (tmp_path / "checkpoints").iterdir():
        (folder / "model.safetensors").write_bytes(b"half")
    before = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    with pytest.raises(CheckpointError, match="no checkpoint can be read"):
        make_trainer(tmp_path, toy_recipe, resume=True)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == before


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 5}, "training.seed"),
        ({"optimizer": "muon"}, "training.optimizer"),
        ({"freeze": ["conditioners.word"]}, "training.freeze"),
    ],
)
def test_a_resumed_training_cannot_change_what_its_state_depends_on(tmp_path, changes, key):
    interrupted(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=rf"{key}.*: got .*, and the run has .*cannot change"):
        make_trainer(tmp_path, recipe("word", **{**SETTINGS, **changes}), resume=True)
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("objective", "prediction"), "data"),
        (("backbone", "rope_theta"), 99.0),
        (("conditioners", 0, "cacheable"), True),
    ],
)
def test_a_resumed_training_cannot_change_its_components(tmp_path, path, value):
    toy_recipe = interrupted(tmp_path)
    values = toy_recipe.to_dict()
    node = values
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(ConfigError, match=rf"{'.'.join(map(str, path))}: got .*cannot change"):
        make_trainer(tmp_path, type(toy_recipe).read(values, "test"), resume=True)


def test_what_a_resumed_training_may_change_is_reported(tmp_path):
    interrupted(tmp_path)
    changed = recipe("word", {"count": 9}, **{**SETTINGS, "lr": 0.5, "global_batch_size": 2})
    with make_trainer(tmp_path, changed, resume=True) as trainer:
        lines = trainer.messages
    assert [line.partition(":")[2].split(":")[0].strip() for line in lines] == [
        "dataset.count", "training.global_batch_size", "training.lr",
    ]  # fmt: skip
    assert "got 0.5, and the run has" in lines[2]


def test_an_unchanged_recipe_says_nothing(tmp_path):
    toy_recipe = interrupted(tmp_path)
    with make_trainer(tmp_path, toy_recipe, resume=True) as trainer:
        assert trainer.messages == []


def test_samples_that_a_kill_prevented_are_made_at_the_resume(tmp_path):
    settings = {"sample_interval": 4, "sample_requests": [{"word": "low"}]}
    toy_recipe = interrupted(tmp_path / "run", 4, **settings)  # before the samples? the callback comes last
    train(tmp_path / "whole", recipe("word", **SETTINGS, **settings))
    sample = tmp_path / "run" / "samples" / "step-00000004.json"
    sample.unlink()
    make_trainer(tmp_path / "run", toy_recipe, resume=True).train()
    assert sample.read_bytes() == (tmp_path / "whole" / "samples" / "step-00000004.json").read_bytes()


def test_a_row_that_a_full_disk_cut_off_is_not_kept(tmp_path):
    toy_recipe = interrupted(tmp_path)
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text() + "1")  # of "12,0.5,..."
    make_trainer(tmp_path, toy_recipe, resume=True).train()
    with path.open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == list(map(str, range(1, 9)))


def test_a_planted_link_in_place_of_the_lock_is_refused(tmp_path):
    victim = tmp_path / "notes.txt"
    victim.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK_FILE).symlink_to(victim)
    with pytest.raises(ConfigError, match="is a link"):
        make_trainer(tmp_path / "run")
    assert victim.read_text() == "mine"


def test_new_parents_of_a_refused_training_are_deleted(tmp_path):
    with pytest.raises(ConfigError, match="dataset: got none"):
        make_trainer(tmp_path / "a" / "b", recipe("word").model_copy(update={"dataset": None}))
    assert not (tmp_path / "a").exists()


def test_weights_with_nan_are_not_begun_from(tmp_path):
    model = train(tmp_path / "first", recipe("word", steps=1))
    weights = read_weights(model / "model.safetensors")
    weights["backbone.embed.weight"][0, 0] = float("nan")
    save_file(weights, model / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"backbone\.embed\.weight holds NaN or Inf"):
        make_trainer(tmp_path / "second", recipe("word"), init=[model])
