"""Measure whether sounds stay in tune through the codec, compared with Griffin-Lim.

Codecs are those of `vocoder.py`: round trip, vocoder, and two of Griffin-Lim; the round trip also with
`tune_harmonics`. Sounds are steady harmonic tones from
55 to 2000 Hz, twelve an octave, and held-out notes of the built-in data. For each codec and octave:

- `in_tune`: share of sounds whose pitch by YIN is within 20 cents (of the frequency of a tone, of the real note);
- `cents`: median of the absolute error in cents;
- `voicing`: share of frames of which only one of both sounds is voiced;
- `harmonic_to_noise`: decibels that the generated sound has less than the real one;
- `phase_advance`: error of the phase's advance between frames in radians, weighted by magnitude; noise: 0.7;
- `stft_distance`: multi-resolution STFT distance.

Writes in_tune.json, in_tune.txt and in_tune.png to --out.

    python benchmarks/in_tune.py [--model DIR] [--quick] [--out docs/results/instruments]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import torch
from matplotlib import pyplot as plt
from torch import Tensor
from vocoder import ways_of

from lumina_audio.datasets.instruments.dataset import InstrumentsEvalSet
from lumina_audio.mel import refine_to_mel
from lumina_audio.metrics.tuning import phase_advance_error, track_pitch, voicing_error
from lumina_audio.vocoders.harmonics import tune_to_mel
from lumina_audio.vocoders.loss import stft_loss
from lumina_core.sampling.pipeline import Pipeline

RATE, SAMPLES, BATCH = 16000, 32768, 8
LOWEST, HIGHEST, TOLERANCE, NOTES = 55.0, 2000.0, 20.0, 200
PARTIALS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="audio.instruments", help="model folder, or installed model")
    parser.add_argument("--quick", action="store_true", help="16 tones and 24 notes")
    parser.add_argument("--codecs", help="names of codecs, separated by commas; default: all")
    parser.add_argument("--out", type=Path, default=Path("docs/results/instruments"))
    args = parser.parse_args()
    autoencoder: Any = Pipeline.from_pretrained(args.model).model.autoencoder
    codecs = {**ways_of(autoencoder), "round trip tuned": lambda sound: tuned(autoencoder, sound)}
    names = args.codecs.split(",") if args.codecs else list(codecs)
    sounds = {"tones": tones(4 if args.quick else 1), "notes": held_out_notes(24 if args.quick else NOTES)}
    results: dict[str, Any] = {"model": args.model, "tolerance_cents": TOLERANCE}
    for kind, (waveforms, notes) in sounds.items():
        results[kind] = {"count": len(notes)}
        for name in names:
            results[kind][name] = measure(codecs[name], waveforms, notes)
            print(kind, name, results[kind][name]["all"], flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "in_tune.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (args.out / "in_tune.txt").write_text(table(results), encoding="utf-8")
    plot(results, args.out / "in_tune.png")
    print(table(results))


def tuned(autoencoder: Any, sound: Tensor) -> Tensor:
    """Encode and decode with `tune_harmonics`."""
    mel = autoencoder.to_mel(autoencoder.encode(sound))
    waveform = tune_to_mel(autoencoder.vocoder(mel), mel, autoencoder.mel)
    return refine_to_mel(waveform, mel, autoencoder.mel, autoencoder.config.refine_steps)


def tones(step: int) -> tuple[Tensor, list[float]]:
    """Make steady harmonic tones (N, 1, 32768), twelve an octave, and return their MIDI notes; take every `step`-th."""
    time = torch.arange(SAMPLES) / RATE
    waveforms, notes = [], []
    for index in range(0, math.floor(12 * math.log2(HIGHEST / LOWEST)) + 1, step):
        hertz = LOWEST * 2 ** (index / 12)
        partials = range(1, min(PARTIALS, math.floor(7800 / hertz)) + 1)
        # phases that grow with the square of the number keep the peak low (Schroeder 1970)
        wave = sum(torch.sin(2 * math.pi * hertz * n * time + math.pi * n * n / len(partials)) / n for n in partials)
        waveforms.append(0.6 * wave / wave.abs().max())
        notes.append(69 + 12 * math.log2(hertz / 440))
    return torch.stack(waveforms)[:, None], notes


def held_out_notes(count: int) -> tuple[Tensor, list[float]]:
    """Return held-out single notes with a recognizable pitch (N, 1, 32768), evenly spread, and their pitch by YIN."""
    exam = InstrumentsEvalSet()
    rows = [n for n in exam.indices("pitches") if exam.fields(n, None)["pitch"] is not None]
    rows = [rows[n * len(rows) // count] for n in range(min(count, len(rows)))]
    waveforms = torch.stack([exam.reference(row) for row in rows])
    notes = torch.cat([track_pitch(part).note() for part in waveforms.split(BATCH)])
    kept = ~notes.isnan()  # a note without a voiced frame has no pitch to compare
    return waveforms[kept], notes[kept].tolist()


@torch.inference_mode()
def measure(codec: Callable[[Tensor], Tensor], waveforms: Tensor, notes: Sequence[float]) -> dict[str, Any]:
    """Measure a codec: for all sounds, for each octave, and the error of each sound in cents."""
    rows: dict[str, list[Tensor]] = {}
    for start in range(0, len(waveforms), BATCH):
        real = waveforms[start : start + BATCH]
        generated = codec(real).clamp(-1, 1)
        made, true = track_pitch(generated), track_pitch(real)
        values = {
            "error": 100 * (made.note() - torch.tensor(notes[start : start + BATCH])),
            "voicing": voicing_error(made, true),
            "harmonic_to_noise": true.harmonic_to_noise() - made.harmonic_to_noise(),
            "phase_advance": phase_advance_error(generated, real),
            "stft_distance": stft_loss(generated, real),
        }
        for name, value in values.items():
            rows.setdefault(name, []).append(value)
    columns = {name: torch.cat(parts).float() for name, parts in rows.items()}
    octaves = [octave_of(note) for note in notes]
    groups = {"all": list(range(len(notes)))}
    for octave in sorted(set(octaves)):
        groups[str(octave)] = [n for n, value in enumerate(octaves) if value == octave]
    found: dict[str, Any] = {name: summary(columns, index) for name, index in groups.items()}
    found["error_cents"] = [None if math.isnan(value) else round(value, 1) for value in columns["error"].tolist()]
    return found


def octave_of(note: float) -> int:
    """Return the octave of a MIDI note: 4 from C4 to B4."""
    return math.floor((note + 0.5) / 12) - 1


def summary(columns: Mapping[str, Tensor], index: Sequence[int]) -> dict[str, float]:
    """Summarize some sounds; a sound without a pitch is not in tune."""
    error = columns["error"][list(index)].nan_to_num(1e4).abs()
    means = {name: float(values[list(index)].mean()) for name, values in columns.items() if name != "error"}
    found = {"in_tune": float((error <= TOLERANCE).float().mean()), "cents": float(error.median()), **means}
    return {"count": len(index), **{name: round(value, 3) for name, value in found.items()}}


def table(results: Mapping[str, Any]) -> str:
    """Make Markdown tables: all sounds by codec, and shares in tune by octave."""
    parts = []
    for kind in ("tones", "notes"):
        codecs = {name: value for name, value in results[kind].items() if name != "count"}
        columns = [name for name in next(iter(codecs.values()))["all"] if name != "count"]
        rows = [f"| {kind} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        rows += [f"| {n} | " + " | ".join(f"{c['all'][k]:.3g}" for k in columns) + " |" for n, c in codecs.items()]
        octaves = [key for key in next(iter(codecs.values())) if key not in ("all", "error_cents")]
        rows += ["", f"| {kind} in tune, octave | " + " | ".join(octaves) + " |", "|---" * (len(octaves) + 1) + "|"]
        rows += [f"| {n} | " + " | ".join(f"{c[k]['in_tune']:.2f}" for k in octaves) + " |" for n, c in codecs.items()]
        parts.append("\n".join(rows) + f"\n\n{results[kind]['count']} {kind}.")
    return "\n\n".join(parts) + "\n"


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Plot the share of sounds with at most some error in cents, for tones and notes."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    for panel, kind in zip(panels, ("tones", "notes"), strict=True):
        for name, codec in results[kind].items():
            if name == "count":
                continue
            errors = sorted(1e4 if error is None else max(0.1, abs(error)) for error in codec["error_cents"])
            panel.step(errors, [(n + 1) / len(errors) for n in range(len(errors))], where="post", label=name)
        panel.axvline(TOLERANCE, color="gray", linestyle=":")
        panel.set(xscale="log", xlim=(0.1, 2000), xlabel="error in cents, at most", title=kind)
        panel.grid(alpha=0.3)
    panels[0].set(ylabel="share")
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
