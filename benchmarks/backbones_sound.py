"""Next-DiT beside Flag-DiT on the built-in sounds: the same data, noise, steps and parameters (within 3 %).

Both are trained by `lumina train` with the recipe of --model but smaller backbones, which begin from nothing; its
autoencoder and its conditioners stay as they are. At every quarter both are evaluated by `lumina evaluate` on held-out
prompts. The paper says that Next-DiT wins (FAD 1.03 against 1.56); this tells what is seen here. Stopped, it goes on
where it was.

Writes backbones.json, backbones.txt and backbones.png to --out.

    python benchmarks/backbones_sound.py [--model DIR] [--quick] [--steps N] [--work DIR] [--out DIR]
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import torch
from matplotlib import pyplot as plt
from scored import run_evaluation

from lumina_core.cli.main import run
from lumina_core.model import Model, build_model
from lumina_core.model_dir import save_model
from lumina_core.plugins.loader import load_plugins
from lumina_core.recipe import Recipe, read_recipe
from lumina_core.sampling.pipeline import Pipeline

SIZES = {"hidden_size": 192, "num_heads": 3, "num_layers": 4}
CLOSE, QUARTERS = 0.03, 4
METRICS = "audio.frechet,audio.kernel,audio.instrument_retrieval"
SHOWN = {
    "FD, EfficientNet-Lite0": ("audio.frechet", "FD"),
    "KD, EfficientNet-Lite0": ("audio.kernel", "KD"),
    "instrument, top 1": ("audio.instrument_retrieval", "top1"),
}
"""Figures of the table and the plot: metric and figure."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="audio.instruments", help="whose recipe and autoencoder are used")
    parser.add_argument("--quick", action="store_true", help="80 steps, evaluated on 60 prompts: whether it works")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--samples", type=int, default=150)
    parser.add_argument("--work", type=Path, default=Path("runs/backbones_sound"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/instruments"))
    args = parser.parse_args()
    if args.quick:
        args.steps, args.samples = 80, 60
    source = Pipeline.from_pretrained(args.model).model
    recipe = source.recipe
    found: dict[str, Any] = {"steps": args.steps, "batch": args.batch, "samples": args.samples, "runs": {}}
    for name, backbone in contestants(recipe, args).items():
        found["runs"][name] = {"backbone": backbone, "parameters": size(recipe, backbone, args)}
        start = begun(name, backbone, source, args)
        found["runs"][name] |= trained(name, file_of(recipe, backbone, args, name), start, args)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "backbones.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (args.out / "backbones.txt").write_text(table(found), encoding="utf-8")
    drawn(found, args.out / "backbones.png")
    print(table(found))


def begun(name: str, backbone: dict[str, Any], source: Model, args: argparse.Namespace) -> Path:
    """A folder to begin from: all of --model but its backbone and head, which are drawn anew."""
    folder: Path = args.work / f"{name}-start"
    if not (folder / "config.json").is_file():
        registry = load_plugins()
        torch.manual_seed(0)
        fresh = build_model(trained_so(source.recipe, backbone, args), registry)
        for field, speaker in source.conditioners_by_field.items():  # a vocabulary that was learnt decides about shapes
            fresh.conditioners_by_field[field].load_state_dict(speaker.state_dict())
        fresh.autoencoder.load_state_dict(source.autoencoder.state_dict())
        save_model(fresh, folder, registry)
    return folder


def changed(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """The recipe with other parts; None takes one away."""
    plain = {**recipe.model_dump(mode="json", exclude_defaults=True), **values}
    return read_recipe(
        {"schema_version": 2, **{key: value for key, value in plain.items() if value is not None}}, "benchmark"
    )


def contestants(recipe: Recipe, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Options of both backbones; Flag-DiT's feed-forward is widened or narrowed until it has as many parameters."""
    next_dit = {"type": "core.next_dit", **SIZES, "rope_axes_dim": [64, 0, 0], "multiple_of": 16}
    wanted = size(recipe, next_dit, args)
    flag = {"type": "core.flag_dit", **SIZES, "position_ids": "time", "multiple_of": 16}
    tries = [{**flag, "ffn_dim_multiplier": n / 20} for n in range(4, 41)]
    best = min(tries, key=lambda backbone: abs(size(recipe, backbone, args) - wanted))
    if abs(size(recipe, best, args) - wanted) > CLOSE * wanted:
        sys.exit(f"no Flag-DiT within {CLOSE:.0%} of {wanted} parameters was found")
    return {"Next-DiT": next_dit, "Flag-DiT": best}


def size(recipe: Recipe, backbone: dict[str, Any], args: argparse.Namespace) -> int:
    """Parameters of a backbone and its head."""
    model = build_model(trained_so(recipe, backbone, args), load_plugins())
    return sum(p.numel() for part in (model.backbone, model.head) for p in part.parameters())


def trained_so(recipe: Recipe, backbone: dict[str, Any], args: argparse.Namespace) -> Recipe:
    """The recipe of a run."""
    training = {
        **recipe.training.model_dump(mode="json", exclude_defaults=True), "steps": args.steps,
        "global_batch_size": args.batch, "checkpoint_interval": args.steps // QUARTERS, "keep_latest_k": QUARTERS + 1,
        "sample_interval": 0, "sample_requests": [], "cache_latents": True,
        "compile": args.steps > 600,  # compiling takes as long as some hundred steps
        "freeze": ["autoencoder", *(f"conditioners.{use.field}" for use in recipe.conditioners)],
    }  # fmt: skip
    return changed(recipe, {"backbone": backbone, "training": training})


def file_of(recipe: Recipe, backbone: dict[str, Any], args: argparse.Namespace, name: str) -> Path:
    """The recipe of a run, written down."""
    plain = trained_so(recipe, backbone, args).model_dump(mode="json", exclude_defaults=True)
    path: Path = args.work / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema_version": 2, **plain}, indent=1) + "\n", encoding="utf-8")
    return path


def trained(name: str, recipe: Path, begin: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The loss of every step, and the figures at every quarter."""
    out = args.work / name
    if not (out / "model").is_dir():
        start = ["--resume"] if (out / "checkpoints").is_dir() else ["--init", str(begin)]
        status = run(["train", str(recipe), "--out", str(out), *start, "--quiet"])
        if status:
            sys.exit(status)
    with (out / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figures = {}
    for folder in sorted((out / "checkpoints").glob("step-*")):
        words = ["evaluate", "--split", "held_out", "--samples", str(args.samples), "--metrics", METRICS]
        place = argparse.Namespace(work=args.work / "scores", model=str(folder))
        scores = run_evaluation(f"{name}-{folder.name}", words, place)["scores"]
        step = int(folder.name.rpartition("-")[2])
        figures[step] = {title: scores[metric][figure]["value"] for title, (metric, figure) in SHOWN.items()}
        print(name, step, figures[step], flush=True)
    return {"loss": [round(float(row["loss"]), 5) for row in rows], "figures": figures}


def smooth(values: list[float], share: float = 0.97) -> list[float]:
    """A running average."""
    smoothed, current = [], values[0]
    for value in values:
        current = share * current + (1 - share) * value
        smoothed.append(current)
    return smoothed


def table(found: dict[str, Any]) -> str:
    """Markdown: what both are at the end."""
    rows = ["| backbone | parameters | loss, last tenth | " + " | ".join(SHOWN) + " |", "|---" * (3 + len(SHOWN)) + "|"]
    for name, one in found["runs"].items():
        last = one["loss"][-max(1, len(one["loss"]) // 10) :]
        final = list(one["figures"].values())[-1]
        cells = [f"{final[title]:.3g}" for title in SHOWN]
        rows.append(f"| {name} | {one['parameters']:,} | {sum(last) / len(last):.4f} | {' | '.join(cells)} |")
    return "\n".join(rows) + f"\n\n{found['steps']} steps of {found['batch']}, {found['samples']} held-out prompts.\n"


def drawn(found: dict[str, Any], path: Path) -> None:
    """Loss and figures by step, a line for each backbone."""
    figure, panels = plt.subplots(1, 1 + len(SHOWN), figsize=(3.4 * (1 + len(SHOWN)), 3))
    for name, one in found["runs"].items():
        panels[0].plot(range(1, len(one["loss"]) + 1), smooth(one["loss"]), label=name)
        for panel, title in zip(panels[1:], SHOWN, strict=True):
            steps = [int(step) for step in one["figures"]]
            panel.plot(steps, [figures[title] for figures in one["figures"].values()], marker="o", label=name)
    for panel, title in zip(panels, ("loss", *SHOWN), strict=True):
        panel.set(title=title, xlabel="step")
        panel.grid(alpha=0.3)
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
