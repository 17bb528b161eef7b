"""One command per task, made from its Request: `lumina image` has the options that a picture request has fields."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from lumina_core.cli.console import progress_bar
from lumina_core.errors import ConfigError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from lumina_core.request import Request
    from lumina_core.sampling.callbacks import StepState
    from lumina_core.sampling.pipeline import Output, Pipeline


def request_options(without: Container[str]) -> list[click.Parameter]:
    """An option for every field that each request has, but for those named."""
    from lumina_core.request import Request

    return [field_option(field, info, True) for field, info in Request.model_fields.items() if field not in without]


def with_options(options: Sequence[click.Parameter]) -> Callable[[Any], Any]:
    """A decorator: options that are made rather than written."""

    def decorate(command: Any) -> Any:
        # click keeps the parameters of a function in the reverse order of its decorators
        command.__click_params__ = [*reversed(options), *getattr(command, "__click_params__", [])]
        return command

    return decorate


def field_option(field: str, info: FieldInfo, shared: bool) -> click.Option:
    """The option for one field; of a `shared` one that is left open the model's own is taken.

    It is called as the field; `json_schema_extra={"aliases": [...]}` gives it further spellings, and `default` there is
    what the model's own is not.
    """
    plain = {kind for kind in (info.annotation, *get_args(info.annotation)) if kind in (int, float, str)}
    kind = next((k for k in (float, int, str) if k in plain), str) if not _is_tuple(info) else str
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    default_text = extra.get("default", "the model's own") if shared and info.default is None else info.default
    default = "" if default_text is None else f"  [default: {default_text}]"
    return click.Option(
        [f"--{name.replace('_', '-')}" for name in (field, *_aliases(extra))] + [field],
        type=kind,
        multiple=_is_repeated(info),
        metavar=info.title or {int: "N", float: "X", str: "TEXT"}[kind],
        help=f"{_sentence(info.description or '')}{default}",
    )


def device_options() -> list[click.Parameter]:
    """In which number format a model computes, and where its parts stand: see `open_model`."""
    dtype = "float32, bfloat16, float16 or auto.  [default: as stored, float16 as float32]"
    offload = "Rest on the CPU; each part of the model is on the device only while it works."
    text = "Where the reader of the words stays, for example cpu.  [default: --device]"
    return [
        click.Option(["--dtype"], metavar="NAME", help=dtype),
        click.Option(["--offload"], is_flag=True, help=offload),
        click.Option(["--text-device"], metavar="NAME", help=text),
    ]


def _sentence(text: str) -> str:
    """With a capital and a full stop, but for a name that it begins with and a bracket that it ends with."""
    text = text.strip()
    sentence = text if text.partition(" ")[0].endswith(":") else f"{text[:1].upper()}{text[1:]}"
    return sentence if "[default: " in sentence else f"{sentence}."


def _aliases(extra: Mapping[str, Any]) -> Sequence[str]:
    aliases: Sequence[str] = extra.get("aliases", ())
    return aliases


def _is_repeated(info: FieldInfo) -> bool:
    """Whether the field is a tuple of any length: its option may be given again and again."""
    return any(get_args(kind)[-1:] == (...,) for kind in (info.annotation, *get_args(info.annotation)))


def _is_tuple(info: FieldInfo) -> bool:
    return any(getattr(kind, "__origin__", None) is tuple for kind in (info.annotation, *get_args(info.annotation)))


def output_paths(out: Path, total: int, is_folder: bool, suffixes: Sequence[str], option: str = "--out") -> list[Path]:
    """The path of each of `total` answers.

    A folder gets 00000.png and on, several answers for one file name heart-0.png and on. Nothing is written: a folder
    that is not there is made by `make_folder`, when the first answer has come; the folder around it must exist.

    Args:
        out: what the option said.
        folder: `out` is a folder, whatever its name looks like.
        suffixes: of files that can be written, with their dots, the usual one first; empty where any will do.
        option: for messages.

    Raises:
        ConfigError: it cannot be written there, or `out` has the suffix of other files.
    """
    try:
        return _output_paths(out, total, is_folder, suffixes, option)
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise ConfigError(f"cannot write {out}: {error.strerror}; choose another {option}") from error


def _output_paths(out: Path, total: int, is_folder: bool, suffixes: Sequence[str], option: str) -> list[Path]:
    suffix = suffixes[0] if suffixes else ""
    if is_folder or (total > 1 and (out.is_dir() or not out.suffix)):
        _check_dir(out, option)
        return [out / f"{index:05d}{suffix}" for index in range(total)]
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; name a file in it, for example {out / f'result{suffix}'}")
    if suffix and out.suffix and out.suffix.lower() not in suffixes:
        allowed = " or ".join(suffixes)
        raise ConfigError(f"what is written are {allowed} files, and {option} says {out.name}; try {out.stem}{suffix}")
    _check_writable(out.parent, out.name, option)
    if total == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{index}{out.suffix}") for index in range(total)]


def make_dir(folder: Path) -> None:
    """Make it, unless it is there."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder}: {error.strerror}") from error


def _check_dir(out: Path, option: str) -> None:
    if out.is_dir():
        _check_writable(out, "answers", option)
    elif out.exists():
        raise ConfigError(f"{option} {out} is a file; several answers need a folder")
    else:
        _check_writable(out.parent, out.name, option)


def _check_writable(folder: Path, name: str, option: str) -> None:
    if not folder.is_dir():
        raise ConfigError(f"the folder {folder} does not exist; make it first or choose another {option}")
    probe = folder / f".{name[:100]}.probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"cannot write in the folder {folder}: {error.strerror}; choose another {option}") from error


AUTO = "auto"


@dataclass(frozen=True)
class Sidecars:
    """Where files of the wanted kinds go: for each kind one path a result."""

    paths: Mapping[str, Sequence[Path]]

    def write(self, index: int, output: Output) -> None:
        """All files beside one result.

        Raises:
            ConfigError: one cannot be written.
        """
        task = output.model.generation_task
        for kind, paths in self.paths.items():
            make_dir(paths[index].parent)
            try:
                task.write_sidecar(kind, output.data, paths[index], output.metadata)
            except OSError as error:
                raise ConfigError(f"cannot write {paths[index]}: {error.strerror or error}") from error

    def as_json(self, index: int) -> dict[str, str]:
        """For the JSON object, the path of each kind of file beside one result."""
        return {kind: str(paths[index]) for kind, paths in self.paths.items()}


def sidecar_options(task: Any) -> list[click.Parameter]:
    """An option for every kind of file that the task writes beside a result (`task.besides`)."""
    return [
        click.Option([f"--{kind}", f"sidecar_{kind}"], metavar=f"FILE|{AUTO}", help=text)
        for kind, (_, text) in _sidecar_kinds(task).items()
    ]


def resolve_sidecars(task: Any, values: dict[str, Any], result_paths: Sequence[Path], is_folder: bool) -> Sidecars:
    """Takes what the options said out of `asked`: a file (or folder for several), or `auto`: the result's own name.

    Raises:
        ConfigError: it cannot be written there, or would take the place of a result.
    """
    paths: dict[str, Sequence[Path]] = {}
    for kind, (suffix, _) in _sidecar_kinds(task).items():
        value = values.pop(f"sidecar_{kind}", None)
        if value == AUTO:
            paths[kind] = [path.with_suffix(suffix) for path in result_paths]
        elif value is not None:
            paths[kind] = output_paths(Path(value), len(result_paths), is_folder, (suffix,), f"--{kind}")
        if set(paths.get(kind, ())) & set(result_paths):
            raise ConfigError(f"--{kind} {value} and --out name the same file; give one of them another name")
        if kind in paths:
            task.check_sidecar(kind)
    return Sidecars(paths)


def _sidecar_kinds(task: Any) -> Mapping[str, tuple[str, str]]:
    """For each kind of file its suffix, and what it is."""
    kinds: Mapping[str, tuple[str, str]] = task.sidecars
    return kinds


def steps_dir(path: Path) -> Path:
    """Where the steps of a result go: heart.png has heart-steps."""
    return path.with_name(f"{path.stem}-steps")


def preview_callback(
    pipeline: Pipeline, requests: Sequence[Request], paths: Sequence[Path], every: int | None
) -> Callable[[StepState], None] | None:
    """What writes heart-steps/003.png and on for heart.png, each whole or not there; None where nothing is wanted.

    Args:
        requests: of one batch, each with a count of 1.
        paths: where their results go.
        every: steps between two files.
    """
    if every is None:
        return None
    request_metadata = [request.model_dump(mode="json", exclude_none=True, exclude={"count"}) for request in requests]

    def write(state: StepState) -> None:
        if state.step % every:
            return
        note = {"step": state.step, "steps": state.steps, "time": round(state.time, 6)}
        for item, path, record in zip(state.items(), paths, request_metadata, strict=True):
            make_dir(path.parent)
            folder = steps_dir(path)
            make_dir(folder)
            try:
                pipeline.model.generation_task.save(
                    item, folder / f"{state.step:03d}{path.suffix}", {**record, "preview": note}
                )
            except OSError as error:
                raise ConfigError(f"cannot write in {folder}: {error.strerror or error}") from error

    return write


BATCH_SIZE = 16
"""Answers that are made together at most, where there is memory for them."""

PREVIEW_HELP = "Every N steps a file of what forms, in a folder beside the result: NAME-steps/003 and on for NAME."


@dataclass(frozen=True)
class _Options:
    """What the command was told beside the request's own fields."""

    out: Path
    prompts_file: Path | None
    model: str | None
    device: str
    dtype: str | None
    offload: bool
    text_device: str | None
    compile: bool
    preview: int | None
    as_json: bool


def make_task_command(name: str, task_name: str, summary: str) -> click.Command:
    """The command `lumina NAME` for a task; the task is imported here, when the command is asked for."""
    from lumina_core.plugins.loader import load_plugins

    task = load_plugins().find("task", task_name)
    fields: dict[str, FieldInfo] = task.Request.model_fields
    required = [field for field, info in fields.items() if info.is_required()]
    prompt_field = required[0] if required else None
    arguments: list[click.Parameter] = [click.Argument([prompt_field], required=False)] if prompt_field else []
    return click.Command(
        name,
        params=[*arguments, *_make_options(task, fields, prompt_field)],
        callback=lambda **values: _run(task, task_name, prompt_field, values),
        help=f"{summary}\n\n{_argument_help(fields, prompt_field)}",
        epilog=_examples_text(task, name)
        or f"Example:  lumina {name} {_example(fields, prompt_field)} --out heart.png --seed 1",
    )


def _examples_text(task: Any, name: str) -> str:
    """What the task itself shows, a line each; click keeps the lines after a \\b as they are."""
    lines: Sequence[str] = task.examples
    return "\n".join(["\b", "Examples:", *(f"  lumina {name} {line}" for line in lines)]) if lines else ""


def _example(fields: dict[str, FieldInfo], prompt_field: str | None) -> str:
    examples = fields[prompt_field].examples if prompt_field else None
    return str(examples[0]) if examples else '"a red heart"'


def _argument_help(fields: dict[str, FieldInfo], prompt_field: str | None) -> str:
    if prompt_field is None:
        return ""
    text = fields[prompt_field].description or "says what is wanted"
    return f"{prompt_field.upper()}: {text}. Give it, or a file of them with --{prompt_field}s."


def _make_options(task: Any, fields: dict[str, FieldInfo], prompt_field: str | None) -> list[click.Parameter]:
    """Where to, then the task's own fields, then what every request has, then the rest: most used first."""
    from lumina_core.request import Request

    task_fields = [field for field in fields if field not in Request.model_fields and field != prompt_field]
    shared = [field for field in fields if field in Request.model_fields]
    field_options = [field_option(field, fields[field], field in shared) for field in (*task_fields, *shared)]
    path, noun = click.Path(path_type=Path), prompt_field or "request"
    several_help = f"A file with one {noun} a line, each answered with seeds of its own; --out is a folder."
    return [
        click.Option(
            ["--out"], type=path, required=True, metavar="PATH", help="File to write, or a folder for several."
        ),
        *sidecar_options(task),
        *field_options,
        click.Option(
            ["--model"], metavar="MODEL", help="Model folder, or one of `lumina models`.  [default: built in]"
        ),
        click.Option([f"--{noun}s", "prompts_file"], type=path, metavar="FILE", help=several_help),
        click.Option(["--device"], metavar="NAME", default="cpu", help="cpu, cuda, mps ...  [default: cpu]"),
        *device_options(),
        click.Option(["--compile", "compile"], is_flag=True, help="Compile the network; pays for many answers."),
        click.Option(["--preview"], type=click.IntRange(min=1), metavar="N", help=PREVIEW_HELP),
        click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object on one line, last."),
    ]


def _run(task: Any, task_name: str, prompt_field: str | None, values: dict[str, Any]) -> None:
    from lumina_core.sampling.pipeline import load_pipeline

    options = _Options(**{key: values.pop(key) for key in _Options.__dataclass_fields__})
    sidecar_values = {key: values.pop(key) for key in list(values) if key.startswith("sidecar_")}
    fields = {field: value for field, value in values.items() if value is not None and value != ()}
    lines = _read_prompts(options.prompts_file, prompt_field, fields)
    requests = _make_requests(task.Request, prompt_field, fields, lines)
    suffixes = task.suffixes
    paths = output_paths(options.out, len(requests), lines is not None, suffixes)
    sidecars = resolve_sidecars(task, sidecar_values, paths, lines is not None)
    start = time.perf_counter()
    load_options = {key: getattr(options, key) for key in ("device", "dtype", "offload", "text_device", "compile")}
    session = load_pipeline(options.model, task=task_name, **load_options)
    loaded = time.perf_counter()
    with _one_line_warnings():
        outputs = _generate(session, requests, paths, options.preview, lines is None, sidecars)
    if not options.as_json:
        click.echo("\n".join(str(path) for path in paths))
        return
    timings = {
        "generation_seconds": round(time.perf_counter() - loaded, 3),
        "load_seconds": round(loaded - start, 3),
    }
    files = [
        {
            "path": str(path),
            **sidecars.as_json(index),
            **({} if options.preview is None else {"preview": str(steps_dir(path))}),
        }
        for index, path in enumerate(paths)
    ]
    click.echo(json.dumps({**_summary(files, outputs), **timings}, ensure_ascii=False))


def _read_prompts(path: Path | None, prompt_field: str | None, fields: dict[str, Any]) -> list[str] | None:
    if (path is None) == (prompt_field is not None and fields.get(prompt_field) is None):
        raise click.UsageError(f"give either {(prompt_field or 'request').upper()} or --{prompt_field}s FILE")
    if path is None:
        return None
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if not any(lines):
        raise ConfigError(f"{path} has no line to read; wanted one {prompt_field} a line")
    return [line for line in lines if line]


def _make_requests(
    request_type: type[Request], prompt_field: str | None, fields: dict[str, Any], lines: list[str] | None
) -> list[Request]:
    """One request an answer: the k-th of a `count` has the seed + k, and each line has seeds of its own."""
    if lines is None or prompt_field is None:
        requests = [request_type.read(fields, "request")]
    else:
        step = int(fields.get("count", 1))
        seeds = range(int(fields.get("seed", 0)), int(fields.get("seed", 0)) + step * len(lines), step or 1)
        requests = [
            request_type.read({**fields, prompt_field: line, "seed": seed}, f"line {number}")
            for number, (line, seed) in enumerate(zip(lines, seeds, strict=False), 1)
        ]
    return [r.model_copy(update={"seed": r.seed + k, "count": 1}) for r in requests for k in range(r.count)]


def _generate(
    pipeline: Pipeline, requests: list[Request], paths: list[Path], preview: int | None, quiet: bool, sidecars: Sidecars
) -> list[Output]:
    outputs: list[Output] = []
    for note in dict.fromkeys(note for request in requests for note in pipeline.notes(request)):
        click.echo(f"Note: {note}", err=True)
    with progress_bar("generating", len(requests), quiet) as advance:
        batch_size = pipeline.max_batch_size(requests, BATCH_SIZE)
        for start in range(0, len(requests), batch_size):
            batch, batch_paths = requests[start : start + batch_size], paths[start : start + batch_size]
            for output in pipeline.generate(batch, preview_callback(pipeline, batch, batch_paths, preview)):
                make_dir(paths[len(outputs)].parent)
                output.save(paths[len(outputs)])
                sidecars.write(len(outputs), output)
                outputs.append(output)
                advance(1)
    return outputs


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """A warning is one line to read, without the place in the code that it came from."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest: click.echo(f"Warning: {message}", err=True)
        yield


def _summary(files: list[dict[str, str]], outputs: list[Output]) -> dict[str, Any]:
    """What all results have in common, and `items`: the seed and the files of each, and what differs between them."""
    records = [output.metadata for output in outputs]
    common = {
        key: value
        for key, value in records[0].items()
        if key != "seed" and all(key in record and record[key] == value for record in records)
    }
    items = [
        {"seed": record["seed"], **paths, **{key: value for key, value in record.items() if key not in common}}
        for paths, record in zip(files, records, strict=True)
    ]
    return {**common, "items": items}
