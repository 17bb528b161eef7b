"""What the block cache saves and costs on a model: error of its pictures and time, over the threshold.

    python benchmarks/block_cache.py [--model DIR] [--count N] [--quick] [--threads N] [--json FILE] [--plot FILE]

The same names and seeds by every threshold; the error is the root mean square difference to the pictures without cache,
and beside it stands that of fewer steps without cache, which is the other way to save as much. `left out` is the share
of the evaluations that did without the blocks, as answers tell it. One picture after another, so that no row of a
batch waits for another; the time is that of the processor, in all its cores.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from turns import drawn, options, set_threads, written

from lumina_core.sampling.pipeline import Pipeline

THRESHOLDS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)


def pictures(session: Pipeline, prompts: Sequence[str], way: dict[str, Any]) -> tuple[Tensor, float, float]:
    """Pictures, the mean share of evaluations that were left out, and seconds of the processor a picture."""
    made, shares, spent = [], [], []
    for seed, prompt in enumerate(prompts):
        began = time.process_time()
        answer = session(prompt=prompt, seed=seed, **way)[0]
        spent.append(time.process_time() - began)
        made.append(answer.data)
        shares.append(answer.metadata.get("cached_nfe", 0.0) / answer.metadata["nfe"])
    return torch.stack(made), statistics.mean(shares), statistics.median(spent)


def measured(session: Pipeline, prompts: Sequence[str], way: dict[str, Any], thresholds: Sequence[float]) -> list[Any]:
    whole, _, usual = pictures(session, prompts, way)
    args = [
        (f"threshold {level:g}", {**way, "block_cache": f"teacache_like:threshold={level}"}) for level in thresholds
    ]
    args += [(f"{steps} steps", {**way, "steps": steps}) for steps in (way["steps"] * 2 // 3, way["steps"] // 2)]
    rows = []
    for name, how in args:
        found, share, seconds = pictures(session, prompts, how)
        error = float((found - whole).square().mean().sqrt())
        rows.append({"way": name, "left_out": share, "error": error, "seconds": seconds, "times": usual / seconds})
        print(f"{name:16s} left out {share:.2f}  error {error:.4f}  {usual / seconds:.2f} times as fast", flush=True)
    return rows


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with drawn(path) as panel:
        for word in ("threshold", "steps"):
            own = [row for row in rows if word in row["way"]]
            panel.plot([row["times"] for row in own], [row["error"] for row in own], marker="o", label=word)
        panel.set(xlabel="times as fast", ylabel="error to the whole way")
        panel.legend()


def main() -> None:
    parser = options("block cache: error and time over the threshold", "four prompts, four thresholds")
    parser.add_argument("--model", default="image.emoji", help="model folder or name")
    parser.add_argument("--count", type=int, default=16, help="prompts, from the recipe's samples")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--solver", default="adams")
    args = parser.parse_args()
    set_threads(args)
    session = Pipeline.from_pretrained(args.model)
    samples = [sample["prompt"] for sample in session.model.recipe.training.sample_requests]
    count, thresholds = (4, THRESHOLDS[::2]) if args.quick else (args.count, THRESHOLDS)
    way = {"steps": args.steps, "solver": args.solver}
    rows = measured(session, [samples[k % len(samples)] for k in range(count)], way, thresholds)
    written(args, {"model": str(args.model or "built in"), "prompts": count, **way, "rows": rows})
    if args.plot:
        draw(rows, args.plot)


if __name__ == "__main__":
    main()
