"""Checks of what fits a request to its canvas, and spares it work: extrapolation, context drop, step cache."""

from __future__ import annotations

import torch
from torch import Tensor

from lumina_core.fitting import ContextDrop, StepCache
from lumina_core.parts import Extrapolation
from lumina_core.testing._contract import Contract, drawn, want, want_close, want_finite, want_same, want_shape
from lumina_core.testing._whole import check_whole
from lumina_core.types import Canvas

TIMES = (0.0, 0.3, 1.0)


def check_extrapolation(extrapolation: Extrapolation) -> None:
    """Try every line of the contract `Extrapolation`.

    Raises:
        ContractError: a line is broken.
    """
    contract, rates = Contract("Extrapolation", extrapolation), _rates()
    small, large = _canvas(1.0), _canvas(2.0)
    with contract.line("timed says whether the time matters; trained the sizes trained at, or None"):
        want(isinstance(extrapolation.timed, bool), f"timed is {extrapolation.timed!r}")
        want(extrapolation.trained is None or isinstance(extrapolation.trained, tuple), f"{extrapolation.trained!r}")
    with contract.line("it gives frequencies (float64) for each axis, in the shape of the trained ones, which stay"):
        kept = [rate.clone() for rate in rates]
        for time in TIMES:
            scaled = extrapolation(rates, large, time)
            want(len(scaled) == len(rates), f"frequencies of {len(scaled)} axes instead of {len(rates)}")
            for rate, one in zip(rates, scaled, strict=True):
                want_shape(one, tuple(rate.shape), "the frequencies of an axis")
                want(one.dtype == torch.float64, f"{one.dtype} instead of float64")
                want_finite(one, "the frequencies")
        for rate, before in zip(rates, kept, strict=True):
            want_same(rate, before, "the frequencies that were handed over")
    with contract.line("on the canvas of training the trained frequencies stay as they are"):
        for time in TIMES:
            _want_close(extrapolation(rates, small, time), rates, f"a frequency at time {time}")
    with contract.line("a larger canvas turns nothing faster, and nothing backwards"):
        for time in TIMES:
            for rate, one in zip(rates, extrapolation(rates, large, time), strict=True):
                want(bool(((one > 0) & (one <= rate * (1 + 1e-9))).all()), f"at time {time}: {one.tolist()}")
    with contract.line("the time matters only where `timed` says so, and no call remembers another"):
        first = extrapolation(rates, large, TIMES[0])
        again = extrapolation(rates, large, TIMES[0] if extrapolation.timed else TIMES[2])
        _want_close(again, first, "a frequency", within=0)
    check_whole(contract, data=drawn(3, 2, 6), extrapolation=extrapolation)


def _rates() -> list[Tensor]:
    places = torch.arange(4, dtype=torch.float64) / 4
    return [torch.pow(torch.tensor(10000.0, dtype=torch.float64), -places) for _ in range(3)]


def _canvas(times: float) -> Canvas:
    return Canvas((1.0, 16.0 * times, 16.0 * times), (1.0, 16.0, 16.0), 10000.0, 24)


def _want_close(
    came: tuple[Tensor, ...], wanted: list[Tensor] | tuple[Tensor, ...], what: str, within: float = 1e-9
) -> None:
    for one, other in zip(came, wanted, strict=True):
        want_close(one, other, what, within=within)


def check_context_drop(context_drop: ContextDrop) -> None:
    """Try every line of the contract `ContextDrop`.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("lumina_core.fitting.ContextDrop", context_drop)
    with contract.line("window says how many token pitches are averaged along each of the three axes, at least 1"):
        window = context_drop.window
        want(len(window) == 3 and all(isinstance(size, int) and size > 0 for size in window), f"{window!r}")
    with contract.line("pooled(depth, time) says of each block whether it averages, always the same"):
        for depth in (1, 2, 7):
            for time in TIMES:
                pooled = context_drop.pooled(depth, time)
                want(isinstance(pooled, tuple) and len(pooled) == depth, f"{pooled!r} for {depth} blocks")
                want(all(isinstance(one, bool) for one in pooled), f"{pooled!r} of {depth} blocks")
                want(context_drop.pooled(depth, time) == pooled, "another answer the second time")
    check_whole(contract, data=drawn(3, 2, 6), context_drop=context_drop)


def check_step_cache(step_cache: StepCache) -> None:
    """Try every line of the contract `StepCache`.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("lumina_core.fitting.StepCache", step_cache)
    change, left_out = torch.tensor([0.0, 0.02, 0.3, 7.0]), torch.tensor([0.0, 1.0, 2.0, 3.0])
    with contract.line("again(change, left_out) says of each row whether it is computed, bool, always the same"):
        told = step_cache.again(change, left_out)
        want_shape(told, (4,), "what it says")
        want(told.dtype == torch.bool, f"{told.dtype} instead of bool")
        want_same(step_cache.again(change, left_out), told, "what it says the second time")
    with contract.line("each row decides by its own numbers alone"):
        apart = [step_cache.again(change[row : row + 1], left_out[row : row + 1]) for row in range(4)]
        want_same(torch.cat(apart), told, "what it says of single rows")
    check_whole(contract, data=drawn(3, 2, 6), step_cache=step_cache)
