"""One command per task, made from its Request: `lumina image` has the options that a picture request has fields."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from lumina_core.request import Request
    from lumina_core.session import Answer, Session

BATCH = 16
"""Requests of a file that are answered together."""


def task_command(name: str, task_name: str, summary: str) -> click.Command:
    """The command `lumina NAME` for a task; the task is imported here, when the command is asked for."""
    from lumina_core.plugins.loader import load

    task = load().find("task", task_name)
    fields: dict[str, FieldInfo] = task.Request.model_fields
    required = [field for field, info in fields.items() if info.is_required()]
    subject = required[0] if required else None
    options = [_option(field, info) for field, info in fields.items() if field != subject]
    shown = (subject or "request").upper()
    arguments: list[click.Parameter] = [click.Argument([subject], required=False)] if subject else []
    return click.Command(
        name,
        params=[*arguments, *_own_options(subject), *options],
        callback=lambda **asked: _run(task_name, subject, asked),
        help=f"{summary}\n\n{shown} says what is wanted.",
        epilog=f'Example:  lumina {name} "a red heart" --out heart.png --seed 1',
    )


def _own_options(subject: str | None) -> list[click.Parameter]:
    several = f"{subject}s" if subject else "requests"
    return [
        click.Option(["--out"], type=click.Path(path_type=Path), required=True, help="File, or a folder for several."),
        click.Option([f"--{several}", "several"], type=click.Path(path_type=Path), help="A file with one a line; --out is a folder."),
        click.Option(["--model"], help="Model folder, or one of `lumina models`.  [default: the built-in one]"),
        click.Option(["--device"], default="cpu", show_default=True, help="cpu, cuda, mps ..."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object on one line, last."),
    ]


def _option(field: str, info: FieldInfo) -> click.Option:
    plain = {kind for kind in (info.annotation, *get_args(info.annotation)) if kind in (int, float, str)}
    kind = next((k for k in (float, int, str) if k in plain), str) if not _is_tuple(info) else str
    default = "" if info.default is None else f"  [default: {info.default}]"
    text = (info.description or "").strip()
    return click.Option([f"--{field.replace('_', '-')}"], type=kind, help=f"{text[:1].upper()}{text[1:]}.{default}")


def _is_tuple(info: FieldInfo) -> bool:
    return any(getattr(kind, "__origin__", None) is tuple for kind in (info.annotation, *get_args(info.annotation)))


def _run(task_name: str, subject: str | None, asked: dict[str, Any]) -> None:
    from lumina_core.session import open_model

    out, several, as_json = asked.pop("out"), asked.pop("several"), asked.pop("as_json")
    model, device = asked.pop("model"), asked.pop("device")
    given = {field: value for field, value in asked.items() if value is not None}
    lines = _lines(several, subject, given)
    target = _target(out, several is not None or int(given.get("count", 1)) > 1)
    began = time.perf_counter()
    session = open_model(model, task=task_name, device=device)
    requests = _requests(session, subject, given, lines)
    paths, answers = _answered(session, requests, target, quiet=several is None)
    if as_json:
        click.echo(json.dumps(_told(paths, answers, time.perf_counter() - began), ensure_ascii=False))
    else:
        click.echo("\n".join(str(path) for path in paths))


def _lines(several: Path | None, subject: str | None, given: dict[str, Any]) -> list[str] | None:
    if (several is None) == (subject is not None and given.get(subject) is None):
        raise click.UsageError(f"give either {(subject or 'request').upper()} or --{subject}s FILE")
    if several is None:
        return None
    try:
        lines = [line.strip() for line in several.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"cannot read {several}: {error}") from error
    if not any(lines):
        raise click.UsageError(f"{several} has no line to read; wanted one {subject} a line")
    return [line for line in lines if line]


def _target(out: Path, many: bool) -> Path:
    """The file or folder to write to, checked before any work is done; a folder for several is made."""
    folder = out if many and not out.suffix else out.parent
    if many and not out.suffix:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise click.UsageError(f"cannot make the folder {out}: {error.strerror}") from error
    if not folder.is_dir():
        raise click.UsageError(f"the folder {folder} does not exist; make it first or choose another --out")
    if out.is_dir() and not many:
        raise click.UsageError(f"{out} is a folder; name a file in it, for example {out / 'result.png'}")
    try:
        probe = folder / f".{out.name}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise click.UsageError(f"cannot write in the folder {folder}: {error.strerror}") from error
    return out


def _requests(
    session: Session, subject: str | None, given: dict[str, Any], lines: list[str] | None
) -> list[Request]:
    if lines is None or subject is None:
        return [session.request(**given)]
    count, seed = int(given.get("count", 1)), int(given.get("seed", 0))
    # each line has seeds of its own, so that no two of its neighbours share their noise
    return [session.request(**{**given, subject: line, "seed": seed + k * count}) for k, line in enumerate(lines)]


def _answered(session: Session, requests: list[Request], target: Path, quiet: bool) -> tuple[list[Path], list[Answer]]:
    from rich.progress import Progress

    paths: list[Path] = []
    answers: list[Answer] = []
    total = sum(request.count for request in requests)
    share = max(1, BATCH // requests[0].count)
    with Progress(disable=quiet, transient=True) as bar:
        task = bar.add_task("generating", total=total)
        for start in range(0, len(requests), share):
            for answer in session.ask_all(requests[start : start + share]):
                paths.append(answer.save(_path(target, len(paths), total)))
                answers.append(answer)
                bar.advance(task)
    return paths, answers


def _path(target: Path, place: int, total: int) -> Path:
    if target.is_dir():
        return target / f"{place:05d}.png"
    return target if total == 1 else target.with_name(f"{target.stem}-{place}{target.suffix}")


def _told(paths: list[Path], answers: list[Answer], seconds: float) -> dict[str, Any]:
    record = {key: value for key, value in answers[0].record.items() if key != "seconds"}
    seeds = [answer.record["seed"] for answer in answers]
    return {**record, "paths": [str(path) for path in paths], "seeds": seeds, "seconds": round(seconds, 3)}
