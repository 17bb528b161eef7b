"""Solvers: single steps as plain functions, solvers with a state, and the integration along a schedule."""

from __future__ import annotations

import inspect
import math
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError, PluginError, install_command
from lumina_core.flow.path import DiffusionForm, GVPPath, LinearPath, VPPath, compute_diffusion, convert_prediction
from lumina_core.protocols import NoiseFn, Solver, SolverStep, Velocity


def euler(velocity: Velocity, x: Tensor, t: float, u: float) -> Tensor:
    """Take a step of Euler's method: order 1, one evaluation."""
    return x + (u - t) * velocity(x, t)


def midpoint(velocity: Velocity, x: Tensor, t: float, u: float) -> Tensor:
    """Take a step of the midpoint method: order 2, two evaluations."""
    step = u - t
    half = x + step / 2 * velocity(x, t)
    return x + step * velocity(half, t + step / 2)


def heun(velocity: Velocity, x: Tensor, t: float, u: float) -> Tensor:
    """Take a step of Heun's method: order 2, two evaluations, the mean of both ends (`heun2` in torchdiffeq)."""
    step = u - t
    first = velocity(x, t)
    return x + step / 2 * (first + velocity(x + step * first, u))


def heun3(velocity: Velocity, x: Tensor, t: float, u: float) -> Tensor:
    """Take a step of Heun's method of order 3: three evaluations."""
    step = u - t
    first = velocity(x, t)
    second = velocity(x + step / 3 * first, t + step / 3)
    third = velocity(x + step * 2 / 3 * second, t + step * 2 / 3)
    return x + step / 4 * (first + 3 * third)


def rk4(velocity: Velocity, x: Tensor, t: float, u: float) -> Tensor:
    """Take a step of the classical Runge-Kutta method: order 4, four evaluations."""
    step = u - t
    middle = t + step / 2
    a = velocity(x, t)
    b = velocity(x + step / 2 * a, middle)
    c = velocity(x + step / 2 * b, middle)
    d = velocity(x + step * c, u)
    return x + step / 6 * (a + 2 * (b + c) + d)


def rk4_three_eighths(velocity: Velocity, x: Tensor, t: float, u: float) -> Tensor:
    """Take a step of Kutta's 3/8 rule: order 4, four evaluations (`rk4` in torchdiffeq)."""
    step = u - t
    a = velocity(x, t)
    b = velocity(x + step / 3 * a, t + step / 3)
    c = velocity(x + step * (b - a / 3), t + step * 2 / 3)
    d = velocity(x + step * (a - b + c), u)
    return x + step / 8 * (a + 3 * (b + c) + d)


class StepSolver(Solver):
    """A plain step function as a `Solver`."""

    def __init__(self, function: SolverStep) -> None:
        self.function = function

    def step(self, velocity: Velocity, x: Tensor, t: float, u: float, state: Any) -> tuple[Tensor, Any]:
        return self.function(velocity, x, t, u), None


def as_solver(solver: Solver | SolverStep) -> Solver:
    """Return a solver itself, or a plain step function as a solver.

    Raises:
        ConfigError: it is neither a `Solver` nor a function.
    """
    if isinstance(solver, Solver):
        return solver
    if not callable(solver) or isinstance(solver, type):
        name = solver.__name__ if isinstance(solver, type) else repr(solver)
        raise ConfigError(
            f"solver: got {name}, expected a name, a function (velocity, x, t, u) -> x, or an instance of "
            "lumina_core.protocols.Solver."
        )
    with suppress(ValueError):  # a builtin function without a signature
        try:
            inspect.signature(solver).bind(None, None, 0.0, 1.0)
        except TypeError as error:
            raise ConfigError(
                f"solver: got the function {_full_name(solver)} ({error}), expected one of (velocity, x, t, u)."
            ) from error
    return StepSolver(solver)


def _full_name(solver: Solver | SolverStep) -> str:
    source = solver.function if isinstance(solver, StepSolver) else solver
    named = type(source) if isinstance(source, Solver) else source
    return f"{getattr(named, '__module__', '')}.{getattr(named, '__qualname__', repr(named))}"


@dataclass(frozen=True)
class Solution:
    """Result of an integration.

    Attributes:
        values: (B, ...) at the last time.
        nfe: number of evaluations of the velocity.
        steps: number of steps taken.
    """

    values: Tensor
    nfe: int
    steps: int


class StopIntegrationError(Exception):
    """Raised by a step callback to stop an integration after the current step."""


class CountedVelocity:
    """Velocity as solvers call it: counts evaluations and rounds the time to the precision of the network.

    Args:
        velocity: the velocity field.
        max_nfe: largest number of evaluations; None: no limit.
    """

    def __init__(self, velocity: Velocity, max_nfe: int | None = None) -> None:
        self.velocity, self.nfe, self.max_nfe = velocity, 0, max_nfe

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """Evaluate the velocity at x (B, ...) and time t.

        Raises:
            ConfigError: the limit is exceeded.
        """
        if self.nfe == self.max_nfe:
            raise ConfigError(
                f"nfe: got a limit of {self.max_nfe} evaluations, expected more for the tolerances of this solver. "
                "Raise the limit, loosen the tolerances, or use a solver of fixed steps."
            )
        self.nfe += 1
        return self.velocity(x, t if x.dtype == torch.float64 else round_float32(t))


def round_float32(t: float) -> float:
    """Round a time to the nearest float32."""
    rounded: float = struct.unpack("f", struct.pack("f", t))[0]
    return rounded


OnStep = Callable[[int, float, Tensor], "Tensor | None"]
"""(steps taken, time reached, x) -> another x to continue from, or None. May raise `StopIntegrationError`."""


def integrate(
    velocity: Velocity,
    x: Tensor,
    schedule: Tensor | Sequence[float],
    solver: Solver | SolverStep = euler,
    on_step: OnStep | None = None,
    sample_noise: NoiseFn | None = None,
    max_nfe: int | None = None,
) -> Solution:
    """Integrate a velocity along a schedule.

    Args:
        velocity: (x (B, ...), t) -> dx/dt (B, ...), t a float.
        x: (B, ...) at the first time.
        schedule: (steps + 1,) times, rising from noise to data or falling from data to noise.
        solver: a step function such as `heun`, or a `Solver`.
        on_step: called after every step.
        sample_noise: noise source for stochastic solvers.
        max_nfe: largest number of evaluations; None: no limit.

    Raises:
        ConfigError: the schedule has fewer than two times, the solver is no solver, or the limit is exceeded.
    """
    values = torch.as_tensor(schedule, dtype=torch.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ConfigError(f"schedule: got {values.tolist()}, expected at least two times.")
    times: list[float] = values.tolist()
    solver, counted = as_solver(solver), CountedVelocity(velocity, max_nfe)
    num_steps, latest = 0, x

    def observe(time: float, values: Tensor) -> Tensor | None:
        nonlocal num_steps, latest
        if not isinstance(values, Tensor) or values.shape != x.shape:
            got = f"the shape {tuple(values.shape)}" if isinstance(values, Tensor) else repr(values)
            raise ConfigError(f"solver: got {got} from {_full_name(solver)}, expected x of the shape {tuple(x.shape)}.")
        num_steps, latest = num_steps + 1, values
        replaced = None if on_step is None else on_step(num_steps, time, values)
        if replaced is not None and not isinstance(replaced, Tensor):
            raise ConfigError(f"on_step: got the return value {replaced!r}, expected None or another x.")
        return replaced

    with suppress(StopIntegrationError):
        latest = solver.solve(counted, x, times, observe, sample_noise)
    return Solution(latest, counted.nfe, num_steps)


def steps_for_nfe(solver: Solver | SolverStep, nfe: int, name: str = "this solver") -> int:
    """Return the largest number of steps that need at most `nfe` evaluations, measured on a single number.

    Raises:
        ConfigError: one step needs more.
    """
    nfe_one_step, nfe_two_steps = (_measure_nfe(solver, steps) for steps in (1, 2))
    if nfe < nfe_one_step:
        raise ConfigError(
            f"nfe: got {nfe}, expected at least {nfe_one_step} for one step of {name}. Raise it, or use euler, which "
            "needs 1."
        )
    return 1 + (nfe - nfe_one_step) // max(1, nfe_two_steps - nfe_one_step)


def _measure_nfe(solver: Solver | SolverStep, steps: int) -> int:
    one = torch.ones(1, 1, dtype=torch.float64)
    schedule = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return integrate(lambda x, t: -x, one, schedule, solver, sample_noise=lambda: torch.zeros_like(one)).nfe


class MultistepState(NamedTuple):
    """Time of the previous step, and its velocity or x1 prediction."""

    t: float
    value: Tensor


class AdamsBashforth(Solver):
    """Adams-Bashforth method of order 2: one evaluation per step; steps may be uneven.

    x + h ((1 + r / 2) v - r / 2 v_prev) with r = h / h_prev; the first step is Euler's.
    """

    order = 2

    class Config(Settings):
        """No options."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def step(
        self, velocity: Velocity, x: Tensor, t: float, u: float, state: MultistepState | None
    ) -> tuple[Tensor, MultistepState]:
        v, dt = velocity(x, t), u - t
        if state is None:
            return x + dt * v, MultistepState(t, v)
        half = dt / (t - state.t) / 2
        return x + dt * ((1 + half) * v - half * state.value), MultistepState(t, v)


class DPMSolverPP(Solver):
    """DPM-Solver++(2M) (arXiv 2211.01095) for the linear path: order 2, one evaluation per step.

    It extrapolates the x1 prediction D = x + (1 - t) v linearly in lambda = log(t / (1 - t)): an Euler step plus
    (u - t) / (1 - t) times half the change of D, scaled by the ratio of the steps in lambda. The steps at both ends,
    which are infinite in lambda, are Euler's.
    """

    order = 2

    class Config(Settings):
        """No options."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def step(
        self, velocity: Velocity, x: Tensor, t: float, u: float, state: MultistepState | None
    ) -> tuple[Tensor, MultistepState]:
        v = velocity(x, t)
        x1_pred, x_euler = x + (1 - t) * v, x + (u - t) * v
        if state is None or not all(0 < time < 1 for time in (state.t, t, u)):
            return x_euler, MultistepState(t, x1_pred)
        lambda_prev, lambda_t, lambda_u = (math.log(time / (1 - time)) for time in (state.t, t, u))
        coefficient = (u - t) / (1 - t) * (lambda_u - lambda_t) / (lambda_t - lambda_prev) / 2
        return x_euler + coefficient * (x1_pred - state.value), MultistepState(t, x1_pred)


class AdaptiveRungeKutta(Solver):
    """Dormand-Prince of order 5, or a related method, with steps as long as the tolerances allow.

    A step is accepted if every item of the batch is within the tolerances: a batch makes an item more exact, never
    less. Each step waits for the device once, to read the error.
    """

    adaptive = True

    class Config(Settings):
        """Tolerances: the error of a step is at most atol + rtol * |x|."""

        method: Literal["dopri5", "dopri8", "bosh3", "adaptive_heun", "fehlberg2"] = Field(
            "dopri5", description="method of order 5, 8, 3, 2 or 2"
        )
        rtol: float = Field(1e-3, gt=0, lt=1, description="relative tolerance")
        atol: float = Field(1e-4, gt=0, description="absolute tolerance; x has about unit variance")
        batch_error_norm: bool = Field(
            False,
            description="as in transport.py: one error for the batch, and the last step may pass the end",
        )

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def solve(
        self,
        velocity: Velocity,
        x: Tensor,
        times: Sequence[float],
        on_step: Callable[[float, Tensor], Tensor | None],
        sample_noise: NoiseFn | None,
    ) -> Tensor:
        """Return x at the last time; the velocity is not evaluated beyond it (unless `batch_error_norm`).

        Raises:
            PluginError: torchdiffeq is not installed.
        """
        odeint, config = _load_odeint(), self.config
        start, stop = times[0], times[-1]
        while start != stop:
            span = torch.tensor([start, stop], dtype=torch.float64, device=x.device)
            # without `step_t` the last step would pass the end, and be read back by interpolation
            options = {} if config.batch_error_norm else {"norm": _max_item_rms, "step_t": span[1:]}
            try:
                trajectory: Tensor = odeint(
                    _ObservedVelocity(velocity, start, on_step), x, span, method=config.method, rtol=config.rtol,
                    atol=config.atol, options=options,
                )  # fmt: skip
            except _RestartError as restart:
                start, x = restart.time, restart.values
                continue
            replaced = on_step(stop, trajectory[-1])
            return trajectory[-1] if replaced is None else replaced
        return x


class _RestartError(Exception):
    """Raised to continue from another x."""

    def __init__(self, time: float, values: Tensor) -> None:
        super().__init__()
        self.time, self.values = time, values


class _ObservedVelocity:
    """Velocity with the signature and the step callback of torchdiffeq."""

    def __init__(self, velocity: Velocity, start: float, on_step: Callable[[float, Tensor], Tensor | None]) -> None:
        self.velocity, self.start, self.on_step = velocity, start, on_step

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        return self.velocity(x, float(t))

    def callback_accept_step(self, t: Tensor, x: Tensor, step: Tensor) -> None:
        """Report the beginning of an accepted step; the name is torchdiffeq's."""
        if float(t) == self.start:
            return
        replaced = self.on_step(float(t), x)
        if replaced is not None:
            raise _RestartError(float(t), replaced)


def _max_item_rms(error: Tensor) -> Tensor:
    """Return the largest root mean square over the items."""
    return error.flatten(1).square().mean(dim=1).sqrt().max() if error.ndim > 1 else error.abs().max()


def _load_odeint() -> Any:
    try:
        from torchdiffeq import odeint
    except ImportError as error:
        raise PluginError(
            "solver: adaptive solvers need torchdiffeq, which is not installed: "
            + install_command("lumina-core[adaptive]")
        ) from error
    return odeint


class SDESolver(Solver):
    """Euler-Maruyama or Heun steps of a reverse SDE (SiT, arXiv 2401.08740); the last step draws no noise.

    The published diffusion coefficients w are infinite at t = 0 (sbdm) or unstable near t = 1 (constant). Here w * step
    is at most `max_noise` * sigma^2, so that no step overshoots (our own proposal; null is as published).
    """

    stochastic = True

    class Config(Settings):
        """Method, amount of noise, and the last step."""

        method: Literal["euler", "heun"] = Field("euler", description="euler: one evaluation a step; heun: two")
        diffusion_form: DiffusionForm = Field("sigma", description="diffusion coefficient w as a function of time")
        diffusion_norm: float = Field(1.0, ge=0, description="factor of w; 0: no noise, the ODE")
        last_step: Literal["tweedie", "euler", "mean", "none"] = Field(
            "tweedie",
            description="last step: to the expected data, along the velocity, along velocity and score, or none",
        )
        max_noise: float | None = Field(0.5, gt=0, description="largest w * step / sigma^2; null: no limit")
        path: ComponentSpec = Field(ComponentSpec(type="core.linear"), description="path of the model; filled in")

    def __init__(self, config: Config, path: LinearPath | GVPPath | VPPath) -> None:
        self.config, self.path = config, path

    def init(self, sample_noise: NoiseFn | None) -> NoiseFn:
        """Return the noise source as the state.

        Raises:
            ConfigError: there is no noise source.
        """
        if sample_noise is None:
            raise ConfigError(
                "solver: got a stochastic solver without noise, expected a deterministic one from data to noise. Use "
                "core.heun, for example."
            )
        return sample_noise

    def step(self, velocity: Velocity, x: Tensor, t: float, u: float, state: NoiseFn) -> tuple[Tensor, NoiseFn]:
        if u == 1:
            return self.last_step(velocity, x, t, u), state
        x_noisy = self.add_noise(x, t, u, state())
        return self.apply_drift(velocity, x_noisy, x, t, u), state

    def add_noise(self, x: Tensor, t: float, u: float, noise: Tensor) -> Tensor:
        """Add the noise of a step from t to u to x."""
        return x + math.sqrt(2 * self.diffusion_coefficient(t, u) * (u - t)) * noise

    def apply_drift(self, velocity: Velocity, x_noisy: Tensor, x: Tensor, t: float, u: float) -> Tensor:
        """Add velocity and score to x with noise. Heun evaluates them at `x_noisy`, Euler at `x`."""
        step = u - t
        if self.config.method == "euler":
            return x_noisy + step * self.sde_drift(velocity, x, t, self.diffusion_coefficient(t, u))
        first = self.sde_drift(velocity, x_noisy, t, self.diffusion_coefficient(t, u))
        second = self.sde_drift(velocity, x_noisy + step * first, u, self.diffusion_coefficient(u, u + step))
        return x_noisy + step / 2 * (first + second)

    def sde_drift(self, velocity: Velocity, x: Tensor, t: float, w: float) -> Tensor:
        """Return velocity + w * score."""
        v = velocity(x, t)
        coef_v, coef_x = self.score_coefficients(t)
        return (1 + w * coef_v) * v + w * coef_x * x

    def last_step(self, velocity: Velocity, x: Tensor, t: float, u: float) -> Tensor:
        """Take the step from t to the end, without noise."""
        if self.config.last_step == "none":
            return x
        if self.config.last_step == "mean":
            return x + (u - t) * self.sde_drift(velocity, x, t, self.diffusion_coefficient(t, u))
        v = velocity(x, t)
        if self.config.last_step == "euler":
            return x + (u - t) * v
        coef_v, coef_x = self.linear_coefficients(t, "data")
        return coef_v * v + coef_x * x

    def diffusion_coefficient(self, t: float, u: float) -> float:
        """Return w of a step from t to u."""
        if self.config.diffusion_norm == 0:
            return 0.0
        time = torch.tensor([t], dtype=torch.float64)
        w = float(compute_diffusion(self.path, time, time, self.config.diffusion_form, self.config.diffusion_norm))
        if self.config.max_noise is None:
            return w
        max_w = self.config.max_noise * float(self.path.sigma(time)) ** 2 / (u - t)
        return min(w, max_w) if math.isfinite(w) else max_w

    def score_coefficients(self, t: float) -> tuple[float, float]:
        """Return (a, b) of score = a velocity + b x at time t."""
        return self.linear_coefficients(t, "score")

    def linear_coefficients(self, t: float, target: Literal["score", "data"]) -> tuple[float, float]:
        """Return (a, b) of target = a velocity + b x at time t; every conversion of a velocity is linear in it."""
        time = torch.tensor([t], dtype=torch.float64)
        one, zero = torch.ones_like(time), torch.zeros_like(time)
        coef_v = convert_prediction(self.path, one, zero, time, "velocity", target)
        coef_x = convert_prediction(self.path, zero, one, time, "velocity", target)
        return float(coef_v), float(coef_x)
