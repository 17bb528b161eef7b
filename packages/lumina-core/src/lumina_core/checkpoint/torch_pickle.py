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

from lumina_core.checkpoint.lazy_tensors import InMemoryTensor, LazyTensor
from lumina_core.checkpoint.safetensors_io import FileTensor
from lumina_core.errors import CheckpointError

_PLAIN_TYPES = (str, int, float, bool, type(None))


def open_torch_pickle(path: Path, key: str | None = None, allowed_stubs: Sequence[str] = ()) -> dict[str, LazyTensor]:
    """The tensors of a `.pth` file that holds tensors by name, and nothing else.

    Args:
        within: the name under which a file that tells more than weights (its step, say) holds them; where it is not
            there, the file itself is looked at.
        inert: full names of classes that may lie beside them. They are not imported: an empty object stands for each, a
            plain dict for one whose name ends so.

    Raises:
        CheckpointError: the file is missing, cut short, or holds anything else; code in it is never run.
    """
    content = _load_restricted(path, [(_stub_class(name), name) for name in allowed_stubs])
    state_dict = content.get(key, content) if key is not None and isinstance(content, dict) else content
    mismatch = _describe_mismatch(state_dict)
    if mismatch:
        raise CheckpointError(f"{path} holds {mismatch}; wanted tensors by their names and nothing else")
    offsets = _tensor_offsets(path, state_dict, list(_iter_tensors(content)))
    return {str(name): _lazy_tensor(path, tensor, offsets.get(name)) for name, tensor in state_dict.items()}


def list_keys(path: Path, allowed_stubs: Sequence[str] = ()) -> set[str]:
    """The names of what a `.pth` file holds, read as `open_pickled` reads it."""
    content = _load_restricted(path, [(_stub_class(name), name) for name in allowed_stubs])
    return {name for name in content if isinstance(name, str)} if isinstance(content, dict) else set()


def read_namespace(path: Path) -> dict[str, Any]:
    """The plain values of an argparse.Namespace (or a dict) in a `.pth` file, such as `model_args.pth`.

    Raises:
        CheckpointError: the file is missing, cut short, or holds anything but plain values; code in it is never run.
    """
    content = _load_restricted(path, [Namespace])
    values = vars(content) if isinstance(content, Namespace) else content
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}; wanted an argparse.Namespace of plain values")
    invalid = [str(name) for name, value in values.items() if not (isinstance(name, str) and _is_plain(value))]
    if invalid:
        raise CheckpointError(
            f"{path}: the value of '{invalid[0]}' is not plain; wanted words, numbers and lists of them"
        )
    return dict(values)


def namespace_bytes(values: Mapping[str, Any]) -> bytes:
    """The content of a `.pth` file with these values in an argparse.Namespace, as the published code reads it."""
    buffer = io.BytesIO()
    torch.save(Namespace(**values), buffer)
    return buffer.getvalue()


def _load_restricted(path: Path, allowed: list[Any]) -> Any:
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a protocol that torch would not have written; it is refused anyway
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        # torch's own words tell how to switch its guard off, which nobody should do; so they are not repeated
        global_name = re.search(r"(?:GLOBAL|global|class) `?([\w.]+)`? ", str(error))
        if global_name and "weights_only" in str(error).lower():
            raise CheckpointError(
                f"{path} wants to run {global_name[1]}: it has code in it, and only tensors and plain values are read. "
                "Get the weights as .safetensors"
            ) from error
        raise CheckpointError(
            f"{path} is no whole .pth file of tensors and plain values ({type(error).__name__}): it is cut short, or "
            "has code in it, which is never run; fetch it again"
        ) from error


class _StubObject:
    """What stands for an object of a class that is not imported: it takes any arguments and any state, and has none."""

    def __new__(cls, *_: Any) -> _StubObject:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class _StubDict:
    """What stands for a kind of dict: a plain one, which a pickle may then fill."""

    def __new__(cls, *_: Any) -> Any:
        return {}


def _stub_class(name: str) -> type[Any]:
    class_name = name.rpartition(".")[2]
    return type(class_name, (_StubDict if class_name.lower().endswith("dict") else _StubObject,), {})


def _iter_tensors(content: Any) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict | list | tuple):
        for item in content.values() if isinstance(content, dict) else content:
            yield from _iter_tensors(item)


def _describe_mismatch(content: Any) -> str:
    if not isinstance(content, dict):
        return type(content).__name__
    invalid = [name for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    return f"{type(content[invalid[0]]).__name__} under '{invalid[0]}'" if invalid else ""


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, (*value.keys(), *value.values())))
    return type(value) in _PLAIN_TYPES  # a child of a plain type may be anything


def _tensor_offsets(path: Path, state_dict: Mapping[str, Tensor], all_tensors: Sequence[Tensor]) -> dict[str, int]:
    """Where in the file each tensor's numbers begin; nothing where that is not certain.

    torch maps the whole file and cuts its storages from it: addresses in memory differ from places in the file by one
    number, which the first storage tells. Reading from places keeps the map's pages out of memory.
    """
    tensors = {name: tensor for name, tensor in state_dict.items() if tensor.is_contiguous() and tensor.numel()}
    offsets = _storage_offsets(path)
    if not tensors or not offsets:
        return {}
    storages = {tensor.untyped_storage().data_ptr() for tensor in all_tensors if tensor.numel()}
    shift = min(storages) - min(offsets)
    if {storage - shift for storage in storages} != offsets:  # some are not here: nobody knows which is the first
        return {}
    return {name: tensor.data_ptr() - shift for name, tensor in tensors.items()}


def _storage_offsets(path: Path) -> set[int]:
    if not zipfile.is_zipfile(path):
        return set()
    offsets = set()
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for entry in archive.infolist():
            if re.search(r"(?:^|/)data/\d+$", entry.filename) and entry.file_size:
                file.seek(entry.header_offset + 26)  # of the entry's own header: lengths of its name and its extra
                lengths = file.read(4)
                extra = int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
                offsets.add(entry.header_offset + 30 + extra)
    return offsets


def _lazy_tensor(path: Path, tensor: Tensor, start: int | None) -> LazyTensor:
    if start is None:
        return InMemoryTensor(tensor)
    return FileTensor(path, start, tuple(tensor.shape), tensor.dtype, lambda: tensor)
