"""Outputs of commands: only files are replaced, nothing of others is touched, and a full disk leaves nothing behind."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
from forked import Program

from lumina_core.io import host_id

FULL_DISK = Path(__file__).parents[1] / "full_disk.py"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="files of POSIX")


@pytest.fixture
def image(lumina, tiny_folder):
    """Return a function that generates with the tiny model in few steps."""

    def call(out, *arguments):
        return lumina("image", "cat", "--model", tiny_folder, "--steps", 1, "--out", out, *arguments)

    return call


def special_file(tmp_path, kind):
    path = tmp_path / "it.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/null")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "socket":
        import socket

        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.close()
    else:
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "socket", "folder"])
def test_what_is_no_file_is_not_replaced_and_nothing_is_generated(image, tmp_path, kind):
    path = special_file(tmp_path, kind)
    mode, before = path.lstat().st_mode, sorted(os.listdir(tmp_path))
    done = image(path)
    assert done.status == 2 and done.err.startswith("Error: --out: "), done
    assert "\n" not in done.err.strip() and done.out == ""
    assert path.lstat().st_mode == mode and sorted(os.listdir(tmp_path)) == before
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_several_results_do_not_replace_what_is_no_file(image, tmp_path):
    os.mkfifo(tmp_path / "it-1.png")
    done = image(tmp_path / "it.png", "--count", 2)
    assert done.status == 2 and "it-1.png (it is a pipe" in done.err
    assert os.listdir(tmp_path) == ["it-1.png"]


def test_files_that_look_like_probes_and_temporary_files_of_others_stay(image, tmp_path):
    names = [
        ".lumina-probe", ".notes.partial", f".a.png.lumina-{host_id()}-{os.getppid()}-12345678.partial.png",
        ".a.png.lumina-00000000-99999999-12345678.partial.png",
    ]  # fmt: skip
    for name in names:
        (tmp_path / name).write_text("mine")
    (tmp_path / "planted").write_text("mine")
    (tmp_path / ".lumina-link").symlink_to("planted")
    assert image(tmp_path / "it.png").status == 0
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "planted", ".lumina-link", "it.png"])
    assert all((tmp_path / name).read_text() == "mine" for name in [*names, "planted"])


def test_the_temporary_file_of_a_killed_command_is_deleted_by_the_next_one(image, tmp_path):
    (tmp_path / f".it.png.lumina-{host_id()}-99999999-12345678.partial.png").write_text("half")
    assert image(tmp_path / "it.png").status == 0
    assert os.listdir(tmp_path) == ["it.png"]


def test_a_null_character_in_a_path_is_one_clear_line(image, tmp_path):
    done = image(f"{tmp_path}/a\0b.png")
    assert done.status == 2 and done.err.startswith("Error: argument: got a null character")


@pytest.mark.parametrize("several", [False, True])
def test_a_full_disk_is_one_clear_line_and_leaves_no_file_and_no_folder(tiny_folder, tmp_path, several):
    out = tmp_path / "new" if several else tmp_path / "it.png"
    extra = ["--count", "2"] if several else []
    arguments = ["image", "cat", "--model", tiny_folder, "--steps", 1, "--out", out, *extra]
    done = Program(FULL_DISK, 1000, *arguments)
    _, err = done.communicate(120)
    assert done.returncode != 0 and err.startswith("Error: ") and err.count("\n") == 1, err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("device", ["cpu:99", "meta", "cuda:77", "mps:3", "hpu", "xla", "cpu:-1", ""])
def test_a_device_that_is_not_there_is_refused_by_every_command(image, lumina, tmp_path, device):
    done = image(tmp_path / "it.png", "--device", device)
    assert done.status == 2 and "device" in done.err and "unexpected" not in done.err
    if device:
        done = lumina("train", "image.tiny", "--out", tmp_path / "run", "--device", device)
        assert done.status == 2 and "Error: device: got" in done.err
    assert os.listdir(tmp_path) == []
