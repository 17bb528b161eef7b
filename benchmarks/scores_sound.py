"""Scores of the built-in model of sound: `lumina evaluate` of held-out prompts, and the table of its card.

Writes the JSON of each run to docs/results/instruments, the spectrograms of the first to docs/pictures/heard.png, and
the table in docs/results/instruments.md between its marks. Stopped, it goes
on: everything made is kept in --work.

    python benchmarks/scores_sound.py [--model DIR] [--quick] [--work runs/scores_sound] [--docs docs]
"""

from __future__ import annotations

import shutil

from scored import BEGIN, END, Scores, arguments, figures, filled, groups, kept, run_evaluation

MODEL = "audio.instruments"
BY_LITE0 = [
    "--metrics", "audio.instrument_retrieval", "--set",
    "audio.instrument_retrieval.feature_extractor.type=audio.efficientnet_lite0",
]  # fmt: skip
BY_YIN = [
    "--metrics", "audio.pitch", "--set", "audio.pitch.feature_extractor.type=audio.yin", "--set",
    "audio.pitch.tolerance_semitones=0.5",
]  # fmt: skip
RUNS: dict[str, tuple[int, int, list[str]]] = {
    "held_out": (200, 60, ["--seed", "17", "--split", "held_out"]),
    "by_lite0": (200, 60, ["--seed", "17", "--split", "held_out", *BY_LITE0]),
    "by_yin": (200, 60, ["--seed", "17", "--split", "held_out", *BY_YIN]),
}
"""Name of a run: samples, samples of a quick one, and the rest of its options."""
TITLES = {
    "held_out": "held-out notes, chords, phrases",
    "by_lite0": "the same, by another network",
    "by_yin": "the same, pitch within 50 cents",
}


def main() -> None:
    args = arguments(__doc__, "runs/scores_sound", "the built-in model")
    found = {name: run_evaluation(name, command(name, args.quick), args, MODEL) for name in RUNS}
    kept(args.docs / "results" / "instruments", found)
    sheet = args.work / "held_out" / "samples.png"
    shutil.copy(sheet, args.docs / "pictures" / "heard.png")
    card = args.docs / "results" / "instruments.md"
    page = card.read_text(encoding="utf-8") if card.is_file() else f"# The built-in model of sound\n\n{BEGIN}\n{END}\n"
    card.write_text(filled(page, tables(found)), encoding="utf-8")
    print(tables(found))


def command(name: str, quick: bool) -> list[str]:
    """The command of a run, as a reader can give it."""
    many, few, rest = RUNS[name]
    return ["evaluate", "--samples", str(few if quick else many), *rest]


def tables(found: dict[str, Scores]) -> str:
    """One table of all figures, and of the instruments found by kind, family and wording."""
    score = found["held_out"]["scores"]["audio.instrument_retrieval"]
    names = ("top1", "top5", "top1_of_real")
    pitch = found["by_yin"]["scores"]["audio.pitch"]
    parts = [figures(found, TITLES), *(groups(score, key, names) for key in ("kind", "wording", "family"))]
    parts.append(groups(pitch, "octave", ("accuracy", "accuracy_of_real")))
    quick = found["held_out"]["samples"] < RUNS["held_out"][0]
    made = " ".join(f"`lumina {' '.join(['evaluate', MODEL, *command(name, quick)[1:]])}`" for name in found)
    return (
        "\n\n".join(parts)
        + f"\n\nMade by `python benchmarks/scores_sound.py{' --quick' if quick else ''}`, which is: {made}\n"
    )


if __name__ == "__main__":
    main()
