"""What Time-Aware Context Drop saves and what it changes: speed, answer, and score of the built-in model.

    python benchmarks/context_drop.py [--quick] [--device cuda] [--threads N] [--json FILE] [--plot FILE] [--score N]

A backbone of width 1024 (4 blocks, 16 heads, SwiGLU of 2816) without text, two by two windows. `at noise` is one
evaluation at t = 0, where all blocks average, in turn with one without. `sampling` is a whole sampling, done both
ways, timed from end to end: evaluations in the middle of even steps, blocks averaging as the defaults say at each
time. Reported are medians, and the same in seconds of the processor. The change is the root mean square difference of
an answer by its own size, for random weights: no measure of pictures. The score is: how many of N pictures of the
built-in model are found again, with the part and without it, of the same words and seeds (`--score 0`: not measured).
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from turns import compared, drawn, in_turn, options, set_threads, written

from lumina_core.cli.main import run
from lumina_core.models.context_drop import TimeAwareContextDrop
from lumina_core.models.next_dit import NextDiTBackbone
from lumina_core.types import Condition, Tokens

WIDTH, DEPTH, HEADS, NUMBERS = 1024, 4, 16, 16
DROP = TimeAwareContextDrop(TimeAwareContextDrop.Config())
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# what `auto` takes in float32 is the fused kernel
WAYS = (
    ("float32", "fused"), ("bfloat16", "fused"), ("bfloat16", "auto"), ("float32", "matmul"), ("bfloat16", "matmul"),
)  # fmt: skip


def backbone(dtype: torch.dtype, backend: str, device: str) -> NextDiTBackbone:
    torch.manual_seed(0)
    sizes = {
        "hidden_size": WIDTH,
        "num_layers": DEPTH,
        "num_heads": HEADS,
        "rope_axes_dim": (0, 32, 32),
        "token_dim": NUMBERS,
    }
    model = NextDiTBackbone(
        NextDiTBackbone.Config.read({**sizes, "rope_layout": "interleaved", "attn_backend": backend}, "benchmark")
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.2)
    return model.to(device, dtype).eval()


def picture(side: int, dtype: torch.dtype, device: str) -> Tokens:
    places = torch.cartesian_prod(torch.zeros(1), torch.arange(float(side)), torch.arange(float(side)))
    values = torch.randn(1, side * side, NUMBERS).to(device, dtype)
    return Tokens(values, places[None].to(device), ((side, side),))


def answer(model: NextDiTBackbone, tokens: Tokens, precomputed: Any, time: float = 0.0) -> Tensor:
    return model(
        tokens, torch.full((1,), time, device=tokens.values.device), Condition(), precomputed=precomputed
    ).hidden_states


def measure(side: int, name: str, backend: str, rounds: int, evaluations: int, device: str) -> dict[str, Any]:
    model, tokens = backbone(DTYPES[name], backend, device), picture(side, DTYPES[name], device)
    plain = model.precompute(tokens, Condition())
    pooled = model.with_context_drop(plain, model.make_token_pool(tokens, Condition(), DROP.window))
    ready = {"plain": plain, "dropped": model.set_dropped_blocks(pooled, (True,) * DEPTH)}
    answers = {word: answer(model, tokens, precomputed).float() for word, precomputed in ready.items()}
    times = [(step + 0.5) / evaluations for step in range(evaluations)]

    def once(word: str) -> Tensor:
        output = answer(model, tokens, ready[word])
        synchronize(device)
        return output

    def way(word: str) -> None:
        for time in times:
            precomputed = (
                model.set_dropped_blocks(pooled, DROP.dropped_blocks(DEPTH, time)) if word == "dropped" else plain
            )
            answer(model, tokens, precomputed, time)
        synchronize(device)

    at_noise, sampled = (
        compared(in_turn({word: lambda word=word, job=job: job(word) for word in ready}, count), "plain", "dropped")
        for job, count in ((once, rounds), (way, max(1, rounds // 3)))
    )
    return {
        "tokens": side * side,
        "dtype": name,
        "attention": backend,
        "evaluations": evaluations,
        **{key: at_noise[key] for key in ("plain_ms", "dropped_ms", "rounds")},
        "at_noise": at_noise["ratio"],
        "at_noise_processor": at_noise["ratio_processor"],
        "sampling": sampled["ratio"],
        "sampling_processor": sampled["ratio_processor"],
        "change": float((answers["dropped"] - answers["plain"]).norm() / answers["plain"].norm()),
    }


def synchronize(device: str) -> None:
    """Wait for the kernels of a GPU, so that the clock includes them."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def scores(count: int, device: str) -> dict[str, Any]:
    """Of `count` pictures, which share is found again (first, among the first five), without and with the part."""
    result = {"prompts": count}
    with tempfile.TemporaryDirectory() as place:
        for word in ("none", "time_aware"):
            out = Path(place) / word
            words = ["evaluate", "--metrics", "image.retrieval", "--samples", str(count), "--out", str(out)]
            if run([*words, "--cache", f"{place}/references", "--param", f"context_drop={word}", "--device", device]):
                raise SystemExit("the built-in model could not be evaluated")
            score = json.loads((out / "scores.json").read_text(encoding="utf-8"))["scores"]["image.retrieval"]
            result[word] = {name: score[name]["value"] for name in ("top1", "top5")}
    return result


def changes(device: str, name: str = "float32", side: int = 32) -> list[dict[str, Any]]:
    """Change of the answer by how many blocks average, and which."""
    model, tokens = backbone(DTYPES[name], "fused", device), picture(side, DTYPES[name], device)
    plain = model.with_context_drop(
        model.precompute(tokens, Condition()), model.make_token_pool(tokens, Condition(), (1, 2, 2))
    )
    whole, rows = answer(model, tokens, plain), []
    for keep in ("last", "first", "spread"):
        drop = TimeAwareContextDrop(TimeAwareContextDrop.Config(keep_blocks=keep))
        for count in range(DEPTH + 1):
            got = answer(model, tokens, model.set_dropped_blocks(plain, drop.dropped_blocks(DEPTH, 1 - count / DEPTH)))
            rows.append({"keep": keep, "blocks": count, "change": float((got - whole).norm() / whole.norm())})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["tokens  format     attention  plain ms  dropped ms  at noise  sampling (of processor)  change"]
    for row in rows:
        times = f"{row['plain_ms']:9.1f} {row['dropped_ms']:11.1f}"
        ratios = (f"{row[name]:.2f} ({row[f'{name}_processor']:.2f})" for name in ("at_noise", "sampling"))
        what = f"{row['tokens']:6d}  {row['dtype']:9s} {row['attention']:9s}"
        lines.append(f"{what} {times}   {'  '.join(ratios)}          {row['change']:.3f}")
    return "\n".join(lines)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with drawn(path) as panel:
        for name, backend in dict.fromkeys((row["dtype"], row["attention"]) for row in rows):
            own = [row for row in rows if (row["dtype"], row["attention"]) == (name, backend)]
            for what, style in (("at_noise", "-"), ("sampling", "--")):
                label = f"{name}, {backend}, {'at t = 0' if what == 'at_noise' else 'whole way'}"
                panel.plot(
                    [r["tokens"] for r in own], [r[f"{what}_processor"] for r in own], style, marker="o", label=label
                )
        panel.axhline(1, color="#999", linewidth=0.8)
        panel.set(xlabel="tokens", ylabel="times as fast", xscale="log")
        panel.legend(fontsize=6)


def parse_args() -> argparse.Namespace:
    parser = options(
        "context drop: speed, change and score", "4096 tokens, no plain attention, few evaluations: a minute"
    )
    parser.add_argument("--score", type=int, metavar="N", help="prompts of the score [default: 200; 0 with --quick]")
    parser.add_argument("--device", default="cpu", help="device of the networks [default: cpu]")
    parser.add_argument("--tokens", type=int, metavar="N", help="measure this square number of tokens only")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    set_threads(args)
    sides, ways = ((64,), WAYS[:3]) if args.quick else ((16, 32, 64), WAYS)
    if args.tokens:
        sides = (math.isqrt(args.tokens),)
    rounds, evaluations = (2, 2) if args.quick else (3, 4)
    with torch.inference_mode():
        rows = []
        for side, (name, way) in product(sides, ways):
            rows.append(measure(side, name, way, rounds, evaluations, args.device))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
        changed = changes(args.device)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {DEPTH} blocks of {WIDTH}")
    print(table(rows))
    for row in changed:
        print(f"keep {row['keep']:6s} {row['blocks']} of {DEPTH} blocks average: change {row['change']:.3f}")
    count = args.score if args.score is not None else 0 if args.quick else 200
    found = {"score": scores(count, args.device)} if count else {}
    for word, score in found.items():
        print(word, score)
    written(args, {"rows": rows, "changes": changed, **found})
    if args.plot:
        draw(rows, args.plot)


if __name__ == "__main__":
    main()
