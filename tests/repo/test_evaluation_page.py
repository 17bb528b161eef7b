"""The page on judging: its example is a metric that judges, and it names every metric there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from making import registry_of

from lumina_core.config import ComponentSpec
from lumina_core.model import build_component
from lumina_core.protocols import EvalInputs, EvalItem

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "evaluate.md").read_text(encoding="utf-8")


def test_the_example_metric_computes_scores():
    space: dict = {}
    code = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[0]
    exec(compile(code, "evaluation.md", "exec", dont_inherit=True), space)
    metric = space["Brightness"](
        space["Brightness"].Config(),
        build_component(registry_of("image"), "feature_extractor", ComponentSpec(type="image.pixel_features")),
    )
    real = metric.feature_extractor([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)])
    found = metric.compute(EvalInputs(real.flip(0), real, [EvalItem({}, 0), EvalItem({}, 1)], torch.arange(2)))
    assert found["brightness"].tolist() == pytest.approx([0.5, 0.5], abs=0.01)
    assert abs(found["bias"]) < 1e-6


def test_the_page_names_every_metric_and_feature_extractor():
    registry = registry_of("image", "audio")
    named = [*registry.registrations("metric"), *registry.registrations("feature_extractor")]
    assert len(named) > 20 and [name for name in named if f"`{name}`" not in PAGE and f'"{name}"' not in PAGE] == []
