"""lumina schedule: a grid of times as numbers and as a drawing, and one fitted to a model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from lumina_core.cli.console import progress_bar
from lumina_core.errors import ConfigError, LuminaError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lumina_core.request import Request
    from lumina_core.sampling.pipeline import Pipeline
    from lumina_core.sampling.schedule_fit import ScheduleFit


@dataclass(frozen=True)
class FitOptions:
    """How a grid is to be fitted: the options of `lumina schedule` that go with --fit."""

    fit: str
    by: Literal["error", "sharpness"]
    solver: str | None
    nfe: int | None
    guidance_scale: float | None
    requests: Path | None
    count: int | None
    seed: int
    device: str
    dry_run: bool


def run_fit(options: FitOptions) -> tuple[float, ...] | None:
    """Fit a grid and keep it in the model's folder; None after a dry run."""
    from lumina_core.sampling.pipeline import load_pipeline
    from lumina_core.sampling.schedule_fit import FINE_STEPS, fit_schedule

    pipeline = load_pipeline(options.fit, device=options.device)
    requests = _fit_requests(pipeline, options)
    if options.by == "error":
        return _fit_by_error(pipeline, requests, options)
    click.echo(f"{FINE_STEPS} evaluations of a batch of {len(requests)}", err=True)
    if options.dry_run:
        return None
    values = fit_schedule(pipeline.model, pipeline.registry, requests)
    _save(options.fit, values)
    return values


def _fit_by_error(pipeline: Pipeline, requests: Sequence[Request], options: FitOptions) -> tuple[float, ...] | None:
    from lumina_core.sampling.schedule_fit import BATCH_SIZE, FINE_STEPS, estimated_nfe, fit_schedule_by_error

    nfe = options.nfe or 10
    total_nfe = estimated_nfe(pipeline.model, pipeline.registry, requests, nfe)
    batch_size = min(BATCH_SIZE, (len(requests) + 1) // 2)
    click.echo(
        f"at most {total_nfe} evaluations of a batch of {batch_size}; --by sharpness needs {FINE_STEPS}", err=True
    )
    if options.dry_run:
        return None
    with progress_bar("fitting", total_nfe) as on_progress:
        fit = fit_schedule_by_error(pipeline.model, pipeline.registry, requests, nfe, on_progress=on_progress)
    click.echo("\n".join(_format_fit(fit)), err=True)
    _save(options.fit, fit.values)
    return fit.values


def _format_fit(fit: ScheduleFit) -> list[str]:
    """What the grid is worth, a line for each number of steps."""
    fitted_to, held_out = fit.num_trajectories
    first = f"fitted to {fitted_to} requests for {fit.solver}; error on {held_out} others, beside equal steps:"
    rest = [
        f"{steps} steps: {fitted_error:.4f}, {uniform_error:.4f}"
        for steps, (fitted_error, uniform_error) in fit.errors.items()
    ]
    return [first, *rest]


def _save(model: str, values: tuple[float, ...]) -> None:
    from lumina_core.sampling.schedule_fit import save_schedule

    if (Path(model) / "config.json").is_file():
        save_schedule(Path(model), values)
        click.echo(f"kept in {Path(model) / 'config.json'}; use it with --schedule fitted", err=True)
    else:
        click.echo("Note: this is no model folder of your own, so nothing was written", err=True)


def _fit_requests(pipeline: Pipeline, options: FitOptions) -> list[Request]:
    """What is asked while fitting, each with a noise of its own: lines of a file, the data set's, or the samples'."""
    settings = {key: value for key in ("solver", "guidance_scale") if (value := getattr(options, key)) is not None}
    if options.requests is not None:
        field_sets = _fields_from_file(pipeline, options.requests)[: options.count]
    else:
        field_sets = _fields_from_dataset(pipeline, options.count or (32 if options.by == "error" else 8), options.seed)
    from lumina_core.evaluation.eval_set import noise_seeds

    seeds = noise_seeds(len(field_sets), 1, 1, options.seed)
    return [
        pipeline.make_request(**{**fields, **settings, "seed": noise_seed, "count": 1})
        for fields, noise_seed in zip(field_sets, seeds, strict=True)
    ]


def _fields_from_file(pipeline: Pipeline, path: Path) -> list[dict[str, object]]:
    fields = pipeline.model.task.Request.model_fields
    prompt_field = next((name for name, info in fields.items() if info.is_required()), None)
    if prompt_field is None:
        raise ConfigError("requests of this model say nothing that a line could hold; leave --requests out")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not any(lines):
        raise ConfigError(f"{path} holds no line; it needs one {prompt_field} a line")
    return [{prompt_field: line} for line in lines if line]


def _fields_from_dataset(pipeline: Pipeline, count: int, seed: int) -> list[dict[str, object]]:
    """Of the data that the model learnt from, drawn by the seed; the samples of its recipe where that is not there."""
    from lumina_core.evaluation.eval_set import resolve_eval_set, resolve_languages, resolve_split, sample_items

    model, samples = pipeline.model, pipeline.model.recipe.training.sample_requests
    try:
        eval_set = resolve_eval_set(None, model, pipeline.registry)
        items = sample_items(eval_set, resolve_split(eval_set, None), resolve_languages(eval_set, ()), count, seed)
        return [dict(model.generation_task.request_for(item.fields)) for item in items]
    except LuminaError as error:
        if not samples:
            raise ConfigError(f"nobody knows what to ask this model: {error}; give --requests FILE") from error
    return [dict(samples[k % len(samples)]) for k in range(count)]


CHART_WIDTH, SVG_SIZE = 64, 320
BY_HELP = "error: least for a solver and a budget; sharpness: quicker, short steps where it turns.  [default: error]"
REQUESTS_HELP = "What to ask it while fitting, one a line.  [default: drawn from what the model learnt from]"


@click.command(epilog="Example:  lumina schedule --schedule sigmoid --steps 10 --plot schedule.svg")
@click.option(
    "--schedule",
    metavar="NAME",
    help="uniform, shift, rational, sigmoid, custom ...; sigmoid:beta=10.  [default: uniform]",
)
@click.option("--steps", type=click.IntRange(1, 1000), metavar="N", help="How many steps.  [default: 10]")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.svg", help="Draw it there too.")
@click.option("--fit", metavar="MODEL", help="Fit one to this model folder and keep it there, for --schedule fitted.")
@click.option("--by", type=click.Choice(["error", "sharpness"]), help=BY_HELP)
@click.option("--solver", metavar="NAME", help="Fit for this solver.  [default: the model's own]")
@click.option("--nfe", type=click.IntRange(1, 1000), metavar="N", help="Fit for this budget.  [default: 10]")
@click.option(
    "--guidance-scale", type=click.FloatRange(0, 100), metavar="X", help="While fitting.  [default: the model's own]"
)
@click.option("--requests", type=click.Path(path_type=Path), metavar="FILE", help=REQUESTS_HELP)
@click.option("--count", type=click.IntRange(1, 4096), metavar="N", help="So many of them.  [default: 32, or 8]")
@click.option(
    "--seed", type=click.IntRange(0, 2**20), metavar="N", help="Of what is drawn, and the noise.  [default: 0]"
)
@click.option("--device", metavar="NAME", help="cpu, cuda, mps ...  [default: cpu]")
@click.option("--dry-run", is_flag=True, help="Say how often the model would be asked, and ask it nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def schedule(schedule: str | None, steps: int | None, plot: Path | None, as_json: bool, **fit_options: Any) -> None:
    """Print and draw a grid of times between noise (0) and data (1)."""
    if schedule is not None and fit_options["fit"] is not None:
        raise click.UsageError("give either --schedule or --fit")
    if plot is not None and plot.suffix.lower() != ".svg":
        raise click.UsageError(f"--plot draws SVG; name the file {plot.with_suffix('.svg').name}")
    result = (
        _make_schedule(schedule or "uniform", steps)
        if fit_options["fit"] is None
        else _fit_schedule(fit_options, steps)
    )
    if result is None:
        return
    name, values = result
    if plot is not None:
        _write_svg(values, name, plot)
    if as_json:
        click.echo(json.dumps({"schedule": name, "steps": len(values) - 1, "values": values}))
        return
    click.echo(name)
    click.echo("\n".join(_chart_lines(values)))


def _make_schedule(text: str, steps: int | None) -> tuple[str, list[float]]:
    from lumina_core.config import ComponentSpec, parse_component
    from lumina_core.model import build_component
    from lumina_core.plugins.loader import load_plugins
    from lumina_core.sampling.resolve import resolve_component

    spec = resolve_component(text, ComponentSpec(type=""), "_schedule")
    component = build_component(load_plugins(), "schedule", spec)
    default_steps = getattr(component, "steps", None)
    return parse_component(text).type, component(steps or default_steps or 10).tolist()


def _fit_schedule(fit_options: dict[str, Any], steps: int | None) -> tuple[str, list[float]] | None:
    from lumina_core.flow.schedules import FittedSchedule

    defaults = {"by": "error", "seed": 0, "device": "cpu"}
    given_options = {key: value for key, value in fit_options.items() if value is not None}
    values = run_fit(FitOptions(**{**dict.fromkeys(fit_options), **defaults, **given_options}))
    return (
        None
        if values is None
        else ("fitted", FittedSchedule(FittedSchedule.Config(values=values))(steps or 10).tolist())
    )


def _chart_lines(values: list[float]) -> list[str]:
    """One line with a mark at each time, then a line a step: from, to, length, and a bar as long."""
    marks = [" "] * (CHART_WIDTH + 1)
    for value in values:
        marks[round(value * CHART_WIDTH)] = "|"
    longest = max(later - now for now, later in pairwise(values))
    lines = ["noise " + "".join(marks) + " data", "step  from    to      length"]
    for number, (now, later) in enumerate(pairwise(values), 1):
        bar = "#" * max(1, round((later - now) / longest * 40))
        lines.append(f"{number:4d}  {now:.4f}  {later:.4f}  {later - now:.4f}  {bar}")
    return lines


def _write_svg(values: list[float], name: str, path: Path) -> None:
    """Time over number of the step, as SVG."""
    from lumina_core.io import atomic_file

    last = len(values) - 1
    points = [(40 + SVG_SIZE * k / last, 20 + SVG_SIZE * (1 - value)) for k, value in enumerate(values)]
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{SVG_SIZE + 60}" height="{SVG_SIZE + 60}" font-family="sans-serif">'
        f'<rect x="40" y="20" width="{SVG_SIZE}" height="{SVG_SIZE}" fill="none" stroke="#999"/>'
        f'<polyline points="{line}" fill="none" stroke="#1f4e8c" stroke-width="2"/><g fill="#1f4e8c">{dots}</g>'
        f'<text x="40" y="{SVG_SIZE + 50}">{name}: time (0 noise, 1 data) over {last} steps</text></svg>\n'
    )
    try:
        with atomic_file(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}; choose another --plot") from error
