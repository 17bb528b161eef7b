"""Check of a solver: a plain function, one that remembers, or one that chooses its own steps; its order is measured."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lumina_core.flow.solver import integrate
from lumina_core.flow.times import equal_steps
from lumina_core.testing._contract import Contract, drawn, want, want_close, want_finite, want_same, want_shape
from lumina_core.testing._whole import check_whole


def measured_order(solver: Any, steps: int = 16) -> float:
    """By which power of the step the error falls when steps are halved, on a spiral and a logistic curve."""
    errors = [_error(solver, steps * times) for times in (1, 2)]
    return math.inf if errors[1] < 1e-13 else math.log2(errors[0] / errors[1])


def _error(solver: Any, steps: int) -> float:
    begin = torch.tensor([[1.0, 0.0, 0.2]], dtype=torch.float64)
    came = integrate(_spiral, begin, equal_steps(steps), solver, draw=lambda: torch.zeros_like(begin)).values[0]
    # angle and logistic time are both t + t^2 / 2, and 1.5 at the end
    odds = 0.25 * math.exp(1.5)
    wanted = torch.tensor([math.cos(1.5), math.sin(1.5), odds / (1 + odds)], dtype=torch.float64)
    return float((came - wanted).abs().max())


def _spiral(x: Tensor, time: Tensor) -> Tensor:
    speed = (1 + time)[:, None]
    across, up, share = x[:, 0:1], x[:, 1:2], x[:, 2:3]
    return speed * torch.cat([-up, across, share * (1 - share)], dim=1)


def check_solver(solver: Any, order: int | None = None) -> None:
    """Try every line of the contract `Solver`: a plain function from here to there, without state.

    One that remembers (`step`) or chooses its own steps (`solve`) is tried on whole ways; see `flow.solver`.

    Args:
        order: the order it claims; it is measured. None: at least the first.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("Solver", solver)
    if hasattr(solver, "step") or hasattr(solver, "solve"):
        exact = _check_way(contract, solver)
    else:
        _check_function(contract, solver)
        exact = True
    if exact:
        _check_order(contract, solver, order)
    check_whole(contract, data=drawn(3, 2, 6), solver=solver)


def _check_order(contract: Contract, solver: Any, order: int | None) -> None:
    with contract.line(f"halving the step divides the error by two to the order ({order or 'at least 1'})"):
        found = measured_order(solver)
        want(found > 0.8 if order is None else found > order - 0.3, f"an order of {found:.2f}")
        want(order is None or found < order + 0.7, f"an order of {found:.2f}, more than it claims")


def _check_way(contract: Contract, solver: Any) -> bool:
    """Whether its order can be measured: it takes the given steps, and no noise."""
    grid, x, freely = equal_steps(6), drawn(3, 4, 2).double(), hasattr(solver, "solve")

    def went(x: Tensor, seed: int = 0) -> Tensor:
        made = torch.Generator().manual_seed(seed)
        noise = [torch.randn((3, 4, 2), generator=made, dtype=torch.float64) for _ in range(40)]
        return integrate(_turning, x, grid, solver, draw=lambda: noise.pop()[: len(x)]).values

    with contract.line("it carries x along the grid, in x's shape and type, and leaves x as it was"):
        kept, came = x.clone(), went(x)
        want_same(x, kept, "the x that was handed over")
        want_shape(came, tuple(x.shape), "what it gives")
        want_finite(came, "what it gives")
        want(came.dtype == x.dtype, f"{came.dtype} instead of {x.dtype}")
    with contract.line("what it remembers it carries along: the same way again, after another, gives the same"):
        went(x + 1)
        want_same(went(x), came, "the second time")
    with contract.line("a batch of n is n singles (as near as its tolerances, where it chooses its own steps)"):
        want_close(went(x[:1]), came[:1], "an item alone", within=1e-2 if freely else 1e-9)
    if freely:
        with contract.line("one that chooses its own steps arrives where the velocity leads, within 0.01"):
            want(_error(solver, 1) < 0.01, f"an error of {_error(solver, 1):.3g}")
        return False
    return torch.equal(went(x, seed=1), came)


def _turning(values: Tensor, time: Tensor) -> Tensor:
    return torch.sin(3 * values) + time.view(-1, 1, 1)


def _check_function(contract: Contract, solver: Any) -> None:
    t, u = torch.tensor(0.25, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    x = drawn(3, 4, 2).double()
    asked: list[Tensor] = []

    def velocity(values: Tensor, time: Tensor) -> Tensor:
        asked.append(torch.as_tensor(time))
        return torch.sin(3 * values) + time

    with contract.line("step(velocity, x, t, u) gives x at u, in x's shape and type, and leaves x as it was"):
        kept = x.clone()
        came = solver(velocity, x, t, u)
        want_same(x, kept, "the x that was handed over")
        want_shape(came, tuple(x.shape), "what it gives")
        want(came.dtype == x.dtype, f"{came.dtype} instead of {x.dtype}")
    with contract.line("it asks for the velocity between t and u"):
        times = [float(time) for time in asked]
        want(times and min(times) >= 0.25 and max(times) <= 0.5, f"it asked at {times} between 0.25 and 0.5")
    with contract.line("it has no state: the same step again, after another, gives the same"):
        solver(_constant, x + 1, t, u)
        want_same(solver(velocity, x, t, u), came, "the second time")
    with contract.line("a constant velocity is followed exactly: x + (u - t) v"):
        want_close(solver(_constant, x, t, u), x + 0.25 * 2, "what it gives", within=1e-12)
        want(solver(_constant, x.float(), t, u).dtype == torch.float32, "float32 does not stay float32")
    with contract.line("a batch of n is n singles"):
        want_close(solver(velocity, x[1:2], t, u), came[1:2], "an item alone", within=1e-12)


def _constant(values: Tensor, time: Tensor) -> Tensor:
    return torch.full_like(values, 2.0)
