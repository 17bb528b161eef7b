"""Pickled `.pth` files of others: opened only here, by torch's restricted unpickler; code in them is never run."""

from __future__ import annotations

import ctypes
import io
import re
import sys
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina_core.checkpoint.lazy_tensors import InMemoryTensor, LazyTensor
from lumina_core.errors import CheckpointError
from lumina_core.io import describe_content

_MADV_DONTNEED = 4
_PLAIN_TYPES = (str, int, float, bool, type(None))


class MappedTensor(InMemoryTensor):
    """A tensor of a memory-mapped file."""

    def copy_to(self, target: Tensor) -> None:
        super().copy_to(target)
        _release_pages(self.value)


def _release_pages(tensor: Tensor) -> None:
    """Release the pages of a mapped tensor, so that those of a large file do not add up in memory.

    They are read again on the next use. torch maps a file as a whole and cannot close the map of one tensor.
    """
    if sys.platform != "linux" or not tensor.is_contiguous():
        return
    begin, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    begin, end = -(-begin // PAGESIZE) * PAGESIZE, end // PAGESIZE * PAGESIZE  # whole pages of this tensor alone
    if begin < end:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_DONTNEED)


def open_torch_pickle(path: Path, key: str | None = None, allowed_stubs: Sequence[str] = ()) -> dict[str, LazyTensor]:
    """Open the tensors of a `.pth` file; no values are read, except from the oldest form, which is no zip file.

    Args:
        key: entry with the tensors, in a file with other content (a step, an optimizer). If there is no such entry,
            the file itself holds the tensors.
        allowed_stubs: full names of classes that the other content may hold. They are not imported: an empty object
            takes the place of each instance, or a dict if the name ends in "dict".

    Raises:
        CheckpointError: the file is missing, truncated, or holds anything but tensors by name.
    """
    content = _load_restricted(path, [(_stub_class(name), name) for name in allowed_stubs])
    state_dict = content.get(key, content) if key is not None and isinstance(content, dict) else content
    if not isinstance(state_dict, dict):
        raise CheckpointError(f"{path}: got {type(state_dict).__name__}, expected a dict of tensors by name.")
    for name, value in state_dict.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise CheckpointError(f"{path}: got {type(value).__name__} under '{name}', expected tensors by name only.")
    tensor_type = MappedTensor if zipfile.is_zipfile(path) else InMemoryTensor
    return {name: tensor_type(tensor) for name, tensor in state_dict.items()}


def read_namespace(path: Path) -> dict[str, Any]:
    """Read the plain values of an argparse.Namespace (or a dict) in a `.pth` file, such as `model_args.pth`.

    Raises:
        CheckpointError: the file is missing, truncated, or holds anything but plain values.
    """
    content = _load_restricted(path, [Namespace])
    values = vars(content) if isinstance(content, Namespace) else content
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: got {type(content).__name__}, expected an argparse.Namespace of plain values.")
    for name, value in values.items():
        if not (isinstance(name, str) and _is_plain(value)):
            raise CheckpointError(f"{path}: '{name}': got {type(value).__name__}, expected strings, numbers and lists.")
    return dict(values)


def namespace_bytes(values: Mapping[str, Any]) -> bytes:
    """Return the content of a `.pth` file with these values in an argparse.Namespace, as published code reads it."""
    buffer = io.BytesIO()
    torch.save(Namespace(**values), buffer)
    return buffer.getvalue()


def _load_restricted(path: Path, allowed: list[Any]) -> Any:
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    content = "" if zipfile.is_zipfile(path) else describe_content(path)
    if content and not content.startswith("a zip archive"):  # torch's own files are zip archives; this one is cut off
        raise CheckpointError(f"{path}: got {content}, expected tensors and plain values.")
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle protocol that torch does not write
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        # torch's message explains how to switch its guard off, so it is not repeated
        global_name = re.search(r"(?:GLOBAL|global|class) `?([\w.]+)`? ", str(error))
        if global_name and "weights_only" in str(error).lower():
            reason = f"code that runs {global_name[1]}"
        else:
            reason = f"a truncated file, or one with code in it ({type(error).__name__})"
        raise CheckpointError(
            f"{path}: got {reason}, expected tensors and plain values. Code in a pickle is never run: get the "
            "weights as .safetensors, or download the file again."
        ) from error


class _StubObject:
    """Stand-in for an object of a class that is not imported; it accepts any arguments and state, and holds none."""

    def __new__(cls, *_: Any) -> _StubObject:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class _StubDict:
    """Stand-in for a subclass of dict: a plain dict, which a pickle may fill."""

    def __new__(cls, *_: Any) -> Any:
        return {}


def _stub_class(name: str) -> type[Any]:
    class_name = name.rpartition(".")[2]
    return type(class_name, (_StubDict if class_name.lower().endswith("dict") else _StubObject,), {})


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, (*value.keys(), *value.values())))
    return type(value) in _PLAIN_TYPES  # an instance of a subclass may hold anything
