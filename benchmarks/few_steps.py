"""Which solver on which grid comes nearest to a fine reference, at the same number of evaluations.

    python benchmarks/few_steps.py [--model MODEL] [--evaluations 5 10 20 40] [--json FILE] [--plot FILE] [--quick]

The reference is midpoint with 200 even steps (400 evaluations). The error of a way is the root mean square difference
of its pictures to the reference's, same prompts, same seeds, the model's own guidance; `fitted` is fitted here first.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina_core.sampling.fit import fit_grid
from lumina_core.session import Session, open_model

SOLVERS = ("euler", "midpoint", "heun", "adams", "dpmpp", "rk4")
GRIDS = (
    "uniform", "shift:shift=2", "shift:shift=4", "sigmoid", "sigmoid:reading=coarse_ends", "sigmoid:alpha=3,beta=6",
    "fitted",
)  # fmt: skip


def pictures(session: Session, prompts: Sequence[str], way: dict[str, Any]) -> tuple[Tensor, int]:
    answers = session.ask_all([session.request(prompt=prompt, seed=k, **way) for k, prompt in enumerate(prompts)])
    return torch.stack([answer.data for answer in answers]), answers[0].record["evaluations"]


def measured(session: Session, prompts: Sequence[str], budgets: Sequence[int], fine: int) -> list[dict[str, Any]]:
    reference, _ = pictures(session, prompts, {"solver": "midpoint", "steps": fine, "grid": "uniform"})
    knots = fit_grid(
        session.model, session.registry, [session.request(prompt=p, seed=100 + k) for k, p in enumerate(prompts)]
    )
    rows = []
    for budget in budgets:
        for solver in SOLVERS:
            if solver == "rk4" and budget < 4:
                continue
            for grid in GRIDS:
                said = f"fitted:values={list(knots)}" if grid == "fitted" else grid
                found, asked = pictures(session, prompts, {"solver": solver, "evaluations": budget, "grid": said})
                error = float((found - reference).square().mean().sqrt())
                rows.append({"solver": solver, "grid": grid, "budget": budget, "evaluations": asked, "error": error})
    return rows


def table(rows: Sequence[dict[str, Any]], budget: int) -> str:
    lines = [f"{budget} evaluations" + "".join(f"{solver:>10}" for solver in SOLVERS)]
    for grid in GRIDS:
        errors = {row["solver"]: row["error"] for row in rows if row["grid"] == grid and row["budget"] == budget}
        lines.append(f"  {grid:26}" + "".join(f"{errors.get(solver, float('nan')):10.4f}" for solver in SOLVERS))
    return "\n".join(lines)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(GRIDS), figsize=(3.2 * len(GRIDS), 3), sharey=True, squeeze=False)
    for panel, grid in zip(panels[0], GRIDS, strict=True):
        for solver in SOLVERS:
            own = [row for row in rows if row["grid"] == grid and row["solver"] == solver]
            panel.plot([row["evaluations"] for row in own], [row["error"] for row in own], marker=".", label=solver)
        panel.set(title=grid, xlabel="evaluations", yscale="log")
    panels[0][0].set(ylabel="error to the reference")
    panels[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="solver x grid beside a fine reference")
    parser.add_argument("--model", help="model folder or name [default: built in]")
    parser.add_argument("--evaluations", type=int, nargs="+", default=[5, 10, 20, 40])
    parser.add_argument("--count", type=int, default=16, help="prompts, from the recipe's samples")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="fewer prompts, budgets and reference steps: a minute")
    asked = parser.parse_args()
    session = open_model(asked.model)
    samples = [sample["prompt"] for sample in session.model.recipe.training.samples]
    count, budgets, fine = (4, [10], 50) if asked.quick else (asked.count, asked.evaluations, 200)
    began = time.perf_counter()
    rows = measured(session, [samples[k % len(samples)] for k in range(count)], budgets, fine)
    print("\n\n".join(table(rows, budget) for budget in budgets))
    told = {"model": str(asked.model or "built in"), "prompts": count, "reference_steps": fine, "rows": rows}
    print(f"{count} prompts, reference of {fine} midpoint steps, {time.perf_counter() - began:.0f} s")
    if asked.json:
        asked.json.write_text(json.dumps(told, indent=1) + "\n")
    if asked.plot:
        draw(rows, asked.plot)


if __name__ == "__main__":
    main()
