"""Compare the camera encodings of views: the same shapes, noise and steps, from random weights.

    python benchmarks/camera_encodings.py --steps 1000 --out runs/cameras

Each encoding trains the recipe 3d.views. One picture of a held-out shape is given, and the prediction of the views at
45 to 315 degrees from pure noise is compared with true renders: after a training that is too short to draw, it shows
what the network knows of the pose. Intervals are 95 % over the shapes, of the difference to the first encoding. Needs
embreex.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from views import REGRESSION, STEP, TARGETS, generate, make_scene

from lumina_3d.families.shapes import FAMILIES
from lumina_3d.views.metrics import psnr, silhouette_iou, silhouettes
from lumina_core import Pipeline
from lumina_core.plugins.loader import load_plugins
from lumina_core.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
ENCODINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "PRoPE": ("3d.coordinates", {"type": "3d.prope"}),
    "URoPE": ("3d.coordinates", {"type": "3d.urope", "rows": 4, "columns": 4}),
    "Pluecker rays": ("3d.plucker", {"type": "core.axial_rope"}),
    "relative angles": ("3d.relative_angles", {"type": "core.axial_rope"}),
    "none": ("3d.coordinates", {"type": "core.axial_rope"}),
}


def main() -> None:
    """Train, measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="of each training")
    parser.add_argument("--batch", type=int, default=16, help="shapes of a step")
    parser.add_argument("--per-family", type=int, default=8, help="held-out shapes of each family")
    parser.add_argument("--encodings", nargs="+", choices=tuple(ENCODINGS), default=tuple(ENCODINGS))
    parser.add_argument("--out", type=Path, required=True, help="folder of recipes, logs, models and table.json")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.encodings:
        train(name, args)
    torch.set_num_threads(1)
    scenes = [make_scene(family, number, "test", False) for number in range(args.per_family) for family in FAMILIES]
    table: dict[str, dict[str, Any]] = {}
    values = {name: measure(folder_of(name, args.out) / "model", scenes) for name in args.encodings}
    base = values[args.encodings[0]]
    for name, measured in values.items():
        table[name] = {}
        for key, value in measured.items():
            difference = value - base[key]
            half_width = 1.96 * float(difference.std(ddof=1)) / len(difference) ** 0.5
            table[name] |= {key: round(float(value.mean()), 4), f"{key} difference": round(float(difference.mean()), 4)}
            table[name][f"{key} half width"] = round(half_width, 4)
        print(name, json.dumps(table[name]), flush=True)
    result = {"steps": args.steps, "batch": args.batch, "shapes": len(scenes), "encodings": table}
    (args.out / "table.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def folder_of(name: str, out: Path) -> Path:
    """Return the folder of an encoding."""
    return out / name.lower().replace(" ", "_")


def train(name: str, args: argparse.Namespace) -> None:
    """Train one encoding by packages/lumina-3d/scripts/train_views.py."""
    camera, position_encoding = ENCODINGS[name]
    recipe = Recipe.load("3d.views", registry=load_plugins()).model_dump(mode="json", exclude_unset=True)
    recipe["conditioners"][1]["camera"] = {"type": camera}
    recipe["backbone"]["position_encoding"] |= position_encoding
    folder = folder_of(name, args.out)
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    script = ROOT / "packages" / "lumina-3d" / "scripts" / "train_views.py"
    options = {"recipe": folder / "recipe.yaml", "out": folder, "steps": args.steps, "batch": args.batch}
    command = [
        sys.executable,
        str(script),
        *(str(part) for key, value in options.items() for part in (f"--{key}", value)),
    ]
    with open(folder / "training.txt", "w", encoding="utf-8") as file:
        subprocess.run(command, check=True, stdout=file, stderr=subprocess.STDOUT)


def measure(model: Path, scenes: list[dict[str, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Return PSNR in dB and silhouette IoU of each scene, means over its views."""
    pipe = Pipeline.from_pretrained(str(model), task="3d.views")
    rows = []
    for scene in scenes:
        turns = [turn // STEP for turn in TARGETS]
        views = generate(pipe, scene, [scene["cameras"][turn] for turn in turns], (0,), **REGRESSION)
        truth = scene["renders"][turns]
        iou = silhouette_iou(silhouettes(views), silhouettes(truth))
        rows.append((float(psnr(views, truth).mean()), float(iou.mean())))
    columns = np.array(rows)
    return {"psnr": columns[:, 0], "iou": columns[:, 1]}


if __name__ == "__main__":
    main()
