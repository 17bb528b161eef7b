"""lumina grid: a grid of times as numbers and as a drawing, and one fitted to a model."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lumina_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, SIDE = 64, 320


@click.command(epilog="Example:  lumina grid --times sigmoid --steps 10 --plot grid.svg")
@click.option(
    "--times", metavar="NAME", help="uniform, shift, rational, sigmoid, given ...; sigmoid:beta=10.  [default: uniform]"
)
@click.option("--steps", type=click.IntRange(1, 1000), metavar="N", help="How many steps.  [default: 10]")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.svg", help="Draw it there too.")
@click.option("--fit", metavar="MODEL", help="Fit one to this model folder and keep it there, for --grid fitted.")
@click.option("--count", type=click.IntRange(1, 256), default=8, metavar="N", help="Ways to measure.  [default: 8]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def grid(times: str | None, steps: int | None, plot: Path | None, fit: str | None, count: int, as_json: bool) -> None:
    """Print and draw a grid of times between noise (0) and data (1)."""
    if times is not None and fit is not None:
        raise click.UsageError("give either --times or --fit")
    if plot is not None and plot.suffix.lower() != ".svg":
        raise click.UsageError(f"--plot draws SVG; name the file {plot.with_suffix('.svg').name}")
    name, values = _fitted(fit, count, steps) if fit is not None else _asked(times or "uniform", steps)
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


def _fitted(model: str, count: int, steps: int | None) -> tuple[str, list[float]]:
    from lumina_core.flow.grids import FittedGrid
    from lumina_core.sampling.fit import fit_grid, keep_grid
    from lumina_core.session import open_model

    session = open_model(model)
    values = fit_grid(session.model, session.registry, _requests(session, count))
    if (Path(model) / "config.json").is_file():
        keep_grid(Path(model), values)
        click.echo(f"kept in {Path(model) / 'config.json'}; use it with --grid fitted", err=True)
    else:
        click.echo("Note: this is no model folder of your own, so nothing was written", err=True)
    return "fitted", FittedGrid(FittedGrid.Config(values=values))(steps or 10).tolist()


def _requests(session: Any, count: int) -> Sequence[Any]:
    """What the model's recipe asks for its samples; so many of it, each with a seed of its own."""
    samples = session.model.recipe.training.samples
    if not samples:
        raise ConfigError("this model's recipe names no training.samples, so nobody knows what to ask it")
    asked = [{**samples[k % len(samples)], "seed": k, "count": 1} for k in range(count)]
    return [session.request(**one) for one in asked]


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
