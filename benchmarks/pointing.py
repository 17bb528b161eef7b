"""Pointing test of `lumina classify --explain`: how much of the map lies on the emoji that was pasted somewhere?

A test concept of 64 px is pasted on a random ninth of a canvas of 192 px, of one color or cluttered; by chance 0.11 of
the map lies in its box. Prints for each block the mean mass, and the fraction of images with at least half of it there.

    python benchmarks/pointing.py [--model recog.emoji] [--count 100] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

import lumina_core
from lumina_recog.datasets import emoji_data
from lumina_recog.datasets.emoji import background
from lumina_recog.explain import explain_image
from lumina_recog.image_io import to_tensor

CELL, CELLS = 64, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="recog.emoji", help="a model folder, or an installed model")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--layers", default="", help="blocks, comma-separated; empty: all")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = lumina_core.load_model(options.model)
    layers = [int(word) for word in options.layers.split(",") if word] or list(range(model.backbone.num_layers))
    rng = random.Random(0)
    scenes = [scene(rng, kind) for kind in ("plain", "clutter") for _ in range(options.count // 2)]
    report = []
    for layer in layers:
        masses = torch.tensor([mass_in_box(explain_image(model, image, layer), box) for image, box in scenes])
        half = len(masses) // 2
        row = {
            "layer": layer,
            "mean_mass": round(float(masses.mean()), 3),
            "at_least_half": round(float((masses >= 0.5).float().mean()), 3),
            "plain": round(float((masses[:half] >= 0.5).float().mean()), 3),
            "clutter": round(float((masses[half:] >= 0.5).float().mean()), 3),
        }
        report.append(row)
        print(row)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")


def scene(rng: random.Random, kind: str) -> tuple[torch.Tensor, tuple[int, int]]:
    """An image (3, 192, 192), and the row and column of the ninth with the emoji."""
    records = emoji_data.load_records()
    index = rng.choice([number for number, record in enumerate(records) if record["split"] == "test"])
    style = rng.choice(("noto", "twemoji"))
    emoji = Image.fromarray(emoji_data.load_images(style)[index], "RGBA").resize((CELL, CELL))
    canvas = background((CELL * CELLS, CELL * CELLS), rng, kind)
    row, column = rng.randrange(CELLS), rng.randrange(CELLS)
    canvas.paste(emoji, (column * CELL, row * CELL), emoji)
    return to_tensor(canvas), (row, column)


def mass_in_box(relevance: torch.Tensor, box: tuple[int, int]) -> float:
    """Fraction of a map, spread evenly over each patch, that lies in one ninth."""
    pixels = F.interpolate(relevance[None, None], (CELL * CELLS, CELL * CELLS), mode="nearest")[0, 0]
    row, column = box
    inside = pixels[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL].sum()
    return float(inside / pixels.sum())


if __name__ == "__main__":
    main()
