"""What can go wrong, in five words: every error a user can cause is a child of LuminaError. And the nearest word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LuminaError(Exception):
    """Something a user can cause and mend. The message says what came, what was wanted, what to do."""


class ConfigError(LuminaError):
    """A recipe, a request or an option does not say what it must, or says what nobody knows."""


class PluginError(LuminaError):
    """A part is missing, or the plugin that should bring it is not there or is broken."""


class ShapeError(LuminaError):
    """A tensor, a picture or a size has not the shape that the part in hand can take."""


class CheckpointError(LuminaError):
    """A folder of weights is missing, half-written, of another make or does not fit its recipe."""


def suggest(word: str, names: Iterable[str], cutoff: float = 0.5) -> str:
    """A hint that ends a message: the nearest known word, or nothing below the likeness `cutoff` (1: the same)."""
    matches = difflib.get_close_matches(word, sorted(names), n=1, cutoff=cutoff)
    return f"; did you mean '{matches[0]}'?" if matches else ""


class UnusableError(LuminaError):
    """One item (a file, a line, a member of a shard) cannot be used; the message says why, in a few words."""
