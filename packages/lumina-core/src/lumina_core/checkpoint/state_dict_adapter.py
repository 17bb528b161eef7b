"""Adapters between published checkpoints and native models: config and tensors, in both directions.

A network of a foreign checkpoint is described once, by a key map. The map renames, joins and splits tensors in both
directions, without reading them. A `CheckpointFormat` uses one adapter per network of its folders.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

import torch
from torch import Tensor

from lumina_core.checkpoint.lazy_tensors import (
    ConcatTensor,
    InMemoryTensor,
    LazyTensor,
    Shapes,
    TransformedTensor,
    Weights,
    check_tensors,
    num_bytes,
    read_tensor,
)
from lumina_core.config import ConfigT
from lumina_core.errors import CheckpointError, ConfigError

COMPARE_BYTES = 1 << 20
"""Bytes of two tensors that are compared at a time."""


class Transform:
    """Change of a tensor between the layouts. This base class changes nothing."""

    def to_native(self, tensors: Sequence[LazyTensor]) -> LazyTensor:
        """Convert the foreign tensors of a row to the native one, unread."""
        (tensor,) = tensors
        return tensor

    def to_foreign(self, tensor: LazyTensor) -> Sequence[LazyTensor]:
        """Convert the native tensor of a row to the foreign ones, unread: the inverse of `to_native`."""
        return [tensor]


@dataclass(frozen=True)
class Concat(Transform):
    """Concatenation of foreign matrices along their rows; `shares` are their numbers of rows up to a factor."""

    shares: Sequence[int]

    def to_native(self, tensors: Sequence[LazyTensor]) -> LazyTensor:
        return ConcatTensor(tensors)

    def to_foreign(self, tensor: LazyTensor) -> Sequence[LazyTensor]:
        unit = tensor.shape[0] // sum(self.shares)
        stops = [unit * sum(self.shares[: index + 1]) for index in range(len(self.shares))]
        return [tensor.slice_rows(stop - unit * share, stop) for stop, share in zip(stops, self.shares, strict=True)]


@dataclass(frozen=True)
class Reorder(Transform):
    """Other order of the numbers of a tensor: one function for each direction."""

    native_order: Callable[[Tensor], Tensor]
    foreign_order: Callable[[Tensor], Tensor]

    def to_native(self, tensors: Sequence[LazyTensor]) -> LazyTensor:
        (tensor,) = tensors
        return TransformedTensor(tensor, tensor.shape, self.native_order)

    def to_foreign(self, tensor: LazyTensor) -> Sequence[LazyTensor]:
        return [TransformedTensor(tensor, tensor.shape, self.foreign_order)]


@dataclass(frozen=True)
class KeyRow:
    """Row of a key map: the foreign names of one native tensor.

    In a name `{}` stands for a number and `*` for any end; both are copied to the other name in their order.

    Attributes:
        foreign: for each foreign tensor its name, or several names if the layout stores the tensor more than once.
        native: the native name.
        transform: change of the numbers.
    """

    foreign: str | Sequence[str | Sequence[str]]
    native: str
    transform: Transform = field(default_factory=Transform)

    @property
    def sources(self) -> tuple[tuple[str, ...], ...]:
        """Return the foreign names, as one tuple of equal tensors per foreign tensor."""
        names = (self.foreign,) if isinstance(self.foreign, str) else self.foreign
        return tuple((name,) if isinstance(name, str) else tuple(name) for name in names)


class KeyMap:
    """Rows that map the tensors of a foreign layout to native ones and back; the first row that matches counts."""

    def __init__(self, rows: Sequence[KeyRow]) -> None:
        self.rows = tuple(rows)
        self._by_native = [(_pattern(row.native), row) for row in rows]
        self._by_foreign = [(_pattern(name), row.native) for row in rows for names in row.sources for name in names]

    def native_name(self, foreign_name: str) -> str:
        """Return the native name of a foreign tensor.

        Raises:
            CheckpointError: no row has this name.
        """
        for pattern, native in self._by_foreign:
            if match := pattern.fullmatch(foreign_name):
                return _fill(native, match.groups())
        raise CheckpointError(f"tensor '{foreign_name}': got an unknown name, expected one of this checkpoint format.")

    def foreign_names(self, native_name: str) -> tuple[tuple[str, ...], ...]:
        """Return the foreign names of a native tensor: one tuple of equal tensors per foreign tensor.

        Raises:
            CheckpointError: no row has this name.
        """
        return self._find(native_name)[1]

    def to_native(self, weights: Weights) -> dict[str, LazyTensor]:
        """Map foreign tensors to native ones, unread.

        Raises:
            CheckpointError: a name is unknown, or one of several tensors of a row is missing.
        """
        found: dict[str, dict[str, LazyTensor]] = {}
        for name, tensor in weights.items():
            found.setdefault(self.native_name(name), {})[name] = tensor
        return {name: self._join(name, tensors) for name, tensors in found.items()}

    def to_foreign(self, weights: Weights) -> dict[str, LazyTensor]:
        """Map native tensors to foreign ones, unread: the inverse of `to_native`.

        Raises:
            CheckpointError: a tensor has no name in the foreign layout.
        """
        result: dict[str, LazyTensor] = {}
        for native_name, tensor in weights.items():
            row, sources = self._find(native_name)
            for names, part in zip(sources, row.transform.to_foreign(tensor), strict=True):
                result |= dict.fromkeys(names, part)
        return result

    def _find(self, native_name: str) -> tuple[KeyRow, tuple[tuple[str, ...], ...]]:
        for pattern, row in self._by_native:
            if match := pattern.fullmatch(native_name):
                return row, tuple(tuple(_fill(name, match.groups()) for name in names) for names in row.sources)
        raise CheckpointError(
            f"tensor '{native_name}': got no name in this checkpoint format, expected a known tensor."
        )

    def _join(self, native_name: str, found: Weights) -> LazyTensor:
        row, sources = self._find(native_name)
        tensors: list[LazyTensor] = []
        for names in sources:
            present = [name for name in names if name in found]
            if not present:
                raise CheckpointError(
                    f"tensor '{native_name}': got {', '.join(found)} without {names[0]}, expected both. "
                    "Get the weights again."
                )
            tensor = found[present[0]]
            tensors.append(DuplicatedTensor(present, tensor, found[present[1]]) if len(present) > 1 else tensor)
        return row.transform.to_native(tensors)


def rename_tensors(weights: Weights, names: Mapping[str, str]) -> dict[str, LazyTensor]:
    """Rename tensors by a table of patterns (see `KeyRow`); names without a row stay."""
    patterns = [(_pattern(old), new) for old, new in names.items()]

    def renamed(name: str) -> str:
        for pattern, new in patterns:
            if match := pattern.fullmatch(name):
                return _fill(new, match.groups())
        return name

    return {renamed(name): tensor for name, tensor in weights.items()}


class StateDictAdapter(ABC, Generic[ConfigT]):
    """Base class of adapters of one network: its published config and tensors, and the native ones.

    Attributes:
        component: name of the network in messages.
        optional: foreign tensors that a checkpoint may lack.
    """

    component: str = "network"
    optional: Collection[str] = ()

    @abstractmethod
    def config_from(self, settings: Mapping[str, Any], where: str) -> ConfigT:
        """Read the config of the network from published settings.

        Raises:
            CheckpointError: the settings are not those of this network; the message names `where`.
        """

    @abstractmethod
    def config_to(self, config: ConfigT) -> dict[str, Any]:
        """Return the published settings of a config: the inverse of `config_from`."""

    @abstractmethod
    def key_map(self, config: ConfigT) -> KeyMap:
        """Return the key map of the network."""

    @abstractmethod
    def native_shapes(self, config: ConfigT) -> Shapes:
        """Return the shapes of the native tensors by name, and of foreign ones that have no native counterpart."""

    def foreign_shapes(self, config: ConfigT) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the foreign tensors by name."""
        meta = torch.device("meta")
        native = {
            name: InMemoryTensor(torch.empty(shape, device=meta)) for name, shape in self.native_shapes(config).items()
        }
        return {name: tensor.shape for name, tensor in self.key_map(config).to_foreign(native).items()}

    def from_foreign(self, weights: Weights, config: ConfigT, where: str) -> dict[str, LazyTensor]:
        """Map foreign tensors to native ones, unread, after a check of names and shapes.

        Args:
            where: file or folder of the weights, for messages.

        Raises:
            CheckpointError: tensors are missing, unexpected or of another shape.
        """
        check_tensors(weights, self.foreign_shapes(config), self.component, where, self.optional)
        return self.key_map(config).to_native(weights)

    def to_foreign(self, weights: Weights, config: ConfigT) -> dict[str, LazyTensor]:
        """Map native tensors to foreign ones, unread.

        Raises:
            CheckpointError: a tensor has no name in the foreign layout.
        """
        return self.key_map(config).to_foreign(weights)


def read_config(config_type: type[ConfigT], settings: Mapping[str, Any], where: str) -> ConfigT:
    """Read a config from published settings.

    Raises:
        CheckpointError: a field is missing, unknown or out of range; the message names `where`.
    """
    try:
        return config_type.read(dict(settings), where)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def check_supported(actual: Mapping[str, Any], expected: Mapping[str, Any], format_name: str) -> None:
    """Check that the options of a native model have the values that a checkpoint format can represent.

    Args:
        actual: values by the name of the option.
        expected: the only supported values.
        format_name: the checkpoint format, for the message.

    Raises:
        CheckpointError: an option has another value; the message names the first one.
    """
    for name, value in expected.items():
        if actual[name] != value:
            raise CheckpointError(
                f"{name}: got {actual[name]}, expected {value}: the format {format_name} has no other. "
                "Convert to another checkpoint format."
            )


@dataclass(frozen=True)
class DuplicatedTensor:
    """A tensor that the foreign layout stores twice; both copies are compared when it is read.

    Attributes:
        names: foreign names of the two copies.
    """

    names: Sequence[str]
    first: LazyTensor
    second: LazyTensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.first.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.first.dtype

    def copy_to(self, target: Tensor) -> None:
        self.first.copy_to(target)
        rows = self.shape[0]
        step = max(1, COMPARE_BYTES * rows // max(1, num_bytes(self)))
        for start in range(0, rows, step):  # piecewise: the second copy is never completely in memory
            stop = min(start + step, rows)
            first = target[start:stop] if target.dtype == self.dtype else self._read(self.first, start, stop)
            if not torch.equal(first, self._read(self.second, start, stop)):
                raise CheckpointError(
                    f"{self.names[0]} and {self.names[1]}: got different values, expected two copies of one tensor. "
                    "A native model has one tensor for both; get weights that were not changed."
                )

    def load(self) -> Tensor:
        return read_tensor(self)

    def slice_rows(self, start: int, stop: int) -> LazyTensor:
        return TransformedTensor(self, (stop - start, *self.shape[1:]), lambda full: full[start:stop])

    @staticmethod
    def _read(tensor: LazyTensor, start: int, stop: int) -> Tensor:
        return read_tensor(tensor.slice_rows(start, stop))


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(r"\{\}", r"(\d+)").replace(r"\*", "(.+)"))


def _fill(name: str, values: Sequence[str]) -> str:
    pieces = re.split(r"(\{\}|\*)", name)
    remaining = iter(values)
    return "".join(next(remaining) if piece in ("{}", "*") else piece for piece in pieces)


TIME_AND_CONTEXT_ROWS = (
    KeyRow("t_embedder.mlp.0.*", "backbone.time_embed.inner.*"),
    KeyRow("t_embedder.mlp.2.*", "backbone.time_embed.outer.*"),
    KeyRow("cap_embedder.0.*", "backbone.pooled_embed.norm.*"),
    KeyRow("cap_embedder.1.*", "backbone.pooled_embed.linear.*"),
    KeyRow("final_layer.adaLN_modulation.1.*", "head.modulation.*"),
)
"""Tensors outside the blocks that all published Lumina networks share."""


def block_rows(blocks: str, num_heads: int, num_kv_heads: int) -> list[KeyRow]:
    """Return the rows of a transformer block that all published Lumina networks share.

    Args:
        blocks: foreign name of the list of blocks ("layers").
    """
    native = "backbone.blocks.{}"
    foreign = blocks + ".{}"
    qkv = [f"{foreign}.attention.{name}.weight" for name in ("wq", "wk", "wv")]
    context_kv = [f"{foreign}.attention.{name}.weight" for name in ("wk_y", "wv_y")]
    up = [f"{foreign}.feed_forward.{name}.weight" for name in ("w1", "w3")]
    renamed = {
        "attention_y_norm.*": "context_norm.*",
        "adaLN_modulation.1.*": "modulation.*",
        "attention.wo.*": "attention.out.*",
        "attention.q_norm.*": "attention.q_norm.*",
        "attention.k_norm.*": "attention.k_norm.*",
        "attention.ky_norm.*": "attention.context_k_norm.*",
        "attention.gate": "attention.gate",
        "feed_forward.w2.*": "feed_forward.out.*",
    }
    return [
        KeyRow(qkv, f"{native}.attention.qkv.weight", Concat((num_heads, num_kv_heads, num_kv_heads))),
        KeyRow(context_kv, f"{native}.attention.context_kv.weight", Concat((1, 1))),
        KeyRow(up, f"{native}.feed_forward.up.weight", Concat((1, 1))),
        *(KeyRow(f"{foreign}.{theirs}", f"{native}.{ours}") for theirs, ours in renamed.items()),
    ]
