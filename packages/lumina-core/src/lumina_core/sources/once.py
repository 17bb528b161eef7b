"""A file that requests name: read once while it does not change, and what is wrong with it said in a line."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from lumina_core.sources.unusable import UnusableError

ReadT = TypeVar("ReadT")
KEPT = 4
"""Files: a file of prompts asks for the same one again and again."""


def read_once(read: Callable[[Path], ReadT], what: str) -> Callable[[Path], ReadT]:
    """`read`, which remembers a few files by path, time of change and size.

    The function raises ValueError, as a field of a request wants it, where a file is not there, is a folder or a pipe
    (whoever feeds it may never come), or `read` finds it unusable.

    Args:
        what: such a file is, with its article, for the message.
    """

    @lru_cache(maxsize=KEPT)
    def kept(path: Path, changed: int, size: int) -> ReadT:
        if path.is_dir():
            raise UnusableError("it is a folder; name a file in it")
        if not path.is_file():
            raise UnusableError("not a plain file")
        return read(path)

    def reading(path: Path) -> ReadT:
        try:
            stamp = path.stat()
            return kept(path, stamp.st_mtime_ns, stamp.st_size)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error
        except UnusableError as error:
            raise ValueError(f"{path} cannot be used as {what}: {error}") from error

    return reading
