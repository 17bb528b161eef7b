"""How near the backbone's forward pass comes to the machine's own matrix products.

    python benchmarks/backbone.py [--quick] [--threads N] [--json FILE]

Float32 on the CPU, under inference_mode, one item, no memory: NextDiT of width W = 1024, 4 blocks, 16 heads (d = 64),
SwiGLU of H = 2816, tokens of D = 16 numbers, timed. Each round times one forward pass and, right behind it, the same
matrix products bare (the same shapes, the same count, nothing between them); the ratio is taken within a round, so that
whatever else the machine does hits both, and the median of the rounds is reported. Bar: 0.85.

Floating-point operations of one forward pass over N tokens, counted by hand, 2 for a multiplication and an addition:

    embedding of the tokens          2 N D W
    embedding of time                2 (256 W + W W)                 (its width is min(W, 1024) = W)
    each block: modulation           2 W 4W
                queries, keys, values   2 N W 3W
                attention scores     2 N N W                         (16 heads of 64)
                mixing of the values 2 N N W
                output               2 N W W
                feed-forward         2 N W 2H + 2 N H W

Norms, rotary turning, softmax, SiLU, gates and additions are counted as nothing: they are what the ratio pays for.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lumina_core.nn.next_dit import NextDiT
from lumina_core.types import Condition, Tokens

WIDTH, DEPTH, HEADS, FEED, NUMBERS, WAVES = 1024, 4, 16, 2816, 16, 256
BAR = 0.85


def products(tokens: int) -> list[tuple[int, int, int, int, int]]:
    """Every matrix product of a forward pass: (times, batch, rows, inner, columns)."""
    head = WIDTH // HEADS
    block = [
        (DEPTH, 1, 1, WIDTH, 4 * WIDTH),
        (DEPTH, 1, tokens, WIDTH, 3 * WIDTH),
        (DEPTH, HEADS, tokens, head, tokens),
        (DEPTH, HEADS, tokens, tokens, head),
        (DEPTH, 1, tokens, WIDTH, WIDTH),
        (DEPTH, 1, tokens, WIDTH, 2 * FEED),
        (DEPTH, 1, tokens, FEED, WIDTH),
    ]
    return [(1, 1, tokens, NUMBERS, WIDTH), (1, 1, 1, WAVES, WIDTH), (1, 1, 1, WIDTH, WIDTH), *block]


def operations(tokens: int) -> int:
    """Floating-point operations of one forward pass, as stated above."""
    return sum(2 * times * batch * rows * inner * columns for times, batch, rows, inner, columns in products(tokens))


def bare(tokens: int) -> Callable[[], None]:
    """The matrix products of a forward pass and nothing else, with weights as large as the model's."""
    jobs: list[tuple[Tensor, Tensor]] = []
    for times, batch, rows, inner, columns in products(tokens):
        for _ in range(times):
            if batch > 1:
                jobs.append((torch.randn(batch, rows, inner), torch.randn(batch, inner, columns)))
            else:
                # a linear layer multiplies by the transpose of its weight
                jobs.append((torch.randn(rows, inner), torch.randn(columns, inner).t()))

    def run() -> None:
        for left, right in jobs:
            torch.matmul(left, right)

    return run


def forward(tokens: int) -> Callable[[], None]:
    """One evaluation as sampling makes it: rotary angles prepared once."""
    config = NextDiT.Config(
        width=WIDTH, depth=DEPTH, heads=HEADS, axes=(0, 32, 32), layout="interleaved", token_width=NUMBERS
    )
    model = NextDiT(config).eval()
    assert model.blocks[0].feed.out.weight.shape[1] == FEED, "the count above is for another feed-forward"
    # a fresh model's gates are zero; the time taken does not depend on it, but let no product be with zeros
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    positions = torch.stack([torch.zeros(tokens), torch.arange(tokens) // 32, torch.arange(tokens) % 32], dim=-1)
    batch = Tokens(torch.randn(1, tokens, NUMBERS), positions[None].float(), ((tokens,),))
    moment, said = torch.tensor([0.5]), Condition()
    prepared = model.prepare(batch, said)

    def run() -> None:
        model(batch, moment, said, prepared=prepared)

    return run


def seconds(job: Callable[[], None]) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def measure(tokens: int, rounds: int, budget: float) -> dict[str, float]:
    """Pairs of forward pass and bare products, in turn first and second, until rounds or seconds are used up."""
    ours, theirs = forward(tokens), bare(tokens)
    ours(), theirs(), ours(), theirs()
    pairs: list[tuple[float, float]] = []
    until = time.perf_counter() + budget
    while len(pairs) < rounds and (len(pairs) < 5 or time.perf_counter() < until):
        if len(pairs) % 2:
            second = seconds(theirs)
            pairs.append((seconds(ours), second))
        else:
            pairs.append((seconds(ours), seconds(theirs)))
    ratios = sorted(second / first for first, second in pairs)
    flops = operations(tokens)
    return {
        "tokens": tokens,
        "gflop": flops / 1e9,
        "forward_ms": 1e3 * statistics.median(first for first, _ in pairs),
        "products_ms": 1e3 * statistics.median(second for _, second in pairs),
        "forward_gflops": flops / 1e9 / statistics.median(first for first, _ in pairs),
        "products_gflops": flops / 1e9 / statistics.median(second for _, second in pairs),
        "ratio": statistics.median(ratios),
        "ratio_low": ratios[len(ratios) // 4],
        "ratio_high": ratios[-1 - len(ratios) // 4],
        "rounds": len(pairs),
    }


def table(rows: Sequence[dict[str, float]]) -> str:
    head = (
        "tokens   GFLOP   forward ms   products ms   forward GFLOP/s   products GFLOP/s   ratio (quartiles)     rounds"
    )
    lines = [
        f"{row['tokens']:6.0f} {row['gflop']:7.1f} {row['forward_ms']:12.1f} {row['products_ms']:13.1f} "
        f"{row['forward_gflops']:17.1f} {row['products_gflops']:18.1f}   {row['ratio']:.3f} ({row['ratio_low']:.3f}"
        f" - {row['ratio_high']:.3f}) {row['rounds']:8.0f}"
        for row in rows
    ]
    return "\n".join([head, *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description="backbone forward beside the machine's own matrix products")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under a minute")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="threads of torch [default: torch's own choice]"
    )
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    rounds, budget = (15, 10.0) if asked.quick else (60, 45.0)
    torch.manual_seed(0)
    with torch.inference_mode():
        rows = [measure(tokens, rounds, budget) for tokens in (256, 512, 1024)]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, float32")
    print(table(rows))
    print(f"bar: {BAR:.2f} of the rate of the bare products; lowest here: {min(row['ratio'] for row in rows):.3f}")
    if asked.json:
        asked.json.write_text(
            json.dumps({"threads": torch.get_num_threads(), "bar": BAR, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
