"""Atomic files and folders: written under a temporary name, then renamed, so that a half-written one never exists."""

from __future__ import annotations

import os
import re
import shutil
import time
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

_PARTIAL_PATTERN = re.compile(r"\.(?P<name>.+)\.lumina-(?P<pid>\d+)-[0-9a-f]{8}(?P<old>\.old)?\.partial(\..*)?")
_IS_WINDOWS = os.name == "nt"
_STALE_SECONDS = 86_400.0


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; without an exception the file is then renamed to `path`."""
    partial = _partial_path(path, f".partial{path.suffix}")
    try:
        yield partial
        _fsync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; without an exception it is then renamed to `path` and replaces it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_path(path, ".partial")
    partial.mkdir()
    try:
        yield partial
        for file in sorted(partial.rglob("*")):
            _fsync(file)
        old = _partial_path(path, ".old.partial")
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(partial, path)
        except BaseException:
            if old.exists():
                os.replace(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)
        _fsync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_partial(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder, and restore a folder that one was about to replace.

    Temporary files of running processes stay, and so do files that only look similar.
    """
    for path in sorted(folder.glob(".*.partial*")):
        match = _PARTIAL_PATTERN.fullmatch(path.name)
        if match is None or _is_running(int(match["pid"]), path):
            continue
        if match["old"] and not (folder / match["name"]).exists():
            os.replace(path, folder / match["name"])
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _partial_path(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}.lumina-{os.getpid()}-{uuid.uuid4().hex[:8]}{suffix}")


def _is_running(pid: int, path: Path) -> bool:
    """Return whether the process that writes a temporary path may still run."""
    if _IS_WINDOWS:  # os.kill ends a process there: go by the age of the path
        return time.time() - path.stat().st_mtime < _STALE_SECONDS
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _fsync(path: Path) -> None:
    if _IS_WINDOWS and path.is_dir():  # folders cannot be opened there
        return
    handle = os.open(path, os.O_RDWR if _IS_WINDOWS else os.O_RDONLY)
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
