"""lumina evaluate: how good a model is, in figures with their bounds, and a sheet to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lumina_core.cli.options import placing_options, request_options, with_options
from lumina_core.cli.progress import several
from lumina_core.cli.recipes import asked_recipe
from lumina_core.errors import ConfigError

if TYPE_CHECKING:
    from lumina_core.evaluate.run import Asked, Judgement
    from lumina_core.judging import Exam, Metric
    from lumina_core.session import Session

SCORES, SHEET = "scores.json", "sheet"


def _several(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (value or "").split(",") if word.strip())


@click.command(
    epilog="Example:  lumina evaluate runs/emoji/model --languages en,de,zh --samples 100 --out runs/emoji/judged"
)
@click.argument("model", required=False)
@click.option("--data", metavar="DATA", help="Recipe, data set or folder.  [default: what the model learnt from]")
@click.option(
    "--metrics", callback=_several, metavar="A,B", help="See `lumina plugins`.  [default: all that work as they are]"
)
@click.option(
    "--set", "options", multiple=True, metavar="METRIC.A=B", help="Change an option of a metric; can be repeated."
)
@click.option("--samples", default=500, show_default=True, type=click.IntRange(1), help="Examples, in each language.")
@click.option(
    "--each", default=1, show_default=True, type=click.IntRange(1), help="How many are made for each example."
)
@click.option(
    "--languages", "--language", callback=_several, metavar="A,B", help="all, or a few.  [default: the first]"
)
@click.option("--split", metavar="NAME", help="Which part of the data is asked for.  [default: the first]")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**20), help="Of the draw and the noise.")
@click.option("--batch", default=50, show_default=True, type=click.IntRange(1), help="How many are made at once.")
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
@click.option("--ask", "fields", multiple=True, metavar="FIELD=VALUE", help="Any other field of a request: size=64x64.")
@with_options([*placing_options(), *request_options(("seed", "count"))])
def evaluate(model: str | None, data: str | None, as_json: bool, **asked: Any) -> None:
    """Judge MODEL: a model folder or an installed model; the built-in one where left out.

    Known examples are asked for again; metrics compare what comes with the real ones.
    """
    from lumina_core.evaluate.report import fingerprint, place, report
    from lumina_core.evaluate.run import Asked, countable
    from lumina_core.evaluate.run import evaluate as run
    from lumina_core.session import open_model

    names, options, fields = asked.pop("metrics"), asked.pop("options"), asked.pop("fields")
    placed = {key: asked.pop(key) for key in ("device", "dtype", "offload", "text_device")}
    own = {key: asked.pop(key) for key in list(asked) if key in Asked.__dataclass_fields__}
    wanted = Asked(**own, settings=_settings(asked, fields))
    session = open_model(model, **placed)
    exam = _exam(session, data)
    metrics, notes = _metrics(session, names, options, countable(exam, wanted))
    mark = fingerprint(session.model)
    with several() as watch:
        found = run(session, exam, metrics, wanted, watch, mark)
    told = {
        "model": {
            "name": model or "built in",
            "sha256": mark,
            "task": session.model.recipe.task.use,
        },
        "data": {"name": data or "the model's own", "sha256": exam.digest(), "real": len(exam)},
        **report(found, metrics, wanted),
        **place(session.registry, session.model.device, metrics),
    }
    told["notes"] += notes
    _write(told, found, session, wanted)
    _say(told, as_json)


def _settings(asked: Mapping[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    told = {key: value for key, value in asked.items() if value is not None}
    for field in fields:
        name, sign, value = field.partition("=")
        if not sign:
            raise ConfigError(f"--ask wants FIELD=VALUE, got '{field}'")
        told[name] = value
    return told


def _metrics(
    session: Session, names: tuple[str, ...], options: tuple[str, ...], count: int
) -> tuple[dict[str, Metric], list[str]]:
    from lumina_core.evaluate.subject import named_metrics, usual_metrics

    if names:
        return named_metrics(names, options, session.registry), []
    return usual_metrics(session.registry, session.model, options, count)


def _exam(session: Session, data: str | None) -> Exam:
    from lumina_core.evaluate.subject import named_exam, recipe_exam

    if data is None:
        return recipe_exam(session.model.recipe, session.registry, session.model)
    exam = named_exam(data, session.registry, session.model)
    if exam is not None:
        return exam
    known = [*session.registry.recipes(), *session.registry.entries("dataset")]
    if data not in known and Path(data).suffix not in {".yaml", ".yml", ".json"}:
        from lumina_core.config import nearest

        raise ConfigError(f"--data {data} is no folder, no recipe and no data set{nearest(data, known)}")
    return recipe_exam(asked_recipe(session.registry, data, ()), session.registry, session.model)


def _write(told: Mapping[str, Any], found: Judgement, session: Session, asked: Asked) -> None:
    from lumina_core.files import whole_file

    if asked.out is None:
        return
    try:
        session.model.task.save_grid(found.shown, asked.out, SHEET)
        with whole_file(asked.out / SCORES) as partial:
            partial.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write to {asked.out}: {error.strerror or error}; choose another --out") from error


def _say(told: Mapping[str, Any], as_json: bool) -> None:
    for note in told["notes"]:
        click.echo(f"Note: {note}", err=True)
    if as_json:
        click.echo(json.dumps(told, ensure_ascii=False))
        return
    from lumina_core.cli.tables import print_scores

    print_scores(told)
