"""The error of an item that is skipped, while the others go on."""

from __future__ import annotations

from lumina_core.errors import LuminaError


class UnusableError(LuminaError):
    """One item (a file, a line, a member of a shard) cannot be used; the message says why, in a few words."""
