"""Files that requests name are read once while they do not change."""

from __future__ import annotations

import os

import pytest

from lumina_core.errors import UnusableError
from lumina_core.io import cached_read


def test_a_file_is_read_once_until_it_changes(tmp_path):
    read = []
    look = cached_read(lambda path: read.append(path.read_text()) or len(read), "a text")
    file = tmp_path / "a"
    file.write_text("one")
    assert [look(file), look(file)] == [1, 1] and read == ["one"]
    file.write_text("other")
    assert look(file) == 2 and read == ["one", "other"]


def test_unreadable_files_are_refused_and_a_pipe_does_not_block(tmp_path):
    def refused(path):
        raise UnusableError("it is green")

    look = cached_read(refused, "a text")
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    messages = {
        "file": "cannot be used as a text: it is green",
        "pipe": "cannot be used as a text: not a plain file",
        ".": "it is a folder; name a file in it",
        "none": "none cannot be read: No such file",
    }
    for name, reason in messages.items():
        with pytest.raises(ValueError, match=reason):
            look(tmp_path / name)
