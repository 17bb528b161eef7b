"""check_part: a registered part by kind and name, built as a recipe would build it, tried by the check of its kind."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lumina_core.config import Use
from lumina_core.errors import PluginError
from lumina_core.model import build
from lumina_core.plugins.registry import Registry
from lumina_core.testing._arrange import check_autoencoder, check_tokenizer
from lumina_core.testing._flow import check_guidance, check_path, check_times
from lumina_core.testing._judging import check_features, check_metric
from lumina_core.testing._layout import check_layout
from lumina_core.testing._network import check_backbone, check_conditioner, check_head
from lumina_core.testing._objective import check_objective
from lumina_core.testing._outside import check_dataset, check_task
from lumina_core.testing._scaling import check_context_drop, check_extrapolation, check_step_cache
from lumina_core.testing._solver import check_solver
from lumina_core.testing._whole import WIDTH

CHECKS: dict[str, Callable[..., None]] = {
    "autoencoder": check_autoencoder,
    "backbone": check_backbone,
    "conditioner": check_conditioner,
    "context_drop": check_context_drop,
    "dataset": check_dataset,
    "extrapolation": check_extrapolation,
    "features": check_features,
    "guidance": check_guidance,
    "head": check_head,
    "layout": check_layout,
    "metric": check_metric,
    "objective": check_objective,
    "path": check_path,
    "solver": check_solver,
    "step_cache": check_step_cache,
    "task": check_task,
    "times": check_times,
    "tokenizer": check_tokenizer,
}
"""The check of each kind that is known without any plugin."""

NEEDS = {
    "autoencoder": "real data (B, channels of data, ...) in [-1, 1]",
    "conditioner": "a list of things that can be said",
    "features": "data (B, channels, ...) in [-1, 1]",
    "layout": "a small folder of this layout",
    "metric": "data (B, channels, ...) in [-1, 1]",
    "task": "the fields of a small request",
    "tokenizer": "a latent (B, C, ...)",
}
"""What a sample is, for the kinds whose check cannot make one."""

FILLED: dict[str, dict[str, int]] = {
    "backbone": {"token_width": 4, "memory_width": 8, "summary_width": 6},
    "head": {"width": WIDTH, "token_width": 4, "modulation_width": WIDTH},
}
"""Widths that other parts would decide."""

SMALL: dict[str, dict[str, Any]] = {"backbone": {"width": WIDTH, "depth": 2, "heads": 2, "multiple_of": 8}}
"""Options of a part that is tried, where its Config knows them and nothing else is said."""


@dataclass(frozen=True)
class Sample:
    """What a part is tried on: the first argument of its check after the part, and others by name."""

    value: Any = None
    named: Mapping[str, Any] = field(default_factory=dict)


def check_part(
    registry: Registry, kind: str, name: str, options: Mapping[str, Any] | None = None, sample: Any = None
) -> None:
    """Build a registered part with these options and try every line of its contract.

    Args:
        options: as a recipe would give them; widths that other parts decide are filled in.
        sample: what it is tried on: the argument of `check_<kind>` after the part, or a `Sample` with others by name.

    Raises:
        PluginError: there is no such kind or part, or its kind needs a sample and none is given.
        ConfigError: it does not take the options.
        ContractError: a line of its contract is broken.
    """
    check = _check_of(registry, kind)
    given = sample if isinstance(sample, Sample) else Sample(sample)
    if given.value is None and kind in NEEDS:
        raise PluginError(f"{kind} '{name}' is tried on a sample, and none is given; wanted: {NEEDS[kind]}")
    part = _built(registry, kind, name, options or {}, given)
    value = () if given.value is None else (given.value,)
    check(part, *value, **given.named)


def _check_of(registry: Registry, kind: str) -> Callable[..., None]:
    if kind in CHECKS:
        return CHECKS[kind]
    entry = registry.entries("kind").get(kind)
    if entry is None:
        raise PluginError(f"there is no check for parts of the kind '{kind}'; there is one for: {', '.join(CHECKS)}")
    module, _, attribute = entry.extra["check"].partition(":")
    try:
        check: Callable[..., None] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise PluginError(
            f"the check of the kind '{kind}', which the plugin '{entry.plugin}' brings, cannot be imported from "
            f"{entry.extra['check']}: {error}"
        ) from error
    return check


def _built(registry: Registry, kind: str, name: str, options: Mapping[str, Any], sample: Sample) -> Any:
    part = registry.find(kind, name)
    if kind == "layout":
        return part()
    if not hasattr(part, "Config"):  # a plain function
        return part
    known = part.Config.model_fields
    small = {key: value for key, value in SMALL.get(kind, {}).items() if key in known}
    filled = dict(FILLED.get(kind, {}))
    if kind == "tokenizer":
        filled["channels"] = sample.value.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(registry, kind, Use(use=name, **{**small, **options}), **filled)
