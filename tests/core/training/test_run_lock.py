"""One training at a time uses a folder, which is free again when its process ends."""

from __future__ import annotations

import subprocess
import sys

import pytest
from core.toy import recipe, values
from core.training.test_trainer import make_trainer, train

from lumina_core.errors import ConfigError
from lumina_core.training.trainer import RunLock

HOLDER = """
import sys
from pathlib import Path
from lumina_core.training.trainer import RunLock
lock = RunLock(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_second_training_in_a_folder_is_refused_and_leaves_it_as_it_was(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "locked\n"
        for resume in (False, True):
            with pytest.raises(ConfigError, match=r"which another training uses, .*Wait for the other training"):
                train(tmp_path, resume=resume)
        assert [path.name for path in tmp_path.iterdir()] == [".lumina.lock"]
    finally:
        holder.kill()
        holder.communicate()
    assert train(tmp_path).is_dir()


def test_a_training_that_fails_at_its_start_releases_the_folder_and_leaves_nothing(tmp_path):
    broken = recipe().read({**values(), "dataset": None}, "toy")
    with pytest.raises(ConfigError, match="dataset: got none"):
        make_trainer(tmp_path / "run", broken)
    assert not (tmp_path / "run").exists()
    RunLock(tmp_path / "run").release()


def test_file_systems_without_locks_are_used_without_protection(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr("lumina_core.training.trainer.FileLock.acquire", fail)
    RunLock(tmp_path)
    assert train(tmp_path).is_dir()
