"""Following a velocity: single steps as plain functions, and the one loop that carries them along a grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol, cast

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError, PluginError
from lumina_core.flow.path import DiffusionForm, GVPPath, LinearPath, VPPath, compute_diffusion, convert_prediction
from lumina_core.protocols import SolverStep, Velocity


class StatefulSolver(Protocol):
    """Steps that carry something from one to the next: earlier velocities, or where noise is drawn."""

    def init(self, sample_noise: Callable[[], Tensor] | None) -> Any:
        """What the first step is handed.

        Args:
            draw: gives standard normal noise of x's shape, each item's from its own generator; None: there is none.
        """
        ...

    def step(self, velocity: Velocity, x: Tensor, t: Tensor, u: Tensor, state: Any) -> tuple[Tensor, Any]:
        """x at time u, and what the next step is handed."""
        ...


class AdaptiveSolver(Protocol):
    """Chooses its own steps from one time to another."""

    def solve(
        self, velocity: Velocity, x: Tensor, start: Tensor, stop: Tensor, on_step: Callable[[float, Tensor], bool]
    ) -> Tensor:
        """x at the time `stop`.

        Args:
            start, stop: float64 on the CPU; from data to noise `stop` is the smaller one.
            seen: told (time, x there) after every step; True: stop there.
        """
        ...


Solver = SolverStep | StatefulSolver | AdaptiveSolver


def euler(velocity: Velocity, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """First order, one evaluation."""
    return x + (u - t) * velocity(x, t)


def midpoint(velocity: Velocity, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """Second order, two evaluations: the slope half-way."""
    step = u - t
    half = x + step / 2 * velocity(x, t)
    return x + step * velocity(half, t + step / 2)


def heun(velocity: Velocity, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """Second order, two evaluations: the mean of the slopes at both ends (torchdiffeq calls it heun2)."""
    step = u - t
    first = velocity(x, t)
    return x + step / 2 * (first + velocity(x + step * first, u))


def heun3(velocity: Velocity, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """Third order, three evaluations: Heun's method of that order."""
    step = u - t
    first = velocity(x, t)
    second = velocity(x + step / 3 * first, t + step / 3)
    third = velocity(x + step * 2 / 3 * second, t + step * 2 / 3)
    return x + step / 4 * (first + 3 * third)


def rk4(velocity: Velocity, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """Fourth order, four evaluations: the classical Runge-Kutta method."""
    step = u - t
    middle = t + step / 2
    a = velocity(x, t)
    b = velocity(x + step / 2 * a, middle)
    c = velocity(x + step / 2 * b, middle)
    d = velocity(x + step * c, u)
    return x + step / 6 * (a + 2 * (b + c) + d)


def rk4_three_eighths(velocity: Velocity, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """Fourth order, four evaluations: Kutta's 3/8 rule, which torchdiffeq calls rk4."""
    step = u - t
    a = velocity(x, t)
    b = velocity(x + step / 3 * a, t + step / 3)
    c = velocity(x + step * (b - a / 3), t + step * 2 / 3)
    d = velocity(x + step * (a - b + c), u)
    return x + step / 8 * (a + 3 * (b + c) + d)


@dataclass(frozen=True)
class Solution:
    """Where the way ended, and how often the velocity was asked."""

    values: Tensor
    nfe: int
    steps: int


class CountedVelocity:
    """A velocity as solvers ask it, with times on the CPU: they become what the network takes, and are counted.

    Args:
        limit: evaluations that may be asked for; None: any number.
    """

    def __init__(self, velocity: Velocity, max_nfe: int | None = None) -> None:
        self.velocity, self.nfe, self.max_nfe = velocity, 0, max_nfe
        self.set_time: Callable[[float], None] | None = getattr(velocity, "set_time", None)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The velocity at x (B, ...) and a time on the CPU.

        Raises:
            ConfigError: the limit is passed.
        """
        if self.nfe == self.max_nfe:
            raise ConfigError(
                f"{self.max_nfe} evaluations were allowed, and this solver needs more for its tolerances; allow more, "
                "loosen them, or take a solver of fixed steps"
            )
        self.nfe += 1
        # halves would round 0.999 to 1
        dtype = x.dtype if x.dtype.itemsize > 2 else torch.float32
        t_value = float(t.to(dtype))
        if self.set_time is not None:
            self.set_time(t_value)
        # filled where x is: nothing is carried there, nobody waits
        return self.velocity(x, x.new_full((x.shape[0],), t_value, dtype=dtype))


OnStep = Callable[[int, float, Tensor], "bool | Tensor | None"]
"""(steps done, time reached, values) -> True to stop there, or other values to go on with."""


def integrate(
    velocity: Velocity, x: Tensor, schedule: Tensor, solver: Solver, on_step: OnStep | None = None,
    sample_noise: Callable[[], Tensor] | None = None, max_nfe: int | None = None,
) -> Solution:  # fmt: skip
    """Carry x (B, ...) along the grid, one step after another; a falling grid goes from data to noise.

    Args:
        velocity: (x (B, ...), time (B,)) -> (B, ...); time comes on x's device, in its dtype or float32 at least.
        grid: (steps + 1,) float64 on the CPU.
        on_step: called after every step; may stop the way or replace the values (not those of a free solver).
        draw: gives standard normal noise of x's shape, for solvers that need it.
        limit: evaluations that may be asked for.

    Raises:
        ConfigError: the grid has fewer than two times, or the limit is passed.
    """
    if schedule.ndim != 1 or len(schedule) < 2:
        raise ConfigError(f"a grid needs at least two times, got {schedule.tolist()}")
    # times stay on the CPU in float64: no sync with a device, no rounding before the network's own
    counted, times = CountedVelocity(velocity, max_nfe), schedule.unbind()
    if hasattr(solver, "solve"):
        return _integrate_adaptive(cast(AdaptiveSolver, solver), counted, x, (times[0], times[-1]), on_step)
    state, num_steps = cast(StatefulSolver, solver).init(sample_noise) if hasattr(solver, "init") else None, 0
    for num_steps, (t, u) in enumerate(pairwise(times), start=1):
        x, state = solver_step(solver, counted, x, t, u, state)
        result = None if on_step is None else on_step(num_steps, float(u), x)
        if isinstance(result, Tensor):
            x = result
        elif result:
            break
    return Solution(x, counted.nfe, num_steps)


def solver_step(solver: Solver, velocity: Velocity, x: Tensor, t: Tensor, u: Tensor, state: Any) -> tuple[Tensor, Any]:
    """A step of a solver that remembers or of a plain one."""
    if hasattr(solver, "step"):
        return cast(StatefulSolver, solver).step(velocity, x, t, u, state)
    return cast(SolverStep, solver)(velocity, x, t, u), None


def _integrate_adaptive(
    solver: AdaptiveSolver,
    velocity: CountedVelocity,
    x: Tensor,
    interval: tuple[Tensor, Tensor],
    on_step: OnStep | None,
) -> Solution:
    num_steps = 0

    def observe_step(time: float, values: Tensor) -> bool:
        nonlocal num_steps
        num_steps += 1
        return on_step is not None and on_step(num_steps, time, values) is True

    values = solver.solve(velocity, x, *interval, observe_step)
    return Solution(values, velocity.nfe, num_steps)


def steps_for_nfe(solver: Solver, nfe: int, name: str = "this solver") -> int:
    """The most steps that ask no more than `evaluations` times; found by trying on a single number.

    Raises:
        ConfigError: not even one step fits.
    """
    nfe_one_step, nfe_two_steps = (_measure_nfe(solver, steps) for steps in (1, 2))
    if nfe < nfe_one_step:
        raise ConfigError(
            f"{nfe} evaluations are too few for {name}, which needs {nfe_one_step} for a step; allow {nfe_one_step} or more, "
            "or take euler, which needs 1"
        )
    return 1 + (nfe - nfe_one_step) // max(1, nfe_two_steps - nfe_one_step)


def _measure_nfe(solver: Solver, steps: int) -> int:
    one = torch.ones(1, 1, dtype=torch.float64)
    schedule = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return integrate(lambda x, t: -x, one, schedule, solver, sample_noise=lambda: torch.zeros_like(one)).nfe


class MultistepState(NamedTuple):
    """The time of the step before, and what was known there (its velocity, or the data it pointed to)."""

    t: Tensor
    value: Tensor


class AdamsBashforth:
    """Second order, one evaluation: the velocity drawn on as a line through the last two (steps may be uneven).

    x + h ((1 + r / 2) v - r / 2 v_before) with r = h / h_before; the first step is Euler's, as there is nothing before.
    """

    class Config(Settings):
        """Nothing to choose."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def init(self, sample_noise: Callable[[], Tensor] | None) -> MultistepState | None:
        return None

    def step(
        self, velocity: Velocity, x: Tensor, t: Tensor, u: Tensor, state: MultistepState | None
    ) -> tuple[Tensor, MultistepState]:
        v, dt = velocity(x, t), u - t
        if state is None:
            return x + dt * v, MultistepState(t, v)
        half = dt / (t - state.t) / 2
        return x + dt * ((1 + half) * v - half * state.value), MultistepState(t, v)


class DPMSolverPP:
    """DPM-Solver++(2M) (arXiv 2211.01095) for the linear path: the data that x points to, drawn on as a line.

    The line is over lambda = log(t / (1 - t)). With D = x + (1 - t) v it is an Euler step plus (u - t) / (1 - t) of
    half the change of D, by the ratio of the steps in lambda. Steps endless in lambda (at both ends) are Euler's.
    """

    class Config(Settings):
        """Nothing to choose."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def init(self, sample_noise: Callable[[], Tensor] | None) -> MultistepState | None:
        return None

    def step(
        self, velocity: Velocity, x: Tensor, t: Tensor, u: Tensor, state: MultistepState | None
    ) -> tuple[Tensor, MultistepState]:
        v = velocity(x, t)
        x1_pred, x_euler = x + (1 - t) * v, x + (u - t) * v
        if state is None or not all(0 < float(time) < 1 for time in (state.t, t, u)):
            return x_euler, MultistepState(t, x1_pred)
        lambda_prev, lambda_t, lambda_u = (math.log(float(time / (1 - time))) for time in (state.t, t, u))
        coefficient = (u - t) / (1 - t) * (lambda_u - lambda_t) / (lambda_t - lambda_prev) / 2
        return x_euler + coefficient * (x1_pred - state.value), MultistepState(t, x1_pred)


class AdaptiveRungeKutta:
    """Dormand-Prince of order 5 (or a relative), with steps as long as the tolerances allow.

    A step is accepted where every item of the batch is within the tolerances: company makes an item more exact, never
    less. Each step waits for the device once, to read the error.
    """

    class Config(Settings):
        """Tolerances: the error of a step is at most absolute + relative * |x|."""

        method: Literal["dopri5", "dopri8", "bosh3", "adaptive_heun", "fehlberg2"] = Field(
            "dopri5", description="of order 5, 8, 3, 2 or 2"
        )
        rtol: float = Field(1e-3, gt=0, lt=1, description="tolerance beside the size of x")
        atol: float = Field(1e-4, gt=0, description="tolerance by itself; x has about unit variance")
        batch_error_norm: bool = Field(
            False,
            description="as transport.py uses it: one error for the whole batch, and the last step may pass the end",
        )

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def solve(
        self, velocity: Velocity, x: Tensor, start: Tensor, stop: Tensor, on_step: Callable[[float, Tensor], bool]
    ) -> Tensor:
        """x at the time `stop`; the velocity is not asked beyond it (unless `published`).

        Raises:
            PluginError: torchdiffeq is not installed.
        """
        odeint = _load_odeint()
        times = torch.stack([start, stop]).to(x.device)
        config = self.config
        # without `step_t` the last step would pass the end, and be read back by interpolation
        options = {} if config.batch_error_norm else {"norm": _max_item_rms, "step_t": times[1:]}
        try:
            trajectory: Tensor = odeint(
                _ObservedVelocity(velocity, float(start), on_step), x, times, method=config.method, rtol=config.rtol,
                atol=config.atol, options=options,
            )  # fmt: skip
        except _StopIntegrationError as stopped:
            return stopped.values
        on_step(float(stop), trajectory[-1])
        return trajectory[-1]


class _StopIntegrationError(Exception):
    """Whoever watches has seen enough."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values


class _ObservedVelocity:
    """The velocity as torchdiffeq asks it, and what it calls before it leaves an accepted step's beginning."""

    def __init__(self, velocity: Velocity, start: float, on_step: Callable[[float, Tensor], bool]) -> None:
        self.velocity, self.start, self.on_step = velocity, start, on_step

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        return self.velocity(x, t)

    def callback_accept_step(self, t: Tensor, x: Tensor, step: Tensor) -> None:
        # the name is torchdiffeq's
        if float(t) != self.start and self.on_step(float(t), x):
            raise _StopIntegrationError(x)


def _max_item_rms(error: Tensor) -> Tensor:
    """The largest root mean square over the items."""
    return error.flatten(1).square().mean(dim=1).sqrt().max() if error.ndim > 1 else error.abs().max()


def _load_odeint() -> Any:
    try:
        from torchdiffeq import odeint
    except ImportError as error:
        raise PluginError(
            "adaptive solvers need torchdiffeq, which is not installed: pip install 'lumina-core[adaptive]'"
        ) from error
    return odeint


NoiseFn = Callable[[], Tensor]


class SDESolver:
    """Euler-Maruyama or Heun steps along the stirred flow; the last step of the grid draws no noise.

    Published forms are infinite at t = 0 (sbdm) or break near t = 1 (constant); here w * step is at most `limit` *
    sigma^2, so that no step overshoots what it heads for (our own proposal; a limit of null is as published).
    """

    class Config(Settings):
        """How much is stirred in, and when."""

        method: Literal["euler", "heun"] = Field("euler", description="euler: one evaluation a step; heun: two")
        diffusion_form: DiffusionForm = Field("sigma", description="how w depends on time")
        diffusion_norm: float = Field(
            1.0, ge=0, description="how much; 0 stirs nothing and is the solver without noise"
        )
        last_step: Literal["tweedie", "euler", "mean", "none"] = Field(
            "tweedie",
            description="the last step: to the expected data, along the velocity, along velocity and score, or none",
        )
        max_noise: float | None = Field(0.5, gt=0, description="largest w * step / sigma^2; null: none")
        path: ComponentSpec = Field(ComponentSpec(type="core.linear"), description="the model's; filled in")

    def __init__(self, config: Config, path: LinearPath | GVPPath | VPPath) -> None:
        self.config, self.path = config, path

    def init(self, sample_noise: NoiseFn | None) -> NoiseFn:
        """Noise is what the steps carry.

        Raises:
            ConfigError: nobody draws noise here.
        """
        if sample_noise is None:
            raise ConfigError("a stochastic solver needs noise; from data to noise take one without, such as core.heun")
        return sample_noise

    def step(self, velocity: Velocity, x: Tensor, t: Tensor, u: Tensor, state: NoiseFn) -> tuple[Tensor, NoiseFn]:
        if float(u) == 1:
            return self.last_step(velocity, x, t, u), state
        x_noisy = self.add_noise(x, t, u, state())
        return self.apply_drift(velocity, x_noisy, x, t, u), state

    def add_noise(self, x: Tensor, t: Tensor, u: Tensor, noise: Tensor) -> Tensor:
        """x with the noise of a step from t to u."""
        return x + math.sqrt(2 * self.diffusion_coefficient(t, u) * float(u - t)) * noise

    def apply_drift(self, velocity: Velocity, x_noisy: Tensor, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
        """What velocity and score add to x that was stirred; Heun asks at the stirred place, Euler before it."""
        step = u - t
        if self.config.method == "euler":
            return x_noisy + step * self.sde_drift(velocity, x, t, self.diffusion_coefficient(t, u))
        first = self.sde_drift(velocity, x_noisy, t, self.diffusion_coefficient(t, u))
        second = self.sde_drift(velocity, x_noisy + step * first, u, self.diffusion_coefficient(u, u + step))
        return x_noisy + step / 2 * (first + second)

    def sde_drift(self, velocity: Velocity, x: Tensor, t: Tensor, w: float) -> Tensor:
        """velocity + strength * score."""
        v = velocity(x, t)
        coef_v, coef_x = self.score_coefficients(t)
        return (1 + w * coef_v) * v + w * coef_x * x

    def last_step(self, velocity: Velocity, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
        """From t to the end, without noise."""
        if self.config.last_step == "none":
            return x
        if self.config.last_step == "mean":
            return x + (u - t) * self.sde_drift(velocity, x, t, self.diffusion_coefficient(t, u))
        v = velocity(x, t)
        if self.config.last_step == "euler":
            return x + (u - t) * v
        coef_v, coef_x = self.linear_coefficients(t, "data")
        return coef_v * v + coef_x * x

    def diffusion_coefficient(self, t: Tensor, u: Tensor) -> float:
        """w of a step from t to u."""
        if self.config.diffusion_norm == 0:
            return 0.0
        t_batch = t.double().reshape(1)
        w = float(
            compute_diffusion(self.path, t_batch, t_batch, self.config.diffusion_form, self.config.diffusion_norm)
        )
        if self.config.max_noise is None:
            return w
        max_w = self.config.max_noise * float(self.path.sigma(t_batch)) ** 2 / float(u - t)
        return min(w, max_w) if math.isfinite(w) else max_w

    def score_coefficients(self, t: Tensor) -> tuple[float, float]:
        """(a, b) of score = a velocity + b x at a time."""
        return self.linear_coefficients(t, "score")

    def linear_coefficients(self, t: Tensor, target: Literal["score", "data"]) -> tuple[float, float]:
        """(a, b) of target = a velocity + b x at a time: whatever follows from a velocity is linear in it."""
        t_batch = t.double().reshape(1)
        one, zero = torch.ones_like(t_batch), torch.zeros_like(t_batch)
        coef_v = convert_prediction(self.path, one, zero, t_batch, "velocity", target)
        coef_x = convert_prediction(self.path, zero, one, t_batch, "velocity", target)
        return float(coef_v), float(coef_x)
