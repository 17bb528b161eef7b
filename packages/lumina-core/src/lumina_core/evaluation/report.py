"""What is told of an evaluation: one plain object with everything that is needed to make it again."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lumina_core import __version__
from lumina_core.evaluation.evaluate import EvalArgs, EvalResult
from lumina_core.model import Model
from lumina_core.plugins.registry import Registry
from lumina_core.protocols import Metric

CORE_LIBRARIES = ("numpy", "torch")


def make_report(result: EvalResult, metrics: Mapping[str, Metric], args: EvalArgs) -> dict[str, Any]:
    """Figures, and how they came to be; `place` says where."""
    first = result.metadata[0]
    return {
        "samples": args.samples,
        "samples_per_prompt": args.samples_per_prompt,
        "num_generated": len(result.items),
        "split": result.split,
        "languages": [language for language in result.languages if language is not None],
        "seed": args.seed,
        "seeds": [min(result.seeds), max(result.seeds)],
        "settings": first["settings"],
        "nfe": first["nfe"],
        "batch_size": args.batch_size,
        "generation_seconds": round(sum(metadata["generation_seconds"] for metadata in result.metadata), 1),
        "scores": {name: _metric_report(result, name, metrics[name]) for name in result.scores},
        "notes": list(result.notes),
    }


def _metric_report(result: EvalResult, name: str, metric: Metric) -> dict[str, Any]:
    values = {value_name: value.to_json() for value_name, value in result.scores[name].items()}
    titled_values = {f: {"name": metric_title(metric, f), **plain} for f, plain in values.items()}
    return {"feature_extractor": metric.feature_extractor.name, **titled_values}


def metric_title(metric: Metric, value_name: str) -> str:
    """How a figure is called in full: never without the features that it rests on."""
    return ", ".join(word for word in (metric.name, value_name, metric.feature_extractor.name) if word)


def environment(registry: Registry, device: torch.device, metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """Versions of everything that takes part, and the machine."""
    extractor_libraries = [name for m in metrics.values() for name in m.feature_extractor.libraries]
    plugins = {source.distribution: source.version for source in registry.sources.values()}
    libraries = {name: version(name) for name in (*CORE_LIBRARIES, *extractor_libraries)}
    return {
        "versions": {"python": platform.python_version(), "lumina-core": __version__, **libraries, **plugins},
        "hardware": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "system": platform.platform(),
        },
    }


def model_fingerprint(model: Model) -> str:
    """Of the recipe and all weights of a model: another one makes other things."""
    hasher = hashlib.sha256(model.recipe.model_dump_json(exclude_defaults=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        hasher.update(name.encode() + str((tensor.dtype, tuple(tensor.shape))).encode())
        hasher.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return hasher.hexdigest()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
