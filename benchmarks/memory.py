"""The largest memory that a piece of work takes beyond what stood there before it, for benchmarks on Linux."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from types import TracebackType


class Watch:
    """`with Watch() as watch: work()`; then `watch.peak` is MiB of resident memory beyond those before the work.

    What was freed before is handed back to the system first, so that the work cannot hide in it.
    """

    peak = 0.0

    def __enter__(self) -> Watch:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
        self.before = read_status("VmRSS")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.peak = max(0.0, read_status("VmHWM") - self.before)


def read_status(name: str) -> float:
    """MiB that the system tells of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name + ":"))
