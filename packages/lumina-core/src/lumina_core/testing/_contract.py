"""How a check speaks: every line of a contract is tried under its own words, and a broken one says what came."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lumina_core.errors import LuminaError
from lumina_core.types import Tokens

CLOSE = 1e-4
"""Difference, beside the largest number, that larger matrix products may make by rounding."""


class ContractError(LuminaError):
    """A part does not keep a line of its contract; the message says what came, what was wanted and which line."""


class BrokenError(Exception):
    """What came instead; becomes a ContractError under the line that was being tried."""


class Contract:
    """The lines of one kind's contract, tried on one part.

    Args:
        protocol: where the contract stands, for messages: a name in `lumina_core.parts`, or one of a plugin's.
        part: what is tried; named in messages by its class or function.
    """

    def __init__(self, protocol: str, part: object) -> None:
        where = "" if ":" in protocol or "." in protocol else " in lumina_core.parts"
        self.protocol, self.part = f"{protocol}{where}", part

    @contextmanager
    def line(self, said: str) -> Iterator[None]:
        """Try one line of the contract; whatever goes wrong inside breaks it.

        Raises:
            ContractError: it is broken.
        """
        try:
            yield
        except ContractError:
            raise
        except BrokenError as error:
            raise ContractError(self._told(said, str(error))) from None
        except Exception as error:
            came = f"it raised {type(error).__name__}: {' '.join(str(error).split())}"
            raise ContractError(self._told(said, came)) from error

    def _told(self, said: str, came: str) -> str:
        name = getattr(self.part, "__name__", type(self.part).__name__)
        return f"{name} breaks its contract. Came: {came}. Wanted: {said}. Contract: {self.protocol}"


def want(holds: object, came: str) -> None:
    """Raise BrokenError with what came, unless it holds."""
    if not holds:
        raise BrokenError(came)


def want_shape(tensor: Any, shape: tuple[int | None, ...], what: str) -> None:
    """Raise BrokenError unless it is a tensor of this shape; None stands for any size."""
    want(isinstance(tensor, Tensor), f"{what} is {type(tensor).__name__}, no tensor")
    fits = tensor.ndim == len(shape) and all(w in (None, s) for w, s in zip(shape, tensor.shape, strict=True))
    wanted = ", ".join("any" if size is None else str(size) for size in shape)
    want(fits, f"{what} has the shape {tuple(tensor.shape)} instead of ({wanted})")


def want_finite(tensor: Tensor, what: str) -> None:
    """Raise BrokenError where a number is infinite or none."""
    wrong = int((~torch.isfinite(tensor)).sum())
    want(wrong == 0, f"{wrong} of {tensor.numel()} numbers of {what} are infinite or no numbers")


def want_same(came: Tensor, wanted: Tensor, what: str) -> None:
    """Raise BrokenError unless both are equal in type, shape and every bit; the first difference is named."""
    want_shape(came, tuple(wanted.shape), what)
    want(came.dtype == wanted.dtype, f"{what} is {came.dtype} instead of {wanted.dtype}")
    if not torch.equal(came, wanted):
        place = tuple((came != wanted).nonzero()[0].tolist())
        number = int((came != wanted).sum())
        raise BrokenError(
            f"{what} differs in {number} of {wanted.numel()} numbers, first at {place}: "
            f"{came[place].item()} instead of {wanted[place].item()}"
        )


def want_close(came: Tensor, wanted: Tensor, what: str, within: float = CLOSE) -> None:
    """Raise BrokenError where they differ by more than `within` times the largest number (at least 1)."""
    want_shape(came, tuple(wanted.shape), what)
    if wanted.numel() == 0:
        return
    apart = float((came.detach().double() - wanted.detach().double()).abs().max())
    bound = within * max(1.0, float(wanted.detach().abs().max()))
    want(apart <= bound, f"{what} differs by {apart:.3g}, more than rounding explains ({bound:.1g})")


def want_alike(came: Any, wanted: Any, what: str) -> None:
    """Raise BrokenError unless two examples, conditions or values are equal, tensors in every bit."""
    want(type(came) is type(wanted), f"{what} is {type(came).__name__} instead of {type(wanted).__name__}")
    if isinstance(wanted, Tensor):
        want_same(came, wanted, what)
    elif isinstance(wanted, np.ndarray):
        want(np.array_equal(came, wanted), f"{what} is another array")
    elif isinstance(wanted, Mapping):
        want(list(came) == list(wanted), f"{what} has the keys {list(came)} instead of {list(wanted)}")
        for key in wanted:
            want_alike(came[key], wanted[key], f"{what}[{key!r}]")
    elif isinstance(wanted, Tokens):
        want_alike(vars(came), vars(wanted), what)
    else:
        want(came == wanted, f"{what} is {came!r:.80} instead of {wanted!r:.80}")


@contextmanager
def other_chance(seed: int) -> Iterator[None]:
    """Other global random numbers for a while (Python's, NumPy's, torch's); afterwards they are as before.

    Raises:
        BrokenError: something drew from them meanwhile.
    """
    before = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.random.manual_seed(seed)
        begun = _chance()
        yield
        moved = [name for name, state in _chance().items() if state != begun[name]]
        want(not moved, f"it draws from the global random numbers of {', '.join(moved)}")
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.random.set_rng_state(before[2])


def _chance() -> dict[str, object]:
    numpy: Any = np.random.get_state()
    return {
        "random": hash(random.getstate()),
        "numpy.random": (numpy[1].tobytes(), numpy[2]),
        "torch": torch.random.get_rng_state().numpy().tobytes(),
    }


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers that are the same each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    """One generator an item, as training hands them over."""
    return [torch.Generator().manual_seed(seed + item) for item in range(count)]
