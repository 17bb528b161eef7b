"""One command per task, made from its Request: each field of the request is an option."""

from __future__ import annotations

import itertools
import math
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

import click

from lumina_core.adapters.source import find_file
from lumina_core.cli.console import echo_json
from lumina_core.errors import ConfigError, LuminaError, printable
from lumina_core.io import check_replaceable, new_dir, remove_partial, split_lines, user_path

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from lumina_core.protocols import GenerationTask
    from lumina_core.request import Request
    from lumina_core.sampling.generate import StepState
    from lumina_core.sampling.pipeline import Pipeline
    from lumina_core.types import Result

GROUPS = ("Basic", "Editing", "Sampling", "Performance", "Output")
"""Headings of the options in a help text, in order."""
_BASIC_FIELDS = ("seed", "count", "steps", "guidance_scale")
_PERFORMANCE_FIELDS = ("context_drop", "block_cache", "cfg_batching", "max_token_ratio")
AUTO = "auto"
MAX_STEM_CHARS = 60
"""Characters of a prompt in a file name that is made of it."""
MAX_PROMPT_FILE_BYTES = 2**24
OPTIONS_OF_OTHER_PROGRAMS = " --w --h --n --d --l --s --g --ar --seed --steps --cfg --no --v --q --width --height --sd "
"""Options that a line of a file of prompts has in other programs."""


class GroupedOption(click.Option):
    """Option with the heading that its help text stands under."""

    def __init__(self, declarations: Sequence[str], group: str, **settings: Any) -> None:
        super().__init__(declarations, **settings)
        self.group = group

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the names and the help text, which already says that an option is required."""
        record = super().get_help_record(ctx)
        return None if record is None else (record[0], record[1].replace("[required]  [required]", "[required]"))


class GroupedCommand(click.Command):
    """Command whose help text lists the options by group, and whose prompt may begin with a dash."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; a text with blanks that begins with a dash and stands for no option is the prompt."""
        takes_value = {
            name: not param.is_flag for param in self.params if isinstance(param, click.Option) for name in param.opts
        }
        rest, prompts = [], []
        for index, arg in enumerate(args):
            is_value = index > 0 and takes_value.get(args[index - 1], False)
            if arg == "--":
                rest += args[index:]
                break
            if re.match(r"-[^\s=]*\s", arg) and not is_value:
                prompts.append(arg)
            else:
                rest.append(arg)
        if prompts and "--" not in rest:
            rest.append("--")
        try:
            return super().parse_args(ctx, [*rest, *prompts])
        except click.UsageError as error:
            behind = rest[rest.index("--") + 1 :] if "--" in rest else []
            if any(word.startswith("--") for word in behind):
                hint = "Give the options first, then --, then the prompt; nothing behind -- is an option"
            elif "unexpected extra argument" in error.format_message():
                hint = "Put a text of several words in quotes"
            else:
                raise
            raise click.UsageError(f"{error.format_message().rstrip('.')}. {hint}", ctx) from error

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section per group."""
        for group in GROUPS:
            options = [
                p
                for p in self.get_params(ctx)
                if isinstance(p, click.Option) and (p.group if isinstance(p, GroupedOption) else "Output") == group
            ]
            rows = [row for option in options if (row := option.get_help_record(ctx)) is not None]
            if rows:
                with formatter.section(group):
                    formatter.write_dl(rows)


def request_options(without: Container[str]) -> list[click.Parameter]:
    """Return an option for every field that all requests have, except some."""
    from lumina_core.request import Request

    return [field_option(field, info) for field, info in Request.model_fields.items() if field not in without]


def with_options(options: Sequence[click.Parameter]) -> Callable[[Any], Any]:
    """Return a decorator that adds options to a command."""

    def decorate(command: Any) -> Any:
        # click stores the parameters of a function in the reverse order of its decorators
        command.__click_params__ = [*reversed(options), *getattr(command, "__click_params__", [])]
        return command

    return decorate


def field_option(field: str, info: FieldInfo, editing: Container[str] = ()) -> GroupedOption:
    """Return the option for a field of a request.

    `json_schema_extra={"aliases": [...]}` adds further names; `default` there replaces the default in the help text.
    """
    from lumina_core.request import Request

    is_shared = field in Request.model_fields
    plain = {kind for kind in (info.annotation, *get_args(info.annotation)) if kind in (int, float, str)}
    value_type = str if _is_tuple(info) else next((kind for kind in (str, float, int) if kind in plain), str)
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    aliases: Sequence[str] = extra.get("aliases", ())  # type: ignore[assignment]
    default = extra.get(
        "default", ("the model's own" if is_shared else "none") if info.default is None else info.default
    )
    if field in _BASIC_FIELDS or not is_shared:
        group = "Editing" if field in editing else "Basic"
    else:
        group = "Performance" if field in _PERFORMANCE_FIELDS else "Sampling"
    names = [f"--{name.replace('_', '-')}" for name in (field, *aliases)] + [field]
    if info.annotation is bool and info.default is False:
        return GroupedOption(names, group, is_flag=True, default=None, help=_help_text(info.description or "", "off"))
    return GroupedOption(
        names,
        group,
        type=value_type,
        multiple=any(get_args(kind)[-1:] == (...,) for kind in (info.annotation, *get_args(info.annotation))),
        metavar=info.title or {int: "N", float: "X", str: "TEXT"}[value_type],
        help=_help_text(info.description or "", default),
    )


def device_options() -> list[click.Parameter]:
    """Return the options for dtype and devices, see `Pipeline.from_pretrained`."""
    dtype = "float32, bfloat16, float16 or auto.  [default: as stored, float16 as float32]"
    offload = "Keep the weights on the CPU; each component is on the device only while it computes.  [default: off]"
    text = "Device of the text encoders, for example cpu.  [default: --device]"
    return [
        GroupedOption(["--dtype"], "Performance", metavar="NAME", help=dtype),
        GroupedOption(["--offload"], "Performance", is_flag=True, help=offload),
        GroupedOption(["--text-device"], "Performance", metavar="NAME", help=text),
    ]


def lora_option() -> click.Parameter:
    """Return the option for LoRAs, see `parse_loras`."""
    text = "LoRA to add, a folder or a .safetensors file; repeatable. Its base is then the model.  [default: none]"
    return GroupedOption(["--lora", "loras"], "Basic", multiple=True, metavar="FILE[:WEIGHT]", help=text)


def parse_loras(loras: Sequence[str]) -> list[tuple[str, float]]:
    """Parse LoRAs given as FILE or FILE:WEIGHT.

    Raises:
        ConfigError: a weight is not a finite number.
        CheckpointError: there is no such file.
    """
    parsed = []
    for lora in loras:
        path, separator, text = lora.rpartition(":")
        # a path may hold a colon: C:\\loras\\style
        if not separator or Path(lora).exists() or "/" in text or "\\" in text:
            path, text = lora, "1"
        try:
            weight = float(text)
            if not math.isfinite(weight):
                raise ValueError
        except ValueError:
            raise ConfigError(f"--lora: got weight '{text}', expected a number, for example {path}:0.8") from None
        find_file(user_path(path))
        parsed.append((path, weight))
    return parsed


def model_of_loras(loras: Sequence[tuple[str, float]]) -> str | None:
    """Return the model that the first LoRA names; None: there is none, or it names none.

    Raises:
        CheckpointError: its file is missing or damaged.
    """
    if not loras:
        return None
    from lumina_core.adapters.files import stated_base

    return stated_base(loras[0][0]) or None


def _help_text(text: str, default: Any) -> str:
    """Return a description as a sentence with the default; a name or file at its beginning keeps its small letter."""
    text, has_own_default, own_default = text.strip().partition("; default: ")
    default = own_default if has_own_default else default
    sentence = text if re.match(r"\S+(:|\.\w+) ", text) else f"{text[:1].upper()}{text[1:]}"
    return sentence if "[default: " in sentence else f"{sentence.removesuffix('.')}.  [default: {default}]"


def _is_tuple(info: FieldInfo) -> bool:
    return any(get_origin(kind) is tuple for kind in (info.annotation, *get_args(info.annotation)))


def output_paths(
    out: Path,
    total: int,
    is_folder: bool,
    suffixes: Sequence[str],
    option: str = "--out",
    overwrite: bool = True,
) -> list[Path]:
    """Return the path of each result.

    A folder has 00000.png and so on, several results of one file name heart-0.png and so on. Nothing is written:
    A new folder is made when the first result is saved; its parent must exist.

    Args:
        out: value of the option.
        total: number of results.
        is_folder: whether `out` is a folder, whatever its name.
        suffixes: suffixes that can be written, with the dot, the default first; empty: any.
        option: name of the option, for messages.
        overwrite: whether existing files may be replaced.

    Raises:
        ConfigError: a path is not writable, exists, or is no file (a device, a pipe, a folder), or `out` has another
            suffix.
    """
    if "\0" in str(out):
        raise ConfigError(f"{option}: got a null character in {str(out)!r}, expected a path without one.")
    try:
        suffix = suffixes[0] if suffixes else ""
        if is_folder or (total > 1 and (out.is_dir() or not out.suffix)):
            if out.exists() and not out.is_dir():
                raise ConfigError(f"{option}: got the file {out}, expected a folder for several results.")
            _check_writable(out if out.is_dir() else out.parent, option)
            return _replaceable([out / f"{index:05d}{suffix}" for index in range(total)], option, overwrite)
        if out.is_dir():
            raise ConfigError(f"{option}: got the folder {out}, expected a file, for example {out / f'result{suffix}'}")
        if suffix and out.suffix and out.suffix.lower() not in suffixes:
            allowed = " or ".join(suffixes)
            raise ConfigError(f"{option}: got {out.name}, expected {allowed}, for example {out.stem}{suffix}")
        _check_writable(out.parent, option)
        named = [out.with_name(f"{out.stem}-{index}{out.suffix}") for index in range(total)]
        return _replaceable([out] if total == 1 else named, option, overwrite)
    except OSError as error:  # a name that is too long, a folder that may not be entered
        path = error.filename or out
        raise ConfigError(f"{option}: cannot write {path} ({error.strerror}). Choose another path.") from error


def _replaceable(paths: list[Path], option: str, overwrite: bool) -> list[Path]:
    """Return paths of files, new or to be replaced; OSError if one is something else."""
    for path in paths:
        check_replaceable(path)
    check_new(paths, option, overwrite)
    return paths


def check_new(paths: Sequence[Path], option: str, overwrite: bool) -> None:
    """Raise ConfigError if a file exists and must not be replaced."""
    existing = [] if overwrite else [path for path in paths if path.exists()]
    if existing:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise ConfigError(
            f"{option}: got {existing[0]}{more}, which exists already, expected a new name. Choose another one, or "
            "give --overwrite."
        )


def check_inputs_kept(inputs: Sequence[Path], outputs: Sequence[Path], option: str = "--out") -> None:
    """Raise ConfigError if an output is one of the inputs, under whatever name."""
    for path in outputs:
        if path.exists() and any(other.exists() and other.samefile(path) for other in inputs):
            raise ConfigError(f"{option}: got {path}, an input of the command, expected another file.")


def default_path(text: str, suffix: str) -> Path:
    """Return a path in the working folder that does not exist, made of the words of a prompt: a-red-heart.png."""
    words = re.findall(r"[^\W_]+", printable(text))
    stem = "-".join(words).lower()[:MAX_STEM_CHARS].strip("-") or "result"
    while len(stem.encode()) > 4 * MAX_STEM_CHARS:
        stem = stem[:-1]
    names = (f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}" for number in itertools.count(1))
    return next(Path(name) for name in names if not os.path.lexists(name))


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Make the folder of a file; if the file cannot be written, delete the folder again, if it is new and empty.

    Raises:
        ConfigError: the folder cannot be made, or the file cannot be written.
    """
    try:
        with new_dir(path.parent):
            yield
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}. Choose another path.") from error


def _check_writable(folder: Path, option: str) -> None:
    if not folder.is_dir():
        raise ConfigError(f"{option}: the folder {folder} does not exist. Make it first or choose another path.")
    try:
        with tempfile.TemporaryFile(dir=folder):  # without a name, so that it meets no file of others
            pass
    except OSError as error:
        raise ConfigError(f"{option}: cannot write in {folder} ({error.strerror}). Choose another path.") from error


def sidecar_paths(
    task: GenerationTask,
    values: Mapping[str, str | None],
    result_paths: Sequence[Path],
    is_folder: bool,
    overwrite: bool = True,
) -> dict[str, list[Path]]:
    """Return the paths of the sidecar files of each requested kind: a file, a folder for several, or `auto`.

    Raises:
        ConfigError: the path is not writable, or is the path of a result.
    """
    paths: dict[str, list[Path]] = {}
    for kind, (suffix, _) in task.sidecars.items():
        value = values.get(kind)
        if value == AUTO:
            paths[kind] = [path.with_suffix(suffix) for path in result_paths]
            check_new(paths[kind], f"--{kind}", overwrite)
        elif value is not None:
            is_dir = is_folder or value.endswith(("/", os.sep))
            paths[kind] = output_paths(user_path(value), len(result_paths), is_dir, (suffix,), f"--{kind}", overwrite)
        if set(paths.get(kind, ())) & set(result_paths):
            raise ConfigError(f"--{kind}: got {value}, the path of a result, expected another path.")
        if kind in paths:
            task.check_sidecar(kind, paths[kind], overwrite)
    return paths


def preview_callback(
    pipeline: Pipeline, requests: Sequence[Request], paths: Sequence[Path], every: int | None
) -> Callable[[StepState], None] | None:
    """Return a step callback that writes heart-steps/003.png and so on for heart.png; None without previews.

    Args:
        pipeline: the pipeline.
        requests: requests with a count of 1.
        paths: paths of their results.
        every: steps between two files; None: no previews.
    """
    if every is None:
        return None
    task = pipeline.model.generation_task

    def write(state: StepState) -> None:
        if state.step % every:
            return
        note = {"step": state.step, "steps": state.steps, "time": round(state.time, 6)}
        for index, item in zip(state.indices, state.items(), strict=True):
            path, folder = paths[index], steps_dir(paths[index])
            request = requests[index]
            metadata = request.model_dump(mode="json", exclude_none=True, exclude={request.results_field})
            with writing_to(folder / f"{state.step:03d}{path.suffix}"):
                task.save(item, folder / f"{state.step:03d}{path.suffix}", {**metadata, "preview": note})

    return write


def steps_dir(path: Path) -> Path:
    """Return the folder of the previews of a result: heart-steps for heart.png."""
    return path.with_name(f"{path.stem}-steps")


def make_task_command(name: str, task_name: str, summary: str) -> click.Command:
    """Make the command `lumina NAME` of a task."""
    from lumina_core.plugins.loader import load_plugins

    task: type[GenerationTask] = load_plugins().find("task", task_name)
    fields: dict[str, FieldInfo] = task.Request.model_fields
    prompt_field = task.Request.argument_field()  # type: ignore[attr-defined]
    argument_help, example = "", '"a red heart"'
    if prompt_field is not None:
        info = fields[prompt_field]
        example = str(info.examples[0]) if info.examples else example
        text = info.description or "the prompt"
        argument_help = f"{prompt_field.upper()}: {text}. Give it, or a file of them with --{prompt_field}s."
        if not info.is_required():
            argument_help = f"{prompt_field.upper()}: {text}. A file of them: --{prompt_field}s."
    lines = task.examples or (f"{example} --out heart.png --seed 1",)
    return GroupedCommand(
        name,
        params=[
            *([click.Argument([prompt_field], required=False)] if prompt_field else []),
            *_make_options(task, fields, prompt_field),
        ],
        callback=lambda **values: _run(task, task_name, prompt_field, values),
        help=f"{summary}\n\n{argument_help}",
        # click leaves the lines after \b as they are
        epilog="\n".join(
            ["\b", "Examples:" if len(lines) > 1 else "Example:", *(f"  lumina {name} {x}" for x in lines)]
        ),
    )


def _make_options(
    task: type[GenerationTask], fields: dict[str, FieldInfo], prompt_field: str | None
) -> list[click.Parameter]:
    """Return the options of a task: common ones first."""
    from lumina_core.request import Request

    own_fields = [field for field in fields if field not in Request.model_fields and field != prompt_field]
    ordered = [*own_fields, *_BASIC_FIELDS, *(field for field in Request.model_fields if field not in _BASIC_FIELDS)]
    path, noun = click.Path(path_type=Path), prompt_field or "request"
    suffixes = f" Formats: {', '.join(task.suffixes)}." if len(task.suffixes) > 1 else ""
    out_help = f"File to write, or a folder for several results.{suffixes}  [default: a name made from the prompt]"
    overwrite_help = "Replace files that exist.  [default: off]"
    prompts_help = f"File with one {noun} per line, each with its own seeds; --out is a folder.  [default: none]"
    preview_help = "Write a preview every N steps, to NAME-steps/003 and so on for NAME.  [default: none]"
    return [
        # a text, since a path loses the slash at its end
        GroupedOption(["--out"], "Basic", metavar="PATH", help=out_help),
        *(field_option(field, fields[field], task.editing_fields) for field in ordered),
        GroupedOption(
            ["--model"], "Basic", metavar="MODEL", help="Model folder, or one of `lumina models`.  [default: built in]"
        ),
        lora_option(),
        GroupedOption([f"--{noun}s", "prompts_file"], "Basic", type=path, metavar="FILE", help=prompts_help),
        GroupedOption(
            ["--device"], "Performance", metavar="NAME", default="cpu", help="cpu, cuda, mps ...  [default: cpu]"
        ),
        *device_options(),
        GroupedOption(
            ["--compile"],
            "Performance",
            is_flag=True,
            help="Compile the network; pays for many results.  [default: off]",
        ),
        *(
            GroupedOption(
                [f"--{kind}", f"sidecar_{kind}"], "Output", metavar=f"FILE|{AUTO}", help=_help_text(text, "none")
            )
            for kind, (_, text) in task.sidecars.items()
        ),
        GroupedOption(["--overwrite"], "Output", is_flag=True, help=overwrite_help),
        GroupedOption(["--preview"], "Output", type=click.IntRange(min=1), metavar="N", help=preview_help),
        GroupedOption(
            ["--json", "as_json"],
            "Output",
            is_flag=True,
            help="Print one JSON object on one line, last.  [default: off]",
        ),
    ]


def _run(task: type[GenerationTask], task_name: str, prompt_field: str | None, values: dict[str, Any]) -> None:
    from lumina_core.locate import check_model

    out, prompts_file, preview, overwrite = (values.pop(key) for key in ("out", "prompts_file", "preview", "overwrite"))
    model, as_json, loras = values.pop("model"), values.pop("as_json"), parse_loras(values.pop("loras"))
    load_options = {key: values.pop(key) for key in ("device", "dtype", "offload", "text_device", "compile")}
    sidecar_values = {kind: values.pop(f"sidecar_{kind}") for kind in task.sidecars}
    fields = {field: value for field, value in values.items() if value is not None and value != ()}
    with option_names_in_errors([*values, *load_options, "model"], prompt_field):
        is_required = prompt_field is not None and task.Request.model_fields[prompt_field].is_required()
        lines = _read_prompts(prompts_file, prompt_field, fields, is_required)
        is_folder = lines is not None or (out is not None and out.endswith(("/", os.sep)))
        requests = _make_requests(task.Request, prompt_field, fields, lines)  # type: ignore[arg-type]
        if out is None:
            suffix = "" if lines is not None else next(iter(task.suffixes), "")
            out = str(default_path(str(fields.get(prompt_field or "", "") or Path(prompts_file or "").stem), suffix))
        paths = output_paths(user_path(out), len(requests), is_folder, task.suffixes, overwrite=overwrite)
        sidecars = sidecar_paths(task, sidecar_values, paths, is_folder, overwrite)  # type: ignore[arg-type]
        outputs = [*paths, *(path for kind_paths in sidecars.values() for path in kind_paths)]
        check_inputs_kept(_input_files([*values.values(), prompts_file, *(lora for lora, _ in loras)]), outputs)
        if preview is not None:
            check_new([steps_dir(path) for path in paths], "--preview", overwrite)
        for name in (model, fields.get("guide_model")):
            check_model(name, task_name)
        from lumina_core.sampling.pipeline import Pipeline  # imports torch, which takes seconds

        model = model or model_of_loras(loras)
        if sys.stderr.isatty():
            click.echo(f"opening the model {model or '(built in)'} ...", err=True)
        start = time.perf_counter()
        pipeline = Pipeline.from_pretrained(model, task=task_name, **load_options)
        for lora, weight in loras:
            pipeline.load_lora(lora, weight)
        loaded = time.perf_counter()
        with _one_line_warnings():
            results = _generate(pipeline, requests, paths, preview, sidecars, show_progress=lines is not None)
    if not as_json:
        click.echo("\n".join(str(path) for path in paths))
        return
    seconds = {
        "generation_seconds": round(time.perf_counter() - loaded, 3),
        "load_seconds": round(loaded - start, 3),
    }
    files = []
    for index, path in enumerate(paths):
        previews = {} if preview is None else {"preview": str(steps_dir(path))}
        files.append({"path": str(path), **{kind: str(p[index]) for kind, p in sidecars.items()}, **previews})
    echo_json({**_summary(files, results), **seconds})


@contextmanager
def option_names_in_errors(fields: Sequence[str], argument: str | None = None) -> Iterator[None]:
    """Name options instead of fields in the messages of errors: `--max-token-ratio 4` for `max_token_ratio=4`.

    Args:
        fields: names of the fields.
        argument: the field that is no option but the argument of the command, `PROMPT` in messages.
    """

    def shown(name: str) -> str:
        return name.upper() if name == argument else f"--{name.replace('_', '-')}"

    try:
        yield
    except LuminaError as error:
        names = "|".join(map(re.escape, sorted(fields, key=len, reverse=True)))
        message = str(error).removeprefix("request: ")
        message = re.sub(rf"^(line \d+: )?({names})(\.\d+)?(?=: )", lambda m: f"{m[1] or ''}{shown(m[2])}", message)
        message = re.sub(rf"\b({names})=(?=\S)", lambda m: f"{shown(m[1])} ", message)
        raise type(error)(message) from error


def _input_files(values: Sequence[Any]) -> list[Path]:
    """Return the files that the values of options name."""
    files = []
    for text in (value for value in values if isinstance(value, str | Path)):
        with suppress(OSError, ValueError):  # a prompt is no path
            if user_path(text).is_file():
                files.append(user_path(text))
    return files


def _read_prompts(
    path: Path | None, prompt_field: str | None, fields: dict[str, Any], is_required: bool
) -> list[tuple[int, str]] | None:
    is_given = prompt_field is None or fields.get(prompt_field) is not None
    if (path is not None and is_given) or (path is None and not is_given and is_required):
        raise click.UsageError(f"give either {(prompt_field or 'request').upper()} or --{prompt_field}s FILE")
    return None if path is None else read_prompt_file(path, prompt_field or "request")


def read_prompt_file(path: Path, noun: str = "prompt") -> list[tuple[int, str]]:
    """Read the prompts of a file with their line numbers; lines that are empty or begin with # or ; are left out.

    Args:
        path: a UTF-8 file with one prompt per line; lines end at CR or LF.
        noun: what a line holds, for messages.

    Raises:
        ConfigError: the file is missing, no plain file, too large, not UTF-8, or has no prompt or options in a line.
    """
    path = user_path(path)
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: got no plain file, expected a text file of one {noun} per line.")
        if path.stat().st_size > MAX_PROMPT_FILE_BYTES:
            raise ConfigError(f"{path}: got {path.stat().st_size} bytes, expected at most {MAX_PROMPT_FILE_BYTES}.")
        text = path.read_text(encoding="utf-8-sig", errors="strict")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    lines = [(number, line.strip()) for number, line in enumerate(split_lines(text), start=1)]
    lines = [(number, line) for number, line in lines if line and line[0] not in "#;"]
    for number, line in lines:
        option = re.search(r"(?:^|\s)(--?[a-zA-Z][\w-]*)(?:\s|=|$)", line)
        if option is not None and (line.startswith("--") or f" {option[1]} " in OPTIONS_OF_OTHER_PROGRAMS):
            raise ConfigError(
                f"{path}: line {number}: got the option {option[1]}, expected a {noun} alone. Give options to the "
                "command; they apply to all lines."
            )
    if not lines:
        raise ConfigError(f"{path}: got no line, expected one {noun} per line.")
    return lines


def _make_requests(
    request_type: type[Request],
    prompt_field: str | None,
    fields: dict[str, Any],
    lines: list[tuple[int, str]] | None,
) -> list[Request]:
    """Return one request per result: the k-th result has the seed + k, and each line has its own seeds."""
    if lines is None or prompt_field is None:
        requests = [request_type.read(fields, "request")]
    else:
        seed, count = int(fields.get("seed", 0)), int(fields.get(request_type.results_field, 1))
        requests = [
            request_type.read({**fields, prompt_field: line, "seed": seed + k * count}, f"line {number}")
            for k, (number, line) in enumerate(lines)
        ]
    return [one for request in requests for one in request.per_result()]


def _generate(
    pipeline: Pipeline,
    requests: list[Request],
    paths: list[Path],
    preview: int | None,
    sidecars: Mapping[str, Sequence[Path]],
    show_progress: bool,
) -> list[Result]:
    """Generate and save the results, each batch as soon as it is finished."""
    for note in dict.fromkeys(note for request in requests for note in pipeline.notes(request)):
        click.echo(printable(f"Note: {note}"), err=True)
    for folder in {path.parent for path in paths}:
        remove_partial(folder)  # of commands that were killed
    callback = preview_callback(pipeline, requests, paths, preview)
    results: dict[int, Result] = {}
    with _progress(len(requests), show_progress) as advance:
        for index, result in pipeline.iterate(requests, callback):
            with writing_to(paths[index]):
                result.save(paths[index])
            for kind, kind_paths in sidecars.items():
                with writing_to(kind_paths[index]):
                    result.task.write_sidecar(kind, result.data, kind_paths[index], result.metadata)
            results[index] = result
            advance(1)
    return [results[index] for index in range(len(requests))]


@contextmanager
def _progress(total: int, show: bool) -> Iterator[Callable[[int], None]]:
    if not show:
        yield lambda _: None
        return
    from lumina_core.cli.console import progress_bar

    with progress_bar("generating", total) as advance:
        yield advance


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Print a warning as one line, without its position in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest: click.echo(printable(f"Warning: {message}"), err=True)
        yield


def _summary(files: list[dict[str, str]], results: list[Result]) -> dict[str, Any]:
    """Return the metadata that all results share, and `items` with the seed, files and other metadata of each."""
    records = [result.metadata for result in results]
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
