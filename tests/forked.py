"""Programs of tests in processes of their own, forked from a process that has imported torch and the trainer already.

Importing them takes every program some seconds of a processor. Where there is no fork (Windows) or it is not safe
(macOS), a program starts as usual.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PRELOADED = (
    "torch.distributed.fsdp",
    "torch.utils.tensorboard",
    "torch._dynamo",
    "lumina_core.training.trainer",
    "lumina_core.training.sharded_checkpoint",
    "lumina_core.sampling.pipeline",
)


class Program:
    """A Python script in a process of its own; its output goes to files.

    Args:
        script: its path.
        arguments: those of the command line.
        environment: variables besides those of this process.
    """

    def __init__(self, script: Path | str, *arguments: object, **environment: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lumina-program-")
        self._outputs = [Path(self._folder.name) / name for name in ("out", "err")]
        command, variables = [str(script), *map(str, arguments)], {**os.environ, **environment}
        if sys.platform == "linux":
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(list(PRELOADED))
            paths = [str(path) for path in self._outputs]
            self._process = context.Process(target=_run, args=(command, variables, *paths), daemon=True)
            self._process.start()
        else:
            streams = [path.open("wb") for path in self._outputs]
            self._process = subprocess.Popen(
                [sys.executable, *command], env=variables, stdout=streams[0], stderr=streams[1]
            )
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while the program runs."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll()
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """Wait for the end, and return the exit status; a program that takes longer is killed, which is an error."""
        deadline = time.monotonic() + timeout
        while self.returncode is None:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                raise TimeoutError(f"the program did not end within {timeout:.0f} s: {self.outputs()}")
            time.sleep(0.01)
        return self.returncode

    def outputs(self) -> tuple[str, str]:
        """Return what the program has written to stdout and to stderr."""
        out, err = (path.read_text(encoding="utf-8") if path.exists() else "" for path in self._outputs)
        return out, err

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for the end, and return what was written to stdout and to stderr."""
        self.wait(timeout)
        return self.outputs()


def _run(command: list[str], variables: dict[str, str], out: str, err: str) -> None:
    """Run a script in a process that was just forked."""
    os.environ.clear()
    os.environ.update(variables)
    for number, path in ((1, out), (2, err)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(n, "wb", closefd=False), "utf-8") for n in (1, 2))
    # read at the start of torch, which was before
    if "torch" in sys.modules and "OMP_NUM_THREADS" in variables:
        sys.modules["torch"].set_num_threads(int(variables["OMP_NUM_THREADS"]))
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")
