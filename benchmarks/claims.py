"""Compare all methods of resolution extrapolation on a small model that was trained at 32x32 tokens.

    python benchmarks/claims.py draw --out drawings               # needs npm and resvg_py
    python benchmarks/claims.py compare --drawings drawings --scale 2 --count 24 --json FILE --sheet FILE.png
    python benchmarks/claims.py compare --drawings drawings --panorama --count 24

The built-in picture model has 8x8 tokens, too few to show what a method does. The model in benchmarks/claims/model
draws 384 drawings of Fluent Emoji Flat (Microsoft, MIT License) by class at 64 px, in patches of 2x2 pixels, and no
others. `compare` generates the same classes with the same seeds by every method, at a multiple of the side, and
measures against the true drawing at that size, rendered from its vectors:

- `rmse`: root mean square difference in 0..1 at full size, with a 95 % interval over the drawings;
- `top1`: the share whose nearest true drawing, among all 384 at 16x16 pixels, is the right one;
- `sharpness`: the gradient energy divided by that of the true drawing; 1 is as sharp.

A panorama has twice the width of training. Its true drawing is stretched, as a method that fits positions into the
trained range draws it; `top1_middle` is the top-1 of the middle square, for a method that keeps the shape.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from lumina_core import Pipeline
from lumina_core.metrics.retrieval_precision_recall import target_ranks
from lumina_image.metrics.features import thumbnail_features
from lumina_image.metrics.retrieval import TIE_TOLERANCE

HERE = Path(__file__).resolve().parent
TRAINED_TOKENS = 1024
SIDE, SCALES = 64, (1.0, 1.5, 2.0, 4.0)
METHODS = (
    "none",
    "interpolation",
    "ntk",
    "frequency_aware",
    "time_aware",
    "watershed",
    "yarn",
    "dype",
    "dype:method=interpolation",
)
BATCH = 4


def codes() -> list[str]:
    """Return the code of each class's emoji."""
    found: list[str] = json.loads((HERE / "claims" / "codes.json").read_text(encoding="utf-8"))
    return found


def draw(out: Path, cache: Path) -> None:
    """Render the drawings of all classes at every size to OUT/SIZE/CODE.png."""
    sys.path.insert(0, str(HERE.parent / "packages" / "lumina-image" / "scripts"))
    from build_emoji import fetch  # type: ignore[import-not-found]
    from build_fluent import DIGEST, SOURCE, normalized, read_icons, render  # type: ignore[import-not-found]

    icons = read_icons(fetch(SOURCE, DIGEST, cache))
    for scale in SCALES:
        folder = out / str(round(SIDE * scale))
        folder.mkdir(parents=True, exist_ok=True)
        for code in codes():
            render(icons[normalized(code)], round(SIDE * scale)).save(folder / f"{code}.png")


def true_drawings(folder: Path, size: int) -> NDArray[np.uint8]:
    """Read the drawings of all classes, (N, size, size, 3)."""
    return np.stack([np.asarray(Image.open(folder / str(size) / f"{code}.png").convert("RGB")) for code in codes()])


def gradient_energy(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean squared difference of neighbouring pixels of images (B, H, W, 3)."""
    rows, columns = np.diff(images, axis=1), np.diff(images, axis=2)
    energy: NDArray[np.float64] = (rows**2).mean(axis=(1, 2, 3)) + (columns**2).mean(axis=(1, 2, 3))
    return energy


def compare(options: argparse.Namespace) -> None:
    """Generate by every method, print and write the table, and draw the sheet."""
    size = round(SIDE * options.scale)
    truth, small = true_drawings(options.drawings, size), true_drawings(options.drawings, SIDE)
    height = SIDE if options.panorama else size
    if options.panorama:
        truth = np.stack(
            [np.asarray(Image.fromarray(image).resize((size, height), Image.Resampling.BOX)) for image in truth]
        )
    references = thumbnail_features(torch.from_numpy(small).permute(0, 3, 1, 2))
    classes = random.Random(options.seed).sample(range(len(codes())), options.count)
    pipe = Pipeline.from_pretrained(str(HERE / "claims" / "model"), dtype=options.dtype)
    rows: list[dict[str, Any]] = []
    columns = {"true drawing": truth[classes]}
    for method in options.methods or METHODS:
        for proportional in (False, True) if options.proportional_attention else (False,):
            settings: dict[str, Any] = {
                "rope_scaling": method,
                "steps": options.steps,
                "guidance_scale": options.guidance_scale,
            }
            if proportional:
                settings["base_sequence_length"] = TRAINED_TOKENS
            start, generated = time.perf_counter(), []
            for first in range(0, len(classes), BATCH):
                labels = classes[first : first + BATCH]
                output = pipe(labels, seed=options.seed, size=(size, height), **settings)
                generated += [np.asarray(image) for image in output.images]
            images = np.stack(generated)
            name = method + (" + proportional attention" if proportional else "")
            rows.append({"method": name, **scores(images, truth[classes], references, classes)})
            if options.panorama:
                middle = images[:, :, (size - height) // 2 : (size + height) // 2]
                rows[-1]["top1_middle"] = top1(middle, references, classes)
            rows[-1]["seconds"] = round(time.perf_counter() - start, 1)
            columns[name] = images
            print(json.dumps(rows[-1]), flush=True)
            if options.json:
                report = {"scale": options.scale, "count": options.count, "steps": options.steps, "rows": rows}
                report |= {"guidance_scale": options.guidance_scale, "panorama": options.panorama}
                options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if options.sheet:
        shown = np.concatenate([np.concatenate(list(images[:8]), axis=0) for images in columns.values()], axis=1)
        Image.fromarray(shown).save(options.sheet)


def scores(
    images: NDArray[np.uint8], truth: NDArray[np.uint8], references: torch.Tensor, classes: list[int]
) -> dict[str, float]:
    """Measure images (B, H, W, 3) of classes against their true drawings."""
    made, real = images.astype(np.float64) / 255, truth.astype(np.float64) / 255
    rmse = np.sqrt(((made - real) ** 2).mean(axis=(1, 2, 3)))
    half_width = 1.96 * float(rmse.std(ddof=1)) / len(rmse) ** 0.5
    return {
        "rmse": round(float(rmse.mean()), 4),
        "rmse_half_width": round(half_width, 4),
        "top1": top1(images, references, classes),
        "sharpness": round(float((gradient_energy(made) / gradient_energy(real)).mean()), 3),
    }


def top1(images: NDArray[np.uint8], references: torch.Tensor, classes: list[int]) -> float:
    """Return the share of images (B, H, W, 3) whose nearest true drawing is that of their class."""
    features = thumbnail_features(torch.from_numpy(images.copy()).permute(0, 3, 1, 2))
    ranks = target_ranks(features, torch.tensor(classes), references, TIE_TOLERANCE)
    return round(float((ranks < 1).double().mean()), 3)


def main() -> int:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    drawer = commands.add_parser("draw", help="render the true drawings")
    drawer.add_argument("--out", type=Path, required=True, help="folder of the drawings")
    drawer.add_argument("--cache", type=Path, default=Path(".cache"), help="folder of the downloaded npm package")
    comparer = commands.add_parser("compare", help="generate by every method and measure")
    comparer.add_argument("--drawings", type=Path, required=True, help="folder that `draw` wrote")
    comparer.add_argument("--scale", type=float, choices=SCALES, default=2.0, help="multiple of the trained side")
    comparer.add_argument("--panorama", action="store_true", help="--scale changes the width alone")
    comparer.add_argument("--count", type=int, default=24, help="classes")
    comparer.add_argument("--steps", type=int, default=8, help="midpoint steps")
    comparer.add_argument("--guidance-scale", type=float, default=2.0, help="1 takes half the time")
    comparer.add_argument("--seed", type=int, default=1, help="of the classes and of the noise")
    comparer.add_argument("--dtype", default="bfloat16", help="of the network")
    comparer.add_argument("--methods", nargs="+", metavar="METHOD", help="instead of all")
    comparer.add_argument("--proportional-attention", action="store_true", help="each method with it and without")
    comparer.add_argument("--json", type=Path, metavar="FILE", help="table")
    comparer.add_argument("--sheet", type=Path, metavar="FILE.png", help="a column a method, eight drawings")
    options = parser.parse_args()
    if options.command == "draw":
        draw(options.out, options.cache)
    else:
        compare(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
