"""Scores of the built-in model: `lumina evaluate` three times, and the table of its card from what comes.

Writes the JSON of each run to docs/models/emoji, the sheet of the first to docs/pictures/judged.png, and the table in
docs/models/emoji.md between its marks. Stopped, it goes on where it was: everything made is kept in --work.

    python benchmarks/scores.py [--model DIR] [--quick] [--work runs/scores] [--docs docs]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from lumina_core.cli.main import run

BEGIN, END = "<!-- begin scores -->", "<!-- end scores -->"
SETS = "image.frechet,image.kernel,image.precision_recall"
RUNS = {
    "english": (500, 200, ["--metrics", f"image.retrieval,image.feature_retrieval,{SETS}"]),
    "left_out": (1000, 1000, ["--split", "left_out", "--metrics", "image.retrieval,image.feature_retrieval"]),
    "languages": (40, 20, ["--languages", "all", "--metrics", "image.retrieval"]),
}
"""Name of a run: samples, samples of a quick one, and the rest of its options."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder; the built-in model where left out")
    parser.add_argument("--quick", action="store_true", help="fewer names: minutes rather than an hour on two cores")
    parser.add_argument("--work", type=Path, default=Path("runs/scores"), help="keeps what is made until all is done")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    asked = parser.parse_args()
    found = {name: _judged(name, asked) for name in RUNS}
    folder = asked.docs / "models" / "emoji"
    folder.mkdir(parents=True, exist_ok=True)
    for name, told in found.items():
        text = json.dumps(told, indent=1, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    shutil.copy(asked.work / "english" / "sheet.png", asked.docs / "pictures" / "judged.png")
    card = asked.docs / "models" / "emoji.md"
    if card.is_file():
        card.write_text(filled(card.read_text(encoding="utf-8"), found), encoding="utf-8")
    print(tables(found))


def command(name: str, quick: bool) -> list[str]:
    """The command of a run, as a reader can give it."""
    many, few, rest = RUNS[name]
    return ["evaluate", "--samples", str(few if quick else many), *rest]


def filled(page: str, found: dict[str, dict[str, Any]]) -> str:
    """The page with the tables between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables(found)}{END}{after}"


def tables(found: dict[str, dict[str, Any]]) -> str:
    """One table of all figures, one of the languages, one of the sorts of combinations."""
    rows = ["| asked for | figure | value | 95 % | of |", "|---|---|---|---|---|"]
    titles = {"english": "English names", "left_out": "combinations left out", "languages": "all languages"}
    for run_name, told in found.items():
        for score in told["scores"].values():
            rows += [_row(titles[run_name], figure) for figure in score.values() if isinstance(figure, dict)]
    languages, left_out = (found[name]["scores"]["image.retrieval"] for name in ("languages", "left_out"))
    sorts = ("top1", "family", "within_family")
    parts = ["\n".join(rows), _groups(languages, "language", ("top1", "top5")), _groups(left_out, "sort", sorts)]
    quick = found["english"]["samples"] < RUNS["english"][0]
    made = " ".join(f"`lumina {' '.join(command(name, quick))}`" for name in found)
    return (
        "\n\n".join(parts)
        + f"\n\nMade by `python benchmarks/scores.py{' --quick' if quick else ''}`, which is: {made}\n"
    )


def _judged(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    out = asked.work / name
    resume = ["--resume"] if (out / "asked.json").is_file() else []
    words = command(name, asked.quick)
    words[1:1] = [asked.model] if asked.model else []
    status = run([*words, "--out", str(out), "--cache", str(asked.work / "references"), *resume])
    if status:
        sys.exit(status)
    told: dict[str, Any] = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    return told


def _row(title: str, figure: dict[str, Any]) -> str:
    bounds = "" if figure.get("low") is None else f"{_short(figure['low'])} to {_short(figure['high'])}"
    return f"| {title} | {figure['name']} | {_short(figure['value'])} | {bounds} | {figure['count']} |"


def _groups(score: dict[str, Any], key: str, figures: tuple[str, ...]) -> str:
    names = score[figures[0]]["by"][key]
    rows = [f"| {key} | {' | '.join(figures)} | of |", "|---" * (len(figures) + 2) + "|"]
    for name, first in names.items():
        values = [_short(score[figure]["by"][key][name]["value"]) for figure in figures]
        rows.append(f"| {name} | {' | '.join(values)} | {first['count']} |")
    means = [_short(score[figure]["mean_of"][key]) for figure in figures]
    return "\n".join([*rows, f"| mean of {len(names)} | {' | '.join(means)} | |"])


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


if __name__ == "__main__":
    main()
