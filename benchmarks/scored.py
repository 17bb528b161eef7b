"""What the score sheets of the built-in models share: a run of `lumina evaluate`, and tables of what it tells."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from lumina_core.cli.main import run

BEGIN, END = "<!-- begin scores -->", "<!-- end scores -->"
Scores = dict[str, Any]


def arguments(description: str | None, work: str, usual: str) -> argparse.Namespace:
    """Add the options of every score sheet."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help=f"folder; {usual} where left out")
    parser.add_argument("--quick", action="store_true", help="fewer examples: minutes rather than an hour on two cores")
    parser.add_argument("--work", type=Path, default=Path(work), help="keeps what is made until all is done")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    return parser.parse_args()


def run_evaluation(name: str, words: list[str], args: argparse.Namespace, model: str | None = None) -> Scores:
    """Run `lumina evaluate`, resumed where it was stopped, and return its scores."""
    out = args.work / name
    resume = ["--resume"] if (out / "eval_config.json").is_file() else []
    named = args.model or model
    words = [words[0], *([named] if named else []), *words[1:]]
    status = run([*words, "--out", str(out), "--cache", str(args.work / "references"), *resume])
    if status:
        sys.exit(status)
    scores: Scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    return scores


def kept(folder: Path, found: dict[str, Scores]) -> None:
    """Each run's figures as JSON in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, scores in found.items():
        text = json.dumps(scores, indent=1, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def filled(page: str, tables: str) -> str:
    """The page with the tables between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables}{END}{after}"


def figures(found: dict[str, Scores], titles: dict[str, str]) -> str:
    """One table of all figures."""
    rows = ["| data | figure | value | 95 % | of |", "|---|---|---|---|---|"]
    for name, scores in found.items():
        for score in scores["scores"].values():
            rows += [_row(titles[name], figure) for figure in score.values() if isinstance(figure, dict)]
    return "\n".join(rows)


def groups(score: Scores, key: str, names: tuple[str, ...]) -> str:
    """One table of the figures `names` by the groups of a key."""
    found = score[names[0]]["groups"][key]
    rows = [f"| {key} | {' | '.join(names)} | of |", "|---" * (len(names) + 2) + "|"]
    for name, first in found.items():
        values = [short(score[figure]["groups"][key][name]["value"]) for figure in names]
        rows.append(f"| {name} | {' | '.join(values)} | {first['count']} |")
    means = [short(score[figure]["group_means"][key]) for figure in names]
    return "\n".join([*rows, f"| mean of {len(found)} | {' | '.join(means)} | |"])


def short(value: float) -> str:
    """Three figures."""
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _row(title: str, figure: Scores) -> str:
    bounds = "" if figure.get("low") is None else f"{short(figure['low'])} to {short(figure['high'])}"
    return f"| {title} | {figure['name']} | {short(figure['value'])} | {bounds} | {figure['count']} |"
