"""What Time-Aware Context Drop saves and what it changes: speed and answer, with fused and with plain attention.

    python benchmarks/context_drop.py [--quick] [--threads N] [--json FILE] [--plot FILE]

A backbone of width 1024 (4 blocks, 16 heads, SwiGLU of 2816) without text, two by two windows. `at noise` is one
evaluation at t = 0, where all blocks average; `sampling` weighs the evaluations of 10 even midpoint steps by the blocks
that average at their times. Pairs in turn, the ratio within a round; reported are medians, and the same in seconds of
the processor. The change is the root mean square difference of the answer by its own size, for random weights: no
measure of pictures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina_core.nn.context_drop import TimeAwareDrop
from lumina_core.nn.next_dit import NextDiT
from lumina_core.types import Condition, Tokens

WIDTH, DEPTH, HEADS, NUMBERS = 1024, 4, 16, 16
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def backbone(dtype: torch.dtype, backend: str) -> NextDiT:
    torch.manual_seed(0)
    sizes = {"width": WIDTH, "depth": DEPTH, "heads": HEADS, "axes": (0, 32, 32), "token_width": NUMBERS}
    model = NextDiT(NextDiT.Config.read({**sizes, "layout": "interleaved", "backend": backend}, "benchmark"))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.2)
    return model.to(dtype).eval()


def picture(side: int, dtype: torch.dtype) -> Tokens:
    places = torch.cartesian_prod(torch.zeros(1), torch.arange(float(side)), torch.arange(float(side)))
    return Tokens(torch.randn(1, side * side, NUMBERS).to(dtype), places[None], ((side, side),))


def answer(model: NextDiT, tokens: Tokens, prepared: Any) -> Tensor:
    return model(tokens, torch.zeros(1), Condition(), prepared=prepared).values


def measure(side: int, name: str, backend: str, rounds: int, budget: float) -> dict[str, Any]:
    model, tokens = backbone(DTYPES[name], backend), picture(side, DTYPES[name])
    plain = model.prepare(tokens, Condition())
    pool = model.pool(tokens, Condition(), (1, 2, 2))
    ready = {
        count: model.with_pooled(model.with_pool(plain, pool), tuple(block < count for block in range(DEPTH)))
        for count in (0, DEPTH)
    }
    answers = {count: answer(model, tokens, prepared).float() for count, prepared in ready.items()}
    times: dict[int, list[tuple[float, float]]] = {count: [] for count in ready}
    until = time.perf_counter() + budget
    while len(times[0]) < rounds and (len(times[0]) < 3 or time.perf_counter() < until):
        for count in sorted(ready, reverse=bool(len(times[0]) % 2)):
            began, used = time.perf_counter(), time.process_time()
            answer(model, tokens, ready[count])
            times[count].append((time.perf_counter() - began, time.process_time() - used))
    ratios = sorted(a[0] / b[0] for a, b in zip(times[0], times[DEPTH], strict=True))
    whole, dropped = (statistics.median(used for _, used in times[count]) for count in (0, DEPTH))
    return {
        "tokens": side * side,
        "dtype": name,
        "attention": backend,
        "plain_ms": 1e3 * statistics.median(wall for wall, _ in times[0]),
        "dropped_ms": 1e3 * statistics.median(wall for wall, _ in times[DEPTH]),
        "at_noise": statistics.median(ratios),
        "at_noise_processor": whole / dropped,
        "sampling": over_a_way(statistics.median(ratios)),
        "change": float((answers[DEPTH] - answers[0]).norm() / answers[0].norm()),
        "rounds": len(ratios),
    }


def over_a_way(at_noise: float, depth: int = 24, steps: int = 10) -> float:
    """Times as fast over a whole way, for a model of `depth` blocks whose blocks all gain alike."""
    drop = TimeAwareDrop(TimeAwareDrop.Config())
    times = [(step + half) / steps for step in range(steps) for half in (0, 0.5)]
    share = statistics.mean(sum(drop.pooled(depth, t)) / depth for t in times)
    return 1 / (1 - share + share / at_noise)


def changes(name: str = "float32", side: int = 32) -> list[dict[str, Any]]:
    """Change of the answer by how many blocks average, and which."""
    model, tokens = backbone(DTYPES[name], "fused"), picture(side, DTYPES[name])
    plain = model.with_pool(model.prepare(tokens, Condition()), model.pool(tokens, Condition(), (1, 2, 2)))
    whole, rows = answer(model, tokens, plain), []
    for keep in ("last", "first", "spread"):
        drop = TimeAwareDrop(TimeAwareDrop.Config(keep=keep))
        for count in range(DEPTH + 1):
            got = answer(model, tokens, model.with_pooled(plain, drop.pooled(DEPTH, 1 - count / DEPTH)))
            rows.append({"keep": keep, "blocks": count, "change": float((got - whole).norm() / whole.norm())})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["tokens  format     attention  plain ms  dropped ms  at noise (of processor)  sampling  change"]
    for row in rows:
        times = f"{row['plain_ms']:9.1f} {row['dropped_ms']:11.1f}"
        ratios = f"{row['at_noise']:.2f} ({row['at_noise_processor']:.2f})             {row['sampling']:.2f}"
        what = f"{row['tokens']:6d}  {row['dtype']:9s} {row['attention']:9s}"
        lines.append(f"{what} {times}   {ratios}      {row['change']:.3f}")
    return "\n".join(lines)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panel = plt.subplots(figsize=(5, 3.2))
    for name, backend in dict.fromkeys((row["dtype"], row["attention"]) for row in rows):
        own = [row for row in rows if (row["dtype"], row["attention"]) == (name, backend)]
        panel.plot([r["tokens"] for r in own], [r["at_noise"] for r in own], marker="o", label=f"{name}, {backend}")
    panel.axhline(1, color="#999", linewidth=0.8)
    panel.set(xlabel="tokens", ylabel="times as fast at t = 0", xscale="log")
    panel.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="context drop: speed and change")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="4096 tokens with fused attention alone, few rounds")
    parser.add_argument("--threads", type=int, default=0, metavar="N")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    sides, backends = ((64,), ("fused",)) if asked.quick else ((16, 32, 64), ("fused", "matmul"))
    rounds, budget = (3, 10.0) if asked.quick else (9, 20.0)
    with torch.inference_mode():
        rows = [
            measure(side, name, backend, rounds, budget) for side in sides for name in DTYPES for backend in backends
        ]
        changed = changes()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {DEPTH} blocks of {WIDTH}")
    print(table(rows))
    for row in changed:
        print(f"keep {row['keep']:6s} {row['blocks']} of {DEPTH} blocks average: change {row['change']:.3f}")
    if asked.json:
        told = {"threads": torch.get_num_threads(), "rows": rows, "changes": changed}
        asked.json.write_text(json.dumps(told, indent=1) + "\n")
    if asked.plot:
        draw(rows, asked.plot)


if __name__ == "__main__":
    main()
