"""Sharded training (FSDP2, HSDP): the numbers of one process, a part of its memory, and sizes that do not fit."""

from __future__ import annotations

import json

import pytest
import torch
from core import sharded_run
from core.toy import values

from lumina_core.errors import ConfigError
from lumina_core.training.distributed import check_shard_size, used_parameters

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this build of torch has no gloo")

SETTINGS = {"steps": 20, "global_batch_size": 12, "lr": 1e-3, "max_norm": 1.0, "checkpoint_interval": 100}
DATASET = {"mixed": True, "weighted": True}
"""Lengths differ, and one item in ten has no conditions: processes use different weights in a step."""
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
        }
        for processes, runs in PROCESSES.items()
        for name, training in runs.items()
    ]
    codes, outputs = sharded_run.launch(folder, scenarios)
    assert codes == [0] * 4, outputs
    return folder


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
    one = json.loads((folder / "one.0.json").read_text())
    for rank in range(4):
        held = json.loads((folder / f"fsdp4.{rank}.json").read_text())
        assert {kind: held[kind] / one[kind] <= 0.3 for kind in one} == dict.fromkeys(one, True)


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
