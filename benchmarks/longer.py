"""Sounds two and four times as long as those the model learnt from: is each part like a sound of the trained length?

Held-out notes and phrases of instruments that sustain are generated at the trained length (twice, with other noise) and
longer, with extrapolation off and on. A longer sound is cut into parts of the trained length; for each part it prints

- `like_trained`: the distance of its log-mel statistics (mean and deviation of each band) to those of the two sounds of
  the trained length, as a multiple of the distance of those two to each other: 1 is as alike as two answers are. The
  bar is 1.2.
- `like_real`: its distance to the real sound, as a multiple of that of the sounds of the trained length;
- `seam`: the largest change from frame to frame within 64 ms of its beginning, as a multiple of what is rarely (one
  frame in twenty) exceeded within the parts. Above 1 a listener may hear it.

Writes longer.json, longer.txt and longer.png to --out.

    python benchmarks/longer.py [--model DIR] [--quick] [--ways none,ntk] [--out docs/results/instruments]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import torch
from matplotlib import pyplot as plt
from torch import Tensor

from lumina_audio.datasets.instruments.dataset import InstrumentsEvalSet
from lumina_audio.metrics.features import LogMelStatistics, batched_log_mels
from lumina_core.protocols import EvalItem
from lumina_core.sampling.pipeline import Pipeline

BAR, RATE, NEAR = 1.2, 16000, 4
SUSTAINED = ("organ", "strings", "ensemble", "brass", "reed", "pipe", "synth lead", "synth pad")
"""Families whose notes last as long as they are held."""
TIMES = (2, 4)
WAYS = ("none", "interpolation", "ntk", "frequency_aware", "time_aware", "yarn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="audio.instruments", help="a model folder, or an installed model")
    parser.add_argument("--quick", action="store_true", help="6 prompts rather than 32")
    parser.add_argument("--ways", default=",".join(WAYS), help="extrapolations, by their names")
    parser.add_argument("--out", type=Path, default=Path("docs/results/instruments"))
    args = parser.parse_args()
    session, cases = Pipeline.from_pretrained(args.model), prompts(6 if args.quick else 32)
    found: dict[str, Any] = {"model": args.model, "prompts": [case.fields["caption"] for case in cases], "bar": BAR}
    found["ways"] = compared(session, cases, args.ways.split(","))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "longer.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (args.out / "longer.txt").write_text(table(found), encoding="utf-8")
    drawn(found, args.out / "longer.png")
    print(table(found))


def prompts(count: int) -> list[EvalItem]:
    """Held-out clips of instruments that sustain, spread over them."""
    exam = InstrumentsEvalSet()
    places = [n for n in exam.indices("held_out") if exam.groups(n)["family"] in SUSTAINED]
    chosen = [places[n * len(places) // count] for n in range(count)]
    return [EvalItem(exam.fields(place, None), place, exam.groups(place)) for place in chosen]


def compared(session: Pipeline, cases: Sequence[EvalItem], ways: Sequence[str]) -> dict[str, Any]:
    """For every way and length, means over the prompts of each part's figures."""
    exam, features = InstrumentsEvalSet(), LogMelStatistics(LogMelStatistics.Config())
    trained = session.model.task.train_size()[0]
    real = features([exam.reference(case.target_index) for case in cases])
    first, second = (features(made(session, cases, seed, {})) for seed in (0, 1))
    alike = (first - second).norm(dim=1).mean()
    apart = torch.stack([(first - real).norm(dim=1), (second - real).norm(dim=1)]).mean()
    found: dict[str, Any] = {}
    for way in ways:
        found[way] = {}
        for times in TIMES:
            sounds = made(session, cases, 0, {"duration": times * trained / RATE, "rope_scaling": way})
            parts = [features([s[:, n * trained : (n + 1) * trained] for s in sounds]) for n in range(times)]
            to_trained = [((part - first).norm(dim=1) + (part - second).norm(dim=1)).mean() / 2 for part in parts]
            found[way][str(times)] = {
                "like_trained": [round(float(away / alike), 3) for away in to_trained],
                "like_real": [round(float((part - real).norm(dim=1).mean() / apart), 3) for part in parts],
                "seam": seams(sounds, trained, times),
            }
            print(way, times, found[way][str(times)], flush=True)
    return found


def made(session: Pipeline, cases: Sequence[EvalItem], seed: int, fields: Mapping[str, Any]) -> list[Tensor]:
    """A sound for each prompt, each with a noise of its own."""
    task = session.model.task
    requests = [
        session.make_request(**task.request_for(case.fields), **fields, seed=2**20 * seed + place)
        for place, case in enumerate(cases)
    ]
    sounds: list[Tensor] = []
    for start in range(0, len(requests), 8):
        sounds += [answer.data for answer in session(requests[start : start + 8])]
    return sounds


def seams(sounds: Sequence[Tensor], trained: int, times: int) -> list[float]:
    """Medians over the sounds, for each beginning of a part but the first."""
    mel = torch.cat(batched_log_mels(sounds, RATE))
    change = mel.diff(dim=2).abs().mean(1)
    frames = trained * mel.shape[2] // sounds[0].shape[-1]
    inside = torch.ones(change.shape[1], dtype=torch.bool)
    for part in range(1, times):
        inside[part * frames - NEAR : part * frames + NEAR] = False
    usual = change[:, inside].quantile(0.95, dim=1).clamp(min=1e-3)
    at = [change[:, part * frames - NEAR : part * frames + NEAR].amax(1) / usual for part in range(1, times)]
    return [round(float(ratio.median()), 3) for ratio in at]


def table(found: Mapping[str, Any]) -> str:
    """Markdown: the worst part of each."""
    rows = ["| extrapolation | length | like trained | like real | seam | within the bar |", "|---" * 6 + "|"]
    for way, lengths in found["ways"].items():
        for times, figures in lengths.items():
            worst = {name: max(values) for name, values in figures.items()}
            within = "yes" if worst["like_trained"] <= found["bar"] else "no"
            cells = [f"{worst[name]:.2f}" for name in ("like_trained", "like_real", "seam")]
            rows.append(f"| {way} | {times} times | {' | '.join(cells)} | {within} |")
    return (
        "\n".join(rows) + f"\n\nThe worst part of each, means over {len(found['prompts'])} prompts; the bar is 1.2.\n"
    )


def drawn(found: Mapping[str, Any], path: Path) -> None:
    """A panel for each length, a line for each way over the parts."""
    figure, panels = plt.subplots(1, len(TIMES), figsize=(8, 3.2), sharey=True)
    for panel, times in zip(panels, TIMES, strict=True):
        for way, lengths in found["ways"].items():
            values = lengths[str(times)]["like_trained"]
            panel.plot(range(1, len(values) + 1), values, marker="o", label=way)
        panel.axhline(found["bar"], color="grey", linestyle="--")
        panel.set(title=f"{times} times the trained length", xlabel="part", xticks=range(1, times + 1))
        panel.grid(alpha=0.3)
    panels[0].set(ylabel="distance to the trained length,\nas a multiple of two answers'")
    panels[-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
