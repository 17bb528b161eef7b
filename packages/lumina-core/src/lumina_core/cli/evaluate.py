"""lumina evaluate: how good a model is, in figures with their bounds, and a sheet to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lumina_core.cli.console import multi_progress
from lumina_core.cli.generate import device_options, request_options, with_options
from lumina_core.errors import ConfigError

if TYPE_CHECKING:
    from lumina_core.evaluation.evaluate import EvalArgs, EvalResult
    from lumina_core.protocols import EvalSet, Metric
    from lumina_core.sampling.pipeline import Pipeline

SCORES_FILE, SAMPLES_NAME = "scores.json", "samples"


def _split_commas(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (value or "").split(",") if word.strip())


@click.command(
    epilog="Example:  lumina evaluate runs/emoji/model --languages en,de,zh --samples 100 --out runs/emoji/judged"
)
@click.argument("model", required=False)
@click.option("--dataset", metavar="DATA", help="Recipe, data set or folder.  [default: what the model learnt from]")
@click.option(
    "--metrics",
    callback=_split_commas,
    metavar="A,B",
    help="See `lumina plugins`.  [default: all that work as they are]",
)
@click.option(
    "--set", "options", multiple=True, metavar="METRIC.A=B", help="Change an option of a metric; can be repeated."
)
@click.option("--samples", default=500, show_default=True, type=click.IntRange(1), help="Examples, in each language.")
@click.option(
    "--samples-per-prompt",
    "samples_per_prompt",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="How many are made for each example.",
)
@click.option(
    "--languages", "--language", callback=_split_commas, metavar="A,B", help="all, or a few.  [default: the first]"
)
@click.option("--split", metavar="NAME", help="Which part of the data is asked for.  [default: the first]")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**20), help="Of the draw and the noise.")
@click.option("--batch-size", default=50, show_default=True, type=click.IntRange(1), help="How many are made at once.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FOLDER", help="Keeps scores, a sheet, and what --resume needs."
)
@click.option("--resume", is_flag=True, help="Go on in --out where it was stopped, with the same figures.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Features of real examples, for more than one run.",
)
@click.option("--device", default="cpu", show_default=True, metavar="NAME", help="cpu, cuda, mps ...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on one line, last.")
@click.option(
    "--param", "fields", multiple=True, metavar="FIELD=VALUE", help="Any other field of a request: size=64x64."
)
@with_options([*device_options(), *request_options(("seed", "count"))])
def evaluate(model: str | None, dataset: str | None, as_json: bool, **values: Any) -> None:
    """Judge MODEL: a model folder or an installed model; the built-in one where left out.

    Known examples are asked for again; metrics compare what comes with the real ones.
    """
    from lumina_core.evaluation.evaluate import EvalArgs, num_comparable
    from lumina_core.evaluation.evaluate import evaluate as run
    from lumina_core.evaluation.report import environment, make_report, model_fingerprint
    from lumina_core.sampling.pipeline import load_pipeline

    names, options, fields = values.pop("metrics"), values.pop("options"), values.pop("fields")
    device_kwargs = {key: values.pop(key) for key in ("device", "dtype", "offload", "text_device")}
    eval_kwargs = {key: values.pop(key) for key in list(values) if key in EvalArgs.__dataclass_fields__}
    eval_args = EvalArgs(**eval_kwargs, settings=_request_fields(values, fields))
    pipeline = load_pipeline(model, **device_kwargs)
    eval_set = _resolve_eval_set(pipeline, dataset)
    metrics, notes = _resolve_metrics(pipeline, names, options, num_comparable(eval_set, eval_args))
    digest = model_fingerprint(pipeline.model)
    with multi_progress() as on_progress:
        result = run(pipeline, eval_set, metrics, eval_args, on_progress, digest)
    scores = {
        "model": {
            "name": model or "built in",
            "sha256": digest,
            "task": pipeline.model.recipe.task.type,
        },
        "dataset": {"name": dataset or "the model's own", "sha256": eval_set.digest(), "num_real": len(eval_set)},
        **make_report(result, metrics, eval_args),
        **environment(pipeline.registry, pipeline.model.device, metrics),
    }
    scores["notes"] += notes
    _write_scores(scores, result, pipeline, eval_args)
    _print_report(scores, as_json)


def _request_fields(values: Mapping[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    settings = {key: value for key, value in values.items() if value is not None}
    for field in fields:
        name, separator, value = field.partition("=")
        if not separator:
            raise ConfigError(f"--param wants FIELD=VALUE, got '{field}'")
        settings[name] = value
    return settings


def _resolve_metrics(
    pipeline: Pipeline, names: tuple[str, ...], options: tuple[str, ...], count: int
) -> tuple[dict[str, Metric], list[str]]:
    from lumina_core.evaluation.resolve import default_metrics, resolve_metrics

    if names:
        return resolve_metrics(names, options, pipeline.registry), []
    return default_metrics(pipeline.registry, pipeline.model, options, count)


def _resolve_eval_set(pipeline: Pipeline, dataset: str | None) -> EvalSet:
    from lumina_core.evaluation.resolve import eval_set_from_recipe, find_eval_set
    from lumina_core.recipe import Recipe

    if dataset is None:
        return eval_set_from_recipe(pipeline.model.recipe, pipeline.registry, pipeline.model)
    eval_set = find_eval_set(dataset, pipeline.registry, pipeline.model)
    if eval_set is not None:
        return eval_set
    names = [*pipeline.registry.recipes(), *pipeline.registry.registrations("dataset")]
    if dataset not in names and Path(dataset).suffix not in {".yaml", ".yml", ".json"}:
        from lumina_core.config import suggest_or_list

        raise ConfigError(
            f"--dataset {dataset} is no folder, no recipe and no data set{suggest_or_list(dataset, names)}"
        )
    return eval_set_from_recipe(Recipe.load(dataset, registry=pipeline.registry), pipeline.registry, pipeline.model)


def _write_scores(scores: Mapping[str, Any], result: EvalResult, pipeline: Pipeline, eval_args: EvalArgs) -> None:
    from lumina_core.io import atomic_file

    if eval_args.out is None:
        return
    try:
        pipeline.model.generation_task.save_grid(result.previews, eval_args.out, SAMPLES_NAME)
        with atomic_file(eval_args.out / SCORES_FILE) as partial:
            partial.write_text(json.dumps(scores, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write to {eval_args.out}: {error.strerror or error}; choose another --out"
        ) from error


def _print_report(scores: Mapping[str, Any], as_json: bool) -> None:
    for note in scores["notes"]:
        click.echo(f"Note: {note}", err=True)
    if as_json:
        click.echo(json.dumps(scores, ensure_ascii=False))
        return
    from lumina_core.cli.console import print_scores

    print_scores(scores)
