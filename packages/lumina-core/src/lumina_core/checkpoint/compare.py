"""Comparison of the tensors of a checkpoint with those that a model expects."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from lumina_core.errors import CheckpointError, suggest

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
