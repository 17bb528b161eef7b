"""Atomic files and folders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lumina_core import io
from lumina_core.io import atomic_dir, atomic_file, new_dir, remove_dir, remove_partial


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
if len(sys.argv) > 3:
    io._exchange = lambda *names: False

with atomic_dir(Path(sys.argv[1])) as partial:
    (partial / "new").touch()
"""


def kill_at_rename(folder, number, *options):
    process = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(number), *options], check=False)
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
    kill_at_rename(folder, 2, "without exchange")
    assert not folder.exists()
    remove_partial(tmp_path)
    assert os.listdir(folder) == ["old"] and os.listdir(tmp_path) == ["model"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_the_next_write_restores_and_cleans_what_a_killed_process_left(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").touch()
    kill_at_rename(folder, 2, "without exchange")
    with pytest.raises(ZeroDivisionError), atomic_dir(folder):
        assert os.listdir(folder) == ["old"] and len(os.listdir(tmp_path)) == 2
        raise ZeroDivisionError
    assert os.listdir(folder) == ["old"] and os.listdir(tmp_path) == ["model"]


@pytest.mark.skipif(sys.platform == "win32", reason="no exchange of names there")
def test_a_folder_exists_at_every_moment_of_its_replacement(tmp_path, monkeypatch):
    folder, seen = tmp_path / "model", []
    folder.mkdir()
    monkeypatch.setattr(os, "replace", lambda *names: seen.append(names))
    with atomic_dir(folder) as partial:
        (partial / "new").touch()
    assert os.listdir(folder) == ["new"] and os.listdir(tmp_path) == ["model"] and not seen


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes of this kind there")
@pytest.mark.parametrize("is_linked", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_regular_files_are_replaced(tmp_path, kind, is_linked):
    path = tmp_path / "it"
    if kind == "device":
        path = Path(os.devnull)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    target = path
    if is_linked:
        target = tmp_path / "link"
        target.symlink_to(path)
    mode = path.stat().st_mode
    with pytest.raises(OSError, match="and only a file is replaced"), atomic_file(target) as partial:
        partial.touch()
    assert path.stat().st_mode == mode and target.is_symlink() == is_linked
    if kind != "folder":
        with pytest.raises(OSError, match="and only a folder is replaced"), atomic_dir(target):
            pass


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    file, link = tmp_path / "a.txt", tmp_path / "link.txt"
    file.write_text("old")
    link.symlink_to("a.txt")
    with atomic_file(link) as partial:
        partial.write_text("new")
    assert file.read_text() == "new" and link.is_symlink() and sorted(os.listdir(tmp_path)) == ["a.txt", "link.txt"]


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path):
    for name in ("x" * 250 + ".png", "文" * 80 + ".png"):
        with atomic_file(tmp_path / name) as partial:
            partial.touch()
        assert (tmp_path / name).exists()


def test_new_empty_folders_are_deleted_after_an_error(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ZeroDivisionError), new_dir(tmp_path / "a" / "b" / "c"):
        raise ZeroDivisionError
    assert os.listdir(tmp_path / "a") == []
    with pytest.raises(ZeroDivisionError), new_dir(tmp_path / "a" / "b" / "c"):
        (tmp_path / "a" / "b" / "file").touch()
        raise ZeroDivisionError
    assert os.listdir(tmp_path / "a" / "b") == ["file"]


def test_temporary_files_of_other_machines_stay(tmp_path):
    for host, name in (("00000000", "other"), (io.host_id(), "own")):
        (tmp_path / f".{name}.lumina-{host}-99999999-12345678.partial").touch()
    remove_partial(tmp_path)
    assert os.listdir(tmp_path) == [".other.lumina-00000000-99999999-12345678.partial"]


def test_a_folder_that_is_being_deleted_has_no_name(tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    monkeypatch.setattr(io.shutil, "rmtree", lambda *_, **__: None)  # as if the process were killed
    remove_dir(tmp_path / "old")
    assert not (tmp_path / "old").exists() and len(os.listdir(tmp_path)) == 1


def test_a_folder_that_cannot_be_replaced_stays_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "_exchange", lambda *names: False)
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
