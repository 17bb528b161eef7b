"""One training a folder: two that wrote into the same one would mix their checkpoints and cut each other's log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lumina_core.errors import ConfigError


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold the folder of a run while it is written to; a process that dies lets go of it.

    Raises:
        ConfigError: another process trains into it.
    """
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"another process trains into {out} at this moment; wait for it, stop it, or choose another --out"
        ) from error
    except NotImplementedError:  # a file system without locks: then nobody can be told
        pass
    try:
        yield
    finally:
        lock.release()
