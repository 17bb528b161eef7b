"""The built-in model's pictures from pictures, side by side, for docs/guides/edit.md.

python benchmarks/editing.py --out docs/pictures/editing.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lumina_core.sampling.pipeline import Pipeline
from lumina_image.image_io import to_pil

SCALE, GAP = 2, 8


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """A mask of 64 x 64 that is white there."""
    mask = np.zeros((64, 64), bool)
    mask[top:bottom, left:right] = True
    return mask


def made() -> list[Tensor]:
    session = Pipeline.from_pretrained("image.emoji")

    def ask(prompt: str, **args: object) -> Tensor:
        return session(prompt=prompt, **{"seed": 1, **args})[0].data

    face, heart = ask("grinning face", seed=2), ask("a red heart")
    part = face[:, :41, :50]
    crying = ask("crying face", init_image=face, mask=box(16, 30, 48, 58))
    blue = ask("blue heart", init_image=heart, mask=box(0, 0, 32, 64))
    return [face, crying, heart, blue, part, ask("grinning face", init_image=part, outpaint=(3, 0, 11, 23))]


def sheet(pictures: list[Tensor]) -> Image.Image:
    tiles = [to_pil(data) for data in pictures]
    tiles = [tile.resize((tile.width * SCALE, tile.height * SCALE), Image.Resampling.LANCZOS) for tile in tiles]
    size = (sum(tile.width + GAP for tile in tiles) - GAP, max(tile.height for tile in tiles))
    canvas, left = Image.new("RGB", size, "white"), 0
    for tile in tiles:
        canvas.paste(tile, (left, 0))
        left += tile.width + GAP
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(0)
    sheet(made()).save(args.out)


if __name__ == "__main__":
    main()
