"""Compare solvers and schedules with a fine reference at equal numbers of evaluations.

    python benchmarks/few_steps.py [--seed N] [--count 16] [--nfe 5 8 10 20 40] [--guidance-scale G] [--model MODEL]
        [--json FILE] [--plot FILE] [--quick]

Names are drawn by the seed from what the model learnt from. The reference is midpoint with 200 even steps (400
evaluations). The error of a way is the root mean square difference of its pictures to the reference's, same names, same
noises, the model's own guidance unless another is given; `found` is the share of its pictures whose nearest real one is
the one of its name. `fitted` is the grid in the model's folder, `sharpness` one that is fitted here, on other
names, as `lumina schedule fit MODEL --by sharpness` does. A last line says with how many evaluations the model's own
solver and schedule reach the error that uniform Euler has with 30.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina_core.evaluation.eval_set import (
    noise_seeds,
    reference_index,
    resolve_eval_set,
    resolve_languages,
    resolve_split,
    sample_items,
)
from lumina_core.evaluation.evaluate import resolve_metrics
from lumina_core.protocols import EvalInputs, EvalItem, EvalSet
from lumina_core.request import Request
from lumina_core.sampling.pipeline import Pipeline
from lumina_core.sampling.schedule_fit import fit_schedule

SOLVERS = ("euler", "midpoint", "heun", "adams", "dpmpp", "rk4")
GRIDS = (
    "uniform", "shift:shift=2", "shift:shift=4", "sigmoid", "sigmoid:variant=coarse_ends", "sigmoid:alpha=3,beta=6",
    "sharpness", "fitted",
)  # fmt: skip
OTHERS = 999
"""Added to the seed for the names that the sharpness is measured on."""


@dataclass(frozen=True)
class Names:
    """Requests of some names, equal for every solver and schedule."""

    session: Pipeline
    exam: EvalSet
    cases: Sequence[EvalItem]
    noises: Sequence[int]
    settings: dict[str, Any]

    def requests(self, **way: Any) -> list[Request]:
        task: Any = self.session.model.task
        pairs = zip(self.cases, self.noises, strict=True)
        return [
            self.session.make_request(**{**task.request_for(c.fields), **self.settings, **way, "seed": n})
            for c, n in pairs
        ]

    def pictures(self, **way: Any) -> tuple[Tensor, int]:
        answers = self.session(self.requests(**way))
        return torch.stack([answer.data for answer in answers]), answers[0].metadata["nfe"]


class Finder:
    """The share of pictures whose nearest real one is the right one."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.metric = resolve_metrics(
            ["image.retrieval"], {}, names.session.model, names.session.registry, len(names.cases)
        )[0]["image.retrieval"]
        exam = names.exam
        self.real = torch.cat([self.metric.feature_extractor([exam.reference(k)]) for k in range(len(exam))])
        self.reference_index = reference_index(exam, resolve_split(exam, None))

    def __call__(self, pictures: Tensor) -> float:
        made = self.metric.feature_extractor(list(pictures))
        found = self.metric.compute(EvalInputs(made, self.real, self.names.cases, self.reference_index))["top1"]
        return float(torch.as_tensor(found).mean())


def names_of(session: Pipeline, count: int, seed: int, settings: dict[str, Any]) -> Names:
    exam = resolve_eval_set(None, session.model, session.registry)
    cases = sample_items(exam, resolve_split(exam, None), resolve_languages(exam, ()), count, seed)
    return Names(session, exam, cases, noise_seeds(len(cases), 1, 1, seed), settings)


def measured(names: Names, others: Names, budgets: Sequence[int], fine: int) -> Iterator[dict[str, Any]]:
    finder = Finder(names)
    reference, args = names.pictures(solver="midpoint", steps=fine, schedule="uniform")
    yield {"solver": "midpoint", "grid": "reference", "evaluations": args, "error": 0.0, "found": finder(reference)}
    session = names.session
    fitted = {"sharpness": f"fitted:values={list(fit_schedule(session.model, session.registry, others.requests()))}"}
    grids = [grid for grid in GRIDS if grid != "fitted" or session.model.recipe.sampling.fitted_schedule]
    for budget in budgets:
        for solver in SOLVERS:
            if solver == "rk4" and budget < 4:
                continue
            for grid in grids:
                made, args = names.pictures(solver=solver, nfe=budget, schedule=fitted.get(grid, grid))
                error = float((made - reference).square().mean().sqrt())
                row = {"solver": solver, "grid": grid, "budget": budget, "evaluations": args}
                yield {**row, "error": error, "found": finder(made)}
    yield from like_euler(names, reference)


def like_euler(names: Names, reference: Tensor, evaluations: int = 30) -> list[dict[str, Any]]:
    """Return the row of uniform Euler, and that of the model's own settings with the fewest evaluations to match it."""

    def row(label: str, **way: Any) -> dict[str, Any]:
        made, args = names.pictures(**way)
        error = float((made - reference).square().mean().sqrt())
        return {"solver": label, "grid": "uniform", "evaluations": args, "error": error}

    euler = row("euler", solver="euler", schedule="uniform", nfe=evaluations)
    for nfe in range(2, evaluations + 1):
        own = {**row("own", nfe=nfe), "grid": "own"}
        if own["error"] <= euler["error"]:
            break
    return [euler, own]


def table(rows: Sequence[dict[str, Any]], budget: int, figure: str) -> str:
    lines = [f"| {figure}, {budget} evaluations | " + " | ".join(SOLVERS) + " |", "|---" * (1 + len(SOLVERS)) + "|"]
    for grid in GRIDS:
        cells = {row["solver"]: row[figure] for row in rows if row["grid"] == grid and row.get("budget") == budget}
        if cells:
            lines.append(f"| {grid} | " + " | ".join(f"{cells.get(name, float('nan')):.3f}" for name in SOLVERS) + " |")
    return "\n".join(lines)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(2, len(GRIDS), figsize=(2.8 * len(GRIDS), 5.6), sharex=True, sharey="row")
    for column, grid in zip(panels.T, GRIDS, strict=True):
        for panel, what in zip(column, ("error", "found"), strict=True):
            for solver in SOLVERS:
                own = [row for row in rows if row["grid"] == grid and row["solver"] == solver and "budget" in row]
                panel.plot([row["evaluations"] for row in own], [row[what] for row in own], marker=".", label=solver)
            panel.grid(alpha=0.3)
        column[0].set(title=grid.replace("sigmoid:", "sigmoid\n"), yscale="log")
        column[1].set(xlabel="evaluations", ylim=(-0.03, 1.03))
    panels[0][0].set(ylabel="error to the reference")
    panels[1][0].set(ylabel="found again")
    panels[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS
    )
    parser.add_argument("--model", default="image.emoji", help="model folder or name")
    parser.add_argument("--nfe", type=int, nargs="+", default=[5, 8, 10, 20, 40])
    parser.add_argument("--count", type=int, default=16, help="names [default: 16]")
    parser.add_argument("--seed", type=int, default=0, help="of the names and the noises [default: 0]")
    parser.add_argument("--guidance-scale", type=float, help="[default: the model's own]")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="fewer names, budgets and reference steps: a minute")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    session = Pipeline.from_pretrained(args.model)
    count, budgets, fine = (4, [10], 100) if args.quick else (args.count, args.nfe, 200)
    settings = {} if args.guidance_scale is None else {"guidance_scale": args.guidance_scale}
    began = time.perf_counter()
    names, others = (names_of(session, n, args.seed + k, settings) for n, k in ((count, 0), (8, OTHERS)))
    rows = list(measured(names, others, budgets, fine))
    print("\n\n".join(table(rows, budget, figure) for budget in budgets for figure in ("error", "found")))
    euler, own = rows[-2:]
    print(
        f"\nThe model's own settings have with {own['evaluations']} evaluations an error of {own['error']:.4f}, "
        f"uniform Euler with {euler['evaluations']} {euler['error']:.4f}."
    )
    seconds = time.perf_counter() - began
    print(f"{count} names by seed {args.seed}, reference of {fine} midpoint steps, {seconds:.0f} s")
    report = {
        "model": str(args.model or "built in"),
        "names": count,
        "seed": args.seed,
        "guidance_scale": args.guidance_scale,
        "reference_steps": fine,
        "rows": rows,
    }
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.plot:
        draw(rows, args.plot)


if __name__ == "__main__":
    main()
