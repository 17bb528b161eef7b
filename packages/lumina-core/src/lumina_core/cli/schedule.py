"""`lumina schedule`: print a schedule, or fit one to a model."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from lumina_core.cli.console import echo_json, progress_bar
from lumina_core.cli.generate import read_prompt_file
from lumina_core.errors import ConfigError, LuminaError
from lumina_core.locate import check_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lumina_core.request import Request
    from lumina_core.sampling.pipeline import Pipeline

CHART_WIDTH = 64


@click.group(invoke_without_command=True, epilog="Example:  lumina schedule --schedule sigmoid --steps 10")
@click.option("--schedule", "text", default="uniform", show_default=True, metavar="NAME",
              help="uniform, shift, rational, sigmoid, custom ...; with options: sigmoid:beta=10.")  # fmt: skip
@click.option("--steps", type=click.IntRange(1, 1000), metavar="N", help="Number of steps.  [default: 10]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.  [default: off]")
@click.pass_context
def schedule(ctx: click.Context, text: str, steps: int | None, as_json: bool) -> None:
    """Print the times of a schedule, from noise (0) to data (1)."""
    if ctx.invoked_subcommand is not None:
        return
    from lumina_core.config import ComponentSpec, parse_component
    from lumina_core.model import build_component
    from lumina_core.plugins.loader import load_plugins
    from lumina_core.protocols import SupportsSteps
    from lumina_core.sampling.resolve import resolve_component

    spec = resolve_component(text, ComponentSpec(type=""), "_schedule")
    component = build_component(load_plugins(), "schedule", spec)
    own_steps = component.steps if isinstance(component, SupportsSteps) else 10
    values = component(steps or own_steps).tolist()
    _print_schedule(parse_component(text).type, values, as_json)


@schedule.command(epilog="Example:  lumina schedule fit runs/emoji/model --nfe 10")
@click.argument("model")
@click.option("--by", type=click.Choice(["error", "sharpness"]), default="error", show_default=True,
              help="error: least error of a solver for a budget; sharpness: short steps where the velocity changes, "
                   "faster to fit.")  # fmt: skip
@click.option("--solver", metavar="NAME", help="Solver to fit for.  [default: the model's own]")
@click.option("--nfe", type=click.IntRange(1, 1000), default=10, show_default=True, metavar="N",
              help="Budget of evaluations of the network.")  # fmt: skip
@click.option("--guidance-scale", type=click.FloatRange(0, 100), metavar="X",
              help="Guidance scale.  [default: the model's own]")  # fmt: skip
@click.option("--requests", type=click.Path(path_type=Path), metavar="FILE",
              help="File with one prompt per line.  [default: examples of the training data]")  # fmt: skip
@click.option("--count", type=click.IntRange(1, 4096), metavar="N",
              help="Number of requests.  [default: 32 for error, 8 for sharpness]")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**20), default=0, show_default=True, metavar="N",
              help="Seed of the sampled requests and of the noise.")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, metavar="NAME", help="cpu, cuda, mps ...")
@click.option("--dry-run", is_flag=True, help="Print the number of evaluations and exit.  [default: off]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.  [default: off]")
def fit(
    model: str, by: Literal["error", "sharpness"], nfe: int, device: str, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Fit a schedule to MODEL and save it in its folder, for `--schedule fitted`."""
    check_model(model)
    if options["requests"] is not None:
        read_prompt_file(options["requests"])
    from lumina_core.flow.schedules import FittedSchedule
    from lumina_core.sampling.pipeline import Pipeline

    pipeline = Pipeline.from_pretrained(model, device=device)
    requests = _fit_requests(pipeline, 32 if by == "error" else 8, **options)
    fit_function = _fit_by_error if by == "error" else _fit_by_sharpness
    values = fit_function(pipeline, requests, nfe, dry_run)
    if values is None:
        return
    _save(model, values)
    _print_schedule("fitted", FittedSchedule(FittedSchedule.Config(values=values))(10).tolist(), as_json)


def _fit_by_sharpness(
    pipeline: Pipeline, requests: Sequence[Request], nfe: int, dry_run: bool
) -> tuple[float, ...] | None:
    from lumina_core.sampling.schedule_fit import FINE_STEPS, fit_schedule

    click.echo(f"{FINE_STEPS} evaluations of a batch of {len(requests)}", err=True)
    return None if dry_run else fit_schedule(pipeline.model, pipeline.registry, requests)


def _fit_by_error(pipeline: Pipeline, requests: Sequence[Request], nfe: int, dry_run: bool) -> tuple[float, ...] | None:
    from lumina_core.sampling.schedule_fit import BATCH_SIZE, FINE_STEPS, estimated_nfe, fit_schedule_by_error

    total_nfe = estimated_nfe(pipeline.model, pipeline.registry, requests, nfe)
    batch_size = min(BATCH_SIZE, (len(requests) + 1) // 2)
    click.echo(
        f"at most {total_nfe} evaluations of a batch of {batch_size}; --by sharpness needs {FINE_STEPS}", err=True
    )
    if dry_run:
        return None
    with progress_bar("fitting", total_nfe) as on_progress:
        result = fit_schedule_by_error(pipeline.model, pipeline.registry, requests, nfe, on_progress=on_progress)
    fitted, held_out = result.num_trajectories
    lines = [
        f"fitted to {fitted} requests for {result.solver}; errors on {held_out} others, fitted and with equal steps:"
    ]
    lines += [f"{steps} steps: {error:.4f}, {equal:.4f}" for steps, (error, equal) in result.errors.items()]
    click.echo("\n".join(lines), err=True)
    return result.values


def _save(model: str, values: tuple[float, ...]) -> None:
    from lumina_core.sampling.schedule_fit import save_schedule

    if (Path(model) / "config.json").is_file():
        save_schedule(Path(model), values)
        click.echo(f"saved in {Path(model) / 'config.json'}; use it with --schedule fitted", err=True)
    else:
        click.echo("Note: the model is not a folder, so that the schedule was not saved", err=True)


def _fit_requests(
    pipeline: Pipeline, default_count: int, requests: Path | None, count: int | None, seed: int, **settings: Any
) -> list[Request]:
    """Return the requests to fit to, each with its own noise."""
    from lumina_core.evaluation.eval_set import noise_seeds

    if requests is not None:
        field_sets = _fields_from_file(pipeline, requests)[:count]
    else:
        field_sets = _fields_from_dataset(pipeline, count or default_count, seed)
    overrides = {key: value for key, value in settings.items() if value is not None}
    seeds = noise_seeds(len(field_sets), 1, 1, seed)
    pairs = zip(field_sets, seeds, strict=True)
    request_type: Any = pipeline.model.generation_task.Request
    return [
        pipeline.make_request(**{**fields, **overrides, "seed": item_seed, request_type.results_field: 1})
        for fields, item_seed in pairs
    ]


def _fields_from_file(pipeline: Pipeline, path: Path) -> list[dict[str, object]]:
    fields = pipeline.model.task.Request.model_fields
    prompt_field = next((name for name, info in fields.items() if info.is_required()), None)
    if prompt_field is None:
        raise ConfigError(
            f"--requests: got {path}, expected none: requests of this model have no prompt. Omit the option."
        )
    return [{prompt_field: line} for _, line in read_prompt_file(path, prompt_field)]


def _fields_from_dataset(pipeline: Pipeline, count: int, seed: int) -> list[dict[str, object]]:
    """Return fields of examples of the training data; of the recipe's sample requests if the data are missing."""
    from lumina_core.evaluation.eval_set import resolve_eval_set, resolve_languages, resolve_split, sample_items

    model, samples = pipeline.model, pipeline.model.recipe.training.sample_requests
    try:
        eval_set = resolve_eval_set(None, model, pipeline.registry)
        items = sample_items(eval_set, resolve_split(eval_set, None), resolve_languages(eval_set, ()), count, seed)
        return [dict(model.generation_task.request_for(item.fields)) for item in items]
    except LuminaError as error:
        if not samples:
            raise ConfigError(
                f"--requests: got none, expected a file, because the training data cannot be read ({error})."
            ) from error
    return [dict(samples[k % len(samples)]) for k in range(count)]


def _print_schedule(name: str, values: list[float], as_json: bool) -> None:
    """Print a schedule as JSON, or as a line with a mark at each time and one line per step."""
    if as_json:
        echo_json({"schedule": name, "steps": len(values) - 1, "values": values})
        return
    marks = [" "] * (CHART_WIDTH + 1)
    for value in values:
        marks[round(value * CHART_WIDTH)] = "|"
    longest = max(u - t for t, u in pairwise(values))
    click.echo(f"{name}\nnoise {''.join(marks)} data\nstep  from    to      length")
    for number, (t, u) in enumerate(pairwise(values), 1):
        bar = "#" * max(1, round((u - t) / longest * 40))
        click.echo(f"{number:4d}  {t:.4f}  {u:.4f}  {u - t:.4f}  {bar}")
