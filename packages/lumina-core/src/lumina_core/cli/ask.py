"""One command per task, made from its Request: `lumina image` has the options that a picture request has fields."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lumina_core.cli.beside import Beside, beside, beside_options
from lumina_core.cli.options import option, placing_options
from lumina_core.cli.places import make_folder, places
from lumina_core.cli.preview import previewing, steps_folder
from lumina_core.cli.progress import progress
from lumina_core.errors import ConfigError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from lumina_core.request import Request
    from lumina_core.session import Answer, Session

BATCH = 16
"""Answers that are made together at most, where there is memory for them."""

PREVIEW = "Every N steps a file of what forms, in a folder beside the result: NAME-steps/003 and on for NAME."


@dataclass(frozen=True)
class _Asked:
    """What the command was told beside the request's own fields."""

    out: Path
    several: Path | None
    model: str | None
    device: str
    dtype: str | None
    offload: bool
    text_device: str | None
    compiled: bool
    preview: int | None
    as_json: bool


def task_command(name: str, task_name: str, summary: str) -> click.Command:
    """The command `lumina NAME` for a task; the task is imported here, when the command is asked for."""
    from lumina_core.plugins.loader import load

    task = load().find("task", task_name)
    fields: dict[str, FieldInfo] = task.Request.model_fields
    required = [field for field, info in fields.items() if info.is_required()]
    subject = required[0] if required else None
    arguments: list[click.Parameter] = [click.Argument([subject], required=False)] if subject else []
    return click.Command(
        name,
        params=[*arguments, *_options(task, fields, subject)],
        callback=lambda **asked: _run(task, task_name, subject, asked),
        help=f"{summary}\n\n{_about(fields, subject)}",
        epilog=_examples(task, name) or f"Example:  lumina {name} {_example(fields, subject)} --out heart.png --seed 1",
    )


def _examples(task: Any, name: str) -> str:
    """What the task itself shows, a line each; click keeps the lines after a \\b as they are."""
    shown: Sequence[str] = getattr(task, "examples", ())
    return "\n".join(["\b", "Examples:", *(f"  lumina {name} {line}" for line in shown)]) if shown else ""


def _example(fields: dict[str, FieldInfo], subject: str | None) -> str:
    given = fields[subject].examples if subject else None
    return str(given[0]) if given else '"a red heart"'


def _about(fields: dict[str, FieldInfo], subject: str | None) -> str:
    if subject is None:
        return ""
    text = fields[subject].description or "says what is wanted"
    return f"{subject.upper()}: {text}. Give it, or a file of them with --{subject}s."


def _options(task: Any, fields: dict[str, FieldInfo], subject: str | None) -> list[click.Parameter]:
    """Where to, then the task's own fields, then what every request has, then the rest: most used first."""
    from lumina_core.request import Request

    own = [field for field in fields if field not in Request.model_fields and field != subject]
    shared = [field for field in fields if field in Request.model_fields]
    asked = [option(field, fields[field], field in shared) for field in (*own, *shared)]
    path, noun = click.Path(path_type=Path), subject or "request"
    several = f"A file with one {noun} a line, each answered with seeds of its own; --out is a folder."
    return [
        click.Option(
            ["--out"], type=path, required=True, metavar="PATH", help="File to write, or a folder for several."
        ),
        *beside_options(task),
        *asked,
        click.Option(
            ["--model"], metavar="MODEL", help="Model folder, or one of `lumina models`.  [default: built in]"
        ),
        click.Option([f"--{noun}s", "several"], type=path, metavar="FILE", help=several),
        click.Option(["--device"], metavar="NAME", default="cpu", help="cpu, cuda, mps ...  [default: cpu]"),
        *placing_options(),
        click.Option(["--compile", "compiled"], is_flag=True, help="Compile the network; pays for many answers."),
        click.Option(["--preview"], type=click.IntRange(min=1), metavar="N", help=PREVIEW),
        click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object on one line, last."),
    ]


def _run(task: Any, task_name: str, subject: str | None, values: dict[str, Any]) -> None:
    from lumina_core.session import open_model

    asked = _Asked(**{key: values.pop(key) for key in _Asked.__dataclass_fields__})
    besides = {key: values.pop(key) for key in list(values) if key.startswith("beside_")}
    given = {field: value for field, value in values.items() if value is not None and value != ()}
    lines = _lines(asked.several, subject, given)
    requests = _requests(task.Request, subject, given, lines)
    suffixes = getattr(task, "suffixes", None) or tuple(filter(None, [getattr(task, "suffix", "")]))
    paths = places(asked.out, len(requests), lines is not None, suffixes)
    files = beside(task, besides, paths, lines is not None)
    began = time.perf_counter()
    place = {key: getattr(asked, key) for key in ("device", "dtype", "offload", "text_device", "compiled")}
    session = open_model(asked.model, task=task_name, **place)
    opened = time.perf_counter()
    with _warnings_in_a_line():
        answers = _answered(session, requests, paths, asked.preview, lines is None, files)
    if not asked.as_json:
        click.echo("\n".join(str(path) for path in paths))
        return
    took = round(time.perf_counter() - opened, 3)
    seconds = {"seconds_to_answer": took, "seconds_to_open": round(opened - began, 3)}
    previews = {} if asked.preview is None else {"previews": [str(steps_folder(path)) for path in paths]}
    # a request may have seconds of its own: how long a sound is
    told = {"seconds": took, **_told(paths, answers), **files.told(), **previews, **seconds}
    click.echo(json.dumps(told, ensure_ascii=False))


def _lines(several: Path | None, subject: str | None, given: dict[str, Any]) -> list[str] | None:
    if (several is None) == (subject is not None and given.get(subject) is None):
        raise click.UsageError(f"give either {(subject or 'request').upper()} or --{subject}s FILE")
    if several is None:
        return None
    try:
        lines = [line.strip() for line in several.read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise ConfigError(f"cannot read {several}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{several} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if not any(lines):
        raise ConfigError(f"{several} has no line to read; wanted one {subject} a line")
    return [line for line in lines if line]


def _requests(
    settings_type: type[Request], subject: str | None, given: dict[str, Any], lines: list[str] | None
) -> list[Request]:
    """One request an answer: the k-th of a `count` has the seed + k, and each line has seeds of its own."""
    if lines is None or subject is None:
        asked = [settings_type.read(given, "request")]
    else:
        step = int(given.get("count", 1))
        seeds = range(int(given.get("seed", 0)), int(given.get("seed", 0)) + step * len(lines), step or 1)
        asked = [
            settings_type.read({**given, subject: line, "seed": seed}, f"line {place}")
            for place, (line, seed) in enumerate(zip(lines, seeds, strict=False), 1)
        ]
    return [r.model_copy(update={"seed": r.seed + k, "count": 1}) for r in asked for k in range(r.count)]


def _answered(
    session: Session, requests: list[Request], paths: list[Path], preview: int | None, quiet: bool, files: Beside
) -> list[Answer]:
    answers: list[Answer] = []
    for note in dict.fromkeys(note for request in requests for note in session.notes(request)):
        click.echo(f"Note: {note}", err=True)
    with progress("generating", len(requests), quiet) as done:
        size = session.at_once(requests, BATCH)
        for start in range(0, len(requests), size):
            batch, there = requests[start : start + size], paths[start : start + size]
            for answer in session.ask_all(batch, previewing(session, batch, there, preview)):
                make_folder(paths[len(answers)].parent)
                answer.save(paths[len(answers)])
                files.write(len(answers), answer)
                answers.append(answer)
                done(1)
    return answers


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """A warning is one line to read, without the place in the code that it came from."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest: click.echo(f"Warning: {message}", err=True)
        yield


def _told(paths: list[Path], answers: list[Answer]) -> dict[str, Any]:
    """What was written and how; what differs from answer to answer is a list under the plural of its name."""
    records = [answer.record for answer in answers]
    told: dict[str, Any] = {"paths": [str(path) for path in paths], **records[0]}
    differing = [key for key in records[0] if any(record[key] != records[0][key] for record in records)]
    return told | {f"{key}s": [record[key] for record in records] for key in ("seed", *differing)}
