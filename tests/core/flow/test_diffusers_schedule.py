"""The schedule of diffusers, compared with the class of the library."""

from __future__ import annotations

import pytest
import torch

from lumina_core.errors import ConfigError
from lumina_core.flow.schedules import DiffusersSchedule


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
@pytest.mark.parametrize("steps", [1, 2, 4, 30])
def test_times_are_those_of_the_library(shift, steps):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(steps)
    ours = DiffusersSchedule(DiffusersSchedule.Config(shift=shift))(steps)
    torch.testing.assert_close(ours, 1 - theirs.sigmas.double(), atol=1e-7, rtol=0)


def test_the_last_of_four_steps_is_very_short():
    grid = DiffusersSchedule(DiffusersSchedule.Config())(4)
    torch.testing.assert_close(grid, torch.tensor([0, 0.333, 0.666, 0.999, 1], dtype=torch.float64), atol=1e-12, rtol=0)


def test_zero_steps_are_refused():
    with pytest.raises(ConfigError, match=r"steps: got .*, expected at least 1"):
        DiffusersSchedule(DiffusersSchedule.Config())(0)
