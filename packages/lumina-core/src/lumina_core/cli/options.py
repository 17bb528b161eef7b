"""Options of the command line made from the fields of a request."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING, Any, get_args

import click

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


def request_options(without: Container[str]) -> list[click.Parameter]:
    """An option for every field that each request has, but for those named."""
    from lumina_core.request import Request

    return [option(field, info, True) for field, info in Request.model_fields.items() if field not in without]


def with_options(options: Sequence[click.Parameter]) -> Callable[[Any], Any]:
    """A decorator: options that are made rather than written."""

    def decorated(command: Any) -> Any:
        # click keeps the parameters of a function in the reverse order of its decorators
        command.__click_params__ = [*reversed(options), *getattr(command, "__click_params__", [])]
        return command

    return decorated


def option(field: str, info: FieldInfo, shared: bool) -> click.Option:
    """The option for one field; of a `shared` one that is left open the model's own is taken.

    It is called as the field, or as its `json_schema_extra={"option": ...}` says: `continue` can be no name in Python.
    `usual` there is what the model's own is not.
    """
    plain = {kind for kind in (info.annotation, *get_args(info.annotation)) if kind in (int, float, str)}
    kind = next((k for k in (float, int, str) if k in plain), str) if not _is_tuple(info) else str
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    usual = extra.get("usual", "the model's own") if shared and info.default is None else info.default
    default = "" if usual is None else f"  [default: {usual}]"
    return click.Option(
        [f"--{extra.get('option', field.replace('_', '-'))}", field],
        type=kind,
        multiple=_is_repeated(info),
        metavar=info.title or {int: "N", float: "X", str: "TEXT"}[kind],
        help=f"{_sentence(info.description or '')}{default}",
    )


def placing_options() -> list[click.Parameter]:
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
    begun = text if text.partition(" ")[0].endswith(":") else f"{text[:1].upper()}{text[1:]}"
    return begun if "[default: " in begun else f"{begun}."


def _is_repeated(info: FieldInfo) -> bool:
    """Whether the field is a tuple of any length: its option may be given again and again."""
    return any(get_args(kind)[-1:] == (...,) for kind in (info.annotation, *get_args(info.annotation)))


def _is_tuple(info: FieldInfo) -> bool:
    return any(getattr(kind, "__origin__", None) is tuple for kind in (info.annotation, *get_args(info.annotation)))
