"""How many samples a second `lumina train` takes, beside plain eager training of the same model, in one run.

    python benchmarks/training.py [--quick] [--batch N] [--rounds N] [--threads N] [--json FILE]

The model of the sketch: a NextDiT of 11.5 million parameters (4 blocks, width 384, 6 heads), 64 tokens (pictures of
32x32 in patches of 4), 48 bytes of caption as memory, batch 128. Whole steps are timed: tokens, captions, noise, loss,
gradients, clipping, AdamW and the average of the weights.

- `ours`: as `lumina train` runs it: torch.compile, the attention and the number format that suit this machine.
- `plain bfloat16`: eager, torch's fused attention, RMSNorm taken apart as published, bfloat16 autocast: the sketch.
- `plain float32`: the same in float32; on a processor without bfloat16 products the fairer comparison.

A round times one step of each, one behind the other, so that whatever else the machine does hits all; a ratio is taken
within a round, and the median of the rounds is reported. Bar: 2.7 times the samples a second of `plain bfloat16`.
A processor without bfloat16 products turns every number by itself, some 70 times slower, and beats the bar for that
reason alone: look at `plain float32` there. `--quick` then times fewer items for that row (`items` in the output
says how many), since a step takes time in proportion to them.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lumina_core.config import Config
from lumina_core.device import resolve_dtype
from lumina_core.model import Model, build_model
from lumina_core.models.layers import RMSNorm
from lumina_core.plugins.loader import load_plugins
from lumina_core.protocols import Conditioner
from lumina_core.recipe import Recipe
from lumina_core.training.dataloader import EpochSampler, RawBatch
from lumina_core.training.distributed import ProcessInfo
from lumina_core.training.optim import EMA, build_optimizers
from lumina_core.training.trainer import LossModule, freeze
from lumina_core.types import Condition

BAR, CAPTION, SIDE, WIDTH = 2.7, 48, 32, 384
HERE = ProcessInfo(0, 1, torch.device("cpu"))


class Bytes(Conditioner, nn.Module):
    """48 bytes of a caption as memory, and their mean as summary."""

    cross_attention_dim, pooled_dim = WIDTH, WIDTH

    class Config(Config):
        """Nothing to choose."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.table, self.mix = nn.Embedding(257, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.indices = nn.Parameter(torch.zeros(CAPTION, WIDTH))

    def encode(self, values: Sequence[str]) -> Condition:
        rows = [list(value.encode()[:CAPTION]) for value in values]
        numbers = torch.tensor([[byte + 1 for byte in row] + [0] * (CAPTION - len(row)) for row in rows])
        memory = self.mix(self.table(numbers) + self.indices)
        return Condition(context=memory, pooled=memory.mean(dim=1))

    def null_condition(self, batch: int) -> Condition:
        return self.encode([""] * batch)


class PlainNorm(nn.Module):
    """RMSNorm as published: in float32, one operation after another."""

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.eps

    def forward(self, x: Tensor, by: Tensor | float = 1.0) -> Tensor:
        wide = x.float()
        normed = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).type_as(x)
        return (normed if self.weight is None else normed * self.weight) * by

    def add_normed(self, x: Tensor, branch: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        return x + self(branch, scale)


class Parts:
    """The installed parts, and the captions of this file."""

    def find(self, kind: str, name: str) -> Any:
        return Bytes if name == "benchmark.bytes" else load_plugins().find(kind, name)


def recipe(batch: int, precision: str, plain: bool) -> Recipe:
    """The sketch; `plain` without what makes ours fast."""
    return Recipe.read(
        {
            "task": {"type": "image.text_to_image", "image_size": SIDE},
            "autoencoder": {"type": "image.identity"},
            "tokenizer": {"type": "image.patchify", "patch_size": 4},
            "conditioners": [{"field": "caption", "type": "benchmark.bytes"}],
            "backbone": {
                "type": "core.next_dit",
                "hidden_size": WIDTH,
                "num_layers": 4,
                "num_heads": 6,
                "rope_axes_dim": [0, 32, 32],
                "rope_layout": "interleaved",
                "attn_backend": "fused" if plain else "auto",
            },
            "head": {"type": "core.velocity"},
            "objective": {"type": "core.flow_matching"},
            "training": {"global_batch_size": batch, "mixed_precision": precision, "compile": not plain},
        },
        "benchmark",
    )


class Contestant:
    """One way to train, with a model and data of its own."""

    def __init__(self, name: str, items: int, precision: str, plain: bool) -> None:
        self.name, self.items, self._number = name, items, 0
        torch.manual_seed(0)
        args = recipe(items, precision, plain)
        self.model = build_model(args, Parts())
        if plain:
            take_apart(self.model)
        freeze(self.model, ())
        self.loss, self.optimizers = (
            LossModule(self.model, args.training, HERE),
            build_optimizers(self.model, args.training),
        )
        self.average = EMA(self.model, 0.999)
        self.dtype = str(resolve_dtype(precision, HERE.device)).removeprefix("torch.")

    def seconds(self) -> float:
        """The time of one step."""
        raw = read(self.items, self._number)
        began = time.perf_counter()
        loss, _ = self.loss(raw)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 2.0, foreach=True)
        assert bool(torch.isfinite(loss.detach() + norm))
        self.optimizers.step()
        self.optimizers.zero_grad()
        self.average.update(self.model, self._number)
        self._number += 1
        return time.perf_counter() - began


def take_apart(model: Model) -> None:
    """Put the published norm in the place of ours."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, RMSNorm):
                setattr(module, name, PlainNorm(child))


def read(items: int, step: int) -> RawBatch:
    """Pictures and captions of one step; random ones take as long as others."""
    draws = EpochSampler([1.0] * items, 0).step_keys(step, items)
    generator = torch.Generator().manual_seed(step)
    pictures = torch.rand(items, 3, SIDE, SIDE, generator=generator) * 2 - 1
    captions = tuple(f"a picture of the number {draw.seed}" for draw in draws)
    return RawBatch(pictures.unbind(), {"caption": captions}, tuple(draws))


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    args = ("avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx_tile")
    has = [name for name in args if getattr(torch.cpu, f"_is_{name}_supported", lambda: False)()]
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "features": has,
        "bfloat16_native": resolve_dtype("auto", HERE.device) == torch.bfloat16,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def measure(contestants: Sequence[Contestant], rounds: int) -> dict[str, list[float]]:
    """Samples a second of each contestant in each round, after one round that is not counted (it compiles)."""
    rates: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds + 1):
        for contestant in contestants:
            rate = contestant.items / contestant.seconds()
            print(f"round {number}: {contestant.name} {rate:.2f} samples/s", file=sys.stderr, flush=True)
            if number:
                rates[contestant.name].append(rate)
    return rates


def report(contestants: Sequence[Contestant], rates: dict[str, list[float]], batch: int) -> dict[str, Any]:
    """Everything as plain data."""
    ours = rates[contestants[0].name]
    rows = []
    for contestant in contestants:
        own = rates[contestant.name]
        ratios = [a / b for a, b in zip(ours, own, strict=True)]
        rate = statistics.median(own)
        rows.append(
            {
                "name": contestant.name,
                "dtype": contestant.dtype,
                "items": contestant.items,
                "samples_a_second": round(rate, 3),
                "seconds_a_step_of_the_batch": round(batch / rate, 3),
                "ours_is_faster": round(statistics.median(ratios), 2),
            }
        )
    parameters = sum(p.numel() for p in contestants[0].model.parameters())
    ratio = rows[1]["ours_is_faster"]
    whole = {"machine": machine(), "parameters": parameters, "batch": batch, "rounds": len(ours), "rows": rows}
    return {**whole, "ratio": ratio, "ratio_float32": rows[2]["ours_is_faster"], "bar": BAR, "reached": ratio >= BAR}


def main() -> int:
    """Measure, print a table, and write it to a file if one is named; 1 if the bar is not reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="batch 32, two rounds: whether it works")
    parser.add_argument("--batch", type=int, help="items a step  [default: 128]")
    parser.add_argument("--rounds", type=int, help="rounds that count  [default: 5]")
    parser.add_argument("--threads", type=int, help="threads of torch  [default: torch's own choice]")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    batch, rounds = args.batch or (32 if args.quick else 128), args.rounds or (2 if args.quick else 5)
    native = resolve_dtype("auto", HERE.device) == torch.bfloat16
    contestants = [
        Contestant("ours", batch, "auto", plain=False),
        Contestant("plain bfloat16", 2 if args.quick and not native else batch, "bfloat16", plain=True),
        Contestant("plain float32", batch, "float32", plain=True),
    ]
    found = report(contestants, measure(contestants, rounds), batch)
    print(f"{found['parameters']:,} parameters, batch {batch}, {found['machine']}")
    for row in found["rows"]:
        rate, ratio = row["samples_a_second"], row["ours_is_faster"]
        print(f"{row['name']:16} {rate:10.2f} samples/s   ours is {ratio:.2f} times as fast")
    print(f"ratio {found['ratio']:.2f}, bar {BAR}: {'reached' if found['reached'] else 'NOT reached'}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(not found["reached"])


if __name__ == "__main__":
    sys.exit(main())
