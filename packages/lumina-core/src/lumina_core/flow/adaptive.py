"""Solvers that choose their own steps by tolerances; torchdiffeq does the work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import PluginError
from lumina_core.parts import Velocity


class Adaptive:
    """Dormand-Prince of order 5 (or a relative), with steps as long as the tolerances allow.

    A step is accepted where every item of the batch is within the tolerances: company makes an item more exact, never
    less. Each step waits for the device once, to read the error.
    """

    class Config(Settings):
        """Tolerances: the error of a step is at most absolute + relative * |x|."""

        method: Literal["dopri5", "dopri8", "bosh3", "adaptive_heun", "fehlberg2"] = Field(
            "dopri5", description="of order 5, 8, 3, 2 or 2"
        )
        relative: float = Field(1e-3, gt=0, lt=1, description="tolerance beside the size of x")
        absolute: float = Field(1e-4, gt=0, description="tolerance by itself; x has about unit variance")
        published: bool = Field(
            False,
            description="as transport.py uses it: one error for the whole batch, and the last step may pass the end",
        )

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def solve(
        self, velocity: Velocity, x: Tensor, start: Tensor, stop: Tensor, seen: Callable[[float, Tensor], bool]
    ) -> Tensor:
        """x at the time `stop`; the velocity is not asked beyond it (unless `published`).

        Raises:
            PluginError: torchdiffeq is not installed.
        """
        odeint = _library()
        times = torch.stack([start, stop]).to(x.device)
        config = self.config
        # without `step_t` the last step would pass the end, and be read back by interpolation
        options = {} if config.published else {"norm": _worst_item, "step_t": times[1:]}
        try:
            ways: Tensor = odeint(
                _Watched(velocity, float(start), seen), x, times, method=config.method, rtol=config.relative,
                atol=config.absolute, options=options,
            )  # fmt: skip
        except _SeenEnoughError as stopped:
            return stopped.values
        seen(float(stop), ways[-1])
        return ways[-1]


class _SeenEnoughError(Exception):
    """Whoever watches has seen enough."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values


class _Watched:
    """The velocity as torchdiffeq asks it, and what it calls before it leaves an accepted step's beginning."""

    def __init__(self, velocity: Velocity, start: float, seen: Callable[[float, Tensor], bool]) -> None:
        self.velocity, self.start, self.seen = velocity, start, seen

    def __call__(self, time: Tensor, x: Tensor) -> Tensor:
        return self.velocity(x, time)

    def callback_accept_step(self, time: Tensor, x: Tensor, step: Tensor) -> None:
        # the name is torchdiffeq's
        if float(time) != self.start and self.seen(float(time), x):
            raise _SeenEnoughError(x)


def _worst_item(error: Tensor) -> Tensor:
    """The largest root mean square over the items."""
    return error.flatten(1).square().mean(dim=1).sqrt().max() if error.ndim > 1 else error.abs().max()


def _library() -> Any:
    try:
        from torchdiffeq import odeint
    except ImportError as error:
        raise PluginError(
            "adaptive solvers need torchdiffeq, which is not installed: pip install 'lumina-core[adaptive]'"
        ) from error
    return odeint
