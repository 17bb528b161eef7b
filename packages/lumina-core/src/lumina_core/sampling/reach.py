"""How much larger than trained a request is: a note where it is much, a refusal where it is absurd."""

from __future__ import annotations

from math import prod

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
        ConfigError: there are more than `request.at_most` times the tokens of training.
    """
    counted = _tokens(model, extent)
    if counted is None:
        return
    tokens, trained = counted
    allowed = _allowed(request)
    if tokens > allowed * trained:
        times = -(-tokens // trained)
        raise ConfigError(
            f"{_sides(extent)} is {tokens} tokens, {times} times the {trained} of training, and attention costs "
            f"their square; up to {allowed} times are done: ask for a smaller size, or allow it with at_most={times} "
            f"(--at-most {times})"
        )


def reach_note(model: Model, request: Request) -> str | None:
    """What the user should know of a size that is much larger than that of training; None: nothing."""
    extent = model.task.extent(request)
    counted = _tokens(model, extent)
    if counted is None or not NOTED * counted[1] < counted[0] <= _allowed(request) * counted[1]:
        return None
    unscaled = request.extrapolation is None and model.recipe.sampling.extrapolation is None
    advice = "; positions are not scaled for it: see --extrapolation, or ask for a smaller size" if unscaled else ""
    return f"{_sides(extent)} is {counted[0] / counted[1]:.3g} times the tokens that this model was trained at{advice}"


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


def _sides(extent: Extent) -> str:
    return "x".join(map(str, extent))
