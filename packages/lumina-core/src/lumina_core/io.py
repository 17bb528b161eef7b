"""Atomic files and folders: written under a temporary name, then renamed, so that a half-written one never exists."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from lumina_core.errors import ConfigError, UnusableError

ReadT = TypeVar("ReadT")
CACHED_FILES = 4
"""Number of files that `cached_read` holds: every request of a file of prompts names the same ones."""

_PARTIAL_PATTERN = re.compile(
    r"\.(?P<name>.+)\.lumina-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}(?P<old>\.old)?\.partial(\..*)?"
)
_MAX_STEM_BYTES = 120
"""Longest part of a file's name that its temporary name repeats, so that a long name still fits."""
_IS_WINDOWS = os.name == "nt"
_STALE_SECONDS = 86_400.0
_RENAME_EXCHANGE, _RENAME_SWAP, _AT_FDCWD = 2, 2, -100


def check_replaceable(path: Path, folder: bool = False) -> None:
    """Check that a path is new, or a file (a folder) that may be replaced; a link counts as what it leads to.

    Raises:
        OSError: it is something else, such as a device or a pipe.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not (stat.S_ISDIR(mode) if folder else stat.S_ISREG(mode)):
        noun = "folder" if folder else "file"
        raise OSError(errno.EEXIST, f"it is {_describe_mode(mode)}, and only a {noun} is replaced", str(path))


def _describe_mode(mode: int) -> str:
    tests = {
        "a folder": stat.S_ISDIR,
        "a file": stat.S_ISREG,
        "a pipe": stat.S_ISFIFO,
        "a socket": stat.S_ISSOCK,
    }
    return next((noun for noun, is_kind in tests.items() if is_kind(mode)), "a device")


def read_plain_text(path: Path, max_bytes: int = 2**26) -> str:
    """Read a UTF-8 file; other files are refused: the read of a pipe or a device may never end.

    Raises:
        OSError: there is no such file, it is no plain file, or larger than `max_bytes`.
        ValueError: it is not UTF-8, or the path is none.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, f"it is {_describe_mode(status.st_mode)}, expected a plain file", str(path))
    if status.st_size > max_bytes:
        raise OSError(errno.EFBIG, f"it has {status.st_size} bytes, expected at most {max_bytes}", str(path))
    return path.read_text(encoding="utf-8-sig")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: as `read_plain_text`.
        ValueError: it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(read_plain_text(path))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def check_output_file(path: Path, suffix: str, option: str, overwrite: bool) -> None:
    """Check that a command can write a file; writes nothing.

    Args:
        path: the file.
        suffix: suffix that its name must have, with the dot.
        option: name of the option, for messages.
        overwrite: whether a file that exists may be replaced.

    Raises:
        ConfigError: another suffix, a missing folder, a file that exists, or something else than a file.
    """
    if path.suffix.lower() != suffix:
        raise ConfigError(f"{option}: got {path.name}, expected a {suffix} file. Try {path.stem}{suffix}.")
    try:
        check_replaceable(path)
        if not path.parent.is_dir():
            raise ConfigError(
                f"{option}: got {path}, expected a file in a folder that exists. Make {path.parent} first."
            )
        if path.exists() and not overwrite:
            raise ConfigError(f"{option}: got {path}, which exists already. Choose another one, or give --overwrite.")
    except OSError as error:
        raise ConfigError(f"{option}: cannot write {path} ({error.strerror}). Choose another path.") from error


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; without an exception the file is then renamed to `path`.

    A link stays, and the file that it leads to is replaced.

    Raises:
        OSError: `path` is no regular file (a device, a pipe, a folder), or cannot be written.
    """
    check_replaceable(path)
    target = path.resolve() if path.is_symlink() else path
    partial = _partial_path(target, f".partial{target.suffix[-16:]}", _shorten_name(target.name))
    try:
        yield partial
        _fsync(partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; without an exception it is then renamed to `path` and replaces it.

    Where the system can exchange two names at once, `path` exists at every moment of a replacement; elsewhere
    `restore_dir` brings the old folder back after a kill. A link stays, and the folder that it leads to is replaced.

    Raises:
        OSError: `path` is not a folder, or cannot be written.
    """
    path = path.resolve() if path.is_symlink() else path
    with new_dir(path.parent):
        restore_dir(path)
        check_replaceable(path, folder=True)
        remove_partial(path.parent, path.name)
        partial = _partial_path(path, ".partial")
        partial.mkdir()
        try:
            yield partial
            for file in sorted(partial.rglob("*")):
                _fsync(file)
            _replace_dir(partial, path)
            _fsync(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _replace_dir(new: Path, path: Path) -> None:
    """Put a folder in the place of another; the other one is deleted afterwards."""
    if not path.exists():
        os.replace(new, path)
        return
    if _exchange(new, path):
        return  # `new` now names the old folder, which the caller deletes
    old = _partial_path(path, ".old.partial")
    os.replace(path, old)
    try:
        os.replace(new, path)
    except BaseException:
        os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; return False where the system or the file system cannot."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            return library.renamex_np(os.fsencode(one), os.fsencode(other), _RENAME_SWAP) == 0
        arguments = _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
        return bool(library.renameat2(*arguments) == 0)
    except (AttributeError, OSError, TypeError):  # an old C library; Windows
        return False


@contextmanager
def new_dir(folder: Path) -> Iterator[None]:
    """Make a folder and its parents; if an exception follows, delete those that are new and still empty.

    Raises:
        OSError: one of them cannot be made.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for one in missing:
            with suppress(OSError):
                one.rmdir()
        raise


def remove_dir(folder: Path) -> None:
    """Delete a folder with its content. If the process is killed meanwhile, no half of it keeps the name."""
    doomed = _partial_path(folder, ".partial")
    with suppress(FileNotFoundError):
        os.replace(folder, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def restore_dir(path: Path) -> None:
    """Bring back a folder that a killed process was about to replace, unless `path` exists."""
    if path.exists() or not path.parent.is_dir():
        return
    for partial in _partial_paths(path.parent, path.name):
        if partial.match["old"] and not partial.is_in_use():
            os.replace(partial.path, path)
            return


def remove_partial(folder: Path, name: str | None = None) -> None:
    """Delete what killed processes of this machine left half-written in a folder, and restore what one was replacing.

    Temporary files of running processes and of other machines stay, and so do files that only look similar.

    Args:
        name: only temporary files of this name; None: all.
    """
    for partial in _partial_paths(folder, name):
        if partial.is_in_use():
            continue
        if partial.match["old"] and not (folder / partial.match["name"]).exists():
            os.replace(partial.path, folder / partial.match["name"])
        elif partial.path.is_dir() and not partial.path.is_symlink():
            shutil.rmtree(partial.path, ignore_errors=True)
        else:
            with suppress(OSError):
                partial.path.unlink()


@dataclass(frozen=True)
class _PartialPath:
    path: Path
    match: re.Match[str]

    def is_in_use(self) -> bool:
        """Return whether the process that writes the path may still run."""
        if self.match["host"] != host_id():  # its process cannot be looked up here
            return True
        return is_running(int(self.match["pid"]), self.path)


def _partial_paths(folder: Path, name: str | None) -> list[_PartialPath]:
    """Return the temporary paths in a folder, sorted; of a target with a name, or of all."""
    try:
        with os.scandir(folder) as entries:
            hidden = sorted(entry.name for entry in entries if entry.name.startswith("."))
    except OSError:
        return []
    found = [_PartialPath(folder / one, match) for one in hidden if (match := _PARTIAL_PATTERN.fullmatch(one))]
    return [one for one in found if name is None or one.match["name"] in (name, _shorten_name(name))]


def _partial_path(path: Path, suffix: str, name: str = "") -> Path:
    return path.with_name(f".{name or path.name}.lumina-{host_id()}-{os.getpid()}-{uuid.uuid4().hex[:8]}{suffix}")


def _shorten_name(name: str) -> str:
    return os.fsencode(name)[:_MAX_STEM_BYTES].decode(errors="ignore")


@lru_cache(maxsize=1)
def host_id() -> str:
    """Return eight digits that differ between machines, restarts and containers, whose process numbers differ."""
    parts = [platform.node()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            parts.append(os.readlink(path) if path.endswith("pid") else Path(path).read_text(encoding="ascii"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def is_running(pid: int, path: Path) -> bool:
    """Return whether the process that wrote `path` may still run."""
    if _IS_WINDOWS:  # os.kill ends a process there: go by the age of the path
        return time.time() - path.stat().st_mtime < _STALE_SECONDS
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
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


def user_path(path: str | Path) -> Path:
    """Return a path with a leading `~` or `~user` as the home of that user."""
    return Path(os.path.expanduser(path))


def split_lines(text: str) -> list[str]:
    """Split a text at CR, LF and CRLF only; `str.splitlines` also splits at form feeds, U+0085 and U+2028."""
    return re.split(r"\r\n|\r|\n", text)


GIT_LFS_SIGN = b"version https://git-lfs"
"""First bytes of the small text that Git LFS leaves in place of a file that was not fetched."""
_CONTENT_SIGNS = (
    (GIT_LFS_SIGN, "a pointer of Git LFS; the file itself was not fetched (git lfs pull)"),
    (b"<!DOCTYPE html", "a web page, perhaps of a failed download"),
    (b"<html", "a web page, perhaps of a failed download"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"\x1f\x8b", "compressed by gzip; unpack it"),
    (b"%PDF", "a PDF document"),
    (b"<?xml", "an XML document"),
    (b"<svg", "an SVG drawing"),
)
_ISO_MEDIA_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"avif": "AVIF", b"M4A ": "M4A", b"isom": "MP4"}


def describe_content(source: Path | bytes) -> str:
    """Return what a file of an unexpected format is by its first bytes ("a pointer of Git LFS ..."); empty: unknown."""
    try:
        if isinstance(source, bytes):
            head = source[:64]
        else:
            with source.open("rb") as file:
                head = file.read(64)
    except OSError:
        return ""
    if head[4:8] == b"ftyp" and head[8:12] in _ISO_MEDIA_BRANDS:
        return f"{_ISO_MEDIA_BRANDS[head[8:12]]}, which is not read"
    head = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    return next((text for sign, text in _CONTENT_SIGNS if head[: len(sign)].lower() == sign.lower()), "")
