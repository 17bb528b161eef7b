"""Golden cases of sampling a closed-form velocity: trajectories of the published solvers, without and with noise."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from goldens_flow import closed, grid_of, path_of
from goldens_read import Golden, Unsupported, largest, worst
from torch import Tensor

from lumina_core.flow.solvers import (
    AdaptiveRungeKutta,
    CountedVelocity,
    SDESolver,
    Solver,
    as_solver,
    euler,
    heun,
    heun3,
    integrate,
    midpoint,
    rk4_three_eighths,
)

FIXED = {"euler": euler, "midpoint": midpoint, "heun2": heun, "heun3": heun3, "rk4": rk4_three_eighths}
FREE = ("dopri5", "dopri8", "bosh3", "adaptive_heun", "fehlberg2")
FORMS = {"SBDM": "sbdm", "inccreasing_decreasing": "increasing_decreasing"}
"""What the published code calls otherwise."""


def trajectories(golden: Golden) -> float:
    """transport.ODE.sample of the text-to-image code: states at every time of the grid."""
    errors = []
    for run in golden.config["runs"]:
        method = run["sampler_type"]
        grid = grid_of(run)
        expected = golden.tensors[f"output.{run['name']}.trajectory"]
        # NOTES: fixed steps are asked for ten times as exactly as dopri5
        share = 0.1 if method in FREE else 1.0
        got = along(velocity_of(golden), golden.tensors["input.x"], grid, solver_of(method, 1e-7, 1e-9))
        times = worst([(grid.float(), golden.tensors[f"output.{run['name']}.t"])])
        errors += [share * worst([(got, expected)]), times, _evaluations(golden, grid, run)]
    return largest(errors)


def _evaluations(golden: Golden, grid: Tensor, run: dict[str, Any]) -> float:
    """0 where a solver of fixed steps asks as often as the published one."""
    if run["sampler_type"] in FREE or "function_evaluations" not in run:
        return 0.0
    solution = integrate(velocity_of(golden), golden.tensors["input.x"], grid, solver_of(run["sampler_type"], 1, 1))
    return float(solution.nfe != run["function_evaluations"])


def sampler(golden: Golden) -> float:
    """transport.Sampler of the full code: ODE and SDE; runs that fail there are none to compare with."""
    errors = []
    for run in golden.config["runs"]:
        if "error" in run or "nonfinite_steps" in run:
            continue
        expected = golden.tensors[f"output.{run['name']}"]
        share = 0.02 if run["sampling_method"] in FREE else 1.0
        errors.append(share * worst([(_sampled(golden, run), expected)]))
    return largest(errors)


def _sampled(golden: Golden, run: dict[str, Any]) -> Tensor:
    if "diffusion_form" in run:
        return _stirred(golden, run)
    grid = grid_of(run)
    relative, absolute = (_number(run.get(key, usual)) for key, usual in (("rtol", 1e-3), ("atol", 1e-6)))
    solver = solver_of(run["sampling_method"], relative, absolute)
    return along(velocity_of(golden), golden.tensors["input.x"], grid, solver)


def _number(value: Any) -> float:
    """A tolerance, which the published code also takes as a list of one."""
    return float(value[0] if isinstance(value, list) else value)


def _stirred(golden: Golden, run: dict[str, Any]) -> Tensor:
    path = path_of({"Linear": "ICPlan", "GVP": "GVPCPlan", "VP": "VPCPlan"}[run["path_type"]])
    form, last = run["diffusion_form"], run["last_step"] or "none"
    settings = SDESolver.Config.read(
        {
            "method": run["sampling_method"].lower(),
            "diffusion_form": FORMS.get(form, form),
            "diffusion_norm": run["diffusion_norm"],
            "last_step": last.lower(),
            "max_noise": None,
        },
        "golden",
    )
    # without a last step the others go on to the end; ours take what ends at exactly 1 for it
    stop = 1 - max(1e-12, float(run["last_step_size"]) if run["last_step"] else 0.0)
    start = float(run.get("t0", 0.0))
    inner = torch.linspace(start, stop, run["num_steps"], dtype=torch.float64)
    noise = iter(golden.tensors[f"input.noise.{run['name']}"])
    grid, solver = torch.cat([inner, torch.ones(1)]), SDESolver(settings, path)
    return along(velocity_of(golden), golden.tensors["input.x"], grid, solver, draw=lambda: next(noise))[1:]


def along(velocity: Any, x: Tensor, grid: Tensor, solver: Solver, draw: Any = None) -> Tensor:
    """The states at each time of the grid."""
    velocity, states, solver = CountedVelocity(velocity), [x], as_solver(solver)
    times, carried = grid.tolist(), None if solver.adaptive else solver.init(draw)
    for t, u in pairwise(times):
        if solver.adaptive:
            # from the beginning each time: its steps go on over the times at which one looks
            x = solver.solve(velocity, states[0], [times[0], u], lambda time, values: None, None)
        else:
            x, carried = solver.step(velocity, x, t, u, carried)
        states.append(x)
    return torch.stack(states)


def solver_of(method: str, relative: float, absolute: float) -> Solver:
    if method in FREE:
        settings = {"method": method, "rtol": relative, "atol": absolute, "batch_error_norm": True}
        return AdaptiveRungeKutta(AdaptiveRungeKutta.Config.read(settings, "golden"))
    if method not in FIXED:
        raise Unsupported
    return FIXED[method]


def velocity_of(golden: Golden) -> Any:
    a = golden.tensors["input.a"]
    return lambda x, t: closed(x, t, a)
