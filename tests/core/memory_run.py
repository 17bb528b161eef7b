"""Measure the memory of a training: python memory_run.py RECIPE.json OUT, prints bytes beyond those of the imports.

The environment limits what the C library keeps of released memory (MALLOC_MMAP_THRESHOLD_).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from core import toy

from lumina_core.recipe import read_recipe
from lumina_core.training.trainer import Trainer


def status(key):
    """Return a size of this process in bytes."""
    (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(key)]
    return int(line.split()[1]) * 1024


def train(values, out, steps):
    """Take some steps, and return the resident memory before the first and the peak."""
    with Trainer(read_recipe(values, "toy"), out, device="cpu", registry=toy.registry()) as trainer:
        for _, batch in zip(range(steps), trainer.batches(), strict=False):
            trainer.train_step(batch)


if __name__ == "__main__":
    torch.set_num_threads(1)
    plain = json.loads(Path(sys.argv[1]).read_text())
    small = json.loads(json.dumps(plain))  # imports and libraries are loaded by a small training of the same kind
    small["backbone"] |= {"hidden_size": 8 * small["backbone"]["num_heads"], "num_layers": 1}
    small["backbone"]["rope_axes_dim"] = [8, 0, 0]
    small["dataset"]["length"], small["training"]["global_batch_size"] = 4, 2
    train(small, Path(sys.argv[2]) / "small", 2)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    train(plain, Path(sys.argv[2]) / "run", 3)
    print(status("VmHWM") - before)
