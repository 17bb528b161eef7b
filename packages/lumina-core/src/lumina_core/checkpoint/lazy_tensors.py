"""Tensors that are read when they are asked for, and models made of them that are carried from folder to folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class LazyTensor(Protocol):
    """A tensor that has not been read yet; its shape and its format are known."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def copy_to(self, target: Tensor) -> None:
        """Fill a CPU tensor of the same shape, of any format and strides."""
        ...

    def load(self) -> Tensor:
        """The numbers as they are stored: a window on the file where that is possible, else read."""
        ...

    def slice_rows(self, start: int, stop: int) -> LazyTensor:
        """A part of the first dimension."""
        ...


Weights = Mapping[str, LazyTensor]
"""Tensors by name, each read when it is asked for."""


def num_bytes(tensor: LazyTensor) -> int:
    """Bytes of a piece as it is stored."""
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def read_tensor(tensor: LazyTensor, dtype: torch.dtype | None = None) -> Tensor:
    """The numbers in memory of their own, in `dtype` (None: as they are stored)."""
    target = torch.empty(tensor.shape, dtype=dtype or tensor.dtype)
    tensor.copy_to(target)
    return target


@dataclass(frozen=True)
class InMemoryTensor:
    """A tensor that is in memory already."""

    value: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.value.dtype

    def copy_to(self, target: Tensor) -> None:
        target.copy_(self.value)

    def load(self) -> Tensor:
        return self.value

    def slice_rows(self, start: int, stop: int) -> InMemoryTensor:
        return InMemoryTensor(self.value[start:stop])


@dataclass(frozen=True)
class ConcatTensor:
    """Pieces side by side along a dimension."""

    tensors: Sequence[LazyTensor]
    dim: int = 0

    @cached_property
    def shape(self) -> tuple[int, ...]:
        shape = list(self.tensors[0].shape)
        shape[self.dim] = sum(tensor.shape[self.dim] for tensor in self.tensors)
        return tuple(shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensors[0].dtype

    def copy_to(self, target: Tensor) -> None:
        offset = 0
        for tensor in self.tensors:
            tensor.copy_to(target.narrow(self.dim, offset, tensor.shape[self.dim]))
            offset += tensor.shape[self.dim]

    def load(self) -> Tensor:
        return read_tensor(self)

    def slice_rows(self, start: int, stop: int) -> LazyTensor:
        offset = 0
        for tensor in self.tensors if self.dim == 0 else ():
            if offset <= start and stop <= offset + tensor.shape[0]:
                return (
                    tensor
                    if (start, stop) == (offset, offset + tensor.shape[0])
                    else tensor.slice_rows(start - offset, stop - offset)
                )
            offset += tensor.shape[0]
        return TransformedTensor(self, (stop - start, *self.shape[1:]), lambda whole: whole[start:stop])


@dataclass(frozen=True)
class TransformedTensor:
    """Another piece whose numbers are put into another order."""

    source: LazyTensor
    shape: tuple[int, ...]
    transform: Callable[[Tensor], Tensor]

    @property
    def dtype(self) -> torch.dtype:
        return self.source.dtype

    def copy_to(self, target: Tensor) -> None:
        target.copy_(self.load())

    def load(self) -> Tensor:
        return self.transform(read_tensor(self.source))

    def slice_rows(self, start: int, stop: int) -> TransformedTensor:
        return TransformedTensor(
            self.source, (stop - start, *self.shape[1:]), lambda whole: self.transform(whole)[start:stop]
        )


@dataclass(frozen=True)
class CastTensor:
    """Another piece in another number format."""

    source: LazyTensor
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def copy_to(self, target: Tensor) -> None:
        if target.dtype == self.dtype:
            self.source.copy_to(target)
        else:  # by way of this format, which may round
            target.copy_(self.load())

    def load(self) -> Tensor:
        return read_tensor(self)

    def slice_rows(self, start: int, stop: int) -> CastTensor:
        return CastTensor(self.source.slice_rows(start, stop), self.dtype)


def cast_weights(weights: Weights, dtype: torch.dtype | None) -> Weights:
    """Floating pieces in `dtype`, others and None as they are."""
    if dtype is None:
        return weights
    return {
        n: CastTensor(p, dtype) if p.dtype.is_floating_point and p.dtype != dtype else p for n, p in weights.items()
    }


def as_bytes(tensor: Tensor) -> Any:
    """The bytes of a contiguous CPU tensor, as a numpy array that shares its memory."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy()


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A model in a folder of somebody's, before anything is built or read.

    Attributes:
        recipe: plain data, as a recipe is written; what lies outside is named by `source` and `tokenizer`.
        weights: under our names, each read when it is asked for.
        kept: tensors that have no place in a model of ours; kept for the way back, under the foreign names.
        origin: plain data that the layout wants to find again on the way back.
        dtype: what its settings say of the weights' format, where they say something.
        notes: what the user should know of what was found, a line each.
    """

    recipe: Mapping[str, Any]
    weights: Weights
    extra_tensors: Weights = field(default_factory=dict)
    source_metadata: Mapping[str, Any] = field(default_factory=dict)
    dtype: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExportPlan:
    """What a folder shall hold, before it is written.

    Attributes:
        weights: by their file's path in the folder, without `.safetensors`.
        files: contents by path.
        folders: folders that are copied, by the path that they get.
        whole: weights are never cut into shards.
        notes: what the user should know.
    """

    weights: Mapping[str, Weights]
    files: Mapping[str, bytes]
    folders: Mapping[str, Path] = field(default_factory=dict)
    single_file: bool = False
    notes: tuple[str, ...] = ()


@contextmanager
def init_empty_weights() -> Iterator[None]:
    """What is built in here stands on no device, and none of its weights is drawn."""
    with torch.device("meta"), _SkipInit():
        yield


class _SkipInit(TorchFunctionMode):
    """Leaves out every filling of fresh weights, which are about to be replaced.

    Drawing them on the meta device would make torch import its compiler, which takes longer than a picture.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        keywords = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return keywords["tensor"] if "tensor" in keywords else args[0]
        return func(*args, **keywords)
