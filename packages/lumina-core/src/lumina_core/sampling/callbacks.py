"""What somebody sees who watches a way: a step, and the data that it leads to, decoded when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lumina_core.flow.path import convert_prediction
from lumina_core.model import Model
from lumina_core.protocols import ProbPath
from lumina_core.sampling.inpainting import InitialState
from lumina_core.sampling.sizes import BatchSizes
from lumina_core.types import Tokens


class StepState:
    """One step that was done.

    Attributes:
        step: how many are done, this one among them.
        steps: how many there will be; None where the solver chooses its own.
        time: reached by it, 0 noise to 1 data.
        values: (B, N, D) tokens as they stand there, with the noise that is left.
        sizes: of the results.
    """

    def __init__(
        self,
        step: int,
        steps: int | None,
        time: float,
        x_t: Tensor,
        sizes: BatchSizes,
        predict_x1: Callable[[], Tensor],
    ) -> None:
        self.step, self.steps, self.time, self.x_t, self.sizes = step, steps, time, x_t, sizes
        self._predict_x1 = predict_x1

    @cached_property
    def x1_pred(self) -> Tensor:
        """(B, channels, ...) in about [-1, 1]: where the way is heading, without the noise that is left.

        Taken from the slope of the last step, so that it costs a decoding and no evaluation. After the last step it is
        the result.
        """
        return self._predict_x1()

    def items(self) -> list[Tensor]:
        """The data of each result in its own size, (channels, ...), float32 on the CPU."""
        return self.sizes.items(self.x1_pred.float().cpu())


class StepCallbackRunner:
    """Every step as `integrate` tells it: known numbers are put in their place, and whoever watches is shown it.

    Attributes:
        steps: how many there will be; None where nobody knows.
        last: the step at which the way was stopped; None: it was not.
    """

    def __init__(
        self, model: Model, initial: InitialState, tokens: Tokens, sizes: BatchSizes,
        on_step: Callable[[StepState], bool | Tensor | None] | None,
    ) -> None:  # fmt: skip
        self.model, self.initial, self.tokens, self.sizes, self.on_step = model, initial, tokens, sizes, on_step
        self.steps: int | None = None
        self.stop_state: StepState | None = None
        self._previous = (float(initial.schedule[0]), initial.x)

    @property
    def stopped_at(self) -> float | None:
        """The time at which the way was stopped before its end; None: it was not."""
        return (
            None
            if self.stop_state is None or self.stop_state.time == float(self.initial.schedule[-1])
            else self.stop_state.time
        )

    def __call__(self, step: int, time: float, values: Tensor) -> bool | Tensor | None:
        values = self.initial.constrain_values(values, time)
        answer: bool | Tensor | None = None
        if self.on_step is not None:
            state = StepState(step, self.steps, time, values, self.sizes, self._x1_predictor(time, values))
            answer = self.on_step(state)
            if answer is True:
                self.stop_state = state
        if not isinstance(answer, Tensor) and answer:
            return True
        next_values = answer if isinstance(answer, Tensor) else values
        self._previous = (time, next_values)
        return next_values if self.initial.constraint is not None or isinstance(answer, Tensor) else None

    def decode(self, values: Tensor) -> Tensor:
        """Tokens (B, N, D) without noise -> data (B, channels, ...), what is kept of earlier data in it."""
        with torch.inference_mode(), self.model.onload("autoencoder"):
            data = self.sizes.decode_tokens(self.model, self.tokens.with_values(values))
        return self.initial.blend_kept(data)

    def _x1_predictor(self, time: float, values: Tensor) -> Callable[[], Tensor]:
        previous_time, previous_values = self._previous

        def predict_x1() -> Tensor:
            with torch.inference_mode():
                return self.decode(self._predict_x1(values, time, (values - previous_values) / (time - previous_time)))

        return predict_x1

    def _predict_x1(self, x: Tensor, time: float, velocity: Tensor) -> Tensor:
        path: ProbPath | None = getattr(self.model.objective, "path", None)
        if path is None or time == 1:
            return x
        config: Any = getattr(self.model.objective, "config", None)
        min_coef = float(getattr(config, "min_coef", 0.05))
        return convert_prediction(path, velocity, x, x.new_full((len(x),), time), "velocity", "data", min_coef)
