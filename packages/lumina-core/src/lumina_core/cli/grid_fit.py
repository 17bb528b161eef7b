"""lumina grid --fit: the requests that a grid is fitted to, the fitting itself, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from lumina_core.cli.progress import progress
from lumina_core.errors import ConfigError, LuminaError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lumina_core.request import Request
    from lumina_core.sampling.fit_error import Fit
    from lumina_core.session import Session


@dataclass(frozen=True)
class Asked:
    """How a grid is to be fitted: the options of `lumina grid` that go with --fit."""

    fit: str
    by: Literal["error", "sharpness"]
    solver: str | None
    evaluations: int | None
    guidance: float | None
    requests: Path | None
    count: int | None
    seed: int
    device: str
    dry_run: bool


def fitted(asked: Asked) -> tuple[float, ...] | None:
    """Fit a grid and keep it in the model's folder; None after a dry run."""
    from lumina_core.sampling.fit import FINE, fit_grid
    from lumina_core.session import open_model

    session = open_model(asked.fit, device=asked.device)
    requests = _requests(session, asked)
    if asked.by == "error":
        return _by_error(session, requests, asked)
    click.echo(f"{FINE} evaluations of a batch of {len(requests)}", err=True)
    if asked.dry_run:
        return None
    values = fit_grid(session.model, session.registry, requests)
    _keep(asked.fit, values)
    return values


def _by_error(session: Session, requests: Sequence[Request], asked: Asked) -> tuple[float, ...] | None:
    from lumina_core.sampling.fit import FINE
    from lumina_core.sampling.fit_error import BATCH, fit_by_error, planned

    budget = asked.evaluations or 10
    total = planned(session.model, session.registry, requests, budget)
    size = min(BATCH, (len(requests) + 1) // 2)
    click.echo(f"at most {total} evaluations of a batch of {size}; --by sharpness needs {FINE}", err=True)
    if asked.dry_run:
        return None
    with progress("fitting", total) as watch:
        found = fit_by_error(session.model, session.registry, requests, budget, watch=watch)
    click.echo("\n".join(_told(found)), err=True)
    _keep(asked.fit, found.values)
    return found.values


def _told(found: Fit) -> list[str]:
    """What the grid is worth, a line for each number of steps."""
    fitted_to, held = found.ways
    first = f"fitted to {fitted_to} requests for {found.solver}; error on {held} others, beside equal steps:"
    rest = [f"{steps} steps: {own:.4f}, {even:.4f}" for steps, (own, even) in found.errors.items()]
    return [first, *rest]


def _keep(model: str, values: tuple[float, ...]) -> None:
    from lumina_core.sampling.fit import keep_grid

    if (Path(model) / "config.json").is_file():
        keep_grid(Path(model), values)
        click.echo(f"kept in {Path(model) / 'config.json'}; use it with --grid fitted", err=True)
    else:
        click.echo("Note: this is no model folder of your own, so nothing was written", err=True)


def _requests(session: Session, asked: Asked) -> list[Request]:
    """What is asked while fitting, each with a noise of its own: lines of a file, the data set's, or the samples'."""
    settings = {key: value for key in ("solver", "guidance") if (value := getattr(asked, key)) is not None}
    if asked.requests is not None:
        said = _lines(session, asked.requests)[: asked.count]
    else:
        said = _known(session, asked.count or (32 if asked.by == "error" else 8), asked.seed)
    from lumina_core.evaluate.exam import seeds

    numbers = seeds(len(said), 1, 1, asked.seed)
    return [
        session.request(**{**one, **settings, "seed": number, "count": 1})
        for one, number in zip(said, numbers, strict=True)
    ]


def _lines(session: Session, path: Path) -> list[dict[str, object]]:
    fields = session.model.task.Request.model_fields
    subject = next((name for name, info in fields.items() if info.is_required()), None)
    if subject is None:
        raise ConfigError("requests of this model say nothing that a line could hold; leave --requests out")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not any(lines):
        raise ConfigError(f"{path} holds no line; it needs one {subject} a line")
    return [{subject: line} for line in lines if line]


def _known(session: Session, count: int, seed: int) -> list[dict[str, object]]:
    """Of the data that the model learnt from, drawn by the seed; the samples of its recipe where that is not there."""
    from lumina_core.evaluate.exam import drawn, languages_of, split_of
    from lumina_core.evaluate.subject import recipe_exam

    model, samples = session.model, session.model.recipe.training.samples
    try:
        if not hasattr(model.task, "asked"):
            raise ConfigError("the task does not say how to ask for an example again")
        exam = recipe_exam(model.recipe, session.registry, model)
        cases = drawn(exam, split_of(exam, None), languages_of(exam, ()), count, seed)
        return [dict(model.task.asked(case.said)) for case in cases]
    except LuminaError as error:
        if not samples:
            raise ConfigError(f"nobody knows what to ask this model: {error}; give --requests FILE") from error
    return [dict(samples[k % len(samples)]) for k in range(count)]
