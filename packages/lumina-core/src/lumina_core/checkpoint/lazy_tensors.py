"""Lazy tensors, whose values are read on demand, models with lazy weights, and the comparison of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lumina_core.errors import CheckpointError, suggest


class LazyTensor(Protocol):
    """A tensor whose values are read on demand."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def copy_to(self, target: Tensor) -> None:
        """Copy the values to a CPU tensor of the same shape, of any dtype and strides."""
        ...

    def load(self) -> Tensor:
        """Return the values: a view of the file or of memory if possible, else a copy. Do not change them in place."""
        ...

    def slice_rows(self, start: int, stop: int) -> LazyTensor:
        """Return the rows start to stop - 1 of the first dimension, unread."""
        ...


Weights = Mapping[str, LazyTensor]
"""Lazy tensors by name."""


def num_bytes(tensor: LazyTensor) -> int:
    """Return the number of bytes of the stored values."""
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def read_tensor(tensor: LazyTensor, dtype: torch.dtype | None = None) -> Tensor:
    """Read the values to new memory, converted to `dtype` (None: as stored)."""
    target = torch.empty(tensor.shape, dtype=dtype or tensor.dtype)
    tensor.copy_to(target)
    return target


def open_prefix(tensors: Weights, prefix: str) -> dict[str, LazyTensor]:
    """Return the tensors whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


CHECKED_VALUES = 1 << 20
"""Values that are checked for NaN at once."""


def check_finite(value: Tensor, name: str, source: str) -> None:
    """Check that a weight holds no NaN and no Inf, by one pass over its values.

    Raises:
        CheckpointError: it does. Results of such weights may look plausible: attention ignores a NaN, for example.
    """
    if not value.dtype.is_floating_point or value.is_meta:
        return
    # a sum is the fastest pass, and NaN and Inf stay in it; if it is not finite, every value is looked at. In parts,
    # since the conversion to float32 would double the memory of a weight
    parts = value.flatten().split(CHECKED_VALUES)
    is_finite = all(
        bool(torch.isfinite(part.float().sum())) or bool(torch.isfinite(part.float()).all()) for part in parts
    )
    if not is_finite:
        raise CheckpointError(
            f"{source}: the weight {name} holds NaN or Inf, expected finite numbers. The training failed, or the file "
            "is damaged: use another checkpoint, or download it again."
        )


@dataclass(frozen=True)
class InMemoryTensor:
    """A tensor in memory."""

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
        return type(self)(self.value[start:stop])


@dataclass(frozen=True)
class ConcatTensor:
    """The concatenation of lazy tensors along a dimension."""

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
            rows = tensor.shape[0]
            if (start, stop) == (offset, offset + rows):
                return tensor
            if offset <= start and stop <= offset + rows:
                return tensor.slice_rows(start - offset, stop - offset)
            offset += rows
        return TransformedTensor(self, (stop - start, *self.shape[1:]), lambda full: full[start:stop])


@dataclass(frozen=True)
class TransformedTensor:
    """A lazy tensor with a function applied to its values; the function returns new values of `shape`."""

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
        return TransformedTensor(self, (stop - start, *self.shape[1:]), lambda full: full[start:stop])


@dataclass(frozen=True)
class CastTensor:
    """A lazy tensor in another dtype; its values are rounded to it before any further conversion."""

    source: LazyTensor
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def copy_to(self, target: Tensor) -> None:
        if target.dtype == self.dtype:
            self.source.copy_to(target)
        else:
            target.copy_(self.load())

    def load(self) -> Tensor:
        return read_tensor(self)

    def slice_rows(self, start: int, stop: int) -> CastTensor:
        return CastTensor(self.source.slice_rows(start, stop), self.dtype)


def cast_weights(weights: Weights, dtype: torch.dtype | None) -> Weights:
    """Cast floating tensors to `dtype`, lazily; None: no cast."""
    if dtype is None:
        return weights
    return {
        name: CastTensor(tensor, dtype) if tensor.dtype.is_floating_point and tensor.dtype != dtype else tensor
        for name, tensor in weights.items()
    }


WRAPPER_PREFIXES = (
    "_orig_mod.", "module.", "model.diffusion_model.", "diffusion_model.", "_fsdp_wrapped_module.", "ema_model.",
    "state_dict.", "model.",
)  # fmt: skip
"""What torch.compile, data parallel training and other programs put before every name."""


def strip_wrappers(weights: Weights) -> tuple[Weights, str]:
    """Return weights without the prefix that wrappers of a training put before every name, and this prefix."""
    taken_off = ""
    while weights:
        prefix = next((p for p in WRAPPER_PREFIXES if all(name.startswith(p) for name in weights)), "")
        if not prefix:
            break
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
        taken_off += prefix
    return weights, taken_off


def prefix_note(prefix: str) -> tuple[str, ...]:
    """Return the remark about a prefix that was taken off; empty without one."""
    return (f"the prefix '{prefix}' was taken off all names of tensors",) if prefix else ()


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A model in a foreign folder, before anything is built or read.

    Attributes:
        recipe: plain data of a recipe; pretrained files are named by `source` and `tokenizer`.
        weights: lazy tensors under the names of this project.
        extra_tensors: tensors that a model of this project does not use, under their foreign names. They are saved
            with a converted model, so that it can be converted back.
        source_metadata: plain data that the format needs to convert the model back.
        dtype: dtype of the weights according to the folder's settings; None: not stated.
        notes: remarks for the user, one line each.
    """

    recipe: Mapping[str, Any]
    weights: Weights
    extra_tensors: Weights = field(default_factory=dict)
    source_metadata: Mapping[str, Any] = field(default_factory=dict)
    dtype: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExportPlan:
    """The content of a model folder, before it is written.

    Attributes:
        weights: tensors by the path of their file in the folder, without `.safetensors`.
        files: contents of other files by path.
        folders: folders to copy, by their new path.
        single_file: whether weights are never split into shards.
        notes: remarks for the user, one line each.
    """

    weights: Mapping[str, Weights]
    files: Mapping[str, bytes]
    folders: Mapping[str, Path] = field(default_factory=dict)
    single_file: bool = False
    notes: tuple[str, ...] = ()


@contextmanager
def init_empty_weights() -> Iterator[None]:
    """Build modules on the meta device without initial values: for shapes, or for weights that are assigned later."""
    with torch.device("meta"), _SkipInit():
        yield


class _SkipInit(TorchFunctionMode):
    """Skip the functions of torch.nn.init: on the meta device they import torch's compiler, which takes seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        keywords = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return keywords["tensor"] if "tensor" in keywords else args[0]
        return func(*args, **keywords)


MAX_LISTED = 3
"""Names per problem that a message lists."""
Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of tensors by name."""


class HasShape(Protocol):
    """A tensor, or a lazy tensor."""

    @property
    def shape(self) -> tuple[int, ...]: ...


def describe_mismatch(
    actual: Mapping[str, HasShape], expected: Mapping[str, tuple[int, ...] | None], optional: Collection[str] = ()
) -> str:
    """Describe missing and unexpected tensors and those of another shape.

    Args:
        actual: tensors by name.
        expected: shapes by name; None accepts every shape.
        optional: names that may be missing.

    Returns:
        The three problems, separated by semicolons, with up to `MAX_LISTED` names each. Empty: the tensors match.
    """
    unexpected = [name for name in actual if name not in expected]
    problems = {
        "missing": [name for name in expected if name not in actual and name not in optional],
        "unexpected": [f"{name}{suggest(name, expected)}" for name in unexpected[:MAX_LISTED]]
        + unexpected[MAX_LISTED:],
        "other shape": [
            f"{name} is {tuple(actual[name].shape)}, expected {shape}"
            for name, shape in expected.items()
            if name in actual and shape is not None and tuple(actual[name].shape) != shape
        ],
    }
    return "; ".join(f"{problem}: {_listed(names)}" for problem, names in problems.items() if names)


def check_tensors(
    actual: Mapping[str, HasShape], expected: Shapes, component: str, where: str, optional: Collection[str] = ()
) -> None:
    """Check names and shapes of the tensors of one component.

    Args:
        component: name of the component, for the message ("autoencoder").
        where: file or folder of the tensors, for the message.

    Raises:
        CheckpointError: tensors are missing, unexpected or of another shape; the message names them.
    """
    mismatch = describe_mismatch(actual, expected, optional)
    if mismatch:
        raise CheckpointError(
            f"{where}: got tensors that do not match the config of the {component} ({mismatch}). "
            "Get weights and config of the same model."
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
