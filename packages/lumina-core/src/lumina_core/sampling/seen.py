"""What somebody sees who watches a way: a step, and the data that it leads to, decoded when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lumina_core.flow.path import convert
from lumina_core.model import Model
from lumina_core.parts import Path_
from lumina_core.sampling.known import Begun
from lumina_core.sampling.sizes import Sizes
from lumina_core.types import Tokens


class Seen:
    """One step that was done.

    Attributes:
        step: how many are done, this one among them.
        steps: how many there will be; None where the solver chooses its own.
        time: reached by it, 0 noise to 1 data.
        values: (B, N, D) tokens as they stand there, with the noise that is left.
        sizes: of the results.
    """

    def __init__(
        self, step: int, steps: int | None, time: float, values: Tensor, sizes: Sizes, foretold: Callable[[], Tensor]
    ) -> None:
        self.step, self.steps, self.time, self.values, self.sizes = step, steps, time, values, sizes
        self._foretold = foretold

    @cached_property
    def data(self) -> Tensor:
        """(B, channels, ...) in about [-1, 1]: where the way is heading, without the noise that is left.

        Taken from the slope of the last step, so that it costs a decoding and no evaluation. After the last step it is
        the result.
        """
        return self._foretold()

    def items(self) -> list[Tensor]:
        """The data of each result in its own size, (channels, ...), float32 on the CPU."""
        return self.sizes.items(self.data.float().cpu())


class Watched:
    """Every step as `integrate` tells it: known numbers are put in their place, and whoever watches is shown it.

    Attributes:
        steps: how many there will be; None where nobody knows.
        last: the step at which the way was stopped; None: it was not.
    """

    def __init__(
        self, model: Model, begun: Begun, places: Tokens, sizes: Sizes,
        on_step: Callable[[Seen], bool | Tensor | None] | None,
    ) -> None:  # fmt: skip
        self.model, self.begun, self.places, self.sizes, self.on_step = model, begun, places, sizes, on_step
        self.steps: int | None = None
        self.last: Seen | None = None
        self._before = (float(begun.grid[0]), begun.x)

    @property
    def stopped(self) -> float | None:
        """The time at which the way was stopped before its end; None: it was not."""
        return None if self.last is None or self.last.time == float(self.begun.grid[-1]) else self.last.time

    def __call__(self, step: int, time: float, values: Tensor) -> bool | Tensor | None:
        values = self.begun.kept(values, time)
        told: bool | Tensor | None = None
        if self.on_step is not None:
            seen = Seen(step, self.steps, time, values, self.sizes, self._foretelling(time, values))
            told = self.on_step(seen)
            if told is True:
                self.last = seen
        if not isinstance(told, Tensor) and told:
            return True
        goes_on = told if isinstance(told, Tensor) else values
        self._before = (time, goes_on)
        return goes_on if self.begun.hold is not None or isinstance(told, Tensor) else None

    def decoded(self, values: Tensor) -> Tensor:
        """Tokens (B, N, D) without noise -> data (B, channels, ...), what is kept of earlier data in it."""
        with torch.inference_mode(), self.model.at_work("autoencoder"):
            data = self.sizes.data(self.model, self.places.with_values(values))
        return self.begun.finished(data)

    def _foretelling(self, time: float, values: Tensor) -> Callable[[], Tensor]:
        earlier, before = self._before

        def foretold() -> Tensor:
            with torch.inference_mode():
                return self.decoded(self._end(values, time, (values - before) / (time - earlier)))

        return foretold

    def _end(self, x: Tensor, time: float, slope: Tensor) -> Tensor:
        path: Path_ | None = getattr(self.model.objective, "path", None)
        if path is None or time == 1:
            return x
        config: Any = getattr(self.model.objective, "config", None)
        floor = float(getattr(config, "floor", 0.05))
        return convert(path, slope, x, x.new_full((len(x),), time), "velocity", "data", floor)
