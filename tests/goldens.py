"""python tests/goldens.py FILE...: reference tensors of the published code against this project's own, a line a case.

Prints `case file max_abs_error tolerance ok|FAIL` (or `unsupported` for a case of a later issue), and exits 1 if one
fails; a file that cannot be read fails too, with the reason on stderr. The numbers go through the project's code with
names mapped (lumina_image.formats), never through a copy of a model.

`--device cuda` runs the networks and their tensors on a device. `--dtype bfloat16` casts the networks: errors are then
relative, norm of the difference to norm of the reference, with a tolerance of 0.05; cases without a network, of
gradients, and with adaptive steps are unsupported.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).parent))

import goldens_sound as sound
from goldens_buckets import sizes
from goldens_flow import grids, losses, plans
from goldens_manifest import keymap, manifest
from goldens_model import answer, gradients, regions, sampled, tables
from goldens_ode import sampler, trajectories
from goldens_pipeline import TOLERANCE, pipeline, reference_of
from goldens_published import diffusers_forward, imagenet
from goldens_read import TARGET, Golden, Unsupported

HANDLERS: dict[str, tuple[Callable[[Golden], float], float]] = {
    "A1": (answer, 2e-5),
    "A2": (answer, 2e-5),
    "A3": (answer, 2e-5),
    "A4": (answer, 2e-5),
    "A5": (answer, 1e-4),
    "A6": (answer, 1e-4),
    "A7": (tables, 1e-6),
    "A8": (sampled, 5e-4),
    "A9": (gradients, 1e-4),
    "A10": (sizes, 0.0),
    "B1": (diffusers_forward, 2e-5),
    "B2": (diffusers_forward, 2e-5),
    "B3": (pipeline, TOLERANCE),
    "C1": (trajectories, 1e-5),
    "C2": (losses, 1e-5),
    "C3": (plans, 1e-5),
    "C4": (sampler, 2e-5),
    "C5": (grids, 1e-6),
    "D": (imagenet, 1e-4),
    "E1": (sound.forward, 3e-4),
    "E2": (sound.autoencoder, 2e-5),
    "E3": (sound.vocoder, 1e-5),
    "E4": (sound.sampled, 1e-3),
    "E5": (sound.losses, 3e-4),
    "F": (regions, 1e-4),
}
NAMES = {
    "C-ode": "C1", "C-ode-img2img": "C1b", "C-loss": "C2", "C-path": "C3", "C-sampler": "C4", "B-pipeline": "B3",
}  # fmt: skip
"""Cases that the files call otherwise than their notes."""
REDUCED_CASES = ("A1", "A2", "A3", "A4", "A5", "A6", "B1", "B2", "B3", "D", "E1", "E2", "E3", "E4", "E5", "F")
"""Cases that can run in a dtype narrower than float32."""
REDUCED_TOLERANCE = 5e-2
"""Relative error in bfloat16, whose rounding is 4e-3 per operation."""


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
    """One verdict a file; what cannot be read or computed fails, and the others are still looked at."""
    for path in paths:
        try:
            path = reference_of(path) if path.is_dir() else path
            yield _manifest(path) if path.suffix == ".json" else _tensors(path)
        except Exception as error:
            print(f"{path}: {type(error).__name__}: {error}", file=sys.stderr)
            yield Verdict("?", path.name, math.inf, 0.0)


def _tensors(path: Path) -> Verdict:
    golden = _read(path)
    case = NAMES.get(golden.case, golden.case)
    found = HANDLERS.get(_family(case), HANDLERS.get(case[:1]))
    if found is None or (TARGET.is_reduced and not {_family(case), case[:1]} & {*REDUCED_CASES}):
        return Verdict(case, path.name, None, None)
    return _tried(case, path, REDUCED_TOLERANCE if TARGET.is_reduced else found[1], found[0], golden)


def _family(case: str) -> str:
    """`A2` of `A2`, `A2b` and `A2h-ntk`, `D` of all of its; the variants of a case are read from the file."""
    if re.match(r"D(?![a-z]{2})", case):
        return "D"
    numbered = re.match(r"[A-Z]\d+", case)
    return numbered[0] if numbered else case


def _manifest(path: Path) -> Verdict:
    content = json.loads(path.read_text(encoding="utf-8"))
    if TARGET.is_reduced or ("shapes" not in content and "map" not in content):
        return Verdict("?", path.name, None, None)
    if "map" in content:
        return _tried("map", path, 0.0, keymap, content)
    of_sound = content.get("what", "").startswith("lumina_music")
    return _tried("manifest", path, 0.0, sound.manifest if of_sound else manifest, content)


def _tried(case: str, path: Path, tolerance: float, handler: Callable[[Any], float], content: Any) -> Verdict:
    try:
        return Verdict(case, path.name, handler(content), tolerance)
    except Unsupported:
        return Verdict(case, path.name, None, None)
    except Exception as error:
        print(f"{path}: {type(error).__name__}: {error}", file=sys.stderr)
        return Verdict(case, path.name, math.inf, tolerance)


def _read(path: Path) -> Golden:
    with safe_open(path, "pt") as file:
        config = json.loads((file.metadata() or {}).get("config", "{}"))
        tensors = {name: file.get_tensor(name).to(TARGET.device) for name in file.keys()}  # noqa: SIM118
        return Golden(config.get("case", "?"), config, tensors, path)


def main(arguments: list[str]) -> int:
    """Print a line a file; 1 if one failed, 2 without files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--device", default="cpu", help="device of the networks")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="dtype of the networks")
    options = parser.parse_args(arguments)
    if not options.files:
        print(__doc__)
        return 2
    torch.manual_seed(0)
    failed = False
    with _on(options.device, getattr(torch, options.dtype)):
        for verdict in verdicts(options.files):
            print(verdict.line(), flush=True)
            failed = failed or verdict.failed
    return int(failed)


@contextmanager
def _on(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Run the cases on a device, where new tensors are created too, without TensorFloat-32."""
    before = TARGET.device, TARGET.dtype, torch.backends.cudnn.allow_tf32
    TARGET.device, TARGET.dtype, torch.backends.cudnn.allow_tf32 = device, dtype, False
    try:
        with torch.device(device) if device != "cpu" else nullcontext():
            yield
    finally:
        TARGET.device, TARGET.dtype, torch.backends.cudnn.allow_tf32 = before


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
