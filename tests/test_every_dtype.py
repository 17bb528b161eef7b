"""Every installed model generates with every dtype, finite and close to float32."""

from __future__ import annotations

import pytest
import torch

from lumina_core.plugins.loader import load_plugins
from lumina_core.protocols import GenerationTask
from lumina_core.sampling.pipeline import Pipeline

PROMPTS = ("trumpet", "red heart")


def generating_models():
    registry = load_plugins()
    found = []
    for name, entry in registry.models().items():
        task = registry.find("task", entry.extra["task"])
        if issubclass(task, GenerationTask) and any(info.is_required() for info in task.Request.model_fields.values()):
            found.append(name)
    return found


def generate(name, dtype):
    pipe = Pipeline.from_pretrained(name, dtype=dtype)
    prompt = PROMPTS[0] if "audio" in name else PROMPTS[1]
    return pipe(prompt, seed=1, steps=2, output_type="tensor")[0].data


@pytest.mark.filterwarnings("ignore:dtype. float16 overflows")  # what overflows is generated again, and reported
@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float16"])
@pytest.mark.parametrize("name", generating_models())
def test_a_model_generates_in_every_dtype(name, dtype):
    reference, result = generate(name, "float32"), generate(name, dtype)
    assert result.dtype == torch.float32 and result.shape == reference.shape and result.isfinite().all()
    if result.ndim == 3:  # a picture; the phase of a sound turns with the smallest change
        assert (result - reference).abs().mean() < 0.1
