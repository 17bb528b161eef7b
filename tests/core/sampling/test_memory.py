"""Available memory: what is free now, within the limits of the control group."""

from __future__ import annotations

import pytest
import torch

from lumina_core.sampling.resolve import available_memory

CPU = torch.device("cpu")


def group(folder, limit, usage, cache, names=("memory.max", "memory.current", "memory.stat")):
    for name, content in zip(names, (limit, usage, f"anon 5\ninactive_file {cache}\n"), strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(str(content))
    return folder


def test_free_memory_of_a_control_group_is_its_limit_minus_its_use(tmp_path):
    assert available_memory(CPU, group(tmp_path, 1_000_000, 400_000, 100_000)) == 700_000


def test_version_1_of_control_groups_is_read_as_well(tmp_path):
    names = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat")
    assert available_memory(CPU, group(tmp_path, 1_000_000, 400_000, 0, names)) == 600_000


@pytest.mark.parametrize("limit", ["max", 2**60])
def test_without_a_limit_it_is_the_available_memory_of_the_system(tmp_path, limit):
    available = available_memory(CPU, group(tmp_path, limit, 0, 0))
    with open("/proc/meminfo") as file:
        total = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemTotal:"))
    assert 0 < available < total


def test_on_cuda_it_is_the_free_memory_and_what_torch_has_reserved_without_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3_000, 80_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 900)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    assert available_memory(torch.device("cuda")) == 3_700
