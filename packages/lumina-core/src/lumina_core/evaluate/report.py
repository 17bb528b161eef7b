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
from lumina_core.evaluate.run import Asked, Judgement
from lumina_core.judging import Metric
from lumina_core.model import Model
from lumina_core.plugins.registry import Registry

LIBRARIES = ("numpy", "torch")


def report(judgement: Judgement, metrics: Mapping[str, Metric], asked: Asked) -> dict[str, Any]:
    """Figures, and how they came to be; `place` says where."""
    first = judgement.records[0]
    return {
        "samples": asked.samples,
        "each": asked.each,
        "made": len(judgement.cases),
        "split": judgement.split,
        "languages": [language for language in judgement.languages if language is not None],
        "seed": asked.seed,
        "seeds": [min(judgement.seeds), max(judgement.seeds)],
        "settings": first["settings"],
        "evaluations": first["evaluations"],
        "batch": asked.batch,
        "seconds": round(sum(record["seconds"] for record in judgement.records), 1),
        "scores": {name: _told(judgement, name, metrics[name]) for name in judgement.figures},
        "notes": list(judgement.notes),
    }


def _told(judgement: Judgement, name: str, metric: Metric) -> dict[str, Any]:
    figures = {figure: found.plain() for figure, found in judgement.figures[name].items()}
    titled = {f: {"name": title(metric, f), **plain} for f, plain in figures.items()}
    return {"features": metric.features.name, **titled}


def title(metric: Metric, figure: str) -> str:
    """How a figure is called in full: never without the features that it rests on."""
    return ", ".join(word for word in (metric.name, figure, metric.features.name) if word)


def place(registry: Registry, device: torch.device, metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """Versions of everything that takes part, and the machine."""
    of_features = [name for m in metrics.values() for name in getattr(m.features, "libraries", ())]
    plugins = {source.distribution: source.version for source in registry.sources.values()}
    libraries = {name: version(name) for name in (*LIBRARIES, *of_features)}
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


def fingerprint(model: Model) -> str:
    """Of the recipe and all weights of a model: another one makes other things."""
    found = hashlib.sha256(model.recipe.model_dump_json(exclude_defaults=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(name.encode() + str((tensor.dtype, tuple(tensor.shape))).encode())
        found.update(plain.view(torch.uint8).numpy().data if plain.numel() else b"")
    return found.hexdigest()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
