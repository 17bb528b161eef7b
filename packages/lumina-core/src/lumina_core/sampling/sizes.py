"""How much larger than trained a request is: a note where it is much, a refusal where it is absurd or cannot be."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.model import Model
from lumina_core.request import Request
from lumina_core.sampling.inpainting import round_up_size
from lumina_core.sampling.resolve import empty_tokens
from lumina_core.types import Size, Tokens, stack_tokens


@dataclass(frozen=True)
class BatchSizes:
    """Of the results of a batch, one after another.

    Attributes:
        asked: sizes of the data that is handed back.
        filled: sizes that the model makes, each at least those asked for; the rest is cut off.
    """

    requested: tuple[Size, ...]
    padded: tuple[Size, ...]

    @property
    def uniform(self) -> bool:
        """Whether all are made in one size."""
        return len(set(self.padded)) == 1

    def empty_tokens(self, model: Model) -> Tokens:
        """Tokens of zeros in the right places, on the CPU; shorter ones are padded at the end, under a mask.

        Raises:
            ConfigError: the model cannot do one of the sizes.
        """
        if self.uniform:
            return empty_tokens(model, self.padded[0], len(self.padded))
        return stack_tokens([empty_tokens(model, size, 1) for size in self.padded])

    def decode_tokens(self, model: Model, tokens: Tokens) -> Tensor:
        """Tokens -> data (B, channels, ...) as large as the largest that was asked for, zeros behind smaller ones."""
        decode, unpatchify = model.autoencoder.decode, model.tokenizer.unpatchify
        if self.uniform:
            return self._crop(decode(unpatchify(tokens)))
        items = tokens.items()
        decoded: dict[int, Tensor] = {}
        for size in dict.fromkeys(self.padded):  # together what is of one size, as its neighbours do not matter
            rows = [row for row, padded_size in enumerate(self.padded) if padded_size == size]
            decoded |= zip(rows, decode(unpatchify(stack_tokens([items[row] for row in rows]))), strict=True)
        return self._crop(_pad_items([decoded[row] for row in range(len(items))]))

    def items(self, data: Tensor) -> list[Tensor]:
        """(B, channels, ...) -> each in its own size."""
        return [_crop_to(item, size) for item, size in zip(data, self.requested, strict=True)]

    def _crop(self, data: Tensor) -> Tensor:
        largest = tuple(max(sides) for sides in zip(*self.requested, strict=True))
        if len(set(self.requested)) == 1:
            return data[(slice(None), slice(None), *map(slice, largest))]
        return _pad_items(self.items(data))


def batch_sizes(model: Model, requests: Sequence[Request], pad_to_valid: bool = False) -> BatchSizes:
    """The sizes of all results, of each request as many as its `count`.

    Args:
        filled_up: make the smallest size that the model can from the one asked for on, also where the task does not
            want that by itself (`fills_up`).
    """
    sizes = [model.generation_task.size(request) for request in requests for _ in range(request.count)]
    if not (pad_to_valid or model.generation_task.pads_to_valid_size):
        return BatchSizes(tuple(sizes), tuple(sizes))
    return BatchSizes(tuple(sizes), tuple(round_up_size(model, size) for size in sizes))


def common_size(sizes: Sequence[Size], what: str) -> Size:
    """The size that all of these are.

    Raises:
        ConfigError: there are several; `what` says what wants one.
    """
    if len(set(sizes)) > 1:
        listed = ", ".join("x".join(map(str, size)) for size in dict.fromkeys(sizes))
        raise ConfigError(f"{what} must be of one size; got {listed}: ask for each size by itself")
    return sizes[0]


def _crop_to(item: Tensor, size: Size) -> Tensor:
    return item[(slice(None), *map(slice, size))]


def _pad_items(items: Sequence[Tensor]) -> Tensor:
    shape = [max(sides) for sides in zip(*(item.shape for item in items), strict=True)]
    batch = items[0].new_zeros(len(items), *shape)
    for row, item in zip(batch, items, strict=True):
        _crop_to(row, tuple(item.shape[1:])).copy_(item)
    return batch


MAX_TOKEN_RATIO = 64
"""Times the tokens of training that are done unless the request allows more: a picture of eight times the side."""
WARN_TOKEN_RATIO = 4
"""Times the tokens of training above which the user is told."""


def check_size(model: Model, request: Request, size: Size) -> None:
    """Refuse what is absurdly larger than the model was trained at. Our own proposal.

    Raises:
        ConfigError: there are more than `request.at_most` times the tokens of training, or this machine's memory is
            certainly too small.
    """
    token_counts = _token_counts(model, size)
    if token_counts is None:
        return
    tokens, train_tokens = token_counts
    max_ratio, needed_bytes, available_bytes = (
        _max_token_ratio(request),
        estimate_memory(model, tokens, size),
        _device_memory(model.device),
    )
    ratio = -(-tokens // train_tokens)
    description = (
        f"{model.task.format_size(size)} is {_format_count(tokens)} tokens, {_format_count(ratio)} times the {train_tokens} of training, "
        f"attention costs their square, and about {_format_bytes(needed_bytes)} of memory would be needed"
    )
    if available_bytes is not None and needed_bytes > available_bytes:
        raise ConfigError(f"{description}, and this machine has {_format_bytes(available_bytes)}: ask for less")
    if tokens > max_ratio * train_tokens:
        raise ConfigError(
            f"{description}; up to {max_ratio} times are done: ask for less, or allow it with max_token_ratio={ratio} "
            f"(--max-token-ratio {ratio})"
        )


def estimate_memory(model: Model, tokens: int, size: Size) -> int:
    """Bytes that one result of a size needs beside the weights, roughly.

    A rule of thumb of ours: 32 numbers of the backbone's width a token (a block's inner values, with guidance twice),
    and 64 for each place of the data, for what an autoencoder holds while it decodes.
    """
    hidden_size = getattr(getattr(model.backbone, "config", None), "hidden_size", 0)
    return 4 * (32 * tokens * hidden_size + 64 * prod(size))


def max_batch_size(model: Model, requests: Sequence[Request], limit: int) -> int:
    """How many of these results, `most` at most, fit into half of the memory together; one in any case."""
    available_bytes = _device_memory(model.device)
    sizes = {model.generation_task.size(request) for request in requests}
    needed_bytes = [
        estimate_memory(model, token_counts[0], size)
        for size in sizes
        if (token_counts := _token_counts(model, size)) is not None
    ]
    if available_bytes is None or not needed_bytes:
        return limit
    return max(1, min(limit, available_bytes // (2 * max(1, *needed_bytes))))


def size_warning(model: Model, request: Request) -> str | None:
    """What the user should know of a size that is much larger than that of training; None: nothing."""
    size = model.generation_task.size(request)
    token_counts = _token_counts(model, size)
    if (
        token_counts is None
        or not WARN_TOKEN_RATIO * token_counts[1] < token_counts[0] <= _max_token_ratio(request) * token_counts[1]
    ):
        return None
    if estimate_memory(model, token_counts[0], size) > (_device_memory(model.device) or math.inf):
        return None  # refused in a moment
    unscaled = request.rope_scaling is None and model.recipe.sampling.rope_scaling is None
    advice = "; positions are not scaled for it: see --rope-scaling, or ask for less" if unscaled else ""
    ratio, needed_text = token_counts[0] / token_counts[1], _format_bytes(estimate_memory(model, token_counts[0], size))
    ratio_text = f"{ratio:.3g}" if ratio < MAX_TOKEN_RATIO else f"{ratio:.0f}"
    memory_text = f", and needs about {needed_text} of memory" if ratio > MAX_TOKEN_RATIO else ""
    return f"{model.task.format_size(size)} is {ratio_text} times the tokens that this model was trained at{memory_text}{advice}"


def _token_counts(model: Model, size: Size) -> tuple[int, int] | None:
    """Tokens asked for and in training; None where nobody says how large those of training were."""
    train_size = model.task.train_size()
    patch_size = model.tokenizer.patch_size
    if train_size is None or patch_size is None:
        return None
    samples_per_token = prod(patch_size) * prod(model.autoencoder.downsample_factor)
    return prod(round_up_size(model, size)) // samples_per_token, max(
        1, prod(round_up_size(model, train_size)) // samples_per_token
    )


def _max_token_ratio(request: Request) -> int:
    return MAX_TOKEN_RATIO if request.max_token_ratio is None else request.max_token_ratio


def _device_memory(device: torch.device) -> int | None:
    """Bytes of memory of a device, used or not; None where nobody says it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system knows the question
        return None


def _format_count(number: int) -> str:
    return f"{number}" if number < 10**6 else f"{number:.2g}"


def _format_bytes(count: int) -> str:
    """To two digits, in the largest unit that fits."""
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if count >= size:
            return f"{count / size:.2g} {unit}" if not 99 <= count / size < 1e6 else f"{count / size:.0f} {unit}"
    return f"{max(1, round(count / 1e6))} MB"
