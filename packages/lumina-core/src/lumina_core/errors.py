"""Errors that a user can cause and correct, and the suggestion of the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LuminaError(Exception):
    """Base class of all errors that a user can correct: `<setting>: got <value>, expected <what>. <How to fix it.>`"""


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
