"""Progress bars for long work of a command: on a terminal where somebody watches, and nowhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@contextmanager
def progress(title: str, total: int, quiet: bool = False, of_bytes: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar on stderr that is gone afterwards; what it hands over is told how many more are done.

    Args:
        total: how many there are in all.
        quiet: no bar, whoever watches.
        of_bytes: what is counted are bytes.
    """
    with _bars(quiet, of_bytes) as bars:
        if bars is None:
            yield lambda _: None
            return
        task = bars.add_task(title, total=total)
        yield lambda more: bars.advance(task, more)


@contextmanager
def several() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each kind of work; what it hands over is told which, how many are done, and of how many."""
    rows: dict[str, TaskID] = {}
    with _bars() as bars:

        def watch(what: str, done: int, total: int) -> None:
            if bars is not None:
                rows[what] = rows[what] if what in rows else bars.add_task(what, total=total)
                bars.update(rows[what], completed=done)

        yield watch


@contextmanager
def _bars(quiet: bool = False, of_bytes: bool = False) -> Iterator[Progress | None]:
    if quiet or not sys.stderr.isatty():
        # not even a disabled bar: an old rich leaves an empty line where it stood
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()]
    with Progress(*(columns if of_bytes else ()), transient=True, console=Console(stderr=True)) as bars:
        yield bars
