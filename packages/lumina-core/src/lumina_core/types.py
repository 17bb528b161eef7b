"""What travels: frozen groups of tensors. B batch, N tokens, D numbers a token, W width, M memory length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from lumina_core.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    from lumina_core.protocols import GenerationTask

Size = tuple[int, ...]
"""The sizes needed to go back from tokens to a latent, for example (rows, columns) of latent pixels."""


def check_shape(tensor: Tensor, expected: Sequence[int | None], name: str) -> None:
    """Raise ShapeError unless `tensor` has the shape `wanted`; None stands for any size."""
    matches = tensor.ndim == len(expected) and all(w in (None, s) for w, s in zip(expected, tensor.shape, strict=True))
    if not matches:
        shape = ", ".join("any" if w is None else str(w) for w in expected)
        raise ShapeError(f"{name} has the shape {tuple(tensor.shape)}; wanted ({shape})")


@dataclass(frozen=True)
class Tokens:
    """A batch of token sequences.

    Attributes:
        values: (B, N, D); zero where the mask is False.
        positions: (B, N, 3) float, in token pitches of the training resolution; axis 0 is time, view or x.
        extents: for each of the B items the sizes needed to go back to its latent.
        mask: (B, N) bool, True for a real token; None when every token is real: then no mask is built anywhere.
    """

    values: Tensor
    positions: Tensor
    sizes: tuple[Size, ...]
    mask: Tensor | None = None

    def with_values(self, values: Tensor) -> Tokens:
        """The same places with other values (B, N, D')."""
        return replace(self, values=values)

    def items(self) -> list[Tokens]:
        """One Tokens of batch 1 an item, without its padding."""
        return [self._item(index) for index in range(len(self.sizes))]

    def _item(self, index: int) -> Tokens:
        rows = slice(index, index + 1)
        length = self.values.shape[1] if self.mask is None else int(self.mask[index].sum())
        return Tokens(self.values[rows, :length], self.positions[rows, :length], (self.sizes[index],))


def stack_tokens(items: Sequence[Tokens]) -> Tokens:
    """One batch of several; shorter ones are padded with zeros at the end and masked.

    No mask is made where all have the same length and none had one.
    """
    length = max(item.values.shape[1] for item in items)
    values = torch.cat([_pad(item.values, length) for item in items])
    positions = torch.cat([_pad(item.positions, length) for item in items])
    sizes = tuple(size for item in items for size in item.sizes)
    if all(item.mask is None and item.values.shape[1] == length for item in items):
        return Tokens(values, positions, sizes)
    return Tokens(values, positions, sizes, torch.cat([_pad(_mask_or_ones(item), length) for item in items]))


def _mask_or_ones(item: Tokens) -> Tensor:
    if item.mask is not None:
        return item.mask
    return torch.ones(item.values.shape[:2], dtype=torch.bool, device=item.values.device)


def _pad(tensor: Tensor, length: int) -> Tensor:
    missing = length - tensor.shape[1]
    if missing == 0:
        return tensor
    return torch.cat([tensor, tensor.new_zeros(tensor.shape[0], missing, *tensor.shape[2:])], dim=1)


@dataclass(frozen=True)
class Condition:
    """What the user says, through the three doors of the backbone.

    Attributes:
        memory: (B, M, W') read by cross-attention (text), or None.
        memory_mask: (B, M) bool, True for a real entry; None when all are real.
        summary: (B, S) modulates every block (class, pooled text), or None.
        context: clean tokens that share the self-attention but are not moved, or None.
        shares: (B, R, N) float where a memory is read by regions: it is R memories of M / R entries, one behind the
            other, each read by itself; this says how much each answer counts at each of N tokens. None: one for all.
    """

    context: Tensor | None = None
    context_mask: Tensor | None = None
    pooled: Tensor | None = None
    reference: Tokens | None = None
    region_weights: Tensor | None = None


@dataclass(frozen=True)
class InitData:
    """What a way begins from that is there already, and what of it stays.

    Attributes:
        data: (channels, ...) in [-1, 1]; of a batch, (1 or B, channels, ...).
        strength: of the change, in 0..1: how much noise it begins with; 0 changes nothing.
        kept: (...) or (1 or B, ...) float in 0..1, how much of the data comes back at each place: where it is 1 all,
            exactly; where it is 0 nothing but what `strength` leaves. None: 0 everywhere.
    """

    data: Tensor
    strength: float = 1.0
    keep_mask: Tensor | None = None


@dataclass(frozen=True)
class VariationInput:
    """Data whose noise a result begins from.

    Attributes:
        data: (channels, ...) in [-1, 1], in the size of the result.
        said: fields of the request that say what it is, instead of those of the result; guidance is off.
        fresh: share of new noise, by the request's seed, in 0..1: 0 none, 1 all, so that nothing of the data is left.
    """

    data: Tensor
    cond_fields: Mapping[str, Any]
    noise_fraction: float = 0.0


@dataclass(frozen=True)
class RegionalPrompts:
    """What is said of parts of one result.

    Attributes:
        said: for each conditioner the values of R regions, one after another.
        shares: (R, ...) float over the data's places: how much each region counts there.
        alike: whether what is compared with in guidance has the summary of what is said, as published.
    """

    conds: Mapping[str, Sequence[Any]]
    weights: Tensor
    share_pooled: bool = False


@dataclass(frozen=True)
class BackboneOutput:
    """What the backbone hands to a head: values (B, N, W), and a modulation (B, A), None without time and summary."""

    hidden_states: Tensor
    modulation: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Clean tokens, what was said of them, and what a recogniser should answer (None for generation)."""

    tokens: Tokens
    condition: Condition
    target: Tensor | None = None


@dataclass(frozen=True)
class Loss:
    """`total` is what is minimised; `terms` are detached scalars to log, by name."""

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class RopeContext:
    """How far the places of a request reach beside those of training; rotary frequencies are scaled by it.

    Attributes:
        lengths: tokens of the request along the three axes.
        trained: tokens of training along them; None where nothing says it.
        base: of the rotary frequencies.
        head_width: channels of a head.
    """

    lengths: tuple[float, float, float]
    train_lengths: tuple[float, float, float] | None
    theta: float
    head_dim: int


@dataclass(frozen=True)
class Result:
    """One generated item.

    Attributes:
        data: (channels, ...) in about [-1, 1], float32 on the CPU.
        metadata: the request and the resolved settings; `seed`, `nfe`, `settings` and others.
        task: the task that encodes the data as a file.
    """

    data: Tensor
    metadata: Mapping[str, Any]
    task: GenerationTask

    def encode(self, format: str = "") -> bytes:
        """Encode as the content of a file, the metadata in it.

        Args:
            format: suffix such as ".png"; "" for the task's default.

        Raises:
            ConfigError: the task does not write this format.
        """
        return self.task.encode(self.data, format, self.metadata)

    def save(self, path: str | Path) -> Path:
        """Write a file, atomically, the metadata in it.

        Raises:
            ConfigError: the folder does not exist or is not writable.
        """
        path = Path(path)
        try:
            self.task.save(self.data, path, self.metadata)
        except OSError as error:
            raise ConfigError(f"path: cannot write {path} ({error.strerror or error}). Choose another path.") from error
        return path


@dataclass(frozen=True)
class GenerationOutput(Sequence[Result]):
    """Results of one call of a pipeline, in the order of the requests: a sequence of `Result`.

    Attributes:
        results: one `Result` per item.
        values: the results in the requested output type, one per item.
    """

    results: Sequence[Result]
    values: Sequence[Any]

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Result]: ...
    def __getitem__(self, index: int | slice) -> Result | Sequence[Result]:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)
