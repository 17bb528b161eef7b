"""Data structures passed between components: frozen dataclasses of tensors.

Symbols: B batch, N tokens, D numbers per token, C width, M context entries, R regions.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, overload

from lumina_core.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lumina_core.protocols import GenerationTask

Size = tuple[int, ...]
"""Sizes that are needed to turn tokens back into a latent, for example (rows, columns) of latent pixels."""


def is_tensor(value: object) -> TypeGuard[Tensor]:
    """Return whether a value is a tensor, without importing torch: a value is none before that."""
    return "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor)


def check_shape(tensor: Tensor, expected: Sequence[int | None], name: str) -> None:
    """Raise ShapeError unless a tensor has the expected shape; None stands for any size."""
    matches = tensor.ndim == len(expected) and all(e in (None, s) for e, s in zip(expected, tensor.shape, strict=True))
    if not matches:
        shape = ", ".join("any" if e is None else str(e) for e in expected)
        raise ShapeError(f"{name}: got the shape {tuple(tensor.shape)}, expected ({shape})")


@dataclass(frozen=True)
class Tokens:
    """A batch of token sequences.

    Attributes:
        values: (B, N, D); zero where the mask is False.
        positions: (B, N, 3 or more) float, in token units of the training resolution; axis 0 is time, view or x.
            Numbers beyond the third are further coordinates, which some position encodings read, see
            `Condition.token_positions`.
        sizes: for each of the B items the sizes that are needed to turn it back into a latent.
        mask: (B, N) bool, True for real tokens; None if all tokens are real: then no mask is made anywhere.
    """

    values: Tensor
    positions: Tensor
    sizes: tuple[Size, ...]
    mask: Tensor | None = None

    def with_values(self, values: Tensor) -> Tokens:
        """Return tokens at the same positions with other values (B, N, D')."""
        return replace(self, values=values)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Tokens:
        """Move all tensors to a device; `dtype` is that of the values."""
        mask = None if self.mask is None else self.mask.to(device)
        return Tokens(self.values.to(device, dtype), self.positions.to(device), self.sizes, mask)

    def select(self, index: Tensor) -> Tokens:
        """Return the items at `index` (B',) int64, in that order."""
        mask = None if self.mask is None else self.mask[index]
        return Tokens(self.values[index], self.positions[index], tuple(self.sizes[i] for i in index.tolist()), mask)

    def items(self) -> list[Tokens]:
        """Return one Tokens of batch size 1 per item, without padding."""
        return [self._item(index) for index in range(len(self.sizes))]

    def mask_or_ones(self) -> Tensor:
        """Return the mask, or a new one that is True everywhere."""
        if self.mask is not None:
            return self.mask
        import torch

        return torch.ones(self.values.shape[:2], dtype=torch.bool, device=self.values.device)

    def _item(self, index: int) -> Tokens:
        rows = slice(index, index + 1)
        length = self.values.shape[1] if self.mask is None else int(self.mask[index].sum())
        return Tokens(self.values[rows, :length], self.positions[rows, :length], (self.sizes[index],))


def stack_tokens(items: Sequence[Tokens]) -> Tokens:
    """Concatenate batches; shorter ones are padded with zeros at the end and masked.

    No mask is made if all have the same length and none had a mask.
    """
    import torch

    length = max(item.values.shape[1] for item in items)
    values = torch.cat([pad_to_length(item.values, length) for item in items])
    positions = torch.cat([pad_to_length(item.positions, length) for item in items])
    sizes = tuple(size for item in items for size in item.sizes)
    if all(item.mask is None and item.values.shape[1] == length for item in items):
        return Tokens(values, positions, sizes)
    return Tokens(values, positions, sizes, torch.cat([pad_to_length(item.mask_or_ones(), length) for item in items]))


def pad_to_length(tensor: Tensor, length: int) -> Tensor:
    """Pad (B, N, ...) with zeros at the end to (B, length, ...)."""
    missing = length - tensor.shape[1]
    if missing == 0:
        return tensor
    import torch

    return torch.cat([tensor, tensor.new_zeros(tensor.shape[0], missing, *tensor.shape[2:])], dim=1)


@dataclass(frozen=True)
class Condition:
    """Conditions of a batch; each field is one input of the backbone, or None.

    Attributes:
        context: (B, M, C') read by cross-attention (text).
        context_mask: (B, M) bool, True for real entries; None if all are real.
        pooled: (B, P) modulates every block (class, pooled text).
        reference: clean tokens that share the self-attention and are not denoised (reference images, input views).
        region_weights: (B, R, N) float; the context is then that of R regions, M / R entries each, and this is the
            weight of each region's cross-attention at each token. None: one context for all tokens.
        token_condition: (B, N, K) added to the token embeddings by a zero-initialized projection (camera rays, control
            signals, flags of known tokens); zeros are the same as None.
        reference_condition: (B, R, K) the token condition of the reference tokens; zeros are the same as None.
        token_positions: (B, N, 3 or more) float32, of any dtype of the model: the first three numbers are added to the
            positions of the tokens, the others are further coordinates (the camera of a view), which some position
            encodings read. Reference tokens have theirs in their own positions. Zeros are the same as None.
    """

    context: Tensor | None = None
    context_mask: Tensor | None = None
    pooled: Tensor | None = None
    reference: Tokens | None = None
    region_weights: Tensor | None = None
    token_condition: Tensor | None = None
    reference_condition: Tensor | None = None
    token_positions: Tensor | None = None


@dataclass(frozen=True)
class InitData:
    """Data from which generation begins, for image-to-image and inpainting.

    Attributes:
        data: (channels, ...) in [-1, 1]; of a batch, (1 or B, channels, ...).
        strength: in 0..1, noise with which generation begins; 0 changes nothing.
        keep_mask: (...) or (1 or B, ...) float in 0..1: 1 keeps the data exactly, 0 keeps only what `strength` leaves.
            None: 0 everywhere.
    """

    data: Tensor
    strength: float = 1.0
    keep_mask: Tensor | None = None


@dataclass(frozen=True)
class VariationInput:
    """Data whose inverted noise a variation begins with.

    Attributes:
        data: (channels, ...) in [-1, 1], of the size of the result.
        cond_fields: fields of the request that describe the data, in place of those of the result; inversion runs
            without guidance.
        noise_fraction: in 0..1, share of new noise, sampled from the request's seed; 1 keeps nothing of the data.
    """

    data: Tensor
    cond_fields: Mapping[str, Any]
    noise_fraction: float = 0.0


@dataclass(frozen=True)
class RegionalPrompts:
    """Prompts for regions of one result.

    Attributes:
        conds: for each conditioner the values of R regions.
        weights: (R, ...) float over the data, weight of each region.
        share_pooled: use the pooled condition of the prompt for the unconditional half of guidance too, as published.
    """

    conds: Mapping[str, Sequence[Any]]
    weights: Tensor
    share_pooled: bool = False


@dataclass(frozen=True)
class BackboneOutput:
    """Output of a backbone: hidden_states (B, N, C), and modulation (B, A), None if it is not time-conditioned."""

    hidden_states: Tensor
    modulation: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """A training batch: clean tokens, their condition, and the target of a prediction task (None for generation)."""

    tokens: Tokens
    condition: Condition
    target: Tensor | None = None


@dataclass(frozen=True)
class Loss:
    """`total` is minimized; `terms` are detached scalars to log, by name."""

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class RopeContext:
    """Size of a request compared with training, by which rope scaling changes rotary frequencies.

    Attributes:
        lengths: tokens of the request along the three axes.
        train_lengths: tokens of training along them; None if unknown.
        theta: base of the rotary frequencies.
        head_dim: channels of a head.
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
