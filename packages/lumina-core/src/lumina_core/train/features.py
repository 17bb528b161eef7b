"""Frozen features kept by value: what a costly conditioner that is not trained says is computed once a run."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lumina_core.conditions import select, stack
from lumina_core.parts import Conditioner
from lumina_core.train.shelf import Shelf
from lumina_core.types import Condition


class Remembered:
    """A frozen conditioner that remembers what it said of each value (a string, a number, bytes).

    Every distinct value is read alone, whether or not there is room to keep it: its neighbours in a batch would change
    the last bits of matrix products, numbers would then depend on what was met before, and a resumed run would no
    longer repeat itself bit for bit. When the room is full nothing more is kept, rather than the oldest dropped: an
    epoch meets every value about once, and the oldest is the one that comes next.

    Args:
        conditioner: its weights stand still, and the same value always gives the same condition.
        room: bytes that may be kept, on the device where the conditions are made; 0 keeps nothing.
        shelf: where texts are kept on disk as well, for a conditioner that has a `fingerprint`; None: nowhere.
    """

    def __init__(self, conditioner: Conditioner, room: int, shelf: Shelf | None = None) -> None:
        self.conditioner, self.room, self.shelf = conditioner, room, shelf
        self._fingerprint: str = conditioner.fingerprint() if shelf is not None else ""  # type: ignore[attr-defined]
        self.memory_width, self.summary_width = conditioner.memory_width, conditioner.summary_width
        self._kept: dict[Hashable, Condition] = {}
        self._silence: Condition | None = None

    def encode(self, values: Sequence[Any]) -> Condition:
        """One value an item -> the condition of a batch, without gradient."""
        keys = [_key(value) for value in values]
        said = {key: self._said(key, value) for key, value in dict(zip(keys, values, strict=True)).items()}
        return stack([said[key] for key in keys])

    def nothing(self, batch: int) -> Condition:
        """The conditioner's own silence, made once."""
        if self._silence is None:
            self._silence = self._shelved(None, lambda: self.conditioner.nothing(1))
        return select(self._silence, torch.zeros(batch, dtype=torch.int64))

    def _said(self, key: Hashable, value: Any) -> Condition:
        if key in self._kept:
            return self._kept[key]
        condition = self._made(value)
        size = _bytes(condition)
        if size <= self.room and not isinstance(key, _Unknown):
            self._kept[key] = condition
            self.room -= size
        return condition

    def _made(self, value: Any) -> Condition:
        if isinstance(value, str):
            return self._shelved(value, lambda: self.conditioner.encode([value]))
        with torch.no_grad():
            return self.conditioner.encode([value])

    def _shelved(self, text: str | None, make: Callable[[], Condition]) -> Condition:
        """What is on the shelf for a text (None: silence), or what is made now and put there."""
        if self.shelf is None:
            with torch.no_grad():
                return make()
        condition = self.shelf.find(self._fingerprint, text)
        if condition is None:
            with torch.no_grad():
                condition = make()
            self.shelf.keep(self._fingerprint, text, condition)
        return condition


def remembered(
    conditioners: Mapping[str, Conditioner], room: int, shelf: Shelf | None = None
) -> dict[str, Conditioner]:
    """The conditioners of a run, those that are costly and frozen with a memory; they share `room` bytes.

    A conditioner says that it is costly by an attribute `costly = True`, for instance one that reads text with a large
    pretrained network. One that is trained but asks such others (`exchanged`) asks them through their memories. The
    rest are asked as ever: for a cheap one, reading a whole batch at once is the faster way.
    """
    worth: list[Conditioner] = []

    def counted(one: Conditioner) -> Conditioner:
        worth.append(one)
        return one

    for conditioner in conditioners.values():
        _through(conditioner, counted)
    return {
        name: _through(c, lambda one: Remembered(one, room // len(worth), _place(one, shelf)))
        for name, c in conditioners.items()
    }


def _through(conditioner: Conditioner, change: Callable[[Conditioner], Conditioner]) -> Conditioner:
    """A conditioner, or what it asks, exchanged where a memory is worth its room."""
    if not getattr(conditioner, "costly", False):
        return conditioner
    if _still(conditioner):
        return change(conditioner)
    exchanged: Callable[..., Conditioner] | None = getattr(conditioner, "exchanged", None)
    return conditioner if exchanged is None else exchanged(lambda one: _through(one, change))


def _place(conditioner: Conditioner, shelf: Shelf | None) -> Shelf | None:
    return shelf if hasattr(conditioner, "fingerprint") else None


class _Unknown:
    """The key of a value that cannot be compared cheaply, such as a picture; equal to nothing but itself."""


def _key(value: Any) -> Hashable:
    # 1, 1.0 and True are equal as keys, and need not say the same
    return (type(value), value) if isinstance(value, (str, bytes, int, float)) else _Unknown()


def _still(conditioner: Conditioner) -> bool:
    return not isinstance(conditioner, nn.Module) or not any(p.requires_grad for p in conditioner.parameters())


def _bytes(condition: Condition) -> int:
    context = condition.context
    tensors = [condition.memory, condition.memory_mask, condition.summary]
    tensors += [] if context is None else [context.values, context.positions, context.mask]
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))
