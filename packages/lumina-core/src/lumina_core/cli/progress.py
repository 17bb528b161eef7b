"""A progress bar for long work of a command: on a terminal where somebody watches, and nowhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(title: str, total: int, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar on stderr that is gone afterwards; what it hands over is told how many more are done.

    Args:
        total: how many there are in all.
        quiet: no bar, whoever watches.
    """
    if quiet or not sys.stderr.isatty():
        # not even a disabled bar: an old rich leaves an empty line where it stood
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda more: bar.advance(task, more)
