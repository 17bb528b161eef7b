"""Checkpoints: all of a run comes back bit for bit, a full disk harms nothing, and what does not fit is told."""

from __future__ import annotations

import errno

import pytest
import torch
from core.toy import recipe, registry

from lumina_core.errors import CheckpointError, LuminaError
from lumina_core.model import build_dataset, build_model
from lumina_core.training import checkpoint
from lumina_core.training.checkpoint import (
    TrainState,
    delete_old_checkpoints,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from lumina_core.training.distributed import ProcessInfo
from lumina_core.training.optim import build_optimizers
from lumina_core.training.trainer import EMA, TrainStep, _make_dataloader, freeze

ALONE = ProcessInfo(0, 1, torch.device("cpu"))


def begun(asked, steps=3):
    """A run that took some steps."""
    torch.manual_seed(asked.training.seed)
    model, dataset = build_model(asked, registry()), build_dataset(asked, registry())
    freeze(model, asked.training.freeze)
    run = TrainState(model, EMA(model, 0.9), build_optimizers(model, asked.training))
    stepper = TrainStep(model, asked.training, ALONE, run.optimizers)
    for number, raw in zip(range(steps), _make_dataloader(model, dataset, 0, ALONE), strict=False):
        stepper.step(number, raw)
        run.ema.update(model, number)
    return run


def states(run):
    return [member.state_dict()["state"] for member in run.optimizers.optimizers]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weights_average_and_optimizers_come_back_bit_for_bit(tmp_path, optimizer):
    asked = recipe("word", optimizer=optimizer, seed=1)
    old, new = (
        begun(asked),
        begun(asked.model_copy(update={"training": asked.training.model_copy(update={"seed": 2})}), 0),
    )
    folder = save_checkpoint(old, 3, tmp_path, registry())
    assert load_checkpoint(new, folder) == 3
    for ours, theirs in ((old.model.state_dict(), new.model.state_dict()), (old.ema.weights, new.ema.weights)):
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    for ours, theirs in zip(states(old), states(new), strict=True):
        assert ours.keys() == theirs.keys()
        for place, kept in ours.items():
            assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(theirs[place][k])) for k, v in kept.items())


@pytest.mark.parametrize("nth", [0, 1, 2])
def test_a_full_disk_is_one_clear_line_and_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch, nth):
    run, real, calls = begun(recipe()), checkpoint.save_file, []
    kept = {p.name: p.read_bytes() for p in save_checkpoint(run, 4, tmp_path, registry()).rglob("*") if p.is_file()}

    def full(tensors, path):
        calls.append(path)
        if len(calls) > nth:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(LuminaError, match=r"step-00000008 .*No space left on device.*is unchanged") as raised:
        save_checkpoint(run, 8, tmp_path, registry())
    assert "\n" not in str(raised.value)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]
    assert {p.name: p.read_bytes() for p in latest_checkpoint(tmp_path).rglob("*") if p.is_file()} == kept


def test_only_the_newest_checkpoints_are_kept_and_half_written_ones_go(tmp_path):
    run = begun(recipe(), 1)
    for done in (4, 8, 12, 100000000):
        save_checkpoint(run, done, tmp_path, registry())
    (tmp_path / "checkpoints" / ".step-00000016.lumina-4999999-12345678.partial").mkdir()
    (tmp_path / ".recipe.yaml.lumina-4999999-12345678.partial.yaml").write_text("half")
    delete_old_checkpoints(tmp_path, 2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000012", "step-100000000"]
    assert latest_checkpoint(tmp_path).name == "step-100000000"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoints"]


def test_there_is_no_newest_checkpoint_where_there_is_none(tmp_path):
    assert latest_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize("change", [{"optimizer": "muon"}, {"freeze": ["backbone.embed"]}])
def test_a_run_of_another_recipe_is_refused(tmp_path, change):
    folder = save_checkpoint(begun(recipe()), 3, tmp_path, registry())
    with pytest.raises(CheckpointError, match=r"does not fit this run .*was the recipe changed since"):
        load_checkpoint(begun(recipe(**change), 0), folder)


@pytest.mark.parametrize("lost", ["training/state.json", "training/optimizer.safetensors", "ema.safetensors"])
def test_a_checkpoint_that_lacks_a_file_is_refused(tmp_path, lost):
    folder = save_checkpoint(begun(recipe()), 3, tmp_path, registry())
    (folder / lost).unlink()
    with pytest.raises(CheckpointError):
        load_checkpoint(begun(recipe(), 0), folder)
