"""A full disk while sound is written: one clear line, no library's traceback, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")

FULL_DISK = """
import resource, sys
from lumina_core.cli.main import run
import lumina_core.sampling.pipeline
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize("suffix", [".wav", ".ogg"])
def test_a_full_disk_is_one_clear_line(tiny_folder, tmp_path, suffix):
    command = [sys.executable, "-c", FULL_DISK, "audio", "piano", "--model", str(tiny_folder), "--steps", "1"]
    out = str(tmp_path / f"it{suffix}")
    done = subprocess.run([*command, "--out", out], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if not line.startswith(("Warning: ", "Note: "))]
    assert len(errors) == 1 and errors[0].startswith("Error: "), done.stderr
    assert os.listdir(tmp_path) == []
