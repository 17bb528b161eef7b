"""What the benchmarks of speed share: their options, calls timed in turn, what is written and drawn in the end."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

Spent = dict[str, list[tuple[float, float]]]


def options(description: str, quick: str) -> argparse.ArgumentParser:
    """A parser of the options that all have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--threads", type=int, default=0, metavar="N")
    return parser


def set_threads(args: argparse.Namespace) -> None:
    """Set the number of threads of the options."""
    if args.threads:
        torch.set_num_threads(args.threads)


def in_turn(jobs: Mapping[str, Callable[[], Any]], rounds: int, budget: float = float("inf")) -> Spent:
    """Seconds of the clock and of the processor of each call: a round asks each once, every second one backwards.

    Args:
        budget: seconds after which no round begins, once there were two.
    """
    spent: Spent = {name: [] for name in jobs}
    until = time.perf_counter() + budget
    for number in range(rounds):
        if number >= 2 and time.perf_counter() > until:
            break
        for name in sorted(jobs, reverse=bool(number % 2)):
            began, used = time.perf_counter(), time.process_time()
            jobs[name]()
            spent[name].append((time.perf_counter() - began, time.process_time() - used))
    return spent


def compared(spent: Spent, one: str, other: str) -> dict[str, Any]:
    """How many times as long `one` takes as `other`: the median of the rounds and its quarters; by the processor."""
    ratios = sorted(a[0] / b[0] for a, b in zip(spent[one], spent[other], strict=True))
    used = {name: statistics.median(seconds for _, seconds in spent[name]) for name in (one, other)}
    return {
        **{f"{name}_ms": 1e3 * statistics.median(wall for wall, _ in spent[name]) for name in (other, one)},
        "ratio": statistics.median(ratios),
        "ratio_low": ratios[len(ratios) // 4],
        "ratio_high": ratios[-1 - len(ratios) // 4],
        "ratio_processor": used[one] / used[other],
        "rounds": len(ratios),
    }


def written(args: argparse.Namespace, report: Mapping[str, Any]) -> None:
    """Write the figures as JSON if a file is named."""
    if args.json:
        args.json.write_text(json.dumps({"threads": torch.get_num_threads(), **report}, indent=1) + "\n")


@contextmanager
def drawn(path: Path, size: tuple[float, float] = (5, 3.2)) -> Iterator[Any]:
    """One panel, written when all is on it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panel = plt.subplots(figsize=size)
    yield panel
    figure.tight_layout()
    figure.savefig(path)
