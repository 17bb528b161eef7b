"""`lumina` with the toy plugin, for tests that need a process: python toy_run.py train RECIPE --out DIR ..."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core import toy

from lumina_core.cli.main import run
from lumina_core.plugins import loader
from lumina_core.training import checkpoint

loader.load_plugins = toy.registry
saved = checkpoint.save_file


def slow_save(tensors, path):
    """Save, and fall asleep in the midst of the checkpoint that TOY_SLEEP_IN names."""
    if os.environ.get("TOY_SLEEP_IN", "nowhere") in str(path) and "ema" in path.name:
        path.write_bytes(b"half")
        Path(os.environ["TOY_MARK"]).touch()
        time.sleep(600)
    saved(tensors, path)


checkpoint.save_file = slow_save

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
