"""Checkpoints: all state comes back bit for bit, a full disk does no harm, and what does not fit is refused."""

from __future__ import annotations

import errno

import pytest
import torch
from core.toy import recipe
from core.training.test_trainer import make_trainer

from lumina_core.errors import CheckpointError, LuminaError
from lumina_core.io import host_id
from lumina_core.locate import latest_checkpoint, list_checkpoints
from lumina_core.training import checkpoint
from lumina_core.training.checkpoint import delete_old_checkpoints


def trained(out, toy_recipe=None, steps=3):
    """Return a trainer after some steps."""
    with make_trainer(out, toy_recipe or recipe()) as trainer:
        for _, batch in zip(range(steps), trainer.batches(), strict=False):
            trainer.train_step(batch)
    return trainer


def optimizer_states(trainer):
    return [optimizer.state_dict()["state"] for optimizer in trainer.optimizers.optimizers]


def test_trained_buffers_are_restored(tmp_path):
    trainer = trained(tmp_path / "1")
    trainer.model.register_buffer("statistic", torch.ones(2))
    trainer.ema = type(trainer.ema)(trainer.model, 0.5)
    trainer.model.statistic.add_(3)
    trainer.ema.update(trainer.model, 100)
    folder, averaged = trainer.save(), trainer.ema.weights["statistic"].clone()
    trainer.ema.weights["statistic"].zero_()
    trainer.load(folder)
    assert torch.equal(trainer.ema.weights["statistic"], averaged)
    assert averaged.tolist() == [2.5, 2.5]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weights_averages_and_optimizer_states_are_restored_bit_for_bit(tmp_path, optimizer):
    old = trained(tmp_path / "old", recipe("word", optimizer=optimizer, seed=1))
    new = trained(tmp_path / "new", recipe("word", optimizer=optimizer, seed=2), 0)
    new.load(old.save())
    assert new.step == 3
    for ours, theirs in ((old.model.state_dict(), new.model.state_dict()), (old.ema.weights, new.ema.weights)):
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    for ours, theirs in zip(optimizer_states(old), optimizer_states(new), strict=True):
        assert ours.keys() == theirs.keys()
        for index, state in ours.items():
            assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(theirs[index][k])) for k, v in state.items())


@pytest.mark.parametrize("nth", [0, 1, 2])
def test_a_full_disk_is_one_clear_line_and_leaves_the_old_checkpoint_complete(tmp_path, monkeypatch, nth):
    trainer, save, calls = trained(tmp_path), checkpoint.save_file, []
    before = {p.name: p.read_bytes() for p in trainer.save().rglob("*") if p.is_file()}

    def fail(tensors, path):
        calls.append(path)
        if len(calls) > nth:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", fail)
    trainer.step = 8
    with pytest.raises(LuminaError, match=r"step-00000008 .*No space left on device") as raised:
        trainer.save()
    assert "\n" not in str(raised.value)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]
    assert {p.name: p.read_bytes() for p in latest_checkpoint(tmp_path).rglob("*") if p.is_file()} == before


def test_older_and_partial_checkpoints_are_deleted(tmp_path):
    trainer = trained(tmp_path, steps=1)
    for trainer.step in (4, 8, 12, 100000000):
        trainer.save()
    dead = f"lumina-{host_id()}-99999999-12345678.partial"
    (tmp_path / "checkpoints" / f".step-00000016.{dead}").mkdir()
    (tmp_path / f".recipe.yaml.{dead}.yaml").write_text("half")
    delete_old_checkpoints(tmp_path, 2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000012", "step-100000000"]
    assert latest_checkpoint(tmp_path).name == "step-100000000"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lumina.lock", "checkpoints"]


def test_a_folder_without_checkpoints_has_no_latest_one(tmp_path):
    assert latest_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize("change", [{"optimizer": "muon"}, {"freeze": ["backbone.embed"]}])
def test_a_checkpoint_of_another_recipe_is_refused(tmp_path, change):
    folder = trained(tmp_path / "1").save()
    with pytest.raises(CheckpointError, match=r"got a checkpoint of another recipe"):
        trained(tmp_path / "2", recipe(**change), 0).load(folder)


@pytest.mark.parametrize("file", ["training/state.json", "training/optimizer.safetensors", "ema.safetensors"])
def test_a_checkpoint_that_lacks_a_file_is_refused(tmp_path, file):
    folder = trained(tmp_path / "1").save()
    (folder / file).unlink()
    with pytest.raises(CheckpointError):
        trained(tmp_path / "2", steps=0).load(folder)


def test_a_half_deleted_checkpoint_does_not_count(tmp_path):
    trainer = trained(tmp_path, steps=1)
    for trainer.step in (4, 8, 12):
        trainer.save()
    (tmp_path / "checkpoints" / "step-00000008" / "training" / "state.json").unlink()
    delete_old_checkpoints(tmp_path, 2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000012"]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000012"]


def test_two_complete_checkpoints_are_kept_with_a_half_deleted_one(tmp_path):
    trainer = trained(tmp_path, recipe("word", keep_latest_k=2), steps=1)
    for trainer.step in (4, 8):
        trainer.save()
    half = tmp_path / "checkpoints" / "step-00000006"
    half.mkdir()
    delete_old_checkpoints(tmp_path, 2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000004", "step-00000008"]
