"""How much memory and time it takes to open a model of the paper's 2B size, in our layout and in the published ones.

    python benchmarks/loading.py --json benchmarks/results/loading.json     # 8 GB of disk for a while
    python benchmarks/loading.py --quick                                    # a model of a tenth of the size

Weights are random, bfloat16. Each layout is opened in a process of its own, which then looks at every page; beside it,
in turn, another process reads the same bytes into memory. `memory` is the process's highest resident size, less what
the interpreter and its libraries take before (printed too: half a gigabyte where torch brings CUDA), over
the bytes of the weights; `memory_opened` is the same before anything is looked at. `time` is that of opening and
looking over that of reading, the best of several turns each. The files are in the machine's cache, so that no slow disk
hides anything.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lumina_core.checkpoint.lazy_tensors import LazyTensor, LoadedCheckpoint
from lumina_core.checkpoint.safetensors_io import MAX_SHARD_BYTES
from lumina_core.convert import ConvertOptions, execute, plan_conversion
from lumina_core.model_dir import find_format, write_export
from lumina_core.plugins.loader import load_plugins
from lumina_image.formats.next_dit import PAD_TOKEN, NextDiTAdapter, PublishedConfig
from lumina_image.formats.recipes import make_recipe

FULL = PublishedConfig(dim=2304, n_layers=24, n_heads=32, n_kv_heads=8, qk_norm=True, cap_feat_dim=2048)
SMALL = PublishedConfig(dim=1024, n_layers=12, n_heads=16, n_kv_heads=4, qk_norm=True, cap_feat_dim=1024)
LAYOUTS = ("lumina", "lumina, 1 GB shards", "image.alpha_vllm", "image.alpha_vllm, pth", "image.diffusers")
MEMORY, TIME = 1.15, 1.2
"""What must not be exceeded."""

CHILD = """
import json, resource, sys, time
from pathlib import Path
import torch
folder, what = Path(sys.argv[1]), sys.argv[2]
def highest():
    try:  # of this process alone; the other figure begins, on Linux, with that of the process that has started this one
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
if what == "open":
    from lumina_core.model_dir import load_model
    from lumina_core.plugins.loader import load_plugins
    registry = load_plugins()
    for name in registry.registrations("checkpoint_format"):
        registry.find("checkpoint_format", name)
    before, began = highest(), time.perf_counter()
    model = load_model(folder, registry)
    report = {"opened": time.perf_counter() - began, "peak_opened": highest(), "before": before}
    looked = sum(int(p.view(torch.int16).view(-1)[::512].sum(dtype=torch.int64)) for p in model.parameters())
    report["dtype"] = str(next(model.parameters()).dtype)
else:
    files = [f for f in sorted(folder.rglob("*")) if f.suffix in (".safetensors", ".pth") and f.stat().st_size > 10**6]
    before, began = highest(), time.perf_counter()
    held = [f.read_bytes() for f in files]
    report = {"bytes": sum(map(len, held))}
report["seconds"] = time.perf_counter() - began
report["peak"] = highest()
print(json.dumps(report))
"""


@dataclass(frozen=True)
class Random:
    """A tensor that is drawn when it is read, so that a large model can be written without being held."""

    shape: tuple[int, ...]
    seed: int
    start: int = 0
    dtype: torch.dtype = field(default=torch.bfloat16)

    def copy_to(self, target: Tensor) -> None:
        draw = torch.Generator().manual_seed(self.seed * 1000003 + self.start)
        target.copy_(torch.randn(self.shape, generator=draw) * 0.02)

    def load(self) -> Tensor:
        target = torch.empty(self.shape, dtype=self.dtype)
        self.copy_to(target)
        return target

    def slice_rows(self, start: int, stop: int) -> LazyTensor:
        return Random((stop - start, *self.shape[1:]), self.seed, self.start + start)


def make(folder: Path, arguments: PublishedConfig) -> Path:
    """A folder of Alpha-VLLM's with random weights."""
    adapter = NextDiTAdapter()
    shapes = adapter.foreign_shapes(arguments)
    foreign: dict[str, LazyTensor] = {name: Random(shape, seed) for seed, (name, shape) in enumerate(shapes.items())}
    weights = adapter.from_foreign(foreign, arguments, "benchmark")
    pad = {PAD_TOKEN: weights.pop(PAD_TOKEN)}
    model = LoadedCheckpoint(make_recipe(arguments, 1024, {}, {}), weights, pad)
    folder.mkdir()
    write_export(find_format(load_plugins(), "image.alpha_vllm").export(model), folder)
    return folder


def converted(source: Path, folder: Path, name: str) -> Path:
    """The same model in another layout."""
    registry = load_plugins()
    if name.startswith("image.alpha_vllm"):
        if name.endswith("pth"):
            folder.mkdir()
            file = next(source.glob("*.safetensors"))
            torch.save(load_file(file), folder / f"{file.stem}.pth")
            (folder / "model_args.pth").write_bytes((source / "model_args.pth").read_bytes())
            return folder
        return source
    wish = ConvertOptions(format=None if name.startswith("lumina") else name)
    execute(plan_conversion(source, registry, wish), folder, 10**9 if "shards" in name else 10 * MAX_SHARD_BYTES)
    return folder


def run_child(folder: Path, what: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", CHILD, str(folder), what], capture_output=True, text=True, check=True)
    content: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return content


def measure(folder: Path, turns: int) -> dict[str, Any]:
    """Both ways in turn; the best time of each, the highest memory."""
    size = run_child(folder, "read")["bytes"]  # and the files are in the machine's cache
    opened, read = [], []
    for _ in range(turns):
        opened.append(run_child(folder, "open"))
        read.append(run_child(folder, "read"))
    best, plain = min(one["seconds"] for one in opened), min(one["seconds"] for one in read)
    before = min(one["before"] for one in opened)
    peak, at_once = (max(one[key] for one in opened) - before for key in ("peak", "peak_opened"))
    return {
        "bytes": size, "dtype": opened[0]["dtype"], "seconds": best, "seconds_read": plain, "time": best / plain,
        "seconds_opened": min(one["opened"] for one in opened), "memory": peak / size, "memory_opened": at_once / size,
        "libraries": before,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a model of a tenth of the size")
    parser.add_argument("--turns", type=int, default=3, help="of which the best counts")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    began, results = time.perf_counter(), {}
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        source = make(Path(temporary) / "source", SMALL if options.quick else FULL)
        for name in LAYOUTS:
            with tempfile.TemporaryDirectory(dir=temporary) as place:
                results[name] = measure(converted(source, Path(place) / "model", name), options.turns)
            result = results[name]
            print(
                f"{name:22} memory {result['memory']:.3f} of the file, time {result['time']:.2f} of reading it",
                flush=True,
            )
    kept = all(one["memory"] <= MEMORY and one["time"] <= TIME for one in results.values())
    content = {
        "model": "small" if options.quick else "2B, shared key heads", "layouts": results, "within": kept,
        "machine": platform.processor() or platform.machine(), "torch": torch.__version__,
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip
    if options.json is not None:
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print("within the bars" if kept or options.quick else f"not within the bars ({MEMORY} and {TIME})")
    return 0 if kept or options.quick else 1


if __name__ == "__main__":
    sys.exit(main())
