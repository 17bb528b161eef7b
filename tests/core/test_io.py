"""Atomic files and folders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from lumina_core import io
from lumina_core.io import atomic_dir, atomic_file, remove_partial


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_file(path) as partial:
        partial.write_text("new", encoding="utf-8")
        assert not path.exists() and partial.parent == tmp_path and partial.suffix == ".txt"
    assert path.read_text(encoding="utf-8") == "new" and os.listdir(tmp_path) == ["a.txt"]


def test_an_exception_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as partial:
        partial.write_text("half", encoding="utf-8")
        raise ZeroDivisionError
    assert path.read_text(encoding="utf-8") == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_replaces_another_completely(tmp_path):
    folder = tmp_path / "deep" / "model"
    for content in ("old", "new"):
        with atomic_dir(folder) as partial:
            (partial / content).write_text(content, encoding="utf-8")
    assert os.listdir(folder) == ["new"] and os.listdir(tmp_path / "deep") == ["model"]


def test_an_exception_keeps_the_old_folder(tmp_path):
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
from lumina_core import io
from lumina_core.io import atomic_dir

replace, calls = os.replace, []
def replace_or_die(source, target):
    calls.append(target)
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = replace_or_die

with atomic_dir(Path(sys.argv[1])) as partial:
    (partial / "new").touch()
"""


def kill_at_rename(folder, number):
    process = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(number)], check=False)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_the_partial_folder_of_a_killed_process_is_removed(tmp_path):
    kill_at_rename(tmp_path / "model", 1)
    assert not (tmp_path / "model").exists() and len(os.listdir(tmp_path)) == 1
    remove_partial(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_folder_that_a_killed_process_was_replacing_is_restored(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").touch()
    kill_at_rename(folder, 2)
    assert not folder.exists()
    remove_partial(tmp_path)
    assert os.listdir(folder) == ["old"] and os.listdir(tmp_path) == ["model"]


def test_a_folder_that_cannot_be_replaced_stays_as_it_was(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").touch()
    replace, calls = os.replace, []

    def fail_at_second(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_at_second)
    with pytest.raises(OSError, match="disk full"), atomic_dir(folder) as partial:
        (partial / "new").touch()
    assert os.listdir(folder) == ["old"] and os.listdir(tmp_path) == ["model"]


def test_temporary_files_of_a_running_process_stay(tmp_path):
    with atomic_file(tmp_path / "a.png") as partial:
        partial.write_bytes(b"half")
        remove_partial(tmp_path)
        assert partial.exists()
        other = tmp_path / partial.name.replace(str(os.getpid()), str(os.getppid()))
        other.touch()
        remove_partial(tmp_path)
        assert other.exists()


def test_files_that_only_look_temporary_stay(tmp_path):
    names = ["a.partial.txt", ".hidden", ".notes.partial", ".a.png.12345678.partial.png"]
    for name in names:
        (tmp_path / name).touch()
    remove_partial(tmp_path)
    remove_partial(tmp_path / "absent")
    assert sorted(os.listdir(tmp_path)) == sorted(names)


def test_on_windows_folders_are_not_synchronised_and_files_are_opened_for_writing(tmp_path, monkeypatch):
    opened, real = [], os.open

    def open_like_windows(path, flags, *rest):
        if os.path.isdir(path):
            raise PermissionError(path)
        opened.append(flags)
        return real(path, flags, *rest)

    monkeypatch.setattr(io, "_IS_WINDOWS", True)
    monkeypatch.setattr(os, "open", open_like_windows)
    with atomic_dir(tmp_path / "model") as partial:
        (partial / "deep").mkdir()
        os.close(real(partial / "deep" / "file", os.O_CREAT))
    assert (tmp_path / "model" / "deep" / "file").exists() and opened == [os.O_RDWR]
