"""Synthetic dataset: a point that moves along one of three curves, slowly or fast."""

import torch
from pydantic import Field

from lumina_core.config import Config as Settings
from lumina_core.protocols import Dataset

FIGURES = {
    "circle": lambda turn: (turn.cos(), turn.sin()),
    "eight": lambda turn: (turn.sin(), (2 * turn).sin() / 2),
    "hop": lambda turn: (turn / turn.max() * 2 - 1, turn.sin().abs()),
}
SPEEDS = {"slow": 1, "fast": 2}
CAPTIONS = [f"{speed} {figure}" for speed in SPEEDS for figure in FIGURES]


class Figures(Dataset):
    """`motion` (2, moments) in [-1, 1] and `words`, by example: the size and where it begins are drawn."""

    class Config(Settings):
        moments: int = Field(64, ge=8, le=4096, description="length of a curve")

    def __init__(self, config):
        self.config = config

    def __len__(self):
        return len(CAPTIONS)

    def get(self, index, rng):
        speed, figure = CAPTIONS[index].split()
        turn = torch.linspace(0, SPEEDS[speed], self.config.moments) + rng.random()
        curve = torch.stack(FIGURES[figure](2 * torch.pi * turn))
        return {"motion": curve * rng.uniform(0.6, 0.95), "words": CAPTIONS[index]}

    def values(self, field):
        return CAPTIONS
