"""The grid of samples that a run draws at intervals, with the averaged weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lumina_core.model import Finder, Model
from lumina_core.request import Request
from lumina_core.sampling.generate import generate


def draw_samples(model: Model, finder: Finder, averaged: Mapping[str, Tensor], folder: Path, done: int) -> Path:
    """Answer the recipe's `sample_requests` with the averaged weights; gives the file written.

    The weights in training come back afterwards bit for bit.
    """
    requests = [model.task.Request.read(dict(asked), "training.samples") for asked in model.recipe.training.samples]
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    model.load_state_dict(dict(averaged))
    model.eval()
    try:
        items = generate(model, finder, [r for r in requests if isinstance(r, Request)]).items()
    finally:
        model.load_state_dict(own)
        for name, module in model.named_modules():
            module.training = modes[name]
    return model.task.save_grid(items, folder, f"step-{done:08d}")
