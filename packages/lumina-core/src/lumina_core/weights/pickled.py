"""The one place where a pickle is opened: old `.pth` files, by torch's restricted reader and with an allow-list."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina_core.errors import CheckpointError
from lumina_core.weights.pieces import Held, Piece
from lumina_core.weights.tensorfiles import Stored

_PLAIN = (str, int, float, bool, type(None))


def open_pickled(path: Path, within: str | None = None, inert: Sequence[str] = ()) -> dict[str, Piece]:
    """The tensors of a `.pth` file that holds tensors by name, and nothing else.

    Args:
        within: the name under which a file that tells more than weights (its step, say) holds them; where it is not
            there, the file itself is looked at.
        inert: full names of classes that may lie beside them. They are not imported: an empty object stands for each, a
            plain dict for one whose name ends so.

    Raises:
        CheckpointError: the file is missing, cut short, or holds anything else; code in it is never run.
    """
    whole = _opened(path, [(_stand_in(name), name) for name in inert])
    found = whole.get(within, whole) if within is not None and isinstance(whole, dict) else whole
    wrong = _misfit(found)
    if wrong:
        raise CheckpointError(f"{path} holds {wrong}; wanted tensors by their names and nothing else")
    places = _places(path, found, list(_tensors(whole)))
    return {str(name): _piece(path, tensor, places.get(name)) for name, tensor in found.items()}


def entries(path: Path, inert: Sequence[str] = ()) -> set[str]:
    """The names of what a `.pth` file holds, read as `open_pickled` reads it."""
    whole = _opened(path, [(_stand_in(name), name) for name in inert])
    return {name for name in whole if isinstance(name, str)} if isinstance(whole, dict) else set()


def read_settings(path: Path) -> dict[str, Any]:
    """The plain values of an argparse.Namespace (or a dict) in a `.pth` file, such as `model_args.pth`.

    Raises:
        CheckpointError: the file is missing, cut short, or holds anything but plain values; code in it is never run.
    """
    found = _opened(path, [Namespace])
    values = vars(found) if isinstance(found, Namespace) else found
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds {type(found).__name__}; wanted an argparse.Namespace of plain values")
    odd = [str(name) for name, value in values.items() if not (isinstance(name, str) and _plain(value))]
    if odd:
        raise CheckpointError(f"{path}: the value of '{odd[0]}' is not plain; wanted words, numbers and lists of them")
    return dict(values)


def settings_file(values: Mapping[str, Any]) -> bytes:
    """The content of a `.pth` file with these values in an argparse.Namespace, as the published code reads it."""
    written = io.BytesIO()
    torch.save(Namespace(**values), written)
    return written.getvalue()


def _opened(path: Path, allowed: list[Any]) -> Any:
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a protocol that torch would not have written; it is refused anyway
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        # torch's own words tell how to switch its guard off, which nobody should do; so they are not repeated
        named = re.search(r"(?:GLOBAL|global|class) `?([\w.]+)`? ", str(error))
        if named and "weights_only" in str(error).lower():
            raise CheckpointError(
                f"{path} wants to run {named[1]}: it has code in it, and only tensors and plain values are read. "
                "Get the weights as .safetensors"
            ) from error
        raise CheckpointError(
            f"{path} is no whole .pth file of tensors and plain values ({type(error).__name__}): it is cut short, or "
            "has code in it, which is never run; fetch it again"
        ) from error


class _Inert:
    """What stands for an object of a class that is not imported: it takes any arguments and any state, and has none."""

    def __new__(cls, *_: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class _Table:
    """What stands for a kind of dict: a plain one, which a pickle may then fill."""

    def __new__(cls, *_: Any) -> Any:
        return {}


def _stand_in(name: str) -> type[Any]:
    last = name.rpartition(".")[2]
    return type(last, (_Table if last.lower().endswith("dict") else _Inert,), {})


def _tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, dict | list | tuple):
        for part in found.values() if isinstance(found, dict) else found:
            yield from _tensors(part)


def _misfit(found: Any) -> str:
    if not isinstance(found, dict):
        return type(found).__name__
    other = [name for name, value in found.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    return f"{type(found[other[0]]).__name__} under '{other[0]}'" if other else ""


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    if isinstance(value, dict):
        return all(map(_plain, (*value.keys(), *value.values())))
    return type(value) in _PLAIN  # a child of a plain type may be anything


def _places(path: Path, found: Mapping[str, Tensor], all_of_them: Sequence[Tensor]) -> dict[str, int]:
    """Where in the file each tensor's numbers begin; nothing where that is not certain.

    torch maps the whole file and cuts its storages from it: addresses in memory differ from places in the file by one
    number, which the first storage tells. Reading from places keeps the map's pages out of memory.
    """
    tensors = {name: tensor for name, tensor in found.items() if tensor.is_contiguous() and tensor.numel()}
    starts = _storage_starts(path)
    if not tensors or not starts:
        return {}
    storages = {tensor.untyped_storage().data_ptr() for tensor in all_of_them if tensor.numel()}
    shift = min(storages) - min(starts)
    if {storage - shift for storage in storages} != starts:  # some are not here: nobody knows which is the first
        return {}
    return {name: tensor.data_ptr() - shift for name, tensor in tensors.items()}


def _storage_starts(path: Path) -> set[int]:
    if not zipfile.is_zipfile(path):
        return set()
    starts = set()
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for entry in archive.infolist():
            if re.search(r"(?:^|/)data/\d+$", entry.filename) and entry.file_size:
                file.seek(entry.header_offset + 26)  # of the entry's own header: lengths of its name and its extra
                lengths = file.read(4)
                extra = int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
                starts.add(entry.header_offset + 30 + extra)
    return starts


def _piece(path: Path, tensor: Tensor, start: int | None) -> Piece:
    if start is None:
        return Held(tensor)
    return Stored(path, start, tuple(tensor.shape), tensor.dtype, lambda: tensor)
