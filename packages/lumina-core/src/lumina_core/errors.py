"""Errors that a user can cause and correct, and the suggestion of the nearest name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class LuminaError(Exception):
    """Base class of all errors that a user can correct: `<setting>: got <value>, expected <what>. <How to fix it.>`"""


class ReportedError(LuminaError):
    """An error that another process of a training reports; the command line prints nothing."""


class ConfigError(LuminaError):
    """A recipe, a request or an option has an unknown key or an invalid value."""


class PluginError(LuminaError):
    """A component is unknown, or its plugin is not installed or broken."""


class ShapeError(LuminaError):
    """A tensor or a size has a shape that a component cannot process."""


class CheckpointError(LuminaError):
    """A model folder or a file of weights is missing, incomplete, of another format, or does not fit its recipe."""


class UnusableError(LuminaError):
    """One item of a data set (a file, a line, a member of a shard) cannot be used."""


def suggest(word: str, names: Iterable[str], cutoff: float = 0.5) -> str:
    """Return the end of an error message with the nearest name, empty if none is similar.

    Args:
        cutoff: least similarity, 0 to 1 (equal), as `difflib` measures it.
    """
    matches = difflib.get_close_matches(word, sorted(names), n=1, cutoff=cutoff)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def printable(text: str) -> str:
    """Return a text for one line of a terminal: control characters are escaped, bytes that are no UTF-8 replaced.

    Names of files, configs and plugins can hold any character, also a line break or the color code of a terminal.
    """
    escaped = re.sub(
        "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]",
        lambda match: match[0].encode("unicode_escape").decode("ascii"),
        text,
    )
    return re.sub("[\ud800-\udfff]", "\ufffd", escaped)


def replace_surrogates(text: str) -> str:
    """Replace surrogates without a partner, which UTF-8 cannot encode: halves of emoji, and bytes that are no UTF-8."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)
