"""Tells mkdocstrings what a setting means: `Field(2, ge=1, description="...")` becomes a default and a sentence."""

from __future__ import annotations

import ast
from typing import Any

import griffe

LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "a multiple of"}


class ConfigFields(griffe.Extension):
    """Reads the source alone, as everything on the site: nothing of the packages is imported."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Leave out what `__init__` merely keeps (`self.config = config`): the arguments say it already."""
        start = cls.members.get("__init__")
        if not isinstance(start, griffe.Function) or start.lineno is None or start.endlineno is None:
            return
        for name, one in list(cls.members.items()):
            kept = isinstance(one, griffe.Attribute) and one.docstring is None and one.lineno is not None
            if kept and start.lineno <= one.lineno <= start.endlineno:
                del cls.members[name]

    def on_attribute(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Give a setting its description as a docstring, and its plain default as a value."""
        call = attr.value
        if not isinstance(call, griffe.ExprCall) or str(call.function) != "Field":
            return
        named = {one.name: one.value for one in call.arguments if isinstance(one, griffe.ExprKeyword)}
        plain = [one for one in call.arguments if not isinstance(one, griffe.ExprKeyword)]
        said = [_text(named["description"])] if "description" in named else []
        said += [", ".join(f"{word} {named[key]}" for key, word in LIMITS.items() if key in named)]
        if attr.docstring is None and any(said):
            attr.docstring = griffe.Docstring("; ".join(part for part in said if part), parent=attr)
        attr.value = _default(plain, named)


def _text(value: Any) -> str:
    try:
        return str(ast.literal_eval(str(value)))
    except (ValueError, SyntaxError):  # put together from names
        return str(value)


def _default(plain: list[Any], named: dict[str, Any]) -> Any:
    if plain and str(plain[0]) != "...":
        return plain[0]
    return named.get("default")
