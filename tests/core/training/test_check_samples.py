"""What a training uses late, its samples and sampling defaults, is checked before the first step and by `check`."""

from __future__ import annotations

import pytest
from core import toy
from core.toy import recipe, registry, values
from core.training.test_trainer import make_trainer

from lumina_core.errors import ConfigError, LuminaError
from lumina_core.training.dry_run import dry_run

BAD_REQUESTS = [
    ({"label": 7}, "label"),
    ({"colour": "red"}, "colour"),
    ({"label": 1, "solver": "eulre"}, "euler"),
    ({"label": 1, "solver": "euler:order=2"}, "order"),
    ({"label": 1, "schedule": "unifrom"}, "uniform"),
    ({"label": 1, "guidance": "cgf"}, "cfg"),
    ({"label": 1, "guidance_interval": "3,4"}, "guidance_interval"),
    ({"label": 1, "nfe": 4, "steps": 4}, "nfe"),
    ({"label": 1, "word": "low"}, "word"),
]
BAD_SAMPLING = [
    {"solver": "eulre"},
    {"schedule": {"type": "core.custom_schedule", "values": [0, 0.5, 0.2]}},
    {"guidance": "cgf"},
]


def both(tmp_path, toy_recipe):
    """Yield a function that begins a training, and one that checks the recipe."""
    return [lambda: make_trainer(tmp_path / "run", toy_recipe), lambda: dry_run(toy_recipe, registry())]


@pytest.mark.parametrize(("request_fields", "word"), BAD_REQUESTS)
def test_a_bad_sample_request_is_refused_before_the_first_step(tmp_path, request_fields, word):
    bad = recipe("label", sample_requests=[{"label": 0}, request_fields])
    for attempt in both(tmp_path, bad):
        with pytest.raises(LuminaError, match=rf"sample_requests\[1\].*{word}"):
            attempt()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("sampling", BAD_SAMPLING)
def test_bad_sampling_defaults_are_refused_before_the_first_step(tmp_path, sampling):
    bad = recipe().read({**values(), "sampling": sampling}, "test")
    for attempt in both(tmp_path, bad):
        with pytest.raises(LuminaError):
            attempt()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda example: {key: value for key, value in example.items() if key != "label"}, r"dataset\[7\].*'label'"),
        (lambda example: {**example, "signal": example["signal"][:1]}, r"dataset\[7\].*expected 2 channels"),
        (lambda example: {**example, "signal": [1.0]}, r"dataset\[7\].*got list, expected a float tensor"),
    ],
)
def test_every_data_set_of_a_mixture_is_checked_before_the_first_step(tmp_path, monkeypatch, change, message):
    get = toy.Signals.get
    monkeypatch.setattr(
        toy.Signals, "get", lambda self, *key: change(get(self, *key)) if self.config.count == 3 else get(self, *key)
    )
    members = [{"type": "toy.signals"}, {"type": "toy.signals", "count": 3}]
    bad = recipe().read({**values(), "dataset": {"type": "core.mixture", "dataset": members}}, "test")
    for attempt in both(tmp_path, bad):
        with pytest.raises(ConfigError, match=message):
            attempt()
    assert not (tmp_path / "run").exists()


def test_the_data_of_every_stage_are_checked_before_the_first_step(tmp_path):
    stages = [{"steps": 2}, {"steps": 2, "dataset": {"lenght": 8}}]
    bad = recipe().read({**values(), "training": {**values()["training"], "steps": 4, "stages": stages}}, "test")
    for attempt in both(tmp_path, bad):
        with pytest.raises(ConfigError, match="lenght"):
            attempt()
    assert not (tmp_path / "run").exists()
