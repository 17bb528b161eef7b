"""Helpers that create installed distributions and model folders with random weights."""

from __future__ import annotations

import importlib
from pathlib import Path

from lumina_core.plugins.loader import Candidate, load_from
from lumina_core.plugins.registry import PluginSource, Registry

_THINGS = ["heart", "cat", "dog", "flag of Japan", "grinning face", "house", "rocket", "apple", "moon", "sun"]
CAPTIONS = [f"{colour} {thing}" for colour in ("red", "blue", "green", "yellow", "black") for thing in _THINGS]
"""Captions that are enough for a vocabulary."""


def write_distribution(folder: Path, name: str, entry_points: str, modules: dict[str, str], metadata: str = "") -> None:
    """Write a distribution to `folder` as pip installs it."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{metadata}", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[lumina]\n{entry_points}\n", encoding="utf-8")
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text, encoding="utf-8")


def registry_of(*plugins: str) -> Registry:
    """Build a registry of the core and the named plugins of the project (`toy`, `image`) only."""
    modules = {"core": "lumina_core.components", **{name: f"lumina_{name}.plugin" for name in plugins}}
    sources = {name: PluginSource(name, f"lumina-{name}", "0.1.0") for name in modules}
    return load_from(
        (
            Candidate(sources[name], (), lambda module=module: importlib.import_module(module))
            for name, module in modules.items()
        ),
        strict=True,
    )


def make_model(recipe: str, folder: Path, registry: Registry) -> Path:
    """Save a model of an installed recipe whose weights are small random numbers."""
    import torch

    from lumina_core.model import build_model
    from lumina_core.model_dir import save_model
    from lumina_core.protocols import SupportsFit
    from lumina_core.recipe import Recipe

    torch.manual_seed(0)
    model = build_model(Recipe.load(recipe, registry=registry), registry)
    with torch.no_grad():
        for weight in model.parameters():  # heads and gates are initially zero, so that text would have no effect
            weight.add_(0.1 * torch.randn_like(weight))
    for conditioner in model.conditioners_by_field.values():
        if isinstance(conditioner, SupportsFit):
            conditioner.fit(CAPTIONS)
    save_model(model, folder, registry)
    return folder
