"""The times at which diffusers' FlowMatchEulerDiscreteScheduler asks a network, for pictures that equal its own."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.flow.times import checked, toward_noise


class DiffusersGrid:
    """As many evaluations as steps: times from 0 to almost 1, and one very short step to 1 (with Euler).

    The last but one is 1 - 1/1000, the noise level of the last of 1000 trained steps. A shift (t / (t + s - s t), as in
    `core.shift_grid`) is applied to that end first and to all times once more, as diffusers 0.42 does it.
    """

    class Config(Settings):
        """What a folder's scheduler_config.json says under the same words."""

        shift: float = Field(1.0, gt=0, description="1: equal steps; more: finer near noise")
        num_train_timesteps: int = Field(1000, ge=2, description="the last step is one part in so many")

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, steps: int) -> Tensor:
        if steps < 1:
            raise ConfigError(f"a grid needs at least 1 step, got {steps}")
        end = toward_noise(
            torch.tensor(1 - 1 / self.config.num_train_timesteps, dtype=torch.float64), self.config.shift
        )
        times = torch.linspace(0, float(end), steps, dtype=torch.float64)
        return checked(torch.cat([toward_noise(times, self.config.shift), times.new_ones(1)]))
