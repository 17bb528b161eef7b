"""`lumina` with the toy plugin, for tests that need a process: python toy_run.py train RECIPE --out DIR ..."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch.distributed
from core import toy

from lumina_core.cli.main import run
from lumina_core.plugins import loader
from lumina_core.training import checkpoint, distributed

for module in [one for one in sys.modules.values() if getattr(one, "load_plugins", None) is loader.load_plugins]:
    module.load_plugins = toy.registry  # also in modules that were imported before
save_file = checkpoint.save_file


def slow_save(tensors, path):
    """Save, and sleep in the middle of the checkpoint that TOY_SLEEP_IN names."""
    if os.environ.get("TOY_SLEEP_IN", "nowhere") in str(path) and "ema" in path.name:
        path.write_bytes(b"half")
        Path(os.environ["TOY_MARK"]).touch()
        time.sleep(600)
    save_file(tensors, path)


checkpoint.save_file = slow_save

if "TOY_SLOW_SAMPLES" in os.environ:  # seconds per grid of samples
    save_grid = toy.Make.save_grid

    def slow_grid(self, *args):
        """Write a grid of samples, slowly."""
        time.sleep(float(os.environ["TOY_SLOW_SAMPLES"]))
        return save_grid(self, *args)

    toy.Make.save_grid = slow_grid

if "TOY_COLLECTIVE_TIMEOUT" in os.environ:  # seconds, of the default process group once it is joined
    wrap_ddp = distributed.wrap_ddp

    def wrap_and_set_timeout(*args):
        """Wrap a module, and shorten the timeout of collectives."""
        module, seconds = wrap_ddp(*args), float(os.environ["TOY_COLLECTIVE_TIMEOUT"])
        group = torch.distributed.distributed_c10d._get_default_group()
        for backend in (group._get_backend(torch.device("cpu")),):
            backend._set_default_timeout(timedelta(seconds=seconds))
        return module

    distributed.wrap_ddp = wrap_and_set_timeout

if "TOY_KILL" in os.environ:  # rank:step:path of a mark: the process kills itself there, once
    from lumina_core.training.trainer import Trainer

    rank, kill_step, mark = os.environ["TOY_KILL"].split(":")
    train_step = Trainer.train_step

    def killed_step(self, batch):
        """Take a step, or end as if killed from outside."""
        if os.environ["RANK"] == rank and self.step == int(kill_step) and not Path(mark).exists():
            Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return train_step(self, batch)

    Trainer.train_step = killed_step

if os.environ.get("TOY_FULL_DISK", "none") == os.environ.get("RANK"):  # rank whose disk is full
    from torch.distributed.checkpoint import filesystem

    def full_disk(*args, **kwargs):
        """Fail as a full disk does."""
        raise OSError(errno.ENOSPC, "No space left on device")

    filesystem._write_item = full_disk

if os.environ.get("TOY_BAD_DATA", "none") == os.environ.get("RANK"):  # rank whose examples cannot be read
    read = toy.Signals.get

    def fail(self, index, rng):
        """Fail after the first example, which is read before the training."""
        if os.environ.get("TOY_STARTED"):
            raise OSError("the disk of the data is away")
        os.environ["TOY_STARTED"] = "1"
        return read(self, index, rng)

    toy.Signals.get = fail

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
