"""Checks of the mathematics of the flow: path, times and guidance."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from lumina_core.errors import LuminaError
from lumina_core.parts import Draw, Grid, Guidance, Path_
from lumina_core.testing._contract import (
    BrokenError,
    Contract,
    drawn,
    generators,
    other_chance,
    want,
    want_close,
    want_finite,
    want_same,
    want_shape,
)
from lumina_core.testing._whole import check_whole

ITEMS = 64
"""Times that are drawn to look at."""


def check_path(path: Path_) -> None:
    """Try every line of the contract `Path_`: its ends, and each slope against the difference quotient.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("Path_", path)
    inner, ends = torch.linspace(0.02, 0.98, 49, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    curves = {
        "alpha": path.alpha,
        "sigma": path.sigma,
        "alpha_slope": path.alpha_slope,
        "sigma_slope": path.sigma_slope,
    }
    with contract.line("each curve keeps shape and type of the times and is finite between the ends"):
        for name, curve in curves.items():
            want_shape(curve(inner.view(7, 7)), (7, 7), name)
            want(curve(inner.float()).dtype == torch.float32, f"{name} of float32 is {curve(inner.float()).dtype}")
            want_finite(curve(inner), name)
    with contract.line("t = 0 is noise, t = 1 is data: sigma falls from 1 to 0, alpha rises from 0 to 1"):
        want_close(path.alpha(ends), ends, "alpha at the ends", within=0.02)
        want_close(path.sigma(ends), 1 - ends, "sigma at the ends", within=0.02)
        want(bool((path.alpha(inner).diff() > 0).all()), "an alpha that does not rise everywhere")
        want(bool((path.sigma(inner).diff() < 0).all()), "a sigma that does not fall everywhere")
    with contract.line("alpha_slope and sigma_slope are the derivatives"):
        for name in ("alpha", "sigma"):
            nearby = (curves[name](inner + 1e-6) - curves[name](inner - 1e-6)) / 2e-6
            want_close(curves[f"{name}_slope"](inner), nearby, f"{name}_slope", within=1e-5)
    check_whole(contract, data=drawn(3, 2, 6), path=path)


def check_times(times: Draw | Grid, steps: Sequence[int] = (1, 2, 7, 30)) -> None:
    """Try every line of the contract `Grid` or `Draw`; which of them it is, its argument says (`steps` or not).

    Args:
        steps: numbers of steps that a grid is asked for; those it refuses with a ConfigError are left out, but not all.

    Raises:
        ContractError: a line is broken.
    """
    if "steps" in inspect.signature(times).parameters:
        _check_grid(cast(Grid, times), steps)
    else:
        _check_draw(cast(Draw, times))


def _check_grid(grid: Grid, steps: Sequence[int]) -> None:
    contract = Contract("Grid", grid)
    found: dict[int, Tensor] = {}
    with contract.line("it gives (steps + 1,) float64 on the CPU"):
        for number in steps:
            try:
                found[number] = grid(number)
            except LuminaError:
                continue
            want_shape(found[number], (number + 1,), f"the grid of {number} steps")
            want(found[number].dtype == torch.float64, f"{found[number].dtype} instead of float64")
            want(found[number].device.type == "cpu", f"a grid on {found[number].device}")
        want(found, f"none of {list(steps)} steps is possible")
    with contract.line("from exactly 0 to exactly 1"):
        for number, one in found.items():
            want(
                float(one[0]) == 0 and float(one[-1]) == 1, f"{number} steps from {float(one[0])} to {float(one[-1])!r}"
            )
    with contract.line("it rises at every step"):
        for number, one in found.items():
            want(bool((one.diff() > 0).all()), f"with {number} steps it does not")
    with contract.line("the same number of steps gives the same grid"):
        for number, one in found.items():
            want_same(grid(number), one, f"the grid of {number} steps the second time")
    with contract.line("no step at all is refused in words (a ConfigError)"):
        _want_refusal(lambda: grid(0))
    number = min(found, key=lambda steps: abs(steps - 2))
    check_whole(contract, data=drawn(3, 2, 6), grid=grid, steps=number)


def _want_refusal(ask: Callable[[], object]) -> None:
    try:
        came = ask()
    except LuminaError:
        return
    raise BrokenError(f"it gave {came!r:.60}")


def _check_draw(draw: Draw) -> None:
    contract = Contract("Draw", draw)
    with contract.line("it gives (B,) floating numbers in 0..1, one generator an item"):
        time = draw(generators(ITEMS))
        want_shape(time, (ITEMS,), "the times")
        want(time.is_floating_point(), f"times are {time.dtype}")
        want(bool(((time >= 0) & (time <= 1)).all()), f"times from {float(time.min()):.3g} to {float(time.max()):.3g}")
    with contract.line("a sample's time depends on its own generator alone"), other_chance(5):
        for item in range(3):
            want_same(draw(generators(1, seed=item)), time[item : item + 1], f"the time of generator {item} alone")
    with contract.line("different generators draw different times"):
        want(len(set(time.tolist())) > ITEMS // 2, f"{len(set(time.tolist()))} different times of {ITEMS}")
    check_whole(contract, data=drawn(3, 2, 6), draw=draw)


def check_guidance(guidance: Guidance) -> None:
    """Try every line of the contract `Guidance`: a plain function of two velocities and a scale.

    Raises:
        ContractError: a line is broken.
    """
    contract, said, silent = Contract("Guidance", guidance), drawn(3, 5, 2, seed=1), drawn(3, 5, 2, seed=2)
    with contract.line("guidance(conditional, silent, scale) gives a velocity of their shape and type, finite"):
        kept = said.clone(), silent.clone()
        came = guidance(said, silent, 3.0)
        want_shape(came, (3, 5, 2), "what it gives")
        want_finite(came, "what it gives")
        want_same(said, kept[0], "the conditional velocity that was handed over")
        want_same(silent, kept[1], "the silent velocity that was handed over")
        want(guidance(said.double(), silent.double(), 3.0).dtype == torch.float64, "float64 does not stay float64")
    with contract.line("a scale of 1 is exactly the conditional velocity"):
        want_same(guidance(said, silent, 1.0), said, "what it gives")
    with contract.line("where saying something changes nothing, neither does guidance"):
        want_close(guidance(said, said.clone(), 3.0), said, "what it gives of two equal velocities", within=1e-5)
    with contract.line("it has no state: the same again, after another, gives the same"):
        guidance(silent, said, 5.0)
        want_same(guidance(said, silent, 3.0), came, "the second time")
    with contract.line("a batch of n is n singles"):
        want_close(guidance(said[1:2], silent[1:2], 3.0), came[1:2], "an item alone", within=1e-5)
