"""A full disk while sound is written: one clear line, no library's traceback, and nothing left behind."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from forked import Program

FULL_DISK = Path(__file__).parents[1] / "full_disk.py"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")


@pytest.mark.parametrize("suffix", [".wav", ".ogg"])
def test_a_full_disk_is_one_clear_line(tiny_folder, tmp_path, suffix):
    arguments = ["audio", "piano", "--model", tiny_folder, "--steps", 1, "--out", tmp_path / f"it{suffix}"]
    done = Program(FULL_DISK, 1000, *arguments)
    _, err = done.communicate(120)
    assert done.returncode != 0 and "Traceback" not in err
    errors = [line for line in err.splitlines() if not line.startswith(("Warning: ", "Note: "))]
    assert len(errors) == 1 and errors[0].startswith("Error: "), err
    assert os.listdir(tmp_path) == []
