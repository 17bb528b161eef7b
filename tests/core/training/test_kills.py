"""Kills at every disk call of a save and at random moments, and pairs of trainings: a share of tests/kills.py."""

from __future__ import annotations

import os
import shutil
import sys

import pytest
from core.toy import recipe
from core.training.test_checkpoint import trained
from kills import count_disk_calls, kill_at_random, killed_at, race, toy_command
from making import make_model, registry_of

from lumina_core.model_dir import load_model, save_model
from lumina_core.training.callbacks import MetricLogger, StepMetrics
from lumina_core.training.checkpoint import delete_old_checkpoints, latest_readable_checkpoint

pytestmark = pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="forks with torch")


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_kill_at_any_disk_call_of_a_checkpoint_loses_nothing(tmp_path):
    trainer = trained(tmp_path / "base", recipe("word", steps=12, keep_latest_k=1))
    whole = {"step-00000003": contents(trainer.save())}
    trainer.step, trainer.out = 4, tmp_path / "next"
    trainer.model.backbone.embed.weight.data.add_(1)
    whole["step-00000004"] = contents(trainer.save())

    def fresh():
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(tmp_path / "base", tmp_path / "run")
        trainer.out = tmp_path / "run"

    fresh()
    total, seen = count_disk_calls(trainer.save), set()
    assert total > 20
    for number in range(total):
        fresh()
        killed_at(trainer.save, number)
        folder, damaged = latest_readable_checkpoint(tmp_path / "run")
        assert folder is not None and not damaged, number
        seen.add(folder.name)
        for left in (tmp_path / "run" / "checkpoints").glob("step-*"):
            assert contents(left) == whole[left.name], (number, left.name)
        delete_old_checkpoints(tmp_path / "run", 1)
        assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [folder.name], number
    assert seen == set(whole)


def test_a_kill_at_any_disk_call_of_the_final_save_leaves_a_whole_model(tmp_path):
    trainer = trained(tmp_path / "run", recipe("word"))
    model_dir = tmp_path / "run" / "model"
    save_model(trainer.model, model_dir, trainer.registry)
    old = contents(model_dir)
    trainer.model.backbone.embed.weight.data.add_(1)
    save_model(trainer.model, tmp_path / "new", trainer.registry)
    new, states = contents(tmp_path / "new"), []
    total = count_disk_calls(lambda: save_model(trainer.model, tmp_path / "third", trainer.registry))
    for number in range(total):
        if contents(model_dir) != old:
            shutil.rmtree(model_dir)
            model_dir.mkdir()
            for name, content in old.items():
                (model_dir / name).write_bytes(content)
        try:
            killed_at(lambda: save_model(trainer.model, model_dir, trainer.registry), number)
        except AssertionError:  # replacing needs a few calls less or more than writing anew
            assert contents(model_dir) == new
            break
        assert contents(model_dir) in (old, new), number
        states.append(contents(model_dir) == new)
    save_model(trainer.model, model_dir, trainer.registry)
    assert contents(model_dir) == new and not all(states)
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if ".partial" in path.name) == []


@pytest.mark.parametrize("task", ["image", "audio"])
def test_a_kill_at_any_disk_call_of_an_output_leaves_the_old_file_or_the_new_one(tmp_path, task):
    pytest.importorskip(f"lumina_{task}")
    registry = registry_of(task)
    folder = make_model(f"{task}.tiny", tmp_path / "model", registry)
    import torch

    made = load_model(folder, registry).generation_task
    item = torch.zeros(3, 32, 32) if task == "image" else torch.zeros(1, 4000)
    path = tmp_path / "out" / ("it.png" if task == "image" else "it.wav")
    path.parent.mkdir()
    metadata = {"prompt": "a", "seed": 1}
    made.save(item, path, metadata)
    new = path.read_bytes()
    total = count_disk_calls(lambda: made.save(item, path, metadata))
    assert total >= 3
    for number in range(total):
        path.write_bytes(b"old")
        killed_at(lambda: made.save(item, path, metadata), number)
        assert path.read_bytes() in (b"old", new)


def test_a_kill_at_any_disk_call_of_a_resume_keeps_the_metrics(tmp_path):
    logger = MetricLogger(tmp_path)
    logger._tensorboard_dir = tmp_path / "tensorboard"
    logger.open(0)
    for step in range(1, 9):
        logger.log(StepMetrics(step, 0.5, 1.0, 0.1, 0.1, 1.0, {}))
    before = (tmp_path / "metrics.csv").read_text()
    shorter = "".join(before.splitlines(keepends=True)[:5])

    def reopen():
        MetricLogger(tmp_path).open(4)

    for number in range(count_disk_calls(reopen)):
        (tmp_path / "metrics.csv").write_text(before)
        killed_at(reopen, number)
        assert (tmp_path / "metrics.csv").read_text().replace("\r", "") in (
            before.replace("\r", ""),
            shorter.replace("\r", ""),
        )


def test_a_kill_at_a_random_moment_loses_nothing(tmp_path):
    kill_at_random(toy_command, tmp_path, 1, 13)


def test_of_two_trainings_in_one_folder_one_runs_and_one_is_refused(tmp_path):
    race(toy_command, tmp_path / "run")
