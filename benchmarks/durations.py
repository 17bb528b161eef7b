"""Measure sounds of other durations than the usual one: continuations, melodies of 8 seconds, scales of 4 seconds.

- `continuation`: 20 held-out sounds of instruments that sustain, cut at 1.536 s, and continued by 2 s (`extend`);
- `melody`: "a melody on ..." of 8.192 s for 20 instruments that sustain; `scale`: "a rising scale on ..." of 4.096 s.

Of each sound:

- `steady`: whether the level of each second is within 12 dB of the given sound's last second, or of the first second;
- `quietest`: the lowest level of a second, relative to that, in decibels;
- `break`: the largest spectral flux within 64 ms of a border (the end of the given part; 2.048 s, the duration of most
  training clips), as a multiple of the 0.95 quantile elsewhere; above 1 a listener may hear it, and an onset of a note
  there counts too. For comparison `elsewhere` is the same at random moments, which are no borders.

Writes durations.json and durations.txt to --out, and the sounds as FLAC to --sounds.

    python benchmarks/durations.py [--model DIR] [--quick] [--seed 5] [--out docs/results/instruments] [--sounds DIR]
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina_audio.datasets.instruments.dataset import InstrumentsEvalSet
from lumina_audio.datasets.instruments.general_midi import instruments
from lumina_audio.metrics.features import batched_log_mels
from lumina_core.sampling.pipeline import Pipeline

RATE, GIVEN, USUAL, MELODY, SCALE = 16000, 24576, 32768, 131072, 65536
DECIBELS, NEAR, HOP = 12.0, 4, 256
SUSTAINED = ("organ", "strings", "ensemble", "brass", "reed", "pipe", "synth lead", "synth pad")
"""Families whose notes last as long as they are held."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="audio.instruments", help="model folder, or installed model")
    parser.add_argument("--quick", action="store_true", help="4 sounds of each kind")
    parser.add_argument("--seed", type=int, default=5, help="seed of the first sound")
    parser.add_argument("--out", type=Path, default=Path("docs/results/instruments"))
    parser.add_argument("--sounds", type=Path, help="folder for the sounds; default: not saved")
    args = parser.parse_args()
    pipe, count = Pipeline.from_pretrained(args.model), 4 if args.quick else 20
    results: dict[str, Any] = {"model": args.model, "seed": args.seed}
    for kind, fields, given in cases(count):
        requests = [pipe.make_request(**field, seed=args.seed + n) for n, field in enumerate(fields)]
        sounds = [result.data for part in batches(requests) for result in pipe(part)]
        results[kind] = [measure(sound, given) for sound in sounds]
        for row, field in zip(results[kind], fields, strict=True):
            row["prompt"] = field["prompt"]
        print(kind, summary(results[kind]), flush=True)
        if args.sounds is not None:
            save(pipe, sounds, args.sounds, kind)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "durations.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (args.out / "durations.txt").write_text(table(results), encoding="utf-8")
    print(table(results))


def cases(count: int) -> list[tuple[str, list[dict[str, Any]], int]]:
    """List kinds of sounds with the fields of their requests and the samples that are given."""
    exam = InstrumentsEvalSet()
    rows = [n for n in exam.indices("held_out") if exam.groups(n)["family"] in SUSTAINED]
    rows = [n for n in rows if float(exam.reference(n)[0, GIVEN - RATE // 2 : GIVEN].square().mean()) > 1e-4]
    rows = [rows[n * len(rows) // count] for n in range(count)]
    continuations = [
        {
            "prompt": str(exam.fields(n, None)["caption"]),
            "init_audio": (exam.reference(n)[:, :GIVEN], RATE),
            "extend": 2.048,
        }
        for n in rows
    ]
    programs = [program for program in instruments() if program.family in SUSTAINED]
    names = [programs[n * len(programs) // count].names[0].with_article for n in range(count)]
    return [
        ("continuation", continuations, GIVEN),
        ("melody", [{"prompt": f"a melody on {name}", "duration": MELODY / RATE} for name in names], 0),
        ("scale", [{"prompt": f"a rising scale on {name}", "duration": SCALE / RATE} for name in names], 0),
    ]


def batches(requests: Sequence[Any]) -> list[Sequence[Any]]:
    """Split requests into batches of four."""
    return [requests[start : start + 4] for start in range(0, len(requests), 4)]


def measure(sound: Tensor, given: int) -> dict[str, Any]:
    """Measure a sound (1, S) of which `given` samples were given."""
    wave = sound[0].float()
    reference = level(wave[max(0, given - RATE) : given] if given else wave[:RATE])
    seconds = [wave[start : start + RATE] for start in range(given or RATE, len(wave) - RATE // 2, RATE)]
    levels = [level(part) - reference for part in seconds]
    mel = batched_log_mels([sound], RATE)[0][0]
    flux = mel.diff(dim=1).clamp_min(0).mean(0)
    chance = random.Random(len(wave))
    border = round((given or USUAL) / HOP)
    others = [chance.randrange(16, len(flux) - 16) for _ in range(8)]
    return {
        "levels": [round(value, 1) for value in levels],
        "steady": all(abs(value) <= DECIBELS for value in levels),
        "quietest": round(min(levels), 1),
        "break": round(peak(flux, border), 3),
        "elsewhere": round(sum(peak(flux, other) for other in others) / len(others), 3),
    }


def level(wave: Tensor) -> float:
    """Return the level in decibels of full scale."""
    return 10 * math.log10(float(wave.square().mean()) + 1e-9)


def peak(flux: Tensor, border: int) -> float:
    """Return the largest flux near a frame as a multiple of the 0.95 quantile elsewhere."""
    near = torch.zeros(len(flux), dtype=torch.bool)
    near[max(0, border - NEAR) : border + NEAR] = True
    return float(flux[near].max() / flux[~near].quantile(0.95).clamp_min(1e-3))


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Summarize the sounds of a kind."""
    count = len(rows)
    quietest = sorted(row["quietest"] for row in rows)
    return {
        "steady": sum(row["steady"] for row in rows) / count,
        "quietest, median": quietest[count // 2],
        "quietest": quietest[0],
        "break above 1": sum(row["break"] > 1 for row in rows) / count,
        "break": round(sum(row["break"] for row in rows) / count, 3),
        "elsewhere": round(sum(row["elsewhere"] for row in rows) / count, 3),
    }


def save(pipe: Pipeline, sounds: Sequence[Tensor], folder: Path, kind: str) -> None:
    """Write the sounds as FLAC files."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, sound in enumerate(sounds):
        (folder / f"{kind}{n:02d}.flac").write_bytes(pipe.model.generation_task.encode(sound, "flac", {}))


def table(results: Mapping[str, Any]) -> str:
    """Make a Markdown table."""
    kinds = [key for key in results if isinstance(results[key], list)]
    columns = list(summary(results[kinds[0]]))
    rows = ["| sounds | " + " | ".join(columns) + " | count |", "|---" * (len(columns) + 2) + "|"]
    for kind in kinds:
        values = summary(results[kind])
        rows.append(f"| {kind} | " + " | ".join(f"{values[c]:.3g}" for c in columns) + f" | {len(results[kind])} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
