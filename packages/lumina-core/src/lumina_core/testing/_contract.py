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

TOLERANCE = 1e-4
"""Difference, beside the largest number, that larger matrix products may make by rounding."""


class ContractError(LuminaError):
    """A part does not keep a line of its contract; the message says what came, what was wanted and which line."""


class ViolationError(Exception):
    """What came instead; becomes a ContractError under the line that was being tried."""


class Contract:
    """The lines of one kind's contract, tried on one part.

    Args:
        protocol: where the contract stands, for messages: a name in `lumina_core.protocols`, or one of a plugin's.
        component: what is tried; named in messages by its class or function.
    """

    def __init__(self, protocol: str, component: object) -> None:
        location = "" if ":" in protocol or "." in protocol else " in lumina_core.protocols"
        self.protocol, self.component = f"{protocol}{location}", component

    @contextmanager
    def clause(self, requirement: str) -> Iterator[None]:
        """Try one line of the contract; whatever goes wrong inside breaks it.

        Raises:
            ContractError: it is broken.
        """
        try:
            yield
        except ContractError:
            raise
        except ViolationError as error:
            raise ContractError(self._message(requirement, str(error))) from None
        except Exception as error:
            got = f"it raised {type(error).__name__}: {' '.join(str(error).split())}"
            raise ContractError(self._message(requirement, got)) from error

    def _message(self, requirement: str, got: str) -> str:
        name = getattr(self.component, "__name__", type(self.component).__name__)
        return f"{name} breaks its contract. Came: {got}. Wanted: {requirement}. Contract: {self.protocol}"


def expect(ok: object, got: str) -> None:
    """Raise ViolationError with what came, unless it holds."""
    if not ok:
        raise ViolationError(got)


def expect_shape(tensor: Any, shape: tuple[int | None, ...], what: str) -> None:
    """Raise ViolationError unless it is a tensor of this shape; None stands for any size."""
    expect(isinstance(tensor, Tensor), f"{what} is {type(tensor).__name__}, no tensor")
    fits = tensor.ndim == len(shape) and all(w in (None, s) for w, s in zip(shape, tensor.shape, strict=True))
    expected = ", ".join("any" if size is None else str(size) for size in shape)
    expect(fits, f"{what} has the shape {tuple(tensor.shape)} instead of ({expected})")


def expect_finite(tensor: Tensor, what: str) -> None:
    """Raise ViolationError where a number is infinite or none."""
    count = int((~torch.isfinite(tensor)).sum())
    expect(count == 0, f"{count} of {tensor.numel()} numbers of {what} are infinite or no numbers")


def expect_equal(got: Tensor, expected: Tensor, what: str) -> None:
    """Raise ViolationError unless both are equal in type, shape and every bit; the first difference is named."""
    expect_shape(got, tuple(expected.shape), what)
    expect(got.dtype == expected.dtype, f"{what} is {got.dtype} instead of {expected.dtype}")
    if not torch.equal(got, expected):
        index = tuple((got != expected).nonzero()[0].tolist())
        count = int((got != expected).sum())
        raise ViolationError(
            f"{what} differs in {count} of {expected.numel()} numbers, first at {index}: "
            f"{got[index].item()} instead of {expected[index].item()}"
        )


def expect_close(got: Tensor, expected: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    """Raise ViolationError where they differ by more than `within` times the largest number (at least 1)."""
    expect_shape(got, tuple(expected.shape), what)
    if expected.numel() == 0:
        return
    error = float((got.detach().double() - expected.detach().double()).abs().max())
    bound = tolerance * max(1.0, float(expected.detach().abs().max()))
    expect(error <= bound, f"{what} differs by {error:.3g}, more than rounding explains ({bound:.1g})")


def expect_equal_nested(got: Any, expected: Any, what: str) -> None:
    """Raise ViolationError unless two examples, conditions or values are equal, tensors in every bit."""
    expect(type(got) is type(expected), f"{what} is {type(got).__name__} instead of {type(expected).__name__}")
    if isinstance(expected, Tensor):
        expect_equal(got, expected, what)
    elif isinstance(expected, np.ndarray):
        expect(np.array_equal(got, expected), f"{what} is another array")
    elif isinstance(expected, Mapping):
        expect(list(got) == list(expected), f"{what} has the keys {list(got)} instead of {list(expected)}")
        for key in expected:
            expect_equal_nested(got[key], expected[key], f"{what}[{key!r}]")
    elif isinstance(expected, Tokens):
        expect_equal_nested(vars(got), vars(expected), what)
    else:
        expect(got == expected, f"{what} is {got!r:.80} instead of {expected!r:.80}")


@contextmanager
def reseed_globals(seed: int) -> Iterator[None]:
    """Other global random numbers for a while (Python's, NumPy's, torch's); afterwards they are as before.

    Raises:
        ViolationError: something drew from them meanwhile.
    """
    before = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.random.manual_seed(seed)
        start_states = _rng_states()
        yield
        changed = [name for name, state in _rng_states().items() if state != start_states[name]]
        expect(not changed, f"it draws from the global random numbers of {', '.join(changed)}")
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.random.set_rng_state(before[2])


def _rng_states() -> dict[str, object]:
    numpy: Any = np.random.get_state()
    return {
        "random": hash(random.getstate()),
        "numpy.random": (numpy[1].tobytes(), numpy[2]),
        "torch": torch.random.get_rng_state().numpy().tobytes(),
    }


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers that are the same each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    """One generator an item, as training hands them over."""
    return [torch.Generator().manual_seed(seed + item) for item in range(count)]
