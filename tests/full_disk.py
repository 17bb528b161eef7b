"""`lumina` on a full disk: python full_disk.py BYTES ARGUMENTS, with files of at most so many bytes."""

from __future__ import annotations

import importlib
import resource
import sys

from lumina_core.cli.main import run

if __name__ == "__main__":
    importlib.import_module("lumina_core.sampling.pipeline")  # with torch, which writes files while it is imported
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.exit(run(sys.argv[2:]))
