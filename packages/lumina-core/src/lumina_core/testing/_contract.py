"""Contracts as named clauses: a violated clause is reported with the value that was found."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lumina_core.errors import LuminaError
from lumina_core.protocols import name_of
from lumina_core.types import Tokens

TOLERANCE = 1e-4
"""Allowed rounding error of larger matrix products, relative to the largest number."""


class ContractError(LuminaError):
    """Violation of a clause of a contract; the message holds the clause and the value that was found."""


class ViolationError(Exception):
    """Value that was found; becomes a ContractError of the clause that is being checked."""


class Contract:
    """Contract of a component type, checked on one component.

    Args:
        protocol: base class or protocol that documents the contract: a name in `lumina_core.protocols`, or
            `module:name` of a plugin's.
        component: the component, for messages.
    """

    def __init__(self, protocol: str, component: object) -> None:
        self.protocol = protocol if ":" in protocol or "." in protocol else f"lumina_core.protocols.{protocol}"
        self.component = component

    @contextmanager
    def clause(self, requirement: str) -> Iterator[None]:
        """Check one clause: whatever is raised inside violates it.

        Raises:
            ContractError: the clause is violated.
        """
        try:
            yield
        except ContractError:
            raise
        except ViolationError as error:
            raise ContractError(self._message(requirement, str(error))) from None
        except Exception as error:
            found = f"raised {type(error).__name__}: {' '.join(str(error).split())}"
            raise ContractError(self._message(requirement, found)) from error

    def _message(self, requirement: str, found: str) -> str:
        return f"{name_of(self.component)} violates {self.protocol}: {found}. Clause: {requirement}"


def expect(condition: object, found: str) -> None:
    """Raise ViolationError with the value that was found unless the condition holds."""
    if not condition:
        raise ViolationError(found)


def expect_tensor(tensor: Any, shape: tuple[int | None, ...], what: str, dtype: torch.dtype | None = None) -> None:
    """Raise ViolationError unless it is a tensor of this shape (None: any size) and dtype, with finite numbers."""
    expect(isinstance(tensor, Tensor), f"{what} is {type(tensor).__name__}, not a tensor")
    fits = tensor.ndim == len(shape) and all(n in (None, s) for n, s in zip(shape, tensor.shape, strict=True))
    expected = ", ".join("any" if size is None else str(size) for size in shape)
    expect(fits, f"{what} has the shape {tuple(tensor.shape)} instead of ({expected})")
    expect(dtype in (None, tensor.dtype), f"{what} is {tensor.dtype} instead of {dtype}")
    count = int((~torch.isfinite(tensor)).sum())
    expect(count == 0, f"{what} has {count} of {tensor.numel()} values that are NaN or infinite")


def expect_equal(got: Tensor, expected: Tensor, what: str) -> None:
    """Raise ViolationError unless both are bitwise equal; the message holds the first difference."""
    expect_tensor(got, tuple(expected.shape), what, expected.dtype)
    if not torch.equal(got, expected):
        index = tuple((got != expected).nonzero()[0].tolist())
        raise ViolationError(
            f"{what} differs in {int((got != expected).sum())} of {expected.numel()} numbers, first at {index}: "
            f"{got[index].item()} instead of {expected[index].item()}"
        )


def expect_close(got: Tensor, expected: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    """Raise ViolationError if they differ by more than `tolerance` times the largest number (at least 1)."""
    expect_tensor(got, tuple(expected.shape), what)
    if expected.numel() == 0:
        return
    error = float((got.detach().double() - expected.detach().double()).abs().max())
    bound = tolerance * max(1.0, float(expected.detach().abs().max()))
    expect(error <= bound, f"{what} differs by {error:.3g}, more than rounding explains ({bound:.1g})")


def expect_equal_nested(got: Any, expected: Any, what: str) -> None:
    """Raise ViolationError unless two examples, conditions or values are equal, tensors bitwise."""
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
def expect_unchanged(**tensors: Tensor) -> Iterator[None]:
    """Raise ViolationError if a tensor, an argument of what runs inside, is modified."""
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    yield
    for name, copy in copies.items():
        expect_equal(tensors[name], copy, f"the argument {name}")


@contextmanager
def reseed_globals(seed: int) -> Iterator[None]:
    """Seed the global random number generators (Python, NumPy, torch) inside, and restore them afterwards.

    Raises:
        ViolationError: something drew from them.
    """
    before = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.random.manual_seed(seed)
        start = _rng_states()
        yield
        changed = [name for name, state in _rng_states().items() if state != start[name]]
        expect(not changed, f"draws from the global random numbers of {', '.join(changed)}")
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
    """Return standard normal numbers, the same on each call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    """Return one generator per item, as in training."""
    return [torch.Generator().manual_seed(seed + item) for item in range(count)]
