"""`lumina evaluate`: scores of a model with confidence intervals, and an overview of its samples."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lumina_core.cli.console import echo_json, multi_progress
from lumina_core.cli.generate import (
    device_options,
    lora_option,
    model_of_loras,
    option_names_in_errors,
    parse_loras,
    request_options,
    with_options,
)
from lumina_core.cli.main import torchrun_processes
from lumina_core.config import apply_override, read_file, suggest_or_list
from lumina_core.errors import ConfigError, printable
from lumina_core.io import user_path
from lumina_core.locate import check_model, check_new_dir
from lumina_core.recipe import RECIPE_SUFFIXES, takes_text

if TYPE_CHECKING:
    from lumina_core.plugins.registry import Registry
    from lumina_core.training.distributed import ProcessInfo

SCORES_FILE, SAMPLES_NAME = "scores.json", "samples"


def _split_commas(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (value or "").split(",") if word.strip())


@click.command(
    epilog="Example:  lumina evaluate runs/emoji/model --languages en,de,zh --samples 100 --out runs/emoji/scores"
)
@click.argument("model", required=False)
@click.option("--dataset", metavar="DATA", help="Data set, recipe or folder.  [default: that of the model's recipe]")
@click.option(
    "--metrics",
    callback=_split_commas,
    metavar="A,B",
    help="Names as in `lumina plugins`.  [default: all that work without options]",
)
@click.option("--samples", default=500, show_default=True, type=click.IntRange(1), help="Prompts in each language.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FOLDER", help="Folder of scores, samples and --resume data."
)
@click.option("--resume", is_flag=True, help="Continue the evaluation in --out; the scores are the same.")
@click.option(
    "--languages", "--language", callback=_split_commas, metavar="A,B", help="Languages, or all.  [default: the first]"
)
@click.option("--split", metavar="NAME", help="Split of the data set.  [default: the first]")
@click.option(
    "--samples-per-prompt", default=1, show_default=True, type=click.IntRange(1), help="Generated examples per prompt."
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, 2**20), help="Seed of the prompts and of the noise."
)
@click.option("--set", "options", multiple=True, metavar="METRIC.A=B", help="Option of a metric; repeatable.")
@click.option(
    "--param", "fields", multiple=True, metavar="FIELD=VALUE", help="Any other request field: size=64x64; repeatable."
)
@click.option("--batch-size", default=50, show_default=True, type=click.IntRange(1), help="Examples generated at once.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder of features of real examples, shared by evaluations.  [default: in --out]",
)
@click.option("--device", default="cpu", show_default=True, metavar="NAME", help="cpu, cuda, mps ...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on the last line.")
@with_options([lora_option(), *device_options(), *request_options(("seed", "count"))])
def evaluate(model: str | None, as_json: bool, **values: Any) -> None:
    """Evaluate MODEL, a folder or an installed model (default: the built-in one).

    The model generates an example for each prompt of a data set; metrics compare them with the real examples. A model
    that predicts (a classifier) is scored on the targets of its data set, with --dataset, --samples, --seed, --set
    (keys of the data set: split=test), --batch-size, --device and --out.

    Several processes share the work: torchrun --nproc-per-node 2 -m lumina_core evaluate MODEL
    """
    from lumina_core.plugins.loader import load_plugins

    with torchrun_processes(values["device"]) as process:
        if process is not None:
            values["device"] = str(process.device)
        # before torch is imported, which takes seconds
        check_model(model)
        loras, settings = parse_loras(values.pop("loras")), _request_fields(values.pop("fields"))
        _check_names(values, load_plugins())
        if _predicts(model):
            report = _evaluate_prediction(model, values, process)
        else:
            report = _evaluate_generation(model, loras, settings, values, process)
    if process is None or process.is_main:
        _print_report(report, as_json)


def _evaluate_generation(
    model: str | None,
    loras: Sequence[tuple[str, float]],
    settings: Mapping[str, Any],
    values: dict[str, Any],
    process: ProcessInfo | None,
) -> Mapping[str, Any]:
    """Score a model that generates, and write report and samples to --out."""
    from lumina_core.evaluation.evaluate import evaluate as run
    from lumina_core.sampling.pipeline import Pipeline

    load_options = {key: values.pop(key) for key in ("device", "dtype", "offload", "text_device")}
    with option_names_in_errors(list(load_options)):
        model = model or model_of_loras(loras)
        pipeline = Pipeline.from_pretrained(model, **load_options)
        for path, weight in loras:
            pipeline.load_lora(path, weight)
    arguments = ("dataset", "languages", "split", "samples_per_prompt", "seed", "batch_size", "out", "resume", "cache")
    kwargs = {key: values.pop(key) for key in arguments}
    metrics, options = values.pop("metrics") or None, values.pop("options")
    kwargs |= {"metrics": metrics, "metric_options": _metric_options(options, metrics, pipeline.registry)}
    kwargs["num_samples"] = values.pop("samples")
    settings = {**{key: value for key, value in values.items() if value is not None}, **settings}
    with option_names_in_errors([*arguments, "metrics", *values]), multi_progress() as on_progress:
        result = run(pipeline, **kwargs, progress=on_progress, process=process, **settings)
    report = {**result.report, "model": {"name": model or "built in", **result.report["model"]}}
    out: Path | None = kwargs["out"]
    if out is not None and (process is None or process.is_main):
        with _folder_errors(out):
            pipeline.model.generation_task.save_grid(result.previews, out, SAMPLES_NAME)
        _write_report(report, out, indent=1)
    return report


@contextmanager
def _folder_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"--out: cannot write to {out} ({error.strerror or error}). Choose another folder."
        ) from error


def _write_report(report: Mapping[str, Any], out: Path, indent: int | None = None) -> None:
    from lumina_core.io import atomic_file

    with _folder_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with atomic_file(out / SCORES_FILE) as partial:
            partial.write_text(json.dumps(report, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def _print_report(report: Mapping[str, Any], as_json: bool) -> None:
    """Print the scores as a table, or the whole report as JSON, and its notes to stderr."""
    for note in report.get("notes", ()):
        click.echo(printable(f"Note: {note}"), err=True)
    if as_json:
        echo_json(report)
    elif "settings" in report:  # of a model that generates
        from lumina_core.cli.console import print_scores

        print_scores(report)
    else:
        for name, value in report["scores"].items():
            click.echo(f"{name:16} {value}")


def _check_names(values: Mapping[str, Any], registry: Registry) -> None:
    """Raise an error for a data set, recipe, metric or folder that does not exist; imports no torch.

    Raises:
        ConfigError, PluginError: there is none of this name, or a folder cannot be made.
    """
    dataset, datasets = values["dataset"], registry.registrations("dataset")
    if dataset is not None:
        names = {*datasets, *(name.rpartition(".")[2] for name in datasets), *registry.recipes()}
        is_file = Path(dataset).suffix in RECIPE_SUFFIXES
        if is_file:
            read_file(user_path(dataset))
        elif dataset not in names and not user_path(dataset).is_dir():
            raise ConfigError(
                f"--dataset: got '{dataset}', expected a data set, a recipe or a folder"
                f"{suggest_or_list(dataset, [*registry.recipes(), *datasets])}"
            )
    for metric in values["metrics"]:
        registry.provider("metric", metric)
    for option in ("out", "cache"):
        if values[option] is not None:
            check_new_dir(user_path(values[option]), f"--{option}")
    if values["resume"] and values["out"] is None:
        raise ConfigError("--resume: got it without --out, expected the folder of the evaluation. Give --out.")


def _predicts(model: str | None) -> bool:
    """Return whether the task of a model predicts instead of generating; False for a model that cannot be found."""
    from lumina_core.errors import LuminaError
    from lumina_core.locate import find_model
    from lumina_core.model_dir import open_model_dir
    from lumina_core.plugins.loader import load_plugins
    from lumina_core.protocols import PredictionTask

    if model is None:
        return False
    registry = load_plugins()
    try:
        with find_model(model, registry) as folder:
            task: type = registry.find("task", open_model_dir(folder, registry).recipe.task.type)
    except LuminaError:  # reported when the model is loaded
        return False
    return issubclass(task, PredictionTask)


def _evaluate_prediction(
    model: str | None, values: Mapping[str, Any], process: ProcessInfo | None
) -> Mapping[str, Any]:
    """Score a model that predicts, and write the report to --out."""
    from lumina_core.evaluation.prediction import evaluate_prediction
    from lumina_core.plugins.loader import load_plugins

    assert model is not None  # the built-in default model generates
    _refuse_generation_options(values)
    out: Path | None = values["out"]
    with multi_progress() as on_progress:
        report = evaluate_prediction(
            model, load_plugins(), values["dataset"], values["options"], num_samples=values["samples"],
            seed=values["seed"], batch_size=values["batch_size"], device=values["device"], out=out,
            progress=on_progress, process=process,
        )  # fmt: skip
    if out is not None and (process is None or process.is_main):
        _write_report(report, out)
    return report


def _refuse_generation_options(values: Mapping[str, Any]) -> None:
    """Raise ConfigError for an option that has no meaning for a model that predicts."""
    used = {"dataset", "samples", "seed", "options", "batch_size", "device", "out"}
    context = click.get_current_context()
    for name in values:
        if name not in used and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise ConfigError(
                f"--{name.replace('_', '-')}: got {values[name]}, expected no such option for a model that predicts."
            )


def _request_fields(fields: Sequence[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for field in fields:
        name, separator, value = field.partition("=")
        if not separator:
            raise ConfigError(f"--param: got '{field}', expected FIELD=VALUE, for example size=64x64")
        settings[name] = value
    return settings


def _metric_options(
    settings: Sequence[str], metrics: Sequence[str] | None, registry: Registry
) -> Mapping[str, Mapping[str, Any]]:
    """Return the options of each metric from `NAME.OPTION=VALUE`; the name may lack the plugin."""
    installed = list(registry.registrations("metric"))
    names = [*(metrics or installed), *(name.rpartition(".")[2] for name in metrics or installed)]
    options: dict[str, dict[str, Any]] = {}
    for setting in settings:
        name = next((name for name in names if setting.startswith(f"{name}.")), None)
        if name is None:
            path = setting.partition("=")[0]
            raise ConfigError(f"--set: got '{setting}', expected METRIC.OPTION=VALUE{suggest_or_list(path, names)}")
        config = registry.find("metric", name).Config

        def is_text(path: Sequence[str], config: Any = config) -> bool:
            return len(path) == 1 and takes_text(config, path[0])

        options[name] = apply_override(options.get(name, {}), setting.removeprefix(f"{name}."), is_text)
    return options
