"""Scores of `image.emoji`: `lumina evaluate` three times, and the table of its card from what comes.

Writes the JSON of each run to docs/results/emoji, the sheet of the first to docs/pictures/judged.png, and the table in
docs/results/emoji.md between its marks. Stopped, it goes on where it was: everything made is kept in --work.

    python benchmarks/scores.py [--model DIR] [--quick] [--work runs/scores] [--docs docs]
"""

from __future__ import annotations

import shutil

from scored import Scores, arguments, figures, filled, groups, kept, run_evaluation

SETS = "image.frechet_distance,image.kernel_distance,image.precision_recall"
RUNS = {
    "english": (500, 200, ["--metrics", f"image.retrieval,image.feature_retrieval,{SETS}"]),
    "left_out": (1000, 1000, ["--split", "held_out", "--metrics", "image.retrieval,image.feature_retrieval"]),
    "languages": (40, 20, ["--languages", "all", "--metrics", "image.retrieval"]),
}
"""Name of a run: samples, samples of a quick one, and the rest of its options."""
TITLES = {"english": "English names", "left_out": "combinations left out", "languages": "all languages"}


def main() -> None:
    args = arguments(__doc__, "runs/scores", "image.emoji")
    found = {name: run_evaluation(name, command(name, args.quick), args, "image.emoji") for name in RUNS}
    kept(args.docs / "results" / "emoji", found)
    shutil.copy(args.work / "english" / "samples.png", args.docs / "pictures" / "judged.png")
    card = args.docs / "results" / "emoji.md"
    if card.is_file():
        card.write_text(filled(card.read_text(encoding="utf-8"), tables(found)), encoding="utf-8")
    print(tables(found))


def command(name: str, quick: bool) -> list[str]:
    """The command of a run, as a reader can give it."""
    many, few, rest = RUNS[name]
    return ["evaluate", "--samples", str(few if quick else many), *rest]


def tables(found: dict[str, Scores]) -> str:
    """One table of all figures, one of the languages, one of the sorts of combinations."""
    languages, left_out = (found[name]["scores"]["image.retrieval"] for name in ("languages", "left_out"))
    sorts = ("top1", "family", "within_family")
    parts = [
        figures(found, TITLES), groups(languages, "language", ("top1", "top5")),
        groups(left_out, "variant_type", sorts),
    ]  # fmt: skip
    quick = found["english"]["samples"] < RUNS["english"][0]
    made = " ".join(f"`lumina {' '.join(command(name, quick))}`" for name in found)
    return (
        "\n\n".join(parts)
        + f"\n\nMade by `python benchmarks/scores.py{' --quick' if quick else ''}`, which is: {made}\n"
    )


if __name__ == "__main__":
    main()
