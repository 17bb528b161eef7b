"""Options of the command line made from the fields of a request."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Any, get_args

import click

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


def request_options(without: Container[str]) -> Callable[[Any], Any]:
    """A decorator: an option for every field that each request has, but for those named."""
    from lumina_core.request import Request

    def decorated(command: Any) -> Any:
        asked = [option(field, info, True) for field, info in Request.model_fields.items() if field not in without]
        # click keeps the parameters of a function in the reverse order of its decorators
        command.__click_params__ = [*reversed(asked), *getattr(command, "__click_params__", [])]
        return command

    return decorated


def option(field: str, info: FieldInfo, shared: bool) -> click.Option:
    """The option for one field; of a `shared` one that is left open the model's own is taken."""
    plain = {kind for kind in (info.annotation, *get_args(info.annotation)) if kind in (int, float, str)}
    kind = next((k for k in (float, int, str) if k in plain), str) if not _is_tuple(info) else str
    usual = "the model's own" if shared and info.default is None else info.default
    default = "" if usual is None else f"  [default: {usual}]"
    text = (info.description or "").strip()
    return click.Option(
        [f"--{field.replace('_', '-')}"],
        type=kind,
        metavar=info.title or {int: "N", float: "X", str: "TEXT"}[kind],
        help=f"{text[:1].upper()}{text[1:]}.{default}",
    )


def _is_tuple(info: FieldInfo) -> bool:
    return any(getattr(kind, "__origin__", None) is tuple for kind in (info.annotation, *get_args(info.annotation)))
