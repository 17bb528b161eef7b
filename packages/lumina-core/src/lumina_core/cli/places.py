"""Where answers go: one file, numbered files or a folder. Checked before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lumina_core.errors import ConfigError


def places(out: Path, total: int, folder: bool, suffixes: Sequence[str], option: str = "--out") -> list[Path]:
    """The path of each of `total` answers.

    A folder gets 00000.png and on, several answers for one file name heart-0.png and on. Nothing is written: a folder
    that is not there is made by `make_folder`, when the first answer has come; the folder around it must exist.

    Args:
        out: what the option said.
        folder: `out` is a folder, whatever its name looks like.
        suffixes: of files that can be written, with their dots, the usual one first; empty where any will do.
        option: for messages.

    Raises:
        ConfigError: it cannot be written there, or `out` has the suffix of other files.
    """
    try:
        return _places(out, total, folder, suffixes, option)
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise ConfigError(f"cannot write {out}: {error.strerror}; choose another {option}") from error


def _places(out: Path, total: int, folder: bool, suffixes: Sequence[str], option: str) -> list[Path]:
    suffix = suffixes[0] if suffixes else ""
    if folder or (total > 1 and (out.is_dir() or not out.suffix)):
        _check_folder(out, option)
        return [out / f"{place:05d}{suffix}" for place in range(total)]
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; name a file in it, for example {out / f'result{suffix}'}")
    if suffix and out.suffix and out.suffix.lower() not in suffixes:
        known = " or ".join(suffixes)
        raise ConfigError(f"what is written are {known} files, and {option} says {out.name}; try {out.stem}{suffix}")
    _check_writable(out.parent, out.name, option)
    if total == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{place}{out.suffix}") for place in range(total)]


def make_folder(folder: Path) -> None:
    """Make it, unless it is there."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder}: {error.strerror}") from error


def _check_folder(out: Path, option: str) -> None:
    if out.is_dir():
        _check_writable(out, "answers", option)
    elif out.exists():
        raise ConfigError(f"{option} {out} is a file; several answers need a folder")
    else:
        _check_writable(out.parent, out.name, option)


def _check_writable(folder: Path, name: str, option: str) -> None:
    if not folder.is_dir():
        raise ConfigError(f"the folder {folder} does not exist; make it first or choose another {option}")
    probe = folder / f".{name[:100]}.probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"cannot write in the folder {folder}: {error.strerror}; choose another {option}") from error
