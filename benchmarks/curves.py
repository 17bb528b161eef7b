"""Draws the logs of runs, one panel a run, four side by side: the loss by step, plain and smoothed.

python benchmarks/curves.py docs/results/emoji/*.csv --out docs/pictures/curves.png
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ACROSS = 4
"""Panels side by side: more could not be read on a page."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    across = min(ACROSS, len(args.logs))
    down = -(-len(args.logs) // across)
    figure, panels = plt.subplots(down, across, figsize=(5 * across, 3.2 * down), squeeze=False)
    for panel in panels.flat[len(args.logs) :]:
        panel.remove()
    for panel, log in zip(panels.flat, args.logs, strict=False):
        steps, losses, seconds = _read(log)
        panel.plot(steps, losses, color="#c9d6e8", linewidth=0.8)
        panel.plot(steps, _smooth(losses), color="#1f4e8c")
        panel.set(title=f"{log.stem}: {len(steps)} steps, {seconds / 60:.0f} min")
        panel.set(xlabel="step", ylabel="loss", yscale="log")
        panel.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(args.out, dpi=110)


def _read(log: Path) -> tuple[list[int], list[float], float]:
    with log.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return (
        [int(r["step"]) for r in rows],
        [float(r["loss"]) for r in rows],
        sum(float(r.get("step_seconds") or r["seconds"]) for r in rows),
    )


def _smooth(values: list[float], share: float = 0.95) -> list[float]:
    smoothed, current = [], values[0]
    for value in values:
        current = share * current + (1 - share) * value
        smoothed.append(current)
    return smoothed


if __name__ == "__main__":
    main()
