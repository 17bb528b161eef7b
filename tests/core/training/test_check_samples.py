"""What a training uses late, its samples and sampling defaults, is checked before the first step and by `check`."""

from __future__ import annotations

import pytest
from core.toy import recipe, registry, values
from core.training.test_trainer import make_trainer

from lumina_core.errors import LuminaError
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
