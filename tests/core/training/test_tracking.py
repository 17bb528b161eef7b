"""Trackers get the metrics of every step, profiles are written, and runs are plotted."""

from __future__ import annotations

import json
import sys
import types

import pytest
from core.toy import recipe, values
from core.training.test_trainer import make_trainer
from PIL import Image

from lumina_core.errors import CheckpointError, ConfigError, PluginError
from lumina_core.recipe import read_recipe
from lumina_core.training.plot import plot_runs, read_metrics, smooth
from lumina_core.training.tracking import ProfileCallback, TrackerCallback


@pytest.fixture
def tracker(monkeypatch):
    """A module with the interface that wandb and trackio share, which remembers its calls."""
    module = types.ModuleType("trackio")
    module.calls = []
    for name in ("init", "log", "finish"):
        setattr(module, name, lambda *args, _name=name, **kwargs: module.calls.append((_name, args, kwargs)))
    monkeypatch.setitem(sys.modules, "trackio", module)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.mark.parametrize("library", ["trackio", "wandb"])
def test_a_tracker_gets_the_recipe_and_the_metrics_of_every_step(tmp_path, tracker, library):
    trainer = make_trainer(tmp_path / "mine", callbacks=[TrackerCallback(library)])
    trainer.train()
    names = [name for name, _, _ in tracker.calls]
    assert names == ["init", *["log"] * trainer.step, "finish"]
    init = tracker.calls[0][2]
    assert (init["project"], init["name"]) == ("lumina", "mine")
    assert init["config"]["backbone"]["type"] == trainer.recipe.backbone.type
    assert [kwargs["step"] for name, _, kwargs in tracker.calls if name == "log"] == list(range(1, trainer.step + 1))
    logged = [args[0]["loss"] for name, args, _ in tracker.calls if name == "log"]
    assert logged == pytest.approx(read_metrics(tmp_path / "mine")["loss"], rel=1e-6)
    if library == "wandb":
        assert init["id"] == (tmp_path / "mine" / "wandb-id").read_text()


def test_a_tracker_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(PluginError, match=r"pip install"):
        TrackerCallback("trackio")
    with pytest.raises(ConfigError, match="got 'mlflow', expected wandb or trackio"):
        TrackerCallback("mlflow")


@pytest.mark.parametrize(("warmup", "count"), [(1, 2), (0, 1), (1, 100)])
def test_a_profile_holds_a_trace_and_the_operations(tmp_path, warmup, count):
    make_trainer(tmp_path / "run", callbacks=[ProfileCallback(count, warmup)]).train()
    trace = json.loads((tmp_path / "run" / "profile" / "trace.json").read_text(encoding="utf-8"))
    steps = [event for event in trace["traceEvents"] if event.get("name", "").startswith("Optimizer.step#AdamW.step")]
    total = recipe("word").training.steps - warmup
    assert len(steps) == min(count, total)
    assert "aten::" in (tmp_path / "run" / "profile" / "operations.txt").read_text(encoding="utf-8")


def test_smoothing_averages_the_past_alone():
    assert smooth([1, 3, 5, 7], 2) == [1, 2, 4, 6]
    assert smooth([1, float("nan"), 3], 3) == [1, 1, 2]


def write_run(folder, losses):
    folder.mkdir()
    rows = [f"{step},{loss},1.0,0.1,{step / 1000},640" for step, loss in enumerate(losses, 1)]
    header = "step,loss,grad_norm,step_seconds,lr,samples_per_second"
    (folder / "metrics.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder


def test_runs_are_plotted(tmp_path):
    pytest.importorskip("matplotlib")
    one = write_run(tmp_path / "one", [1 / step for step in range(1, 101)])
    two = write_run(tmp_path / "two", [2 / step for step in range(1, 51)])
    plot_runs([one], tmp_path / "one.png")
    plot_runs([one, two], tmp_path / "both.png")
    images = [Image.open(tmp_path / name).convert("RGB") for name in ("one.png", "both.png")]
    assert all(image.size == (1100, 640) for image in images)
    colors = [{color for _, color in image.getcolors(1 << 24)} for image in images]
    blue, orange = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)
    assert [blue in found for found in colors] == [True, True]
    assert [orange in found for found in colors] == [False, True]


def test_the_command_plots_and_names_folders_without_metrics(lumina, tmp_path):
    pytest.importorskip("matplotlib")
    run = write_run(tmp_path / "run", [3.0, float("nan"), 1.0])
    done = lumina("plot", run)
    assert done.status == 0 and done.out.strip() == str(run / "metrics.png")
    assert Image.open(run / "metrics.png").format == "PNG"
    assert "expected a training with metrics.csv" in lumina("plot", tmp_path / "none").err
    assert "expected .png" in lumina("plot", run, "--out", tmp_path / "loss.jpg").err
    (run / "metrics.csv").write_text("step,loss\n")
    with pytest.raises(CheckpointError, match="has no row yet"):
        read_metrics(run)


def test_the_train_command_profiles_and_refuses_unknown_trackers(toy, lumina, tmp_path):
    path = tmp_path / "recipe.json"
    read_recipe(values("word"), "toy")
    path.write_text(json.dumps(values("word")), encoding="utf-8")
    assert "'mlflow' is not one of" in lumina("train", path, "--out", tmp_path / "run", "--track", "mlflow").err
