"""Estimate of the memory of a training: compared with what processes really use, and plans for several devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from core import toy
from core.toy import registry, values

from lumina_core.cli.main import run
from lumina_core.device import resolve_dtype
from lumina_core.errors import ConfigError, LuminaError
from lumina_core.plugins import loader
from lumina_core.recipe import read_recipe
from lumina_core.training.memory import (
    DeviceMemory,
    ParallelPlan,
    device_memory,
    parse_bytes,
    plan_devices,
    recommended_plan,
    simulate_step,
)

LETTERS = 6
"""Entries of the context of the longest word."""


def configuration(length=128, backbone=None, conditioner="label", **training):
    """Return a recipe whose weights or activations are some hundred MB."""
    defaults = {"steps": 3, "global_batch_size": 8, "checkpoint_interval": 100}
    plain = values(conditioner, {"length": length}, **{**defaults, **training})
    sizes = {"hidden_size": 384, "num_layers": 6, "num_heads": 4, "multiple_of": 64}
    plain["backbone"] |= {**sizes, **(backbone or {})}
    plain["backbone"]["rope_axes_dim"] = [plain["backbone"]["hidden_size"] // 4, 0, 0]
    return plain


CONFIGURATIONS = {
    "activations": configuration(),
    "recomputed": configuration(256, {"gradient_checkpointing": True}),
    "weights": configuration(32, {"hidden_size": 512, "num_layers": 4}),
    "muon": configuration(16, {"hidden_size": 512, "num_layers": 4}, optimizer="muon"),
    "accumulation": configuration(256, conditioner="word", gradient_accumulation_steps=4, freeze=["conditioners.word"]),
}


def estimate(plain):
    toy_recipe = read_recipe(plain, "toy")
    training = toy_recipe.training
    items = training.global_batch_size // training.gradient_accumulation_steps
    size = (plain["dataset"]["length"],)
    model, step = simulate_step(toy_recipe, registry(), items, size, context_length=LETTERS)
    return device_memory(model, step, training, 1, resolve_dtype(training.mixed_precision, torch.device("cpu")))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux, to measure the peak")
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_estimate_is_within_15_percent_of_what_a_training_uses(tmp_path, name):
    plain = CONFIGURATIONS[name]
    (tmp_path / "recipe.json").write_text(json.dumps(plain))
    script = str(Path(toy.__file__).with_name("memory_run.py"))
    limits = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script, str(tmp_path / "recipe.json"), str(tmp_path)],
        env={**os.environ, **limits}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert estimate(plain).total == pytest.approx(int(done.stdout.split()[-1]), rel=0.15)


def test_recomputation_and_sharding_save_memory():
    plain = configuration(64, {"hidden_size": 128, "num_layers": 6})
    toy_recipe, training = read_recipe(plain, "toy"), {}
    needed = {}
    for checkpointing in (False, True):
        model, step = simulate_step(toy_recipe, registry(), 4, (64,), checkpointing)
        for parallel in ("ddp", "fsdp"):
            training = toy_recipe.training.model_copy(update={"parallel": parallel})
            needed[parallel, checkpointing] = device_memory(model, step, training, 4, torch.float32)
    assert needed["ddp", True].activations < needed["ddp", False].activations / 2
    for kind in ("optimizer", "ema"):
        assert vars(needed["fsdp", False])[kind] == vars(needed["ddp", False])[kind] // 4
    assert needed["fsdp", True].total < needed["fsdp", False].total
    # trained weights in float32: two states of AdamW, one average
    assert needed["ddp", False].optimizer == 2 * needed["ddp", False].ema


def test_a_plan_holds_more_items_on_larger_devices_and_takes_the_first_way_that_suffices():
    toy_recipe = read_recipe(configuration(64, {"hidden_size": 64, "num_layers": 2}), "toy")
    small, large = (plan_devices(toy_recipe, registry(), 8, size, (64,))[1] for size in (4 * 10**7, 4 * 10**8))
    assert [(plan.parallel, plan.checkpointing) for plan in small] == [
        ("ddp", False), ("fsdp", False), ("ddp", True), ("fsdp", True)
    ]  # fmt: skip
    assert all(0 < few.items < many.items and few.total <= 4 * 10**7 for few, many in zip(small, large, strict=True))
    assert recommended_plan(large, 1) is large[0]
    one = DeviceMemory(1, 1, 1, 1, 1)
    none, few, more, enough = (ParallelPlan("ddp", False, one, items, 5) for items in (0, 1, 3, 8))
    assert recommended_plan([none], 1) is None
    assert recommended_plan([none, few, more], 100) is more
    assert recommended_plan([none, few, more, enough], 100) is enough
    assert recommended_plan([none, few, more, enough], 1) is few


@pytest.mark.parametrize(
    ("text", "expected"), [("80GB", 80 * 10**9), ("24 GiB", 24 * 2**30), ("1.5tb", 15 * 10**11), ("512MB", 512 * 10**6)]
)
def test_sizes_are_read(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["80", "GB", "-3GB", "80 apples"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigError, match="expected a number and a unit, such as 80GB"):
        parse_bytes(text)


def test_the_command_prints_a_table_and_the_way_to_take(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loader, "load_plugins", registry)
    monkeypatch.setattr("lumina_core.cli.main.load_plugins", registry)
    (tmp_path / "recipe.json").write_text(json.dumps(values("label")))
    assert run(["check", str(tmp_path / "recipe.json"), "--devices", "2", "--memory", "1GB"]) == 0
    output = capsys.readouterr().out
    assert "take: training.parallel=ddp backbone.gradient_checkpointing=false" in output
    assert run(["check", str(tmp_path / "recipe.json"), "--devices", "2", "--memory", "1KB"]) == 0
    assert "nothing fits" in capsys.readouterr().out
    assert run(["check", str(tmp_path / "recipe.json"), "--devices", "2", "--memory", "many"]) == 2


def test_a_task_without_a_size_asks_for_one():
    plain = {**values(), "task": {"type": "core.unknown"}}
    with pytest.raises(LuminaError):
        simulate_step(read_recipe(plain, "toy"), registry(), 1)
