"""How near the backbone's forward pass comes to the machine's own matrix products.

    python benchmarks/backbone.py [--quick] [--threads N] [--json FILE]

Float32 on the CPU, under inference_mode, one item, no context: NextDiTBackbone of width W = 1024, 4 blocks, 16 heads
(d = 64), SwiGLU of H = 2816, tokens of D = 16 numbers. Each round times one forward pass and then the same matrix
products alone (same shapes, same count); the ratio is taken within a round, so that other load affects both, and the
median of the rounds is reported. Bar: 0.85. The ratio of processor seconds (medians of both) is reported too: with
--threads 1 it also holds on a busy machine; with more threads it counts waiting threads.

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

from lumina_core.models.next_dit import NextDiTBackbone
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
    config = NextDiTBackbone.Config(
        hidden_size=WIDTH,
        num_layers=DEPTH,
        num_heads=HEADS,
        rope_axes_dim=(0, 32, 32),
        rope_layout="interleaved",
        token_dim=NUMBERS,
    )
    model = NextDiTBackbone(config).eval()
    assert model.blocks[0].feed_forward.out.weight.shape[1] == FEED, "the count above is for another feed-forward"
    # a fresh model's gates are zero; the time taken does not depend on it, but let no product be with zeros
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    positions = torch.stack([torch.zeros(tokens), torch.arange(tokens) // 32, torch.arange(tokens) % 32], dim=-1)
    batch = Tokens(torch.randn(1, tokens, NUMBERS), positions[None].float(), ((tokens,),))
    moment, condition = torch.tensor([0.5]), Condition()
    precomputed = model.precompute(batch, condition)

    def run() -> None:
        model(batch, moment, condition, precomputed=precomputed)

    return run


def seconds(job: Callable[[], None]) -> tuple[float, float]:
    """On the wall, and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - wall, time.process_time() - processor


def measure(tokens: int, rounds: int, budget: float, least: int) -> dict[str, float]:
    """Pairs of forward pass and bare products, in turn first and second, until rounds or seconds are used up."""
    ours, theirs = forward(tokens), bare(tokens)
    ours(), theirs()
    forwards: list[tuple[float, float]] = []
    bares: list[tuple[float, float]] = []
    until = time.perf_counter() + budget
    while len(bares) < rounds and (len(bares) < least or time.perf_counter() < until):
        pair = [(ours, forwards), (theirs, bares)]
        for job, times in pair if len(bares) % 2 else pair[::-1]:
            times.append(seconds(job))
    ratios = sorted(second[0] / first[0] for first, second in zip(forwards, bares, strict=True))
    (mine, my_processor), (its, its_processor) = (
        [statistics.median(column) for column in zip(*times, strict=True)] for times in (forwards, bares)
    )
    gflop = operations(tokens) / 1e9
    return {
        "tokens": tokens,
        "gflop": gflop,
        "forward_ms": 1e3 * mine,
        "products_ms": 1e3 * its,
        "forward_gflops": gflop / mine,
        "products_gflops": gflop / its,
        "ratio": statistics.median(ratios),
        "ratio_low": ratios[len(ratios) // 4],
        "ratio_high": ratios[-1 - len(ratios) // 4],
        "ratio_processor": its_processor / my_processor,
        "rounds": len(ratios),
    }


def table(rows: Sequence[dict[str, float]]) -> str:
    head = "tokens  GFLOP  forward ms (GFLOP/s)  products ms (GFLOP/s)  ratio (quartiles)      of processor  rounds"
    lines = [
        f"{row['tokens']:6.0f} {row['gflop']:6.1f} {row['forward_ms']:11.1f} {row['forward_gflops']:10.1f}"
        f" {row['products_ms']:12.1f} {row['products_gflops']:10.1f}"
        f"   {row['ratio']:.3f} ({row['ratio_low']:.3f} - {row['ratio_high']:.3f})"
        f" {row['ratio_processor']:13.3f} {row['rounds']:7.0f}"
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
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    rounds, budget, least = (15, 8.0, 3) if args.quick else (60, 45.0, 9)
    torch.manual_seed(0)
    with torch.inference_mode():
        rows = [measure(tokens, rounds, budget, least) for tokens in (256, 512, 1024)]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, float32")
    print(table(rows))
    print(f"bar: {BAR:.2f} of the rate of the bare products; lowest here: {min(row['ratio'] for row in rows):.3f}")
    if args.json:
        args.json.write_text(
            json.dumps({"threads": torch.get_num_threads(), "bar": BAR, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
