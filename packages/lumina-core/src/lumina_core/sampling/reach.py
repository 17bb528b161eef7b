"""How much larger than trained a request is: a note where it is much, a refusal where it is absurd or cannot be."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from lumina_core.errors import ConfigError
from lumina_core.model import Model
from lumina_core.request import Request
from lumina_core.sampling.known import fitting
from lumina_core.types import Extent

AT_MOST = 64
"""Times the tokens of training that are done unless the request allows more: a picture of eight times the side."""
NOTED = 4
"""Times the tokens of training above which the user is told."""


def check_reach(model: Model, request: Request, extent: Extent) -> None:
    """Refuse what is absurdly larger than the model was trained at. Our own proposal.

    Raises:
        ConfigError: there are more than `request.at_most` times the tokens of training, or this machine's memory is
            certainly too small.
    """
    counted = _tokens(model, extent)
    if counted is None:
        return
    tokens, trained = counted
    allowed, needed, there = _allowed(request), memory_needed(model, tokens, extent), _memory_there(model.device)
    times = -(-tokens // trained)
    told = (
        f"{_told(model, extent)} is {_count(tokens)} tokens, {_count(times)} times the {trained} of training, "
        f"attention costs their square, and about {_bytes(needed)} of memory would be needed"
    )
    if there is not None and needed > there:
        raise ConfigError(f"{told}, and this machine has {_bytes(there)}: ask for less")
    if tokens > allowed * trained:
        raise ConfigError(
            f"{told}; up to {allowed} times are done: ask for less, or allow it with at_most={times} "
            f"(--at-most {times})"
        )


def memory_needed(model: Model, tokens: int, extent: Extent) -> int:
    """Bytes that one result of a size needs beside the weights, roughly.

    A rule of thumb of ours: 32 numbers of the backbone's width a token (a block's inner values, with guidance twice),
    and 64 for each place of the data, for what an autoencoder holds while it decodes.
    """
    width = getattr(getattr(model.backbone, "config", None), "width", 0)
    return 4 * (32 * tokens * width + 64 * prod(extent))


def at_once(model: Model, requests: Sequence[Request], most: int) -> int:
    """How many of these results, `most` at most, fit into half of the memory together; one in any case."""
    there = _memory_there(model.device)
    extents = {model.task.extent(request) for request in requests}
    needed = [memory_needed(model, counted[0], e) for e in extents if (counted := _tokens(model, e)) is not None]
    if there is None or not needed:
        return most
    return max(1, min(most, there // (2 * max(1, *needed))))


def reach_note(model: Model, request: Request) -> str | None:
    """What the user should know of a size that is much larger than that of training; None: nothing."""
    extent = model.task.extent(request)
    counted = _tokens(model, extent)
    if counted is None or not NOTED * counted[1] < counted[0] <= _allowed(request) * counted[1]:
        return None
    if memory_needed(model, counted[0], extent) > (_memory_there(model.device) or math.inf):
        return None  # refused in a moment
    unscaled = request.extrapolation is None and model.recipe.sampling.extrapolation is None
    advice = "; positions are not scaled for it: see --extrapolation, or ask for less" if unscaled else ""
    share, needed = counted[0] / counted[1], _bytes(memory_needed(model, counted[0], extent))
    times = f"{share:.3g}" if share < AT_MOST else f"{share:.0f}"
    costly = f", and needs about {needed} of memory" if share > AT_MOST else ""
    return f"{_told(model, extent)} is {times} times the tokens that this model was trained at{costly}{advice}"


def _tokens(model: Model, extent: Extent) -> tuple[int, int] | None:
    """Tokens asked for and in training; None where nobody says how large those of training were."""
    known = getattr(model.task, "trained", None)
    trained = None if known is None else known()
    pitch = getattr(model.tokenizer, "pitch", None)
    if trained is None or pitch is None:
        return None
    area = prod(pitch) * prod(model.autoencoder.stride)
    return prod(fitting(model, extent)) // area, max(1, prod(fitting(model, trained)) // area)


def _allowed(request: Request) -> int:
    return AT_MOST if request.at_most is None else request.at_most


def _told(model: Model, extent: Extent) -> str:
    """A size as its task says it, or its sides."""
    task: Any = model.task
    told: str = task.told(extent) if hasattr(task, "told") else "x".join(map(str, extent))
    return told


def _memory_there(device: torch.device) -> int | None:
    """Bytes of memory of a device, used or not; None where nobody says it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system knows the question
        return None


def _count(number: int) -> str:
    return f"{number}" if number < 10**6 else f"{number:.2g}"


def _bytes(count: int) -> str:
    """To two digits, in the largest unit that fits."""
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if count >= size:
            return f"{count / size:.2g} {unit}" if not 99 <= count / size < 1e6 else f"{count / size:.0f} {unit}"
    return f"{max(1, round(count / 1e6))} MB"
