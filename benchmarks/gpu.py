"""Run Lumina on a GPU and write one JSON: tests, reference tensors, generation, training, speed and memory.

    python benchmarks/gpu.py --out gpu.json                 # one GPU, at most 8 minutes
    python benchmarks/gpu.py --out smoke.json --smoke       # the same sections on a CPU with small sizes
    python benchmarks/gpu.py --out gpu.json --only forward --only generation
    python benchmarks/gpu.py --table gpu.json               # print the tables of docs/results from a JSON

Every section runs in a process of its own with a time limit, so that a crash or a hang costs one section. The JSON is
rewritten after each section. Sections: environment, tests (those marked `gpu`), goldens (reference tensors on the
device), generation and training (both built-in models, eager and compiled), forward and sampling (compared with
diffusers if it is installed), context_drop.

Without a network: install the packages of this repository and their dependencies from a folder of wheels,
`pip install --no-index --find-links wheels lumina-core lumina-image lumina-audio pytest diffusers`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOTAL_SECONDS = 480
LIMITS = {
    "environment": 40,
    "tests": 90,
    "goldens": 90,
    "generation": 120,
    "training": 150,
    "forward": 120,
    "sampling": 60,
    "context_drop": 60,
}
"""Sections in their order, and the seconds after which one is stopped."""

MODELS = {"image.emoji": "a red heart", "audio.instruments": "a trumpet plays a high note"}
TOKENS, SMOKE_TOKENS = (256, 1024, 4096, 16384), (64, 256)
WIDTH, HEADS, KV_HEADS, LAYERS, TEXT_DIM, TEXT_LENGTH = 2304, 32, 8, 4, 2048, 64
"""The 2B-GQA size with four of its 24 layers."""

COMPILED_TOKENS = 4096
"""The one size that is also compiled: each compilation takes about half a minute."""


# ------------------------------------------------------------------------------------------------------------ measuring


def device_of(smoke: bool) -> str:
    """Return the device that a section uses."""
    return "cpu" if smoke else "cuda"


def seconds_of(call: Callable[[], object], smoke: bool, rounds: int = 10) -> float:
    """Return the median seconds of a call after one warm-up, by CUDA events on a GPU."""
    import torch

    call()
    if smoke:
        spent = []
        for _ in range(2):
            start = time.perf_counter()
            call()
            spent.append(time.perf_counter() - start)
        return statistics.median(spent)
    spent = []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        spent.append(start.elapsed_time(end) / 1e3)
    return statistics.median(spent)


@contextmanager
def peak_memory(row: dict[str, Any], smoke: bool) -> Iterator[None]:
    """Record the peak memory of the block in MiB; on a CPU nothing is recorded."""
    import torch

    if smoke:
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    yield
    torch.cuda.synchronize()
    row["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)


def matmul_rate(dtype: Any, smoke: bool) -> float:
    """Return the measured rate of a large square matrix product in TFLOP/s."""
    import torch

    side = 512 if smoke else 8192
    a, b = (torch.randn(side, side, device=device_of(smoke), dtype=dtype) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: a @ b, smoke) / 1e12


# ------------------------------------------------------------------------------------------------------------- sections


def environment(smoke: bool) -> dict[str, Any]:
    """Describe the machine and measure its matrix products."""
    import torch

    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": platform.processor() or "cpu",
    }
    if not smoke:
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "device": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
        }
    rates = {str(d).removeprefix("torch."): round(matmul_rate(d, smoke), 2) for d in (torch.float32, torch.bfloat16)}
    return found | {"matmul_tflops": rates}


def tests(smoke: bool) -> dict[str, Any]:
    """Run the tests marked `gpu`; with --smoke only collect them."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/core/test_gpu.py"]
    done = subprocess.run([*command, *(["--collect-only"] if smoke else [])], cwd=ROOT, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    # pytest ends with 5 where nothing is marked
    return {
        "status": done.returncode,
        "summary": lines[-1] if lines else "",
        "failures": [x for x in lines if x.startswith(("FAILED", "ERROR"))],
    }


def goldens(smoke: bool) -> dict[str, Any]:
    """Compare the reference tensors on the device in float32, and in bfloat16 with the tolerance of its rounding."""
    files = sorted([*(ROOT / "tests/goldens_data").glob("*"), *(ROOT.parent / "shared/goldens").glob("*.safetensors")])
    rows = {}
    for dtype in ("float32", "bfloat16"):
        command = [sys.executable, "tests/goldens.py", "--device", device_of(smoke), "--dtype", dtype, *map(str, files)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        lines = done.stdout.splitlines()
        rows[dtype] = {
            "ok": sum(line.endswith(" ok") for line in lines),
            "failed": [line for line in lines if line.endswith(" FAIL")],
            "unsupported": sum(line.endswith(" unsupported") for line in lines),
            "errors": done.stderr.splitlines()[-5:],
        }
    return rows


def generation(smoke: bool) -> Iterator[dict[str, Any]]:
    """Generate with both built-in models in several dtypes, eager and compiled; compare with float32 on the CPU."""
    import torch

    from lumina_core import Pipeline

    for name, prompt in MODELS.items():
        reference = Pipeline.from_pretrained(name)(prompt, seed=1, output_type="tensor")
        expected = _tensor(reference)
        for dtype, compiled in (("float32", False), ("bfloat16", False), ("bfloat16", True)):
            if smoke and compiled:
                continue
            row: dict[str, Any] = {"model": name, "dtype": dtype, "compile": compiled}
            pipe = Pipeline.from_pretrained(name, device=device_of(smoke), dtype=dtype, compile=compiled)
            output = pipe(prompt, seed=1, output_type="tensor")
            with peak_memory(row, smoke):
                row["seconds"] = round(_wall(partial(pipe, prompt, seed=1, output_type="tensor")), 4)
            row["seconds_batch_16"] = round(_wall(partial(pipe, [prompt] * 16, seed=1, output_type="tensor")), 4)
            row["nfe"] = output[0].metadata["nfe"]
            row["rms_difference"] = float((_tensor(output) - expected).float().pow(2).mean().sqrt())
            row["finite"] = bool(torch.isfinite(_tensor(output)).all())
            yield row


def _tensor(output: Any) -> Any:
    return output.values[0].float().cpu()


def _wall(call: Callable[[], object]) -> float:
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def training(smoke: bool) -> Iterator[dict[str, Any]]:
    """Train both built-in recipes for some steps from the shipped weights, eager and compiled."""
    import csv

    for name in MODELS:
        for compiled in (False, True):
            if smoke and compiled:
                continue
            steps = 2 if smoke else 40
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-m", "lumina_core", "train", name, "--out", f"{folder}/run", "--quiet"]
                settings = [f"steps={steps}", f"compile={str(compiled).lower()}", "sample_interval=0"]
                settings += ["global_batch_size=4"] if smoke else []
                command += [word for setting in settings for word in ("--set", f"training.{setting}")]
                command += ["--device", device_of(smoke)]
                done = subprocess.run(command, capture_output=True, text=True)
                row: dict[str, Any] = {"model": name, "compile": compiled, "status": done.returncode}
                with suppress(OSError):
                    lines = Path(folder, "run", "metrics.csv").read_text(encoding="utf-8").splitlines()
                    log = list(csv.DictReader(lines))
                    times = [float(line["step_seconds"]) for line in log[len(log) // 2 :]]
                    row |= {"step_seconds": statistics.median(times), "last_loss": float(log[-1]["loss"])}
                row["message"] = "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1:]
                yield row


def forward(smoke: bool) -> Iterator[dict[str, Any]]:
    """Time one evaluation of the 2B-GQA width at several numbers of tokens, beside diffusers where it is installed."""
    import torch

    dtypes = (torch.float32,) if smoke else (torch.float32, torch.bfloat16)
    for dtype in dtypes:
        rate = matmul_rate(dtype, smoke)
        for tokens in SMOKE_TOKENS if smoke else TOKENS:
            if dtype == torch.float32 and tokens > 4096:
                continue
            row: dict[str, Any] = {"tokens": tokens, "dtype": str(dtype).removeprefix("torch.")}
            net, x, t, context = _network(tokens, dtype, smoke)
            with torch.inference_mode(), peak_memory(row, smoke):
                row["ms"] = 1e3 * seconds_of(partial(net, x, t, context=context), smoke)
            row["matmul_share"] = _flops(tokens, smoke) / (row["ms"] / 1e3) / (rate * 1e12)
            if not smoke and dtype == torch.bfloat16 and tokens == COMPILED_TOKENS:
                compiled = torch.compile(net)
                with torch.inference_mode():
                    row["compiled_ms"] = 1e3 * seconds_of(partial(compiled, x, t, context=context), smoke)
            with suppress(ImportError):
                row["diffusers_ms"] = 1e3 * _diffusers_seconds(tokens, dtype, smoke)
                row["ratio"] = row["diffusers_ms"] / row["ms"]
            yield row
            del net, x, t, context
            if not smoke:
                torch.cuda.empty_cache()


def _network(tokens: int, dtype: Any, smoke: bool) -> tuple[Any, Any, Any, Any]:
    """Return a network, latents of two items, their times and their text."""
    import torch

    from lumina_core import NextDiT

    torch.manual_seed(0)
    with torch.device(device_of(smoke)):
        net = NextDiT(
            in_channels=4,
            patch_size=2,
            hidden_size=_width(smoke),
            num_layers=_layers(smoke),
            num_heads=_heads(smoke),
            num_kv_heads=_heads(smoke) // 4,
            context_dim=TEXT_DIM,
        )
        side = 2 * math.isqrt(tokens)
        x, t = torch.randn(2, 4, side, side, dtype=dtype), torch.full((2,), 0.4, dtype=dtype)
        context = torch.randn(2, TEXT_LENGTH, TEXT_DIM, dtype=dtype)
    return net.to(dtype).eval(), x, t, context


def _width(smoke: bool) -> int:
    return 256 if smoke else WIDTH


def _layers(smoke: bool) -> int:
    return 2 if smoke else LAYERS


def _heads(smoke: bool) -> int:
    return 4 if smoke else HEADS


def _flops(tokens: int, smoke: bool) -> float:
    """Count the multiplications and additions of two items in the layers of the network."""
    width, layers = _width(smoke), _layers(smoke)
    ffn = 256 * math.ceil(8 * width / 3 / 256)
    kv = width * KV_HEADS // HEADS
    linear = width * (2 * width + 2 * kv) + 3 * width * ffn
    attention = 2 * tokens * width + 2 * TEXT_LENGTH * width
    return 2.0 * 2 * layers * tokens * (linear + attention)


def _diffusers_seconds(tokens: int, dtype: Any, smoke: bool) -> float:
    import torch
    from diffusers import LuminaNextDiT2DModel
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    model = LuminaNextDiT2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=4,
        hidden_size=_width(smoke),
        num_layers=_layers(smoke),
        num_attention_heads=_heads(smoke),
        num_kv_heads=_heads(smoke) // 4,
        multiple_of=256,
        norm_eps=1e-5,
        learn_sigma=True,
        qk_norm=True,
        cross_attention_dim=TEXT_DIM,
    )
    device = device_of(smoke)
    model = model.to(device, dtype).eval()
    table = get_2d_rotary_pos_embed_lumina(_width(smoke) // _heads(smoke), 384, 384).to(device)
    side = 2 * math.isqrt(tokens)
    x = torch.randn(2, 4, side, side, device=device, dtype=dtype)
    t = torch.full((2,), 0.4, device=device, dtype=dtype)
    text = torch.randn(2, TEXT_LENGTH, TEXT_DIM, device=device, dtype=dtype)
    mask = torch.ones(2, TEXT_LENGTH, dtype=torch.int64, device=device)
    with torch.inference_mode():
        return seconds_of(lambda: model(x, t, text, mask, table, cross_attention_kwargs={}, return_dict=False), smoke)


def sampling(smoke: bool) -> Iterator[dict[str, Any]]:
    """Time whole trajectories of the forward network: 10 midpoint steps without guidance, eager and compiled."""
    import torch

    from lumina_core import integrate, schedules
    from lumina_core.flow.solvers import midpoint

    dtype = torch.float32 if smoke else torch.bfloat16
    for tokens in SMOKE_TOKENS[:1] if smoke else (1024, 4096):
        net, x, times, context = _network(tokens, dtype, smoke)
        for compiled in (False, True):
            if smoke and compiled:
                continue
            call = torch.compile(net, mode="reduce-overhead") if compiled else net

            def velocity(x_t: Any, t: float) -> Any:
                return call(x_t, torch.full_like(times, float(t)), context=context)  # noqa: B023

            steps = schedules.UniformSchedule(schedules.UniformSchedule.Config())(2 if smoke else 10)
            with torch.inference_mode():
                seconds = _wall(lambda: integrate(velocity, x, steps, solver=midpoint))  # noqa: B023
            yield {"tokens": tokens, "compile": compiled, "seconds": round(seconds, 4)}


def context_drop(smoke: bool) -> dict[str, Any]:
    """Run benchmarks/context_drop.py on the device."""
    command = [sys.executable, "benchmarks/context_drop.py", "--quick", "--device", device_of(smoke)]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "context_drop.json")
        words = [*command, "--json", str(target), *(["--tokens", "256"] if smoke else [])]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        found = json.loads(target.read_text()) if target.is_file() else {}
    return {"status": done.returncode, "message": done.stderr.strip().splitlines()[-1:], **found}


SECTIONS: dict[str, Callable[[bool], Any]] = {
    "environment": environment,
    "tests": tests,
    "goldens": goldens,
    "generation": generation,
    "training": training,
    "forward": forward,
    "sampling": sampling,
    "context_drop": context_drop,
}


# -------------------------------------------------------------------------------------------------------------- running


def run_section(name: str, smoke: bool, seconds: float) -> dict[str, Any]:
    """Run one section in a process of its own.

    Returns:
        `status` (ok, failed or stopped), `seconds`, and `result` or the end of the error output.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "result.json")
        command = [sys.executable, __file__, "--section", name, "--out", str(target), *(["--smoke"] if smoke else [])]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
            status, tail = ("ok" if done.returncode == 0 else "failed"), done.stderr.strip().splitlines()[-12:]
        except subprocess.TimeoutExpired:
            status, tail = "stopped", [f"stopped after {seconds:.0f} s"]
        row = {"status": status, "seconds": round(time.perf_counter() - start, 1)}
        if target.is_file():
            return row | {"result": json.loads(target.read_text(encoding="utf-8"))}
        return row | {"error": tail}


def run(out: Path, names: Sequence[str], smoke: bool) -> int:
    """Run sections in order until the total time is used up, and rewrite the JSON after each."""
    report: dict[str, Any] = {"smoke": smoke, "sections": {}}
    end = time.perf_counter() + TOTAL_SECONDS
    for name in names:
        left = end - time.perf_counter()
        row = run_section(name, smoke, min(LIMITS[name], left)) if left > 5 else {"status": "no time left"}
        report["sections"][name] = row
        partial = out.with_name(out.name + ".partial")
        partial.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, out)
        print(
            f"{name}: {row['status']} {row.get('seconds', 0):.0f} s {' '.join(row.get('error', [])[-1:])}", flush=True
        )
    return 0 if all(row["status"] == "ok" for row in report["sections"].values()) else 1


def tables(report: Mapping[str, Any]) -> str:
    """Format the sections that are lists of rows as Markdown tables."""
    parts = []
    for name, section in report["sections"].items():
        result = section.get("result")
        if isinstance(result, list) and result:
            keys = list(dict.fromkeys(key for row in result for key in row))
            lines = [f"| {' | '.join(keys)} |", f"|{'---|' * len(keys)}"]
            lines += [f"| {' | '.join(_cell(row.get(key, '')) for key in keys)} |" for row in result]
            parts.append(f"## {name}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--smoke", action="store_true", help="small sizes on the CPU, to test this script")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="run this section; can be repeated")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, metavar="JSON", help="print the tables of a finished run")
    options = parser.parse_args()
    if options.table:
        print(tables(json.loads(options.table.read_text(encoding="utf-8"))))
        return 0
    if options.out is None:
        parser.error("--out is missing")
    if options.section:
        found = SECTIONS[options.section](options.smoke)
        if not isinstance(found, Iterator):
            options.out.write_text(json.dumps(found), encoding="utf-8")
            return 0
        rows = []
        for row in found:  # written after each, so that a section that is stopped keeps the rows before
            rows.append(row)
            options.out.write_text(json.dumps(rows), encoding="utf-8")
        return 0
    return run(options.out, options.only or list(SECTIONS), options.smoke)


if __name__ == "__main__":
    sys.exit(main())
