"""Files and folders are whole or not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from lumina_core.io import atomic_dir, atomic_file, remove_partial


def test_a_file_takes_its_place_when_it_is_written(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_file(path) as partial:
        partial.write_text("new", encoding="utf-8")
        assert not path.exists() and partial.parent == tmp_path and partial.suffix == ".txt"
    assert path.read_text(encoding="utf-8") == "new" and os.listdir(tmp_path) == ["a.txt"]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as partial:
        partial.write_text("half", encoding="utf-8")
        raise ZeroDivisionError
    assert path.read_text(encoding="utf-8") == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_takes_the_place_of_another_whole(tmp_path):
    folder = tmp_path / "deep" / "model"
    for content in ("old", "new"):
        with atomic_dir(folder) as partial:
            (partial / content).write_text(content, encoding="utf-8")
    assert os.listdir(folder) == ["new"] and os.listdir(tmp_path / "deep") == ["model"]


def test_an_error_leaves_the_old_folder_and_no_other(tmp_path):
    folder = tmp_path / "model"
    with atomic_dir(folder) as partial:
        (partial / "old").touch()
    with pytest.raises(OSError, match="disk full"), atomic_dir(folder) as partial:
        (partial / "half").touch()
        raise OSError("disk full")
    assert os.listdir(folder) == ["old"] and os.listdir(tmp_path) == ["model"]


KILLED = """
import os, signal, sys
from pathlib import Path
from lumina_core.io import atomic_dir
with atomic_dir(Path(sys.argv[1])) as partial:
    (partial / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_killed_writer_leaves_no_half_folder_and_its_rest_is_swept_away(tmp_path):
    folder = tmp_path / "model"
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not folder.exists() and len(os.listdir(tmp_path)) == 1
    remove_partial(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_was_moved_aside_when_its_writer_was_killed_is_put_back(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    with atomic_dir(folder) as partial:
        (partial / "old").touch()
    real, moved = os.replace, []

    def killed_at_the_second(source, target):
        moved.append(target)
        if len(moved) == 2:
            raise KeyboardInterrupt  # the moment between two moves
        real(source, target)

    monkeypatch.setattr(os, "replace", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt), atomic_dir(folder) as partial:
        (partial / "new").touch()
    monkeypatch.undo()
    assert not folder.exists()
    remove_partial(tmp_path)
    assert os.listdir(folder) == ["old"] and os.listdir(tmp_path) == ["model"]


def test_sweeping_touches_nothing_that_is_whole(tmp_path):
    (tmp_path / "a.partial.txt").touch()
    (tmp_path / ".hidden").touch()
    remove_partial(tmp_path)
    remove_partial(tmp_path / "not there")
    assert sorted(os.listdir(tmp_path)) == [".hidden", "a.partial.txt"]
