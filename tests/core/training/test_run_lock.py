"""A folder is trained into by one process at a time, and is free again when that one is gone."""

from __future__ import annotations

import subprocess
import sys

import pytest
from core.training.test_trainer import run

from lumina_core.errors import ConfigError
from lumina_core.training.trainer import run_lock

HOLDER = """
import sys
from pathlib import Path
from lumina_core.training.trainer import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_training_into_a_folder_is_refused_and_leaves_it_as_it_was(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        for how in ({}, {"resume": True}):
            with pytest.raises(ConfigError, match=r"another process trains into .*; wait for it, stop it, or choose"):
                run(tmp_path, **how)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    finally:
        holder.kill()
        holder.communicate()
    assert run(tmp_path).is_dir()  # who was killed holds nothing


def test_file_systems_without_locks_are_trained_on_all_the_same(tmp_path, monkeypatch):
    def nothing(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr("lumina_core.training.trainer.FileLock.acquire", nothing)
    with run_lock(tmp_path):
        assert tmp_path.is_dir()
