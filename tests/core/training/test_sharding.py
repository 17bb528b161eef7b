"""Sharded training (FSDP2, HSDP): the numbers of one process, a part of its memory, and sizes that do not fit."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
import torch
from core import sharded_run
from core.toy import recipe, registry, values

from lumina_core.errors import ConfigError
from lumina_core.model import build_model
from lumina_core.model_dir import read_weights, save_model
from lumina_core.recipe import read_recipe
from lumina_core.training import distributed
from lumina_core.training.distributed import ProcessInfo, check_shard_size, used_parameters
from lumina_core.training.trainer import Trainer

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this build of torch has no gloo")

SETTINGS = {"steps": 20, "global_batch_size": 12, "lr": 1e-3, "max_norm": 1.0, "checkpoint_interval": 100}
DATASET = {"mixed": True, "weighted": True, "buckets": True}
"""Lengths differ, and one item in ten has no conditions: processes use different weights in a step."""
EVALUATED = ("one", "ddp2", "fsdp3", "hsdp2x2")
PROCESSES = {
    1: {"one": {}, "one_muon": {"optimizer": "muon"}, "one_fsdp": {"parallel": "fsdp"}},
    2: {
        "ddp2": {},
        "ddp2_muon": {"optimizer": "muon"},
        "fsdp2": {"parallel": "fsdp"},
        "fsdp2_accumulation": {"parallel": "fsdp", "gradient_accumulation_steps": 2},
        "fsdp2_muon": {"parallel": "fsdp", "optimizer": "muon"},
    },
    3: {"fsdp3": {"parallel": "fsdp"}, "fsdp3_muon": {"parallel": "fsdp", "optimizer": "muon"}},
    4: {
        "fsdp4": {"parallel": "fsdp"},
        "hsdp2x2": {"parallel": "hsdp", "shard_size": 2},
        "hsdp2x2_muon": {"parallel": "hsdp", "shard_size": 2, "optimizer": "muon"},
    },
}
ADAPTER = {"rank": 2, "targets": ["attention.qkv", "feed_forward.out", "head.linear"]}
NAMES = [name for runs in PROCESSES.values() for name in runs if name not in ("one", "one_muon")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of the results of all runs."""
    folder = tmp_path_factory.mktemp("sharding")
    scenarios = [
        {
            "recipe": values("word", DATASET, **{**SETTINGS, **training}),
            "out": str(folder / name),
            "processes": processes,
            "evaluate": name in EVALUATED,
        }
        for processes, runs in PROCESSES.items()
        for name, training in runs.items()
    ]
    if find_spec("peft") is not None:
        scenarios += adapter_scenarios(folder)
    codes, outputs = sharded_run.launch(folder, scenarios)
    assert codes == [0] * 4, outputs
    return folder


def adapter_scenarios(folder):
    """Trainings of an adapter: by one process, and by two that share the model, then one that resumes from them."""
    torch.manual_seed(3)
    model = build_model(recipe("word"), registry())
    torch.nn.init.normal_(model.head.linear.weight, std=0.2)
    save_model(model, folder / "base", registry())
    settings = {**SETTINGS, "steps": 8, "checkpoint_interval": 4, "lr": 1e-2, "adapter": ADAPTER}
    spec = {**values("word", DATASET, **settings), "base_model": str(folder / "base")}
    sharded = {**spec, "training": {**spec["training"], "parallel": "fsdp"}}
    shared = {"recipe": sharded, "out": str(folder / "lora2"), "train": True}
    return [
        {"recipe": spec, "out": str(folder / "lora1"), "processes": 1, "train": True},
        {**shared, "processes": 2, "train": False, "stop": 4},
        {**shared, "processes": 1, "resume": True},
    ]


def written(folder, name, processes):
    return [json.loads((folder / f"{name}.{rank}.json").read_text()) for rank in range(processes)]


def flat(tensors):
    return torch.cat([tensor.flatten().double() for tensor in tensors.values() if tensor.is_floating_point()])


@pytest.mark.parametrize("name", NAMES)
def test_losses_weights_and_averages_are_those_of_one_process(folder, name):
    reference = torch.load(folder / ("one_muon.pt" if "muon" in name else "one.pt"))
    result = torch.load(folder / f"{name}.pt")
    assert len(result["losses"]) == 20
    assert result["losses"] == pytest.approx(reference["losses"], rel=1e-5)
    for kind in ("weights", "ema"):
        assert result[kind].keys() == reference[kind].keys()
        expected = flat(reference[kind])
        assert float((flat(result[kind]) - expected).norm() / expected.norm()) < 1e-5


def test_each_of_four_processes_holds_at_most_three_tenths(folder):
    one = written(folder, "one", 1)[0]["held"]
    for result in written(folder, "fsdp4", 4):
        held = result["held"]
        assert {kind: held[kind] / one[kind] <= 0.3 for kind in one} == dict.fromkeys(one, True)


@pytest.mark.parametrize(("name", "processes"), [("ddp2", 2), ("fsdp3", 3), ("hsdp2x2", 4)])
def test_all_processes_compute_one_shape_in_a_step_and_nearly_as_many_tokens(folder, name, processes):
    steps = list(zip(*(result["shapes"] for result in written(folder, name, processes)), strict=True))
    assert len(steps) == 20
    assert any(len({tokens for *_, tokens in step}) > 1 for step in steps)  # shares differ before they are padded
    for step in steps:
        assert len({tuple(shape) for *shape, _ in step}) == 1
        counts = [tokens for *_, tokens in step]
        assert max(counts) - min(counts) <= 2  # lengths are 4 to 6


@pytest.mark.parametrize(("name", "processes"), [("ddp2", 2), ("fsdp3", 3), ("hsdp2x2", 4)])
def test_an_evaluation_during_a_training_is_that_of_one_process(folder, name, processes):
    results = written(folder, name, processes)
    reports = [result["report"] for result in results]
    assert all(report == reports[0] for report in reports)
    expected = written(folder, "one", 1)[0]["report"]
    assert reports[0]["num_generated"] == expected["num_generated"] == 7
    ours, theirs = (report["scores"]["d"] for report in (reports[0], expected))
    assert ours.keys() == theirs.keys() >= {"each", "means"}
    for name in ("each", "means"):
        numbers = [[score[name][key] for key in ("value", "low", "high", "count")] for score in (ours, theirs)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-4)
    assert [result["previews"] for result in results] == [14] + [0] * (processes - 1)


def test_a_sharded_adapter_is_that_of_one_process_also_if_one_process_resumes_it(folder):
    pytest.importorskip("peft")
    ours, theirs = (read_weights(folder / name / "lora" / "adapter_model.safetensors") for name in ("lora2", "lora1"))
    assert ours.keys() == theirs.keys() and len(ours) == 10
    assert all(torch.allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-6) for name in theirs)
    assert any(float(theirs[name].abs().max()) > 1e-3 for name in theirs if "lora_B" in name)
    held = [result["held"] for result in written(folder, "lora2", 2)]
    assert max(one["parameters"] for one in held) < 0.8 * (folder / "base" / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("adapter", "reason"),
    [({"base_dtype": "int8"}, "a base in int8"), ({"method": "dora", "targets": ["qkv[q]"]}, "DoRA of single")],
)
def test_adapters_that_cannot_be_sharded_are_refused_before_anything_is_built(tmp_path, monkeypatch, adapter, reason):
    monkeypatch.setattr(distributed, "init_distributed", lambda device: ProcessInfo(0, 2, torch.device("cpu")))
    save_model(build_model(recipe("word"), registry()), tmp_path / "base", registry())
    training = {"parallel": "fsdp", "adapter": adapter}
    spec = {**values("word", global_batch_size=4, **training), "base_model": str(tmp_path / "base")}
    with pytest.raises(ConfigError, match=f"training.parallel: got fsdp with {reason}"):
        Trainer(read_recipe(spec, "toy"), tmp_path / "run", device="cpu", registry=registry())
    assert not (tmp_path / "run").exists()


def test_the_shard_size_divides_the_processes(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert check_shard_size(2, 4) == 2
    assert check_shard_size(None, 4) == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert check_shard_size(None, 4) == 2
    with pytest.raises(ConfigError, match=r"training.shard_size: got 3 for 4 processes, expected a divisor of 4"):
        check_shard_size(3, 4)


def test_used_parameters_are_those_that_the_graph_reaches():
    used, unused = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    loss = (used.exp() * unused.detach()).sum()
    assert used_parameters(loss, [used, unused]) == [True, False]
