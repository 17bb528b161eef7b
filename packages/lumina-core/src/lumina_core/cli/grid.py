"""lumina grid: a grid of times as numbers and as a drawing, and one fitted to a model."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from lumina_core.errors import ConfigError

WIDTH, SIDE = 64, 320
BY = "error: least for a solver and a budget; sharpness: quicker, short steps where it turns.  [default: error]"
REQUESTS = "What to ask it while fitting, one a line.  [default: drawn from what the model learnt from]"


@click.command(epilog="Example:  lumina grid --times sigmoid --steps 10 --plot grid.svg")
@click.option(
    "--times", metavar="NAME", help="uniform, shift, rational, sigmoid, given ...; sigmoid:beta=10.  [default: uniform]"
)
@click.option("--steps", type=click.IntRange(1, 1000), metavar="N", help="How many steps.  [default: 10]")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.svg", help="Draw it there too.")
@click.option("--fit", metavar="MODEL", help="Fit one to this model folder and keep it there, for --grid fitted.")
@click.option("--by", type=click.Choice(["error", "sharpness"]), help=BY)
@click.option("--solver", metavar="NAME", help="Fit for this solver.  [default: the model's own]")
@click.option("--evaluations", type=click.IntRange(1, 1000), metavar="N", help="Fit for this budget.  [default: 10]")
@click.option(
    "--guidance", type=click.FloatRange(0, 100), metavar="X", help="While fitting.  [default: the model's own]"
)
@click.option("--requests", type=click.Path(path_type=Path), metavar="FILE", help=REQUESTS)
@click.option("--count", type=click.IntRange(1, 4096), metavar="N", help="So many of them.  [default: 32, or 8]")
@click.option(
    "--seed", type=click.IntRange(0, 2**20), metavar="N", help="Of what is drawn, and the noise.  [default: 0]"
)
@click.option("--device", metavar="NAME", help="cpu, cuda, mps ...  [default: cpu]")
@click.option("--dry-run", is_flag=True, help="Say how often the model would be asked, and ask it nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def grid(times: str | None, steps: int | None, plot: Path | None, as_json: bool, **fitting: Any) -> None:
    """Print and draw a grid of times between noise (0) and data (1)."""
    if times is not None and fitting["fit"] is not None:
        raise click.UsageError("give either --times or --fit")
    if plot is not None and plot.suffix.lower() != ".svg":
        raise click.UsageError(f"--plot draws SVG; name the file {plot.with_suffix('.svg').name}")
    found = _asked(times or "uniform", steps) if fitting["fit"] is None else _fitted(fitting, steps)
    if found is None:
        return
    name, values = found
    if plot is not None:
        _drawn(values, name, plot)
    if as_json:
        click.echo(json.dumps({"times": name, "steps": len(values) - 1, "values": values}))
        return
    click.echo(name)
    click.echo("\n".join(_lines(values)))


def _asked(said: str, steps: int | None) -> tuple[str, list[float]]:
    from lumina_core.config import Use, named
    from lumina_core.model import build
    from lumina_core.plugins.loader import load
    from lumina_core.sampling.way import chosen

    use = chosen(said, Use(use=""), "_grid")
    made = build(load(), "times", use)
    own = getattr(made, "steps", None)
    return named(said).use, made(steps or own or 10).tolist()


def _fitted(fitting: dict[str, Any], steps: int | None) -> tuple[str, list[float]] | None:
    from lumina_core.cli.grid_fit import Asked, fitted
    from lumina_core.flow.grids import FittedGrid

    usual = {"by": "error", "seed": 0, "device": "cpu"}
    told = {key: value for key, value in fitting.items() if value is not None}
    values = fitted(Asked(**{**dict.fromkeys(fitting), **usual, **told}))
    return None if values is None else ("fitted", FittedGrid(FittedGrid.Config(values=values))(steps or 10).tolist())


def _lines(values: list[float]) -> list[str]:
    """One line with a mark at each time, then a line a step: from, to, length, and a bar as long."""
    marks = [" "] * (WIDTH + 1)
    for value in values:
        marks[round(value * WIDTH)] = "|"
    longest = max(later - now for now, later in pairwise(values))
    lines = ["noise " + "".join(marks) + " data", "step  from    to      length"]
    for number, (now, later) in enumerate(pairwise(values), 1):
        bar = "#" * max(1, round((later - now) / longest * 40))
        lines.append(f"{number:4d}  {now:.4f}  {later:.4f}  {later - now:.4f}  {bar}")
    return lines


def _drawn(values: list[float], name: str, path: Path) -> None:
    """Time over number of the step, as SVG."""
    from lumina_core.files import whole_file

    last = len(values) - 1
    points = [(40 + SIDE * k / last, 20 + SIDE * (1 - value)) for k, value in enumerate(values)]
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{SIDE + 60}" height="{SIDE + 60}" font-family="sans-serif">'
        f'<rect x="40" y="20" width="{SIDE}" height="{SIDE}" fill="none" stroke="#999"/>'
        f'<polyline points="{line}" fill="none" stroke="#1f4e8c" stroke-width="2"/><g fill="#1f4e8c">{dots}</g>'
        f'<text x="40" y="{SIDE + 50}">{name}: time (0 noise, 1 data) over {last} steps</text></svg>\n'
    )
    try:
        with whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}; choose another --plot") from error
