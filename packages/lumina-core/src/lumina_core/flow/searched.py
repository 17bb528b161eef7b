"""A grid improved by trying: its times moved one by one to where an error is least."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

REACHES = (0.4, 0.25, 0.12)
"""How far a time is moved, as a share of the way to its neighbour; once through all times for each."""
TRIES = 3
"""Grids that are tried, at most, to move one time once."""
ROOM = 0.05
"""Share of the gap between its neighbours that a time keeps away from either."""


def searched(
    times: Tensor, free: Sequence[int], error: Callable[[Tensor], float], reaches: Sequence[float] = REACHES
) -> Tensor:
    """Times of a grid moved to where an error is least, one after another; it never becomes larger (our own proposal).

    A time is tried nearer to either neighbour, then where a parabola through the three errors is least. The last time
    is moved first, so that an error which keeps the ways of the grid before has only the changed end to go again.

    Args:
        times: (steps + 1,) float64, rising.
        free: which of them may move; neither the first nor the last.
        error: of a grid; no number counts as worse than any.
    """
    best, least = times, error(times)
    for reach in reaches:
        for place in sorted(free, reverse=True):
            best, least = _moved(best, least, place, reach, error)
    return best


def tries(steps: int, free: Sequence[int], reaches: Sequence[float] = REACHES) -> int:
    """Steps that are gone at most by `searched`, where an error keeps the ways of the grid before."""
    ends = sum(steps - place + 1 for place in free)
    # each time through begins with ways that are no longer kept
    return steps + len(reaches) * (steps + TRIES * ends)


def _moved(
    best: Tensor, least: float, place: int, reach: float, error: Callable[[Tensor], float]
) -> tuple[Tensor, float]:
    before, now, after = best[place - 1 : place + 2].tolist()
    places = [now - reach * (now - before), now, now + reach * (after - now)]
    errors = [error(_with(best, place, places[0])), least, error(_with(best, place, places[2]))]
    lowest = _lowest(places, errors)
    if lowest is not None:
        room = ROOM * (after - before)
        places.append(min(max(lowest, before + room), after - room))
        errors.append(error(_with(best, place, places[3])))
    found, where = min((error, where) for error, where in zip(errors, places, strict=True) if error == error)
    return (best, least) if found >= least else (_with(best, place, where), found)


def _with(times: Tensor, place: int, time: float) -> Tensor:
    changed = times.clone()
    changed[place] = time
    return changed


def _lowest(places: Sequence[float], errors: Sequence[float]) -> float | None:
    """Where the parabola through three points is least; None where it has no lowest place."""
    (a, b, c), (left, middle, right) = places, errors
    down, up = (middle - left) / (b - a), (right - middle) / (c - b)
    bend = (up - down) / (c - a)
    return (a + b - down / bend) / 2 if bend > 0 and bend < float("inf") else None
