"""`lumina` on a full disk: python full_disk.py BYTES ARGUMENTS, with files of at most so many bytes."""

from __future__ import annotations

import resource
import sys

import lumina_core.sampling.pipeline  # noqa: F401  (torch writes files while it is imported)
from lumina_core.cli.main import run

if __name__ == "__main__":
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.exit(run(sys.argv[2:]))
