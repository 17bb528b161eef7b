"""The call stack between a solver and the network is short, so that an evaluation is easy to follow and to profile."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from core.sampling.test_generate import MODEL
from core.toy import ToyRequest, registry

import lumina_core
from lumina_core.sampling.generate import generate_batch
from lumina_core.sampling.pipeline import Pipeline

SOURCES = str(Path(lumina_core.__file__).parent)
MAX_FRAMES = 4


@pytest.fixture
def frame_counts():
    """For each forward pass of the backbone, the number of the project's frames from the solver to it, without both."""
    counts: list[int] = []

    def record(module, inputs):
        count, frame = 0, sys._getframe(1)
        while not (Path(frame.f_code.co_filename).name == "solvers.py" and frame.f_code.co_name != "__call__"):
            count += frame.f_code.co_filename.startswith(SOURCES)
            frame = frame.f_back
        counts.append(count)

    handle = MODEL.backbone.register_forward_pre_hook(record)
    yield counts
    handle.remove()


@pytest.mark.parametrize("solver", ["euler", "rk4", "adams", "sde"])
@pytest.mark.parametrize(
    "options",
    [
        {"guidance_scale": 1.0},
        {"guidance_scale": 2.0, "cfg_batching": "batched"},
        {"guidance_scale": 2.0, "cfg_batching": "sequential"},
        {"guidance_scale": 2.0, "rope_scaling": "time_aware:train_size=2"},
    ],
)
def test_few_frames_separate_a_solver_from_the_backbone(frame_counts, solver, options):
    generate_batch(MODEL, registry(), [ToyRequest(word="low", length=12, steps=3, solver=solver, **options)])
    assert frame_counts
    assert 0 < max(frame_counts) <= MAX_FRAMES


def test_few_frames_separate_a_function_of_the_user_from_the_backbone(frame_counts):
    Pipeline(MODEL, registry())(word="low", steps=2, solver=lambda velocity, x, t, u: x + (u - t) * velocity(x, t))
    assert len(frame_counts) == 2
    assert 0 < max(frame_counts) <= MAX_FRAMES
