"""Checkpoints in parts: saved by some processes and resumed by others, converted, and refused if a part is missing."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from core import sharded_run
from core.toy import registry, values
from core.training.test_trainer import make_trainer

from lumina_core.checkpoint.lazy_tensors import read_tensor
from lumina_core.checkpoint.sharded import PartitionedTensor, TensorPart, open_averages, open_sharded, write_index
from lumina_core.cli.main import run
from lumina_core.errors import CheckpointError
from lumina_core.locate import list_checkpoints
from lumina_core.model_dir import load_model, read_weights
from lumina_core.plugins import loader
from lumina_core.recipe import read_recipe
from lumina_core.training.checkpoint import latest_readable_checkpoint

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this build of torch has no gloo")

SETTINGS = {"steps": 12, "global_batch_size": 12, "lr": 1e-3, "checkpoint_interval": 6, "parallel": "fsdp"}
SAMPLES = {"sample_interval": 6, "sample_requests": [{"word": "low"}, {"word": "high", "steps": 2}, {"label": 1}]}


def toy_values(**training):
    plain = values("word", {"mixed": True}, **{**SETTINGS, **training})
    plain["training"]["sample_requests"] = plain["training"].get("sample_requests", [])[:2]
    return plain


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of two processes (complete, and stopped half-way), and of 1, 2 and 3 that resume the second one."""
    folder = tmp_path_factory.mktemp("sharded")

    def scenario(name, processes, **options):
        training = options.pop("training", {})
        return {"recipe": toy_values(**training), "out": str(folder / name), "processes": processes, **options}

    launches = [
        [scenario("complete", 2, train=True, training=SAMPLES), scenario("whole", 2), scenario("half", 2, stop=6)],
        [scenario(f"resumed{n}", n, resume=True) for n in (1, 2, 3)],
    ]
    for number, scenarios in enumerate(launches):
        if number:
            for n in (1, 2, 3):
                shutil.copytree(folder / "half", folder / f"resumed{n}")
        codes, outputs = sharded_run.launch(folder, scenarios)
        assert set(codes) == {0}, outputs
    return folder


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_what_two_processes_saved_others_resume_with_the_same_numbers(folder, processes):
    whole, resumed = torch.load(folder / "whole.pt"), torch.load(folder / f"resumed{processes}.pt")
    assert len(resumed["losses"]) == 6
    assert resumed["losses"] == pytest.approx(whole["losses"][6:], rel=1e-6)
    for kind in ("weights", "ema"):
        assert all(torch.allclose(resumed[kind][name], tensor, atol=1e-6) for name, tensor in whole[kind].items())


def test_a_training_keeps_the_last_checkpoints_and_writes_the_samples_and_model_of_one_process(folder, tmp_path):
    out = folder / "complete"
    assert [path.name for path in list_checkpoints(out)] == ["step-00000006", "step-00000012"]
    assert not list(out.rglob("*.partial*"))
    one = make_trainer(tmp_path / "one", read_recipe(toy_values(**SAMPLES), "toy")).train()
    ours, theirs = read_weights(out / "model" / "model.safetensors"), read_weights(one / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], tensor, atol=1e-6) for name, tensor in theirs.items())
    for step in ("step-00000006.json", "step-00000012.json"):
        ours, theirs = (
            torch.tensor(json.loads((path / "samples" / step).read_text())) for path in (out, tmp_path / "one")
        )
        assert ours.shape[0] == 2
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_a_run_in_parts_is_loaded_and_converted_like_a_model(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "load_plugins", registry)
    monkeypatch.setattr("lumina_core.cli.main.load_plugins", registry)
    assert run(["convert", str(folder / "complete"), str(tmp_path / "model")]) == 0
    expected = read_weights(folder / "complete" / "model" / "model.safetensors")
    converted = read_weights(tmp_path / "model" / "model.safetensors")
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], tensor) for name, tensor in expected.items())
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    state = load_model(folder / "complete" / "checkpoints" / "step-00000012", registry()).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_a_checkpoint_without_one_of_its_parts_is_skipped_and_named(folder, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(folder / "complete", out)
    newest, older = out / "checkpoints" / "step-00000012", out / "checkpoints" / "step-00000006"
    (newest / "sharded" / "__1_0.distcp").unlink()
    found, damaged = latest_readable_checkpoint(out)
    assert found == older
    assert "__1_0.distcp is missing" in damaged[newest]
    with (older / "sharded" / "__0_0.distcp").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(CheckpointError, match=r"no checkpoint can be read\. .*__1_0\.distcp is missing"):
        latest_readable_checkpoint(out)
    with pytest.raises(CheckpointError, match=r"__0_0\.distcp has 100 of \d+ bytes"):
        open_averages(older)


def test_a_part_of_damaged_bytes_is_one_clear_error(folder, tmp_path):
    checkpoint = tmp_path / "step-00000012"
    shutil.copytree(folder / "complete" / "checkpoints" / "step-00000012", checkpoint)
    for file in (checkpoint / "sharded").glob("*.distcp"):
        file.write_bytes(b"x" * file.stat().st_size)
    with pytest.raises(CheckpointError, match=r"distcp is damaged \(.*Resume from another checkpoint") as raised:
        read_tensor(next(iter(open_averages(checkpoint).values())))
    assert "\n" not in str(raised.value)


def test_an_index_that_names_files_elsewhere_is_refused(tmp_path):
    (tmp_path / "sharded").mkdir()
    write_index(
        tmp_path / "sharded", {"w": {"dtype": "float32", "shape": [1], "parts": [[[0], [1], "../secret", 0, 1]]}}
    )
    with pytest.raises(CheckpointError, match=r"\.\./secret is no name of a file in the same folder"):
        open_sharded(tmp_path)


def test_rows_are_read_from_the_parts_that_hold_them(tmp_path):
    expected, parts = torch.arange(24.0).view(6, 4), []
    for row, column in ((0, 0), (0, 2), (2, 0), (2, 2)):
        stop = 2 if row == 0 else 6
        path = tmp_path / f"{row}{column}"
        torch.save(expected[row:stop, column : column + 2].clone(), path)
        parts.append(TensorPart((row, column), (stop - row, 2), path, 0, path.stat().st_size))
    tensor = PartitionedTensor((6, 4), torch.float32, tuple(parts))
    assert torch.equal(tensor.load(), expected)
    assert torch.equal(read_tensor(tensor.slice_rows(1, 5)), expected[1:5])
    assert torch.equal(read_tensor(tensor.slice_rows(1, 5).slice_rows(1, 3)), expected[2:4])
