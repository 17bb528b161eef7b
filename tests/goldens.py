"""python tests/goldens.py FILE...: reference tensors of the published code against this project's own, a line a case.

Prints `case file max_abs_error tolerance ok|FAIL` (or `unsupported` for a case of a later issue), and exits 1 if one
fails. The numbers go through the project's code with names mapped (lumina_image.released), never through a copy of a
model.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).parent))

from goldens_flow import grids, losses, plans
from goldens_model import cfg, forward, gradients, manifest
from goldens_read import Golden, Unsupported

HANDLERS: dict[str, tuple[Callable[[Golden], float], float]] = {
    "A1": (forward, 2e-5),
    "A2": (forward, 2e-5),
    "A2b": (forward, 2e-5),
    "A3": (forward, 2e-5),
    "A4": (forward, 2e-5),
    "A5": (cfg, 1e-4),
    "A9": (gradients, 1e-4),
    "C2": (losses, 1e-5),
    "C3": (plans, 1e-5),
    "C5": (grids, 1e-6),
}
NAMES = {"C-loss": "C2", "C-path": "C3"}
"""Cases that the files call otherwise than their notes."""


@dataclass(frozen=True)
class Verdict:
    """What came of one file."""

    case: str
    file: str
    error: float | None
    tolerance: float | None

    @property
    def failed(self) -> bool:
        # written so that NaN fails
        return self.error is not None and self.tolerance is not None and not self.error <= self.tolerance

    def line(self) -> str:
        if self.error is None or self.tolerance is None:
            return f"{self.case} {self.file} - - unsupported"
        return f"{self.case} {self.file} {self.error:.3g} {self.tolerance:g} {'FAIL' if self.failed else 'ok'}"


def verdicts(paths: list[Path]) -> Iterator[Verdict]:
    """One verdict a file."""
    for path in paths:
        yield _manifest(path) if path.suffix == ".json" else _tensors(path)


def _tensors(path: Path) -> Verdict:
    if not path.is_file() or path.suffix != ".safetensors":
        return Verdict("?", path.name, None, None)
    golden = _read(path)
    case = NAMES.get(golden.case, golden.case)
    handler, tolerance = HANDLERS.get(case) or HANDLERS.get(case.rstrip("abcdefgh")) or (None, None)
    if handler is None or tolerance is None:
        return Verdict(case, path.name, None, None)
    try:
        return Verdict(case, path.name, handler(golden), tolerance)
    except Unsupported:
        return Verdict(case, path.name, None, None)


def _manifest(path: Path) -> Verdict:
    content = json.loads(path.read_text(encoding="utf-8"))
    if "shapes" not in content:
        return Verdict("map", path.name, None, None)
    try:
        return Verdict("manifest", path.name, manifest(content), 0.0)
    except Unsupported:
        return Verdict("manifest", path.name, None, None)


def _read(path: Path) -> Golden:
    with safe_open(path, "pt") as file:
        config = json.loads((file.metadata() or {}).get("config", "{}"))
        return Golden(config.get("case", "?"), config, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def main(arguments: list[str]) -> int:
    """Print a line a file; 1 if one failed, 2 without files."""
    if not arguments:
        print(__doc__)
        return 2
    torch.manual_seed(0)
    failed = False
    for verdict in verdicts([Path(argument) for argument in arguments]):
        print(verdict.line(), flush=True)
        failed = failed or verdict.failed
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
