"""Lists the pictures of a folder and their captions, names what is left aside, and follows no link out of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lumina_image.pictures import SUFFIXES

CAPTIONS = "captions.jsonl"


class Entry(NamedTuple):
    """A picture by its path inside the folder, and one or more captions."""

    file: str
    captions: tuple[str, ...]


class Skipped(NamedTuple):
    """A picture, or a line of captions.jsonl, that is not used, and why."""

    name: str
    reason: str


def list_folder(root: Path) -> tuple[list[Entry], list[Skipped]]:
    """What the folder holds, in a fixed order; no picture is opened."""
    entries: list[Entry] = []
    skipped: list[Skipped] = []
    for found in _from_jsonl(root) if (root / CAPTIONS).is_file() else _from_sidecars(root):
        if isinstance(found, Entry):
            entries.append(found)
        else:
            skipped.append(found)
    return entries, skipped


def _from_jsonl(root: Path) -> Iterator[Entry | Skipped]:
    if not _inside(root, root / CAPTIONS):
        yield Skipped(CAPTIONS, "a link that leads outside the folder")
        return
    # bytes, since one line that is not UTF-8 should cost that line only
    for number, line in enumerate((root / CAPTIONS).read_bytes().split(b"\n"), start=1):
        if line.strip():
            yield _from_line(root, line, f"{CAPTIONS}:{number}")


def _from_line(root: Path, line: bytes, place: str) -> Entry | Skipped:
    try:
        said: Any = json.loads(line)
    except (ValueError, RecursionError):
        return Skipped(place, "not a line of JSON")
    if not isinstance(said, dict) or not isinstance(said.get("file"), str) or not said["file"]:
        return Skipped(place, 'has no "file"')
    file, caption = str(said["file"]), said.get("caption")
    captions = _clean(caption if isinstance(caption, list) else [caption])
    if not captions:
        return Skipped(file, 'its "caption" is not a text or a list of texts')
    reason = _refused(root, file)
    return Skipped(file, reason) if reason else Entry(Path(file).as_posix(), captions)


def _from_sidecars(root: Path) -> Iterator[Entry | Skipped]:
    for file in _pictures(root):
        reason = _refused(root, file)
        if reason:
            yield Skipped(file, reason)
            continue
        said = _sidecar(root, Path(file).with_suffix(".txt"))
        yield said if isinstance(said, Skipped) else Entry(file, said)


def _pictures(root: Path) -> list[str]:
    found: list[str] = []
    for folder, _, names in os.walk(root, followlinks=False):
        here = Path(folder).relative_to(root)
        found += [(here / name).as_posix() for name in names if name.lower().endswith(SUFFIXES) and name[0] != "."]
    return sorted(found)


def _sidecar(root: Path, file: Path) -> tuple[str, ...] | Skipped:
    name = file.as_posix()
    reason = _refused(root, name)
    if reason:
        return Skipped(name, f"no caption: {reason}")
    try:
        captions = _clean((root / file).read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError):
        return Skipped(name, "no caption: the file is not UTF-8 text")
    return captions or Skipped(name, "no caption: the file is empty")


def _refused(root: Path, file: str) -> str:
    """Why a file named by its path inside the folder is not to be opened; empty where it may be."""
    path = Path(file)
    if path.is_absolute() or ".." in path.parts or "\0" in file or not _inside(root, root / path):
        return "leads outside the folder"
    if not (root / path).exists():
        return "missing"
    return "" if (root / path).is_file() else "not a plain file"


def _inside(root: Path, path: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):
        return False


def _clean(said: list[Any]) -> tuple[str, ...]:
    texts = (" ".join(one.split()) for one in said if isinstance(one, str))
    return tuple(text for text in texts if text)
