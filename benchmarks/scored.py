"""What the score sheets of the built-in models share: a run of `lumina evaluate`, and tables of what it tells."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from lumina_core.cli.main import run

BEGIN, END = "<!-- begin scores -->", "<!-- end scores -->"
Told = dict[str, Any]


def arguments(description: str | None, work: str, usual: str) -> argparse.Namespace:
    """What every score sheet can be told."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help=f"folder; {usual} where left out")
    parser.add_argument("--quick", action="store_true", help="fewer examples: minutes rather than an hour on two cores")
    parser.add_argument("--work", type=Path, default=Path(work), help="keeps what is made until all is done")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    return parser.parse_args()


def judged(name: str, words: list[str], args: argparse.Namespace, model: str | None = None) -> Told:
    """What `lumina evaluate` tells, run here and gone on with where it was stopped."""
    out = args.work / name
    resume = ["--resume"] if (out / "eval_config.json").is_file() else []
    named = args.model or model
    words = [words[0], *([named] if named else []), *words[1:]]
    status = run([*words, "--out", str(out), "--cache", str(args.work / "references"), *resume])
    if status:
        sys.exit(status)
    told: Told = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    return told


def kept(folder: Path, found: dict[str, Told]) -> None:
    """Each run's figures as JSON in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, told in found.items():
        text = json.dumps(told, indent=1, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def filled(page: str, tables: str) -> str:
    """The page with the tables between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables}{END}{after}"


def figures(found: dict[str, Told], titles: dict[str, str]) -> str:
    """One table of all figures."""
    rows = ["| asked for | figure | value | 95 % | of |", "|---|---|---|---|---|"]
    for name, told in found.items():
        for score in told["scores"].values():
            rows += [_row(titles[name], figure) for figure in score.values() if isinstance(figure, dict)]
    return "\n".join(rows)


def groups(score: Told, key: str, names: tuple[str, ...]) -> str:
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


def _row(title: str, figure: Told) -> str:
    bounds = "" if figure.get("low") is None else f"{short(figure['low'])} to {short(figure['high'])}"
    return f"| {title} | {figure['name']} | {short(figure['value'])} | {bounds} | {figure['count']} |"
