"""Files and folders that are whole or not there: written beside their place, then moved into it."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from lumina_core.errors import UnusableError

ReadT = TypeVar("ReadT")
CACHED_FILES = 4
"""Number of files that `cached_read` holds: every request of a file of prompts names the same ones."""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path to write to; what was written takes the place of `path` only if nothing went wrong."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial{path.suffix}")
    try:
        yield partial
        _fsync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """A folder to fill; it takes the place of `path` only if nothing went wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir()
    try:
        yield partial
        for file in sorted(partial.rglob("*")):
            _fsync(file)
        _replace_dir(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_partial(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder, and put back what one was about to replace."""
    for old in folder.glob(".*.old.partial"):
        path = folder / old.name[1 : -len(".12345678.old.partial")]
        if not path.exists():
            os.replace(old, path)
    for partial in folder.glob(".*.partial*"):
        shutil.rmtree(partial, ignore_errors=True) if partial.is_dir() else partial.unlink(missing_ok=True)


def _replace_dir(source: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old.partial")
    if target.exists():
        os.replace(target, old)
    os.replace(source, target)
    shutil.rmtree(old, ignore_errors=True)
    _fsync(target.parent)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cached_read(read: Callable[[Path], ReadT], what: str) -> Callable[[Path], ReadT]:
    """Cache the last few results of `read` by path, modification time and size.

    Args:
        read: function of an existing plain file; raises UnusableError.
        what: noun of such a file with its article, for messages.

    Returns:
        A function that raises ValueError if the file is missing, not a plain file (a pipe would block) or unusable.
    """

    @lru_cache(maxsize=CACHED_FILES)
    def read_cached(path: Path, modified: int, size: int) -> ReadT:
        if path.is_dir():
            raise UnusableError("it is a folder; name a file in it")
        if not path.is_file():
            raise UnusableError("not a plain file")
        return read(path)

    def read_checked(path: Path) -> ReadT:
        try:
            stat = path.stat()
            return read_cached(path, stat.st_mtime_ns, stat.st_size)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error
        except UnusableError as error:
            raise ValueError(f"{path} cannot be used as {what}: {error}") from error

    return read_checked
