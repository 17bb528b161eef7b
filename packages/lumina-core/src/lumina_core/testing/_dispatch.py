"""check_component: a registered part by kind and name, built as a recipe would build it, tried by the check of its kind."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lumina_core.config import ComponentSpec
from lumina_core.errors import PluginError
from lumina_core.model import build_component
from lumina_core.plugins.registry import Registry
from lumina_core.testing._flow import (
    check_block_cache,
    check_context_drop,
    check_guidance,
    check_objective,
    check_path,
    check_position_encoding,
    check_rope_scaling,
    check_schedule,
    check_solver,
    check_time_sampler,
)
from lumina_core.testing._networks import (
    check_autoencoder,
    check_backbone,
    check_conditioner,
    check_head,
    check_tokenizer,
)
from lumina_core.testing._tasks import (
    check_checkpoint_format,
    check_dataset,
    check_feature_extractor,
    check_metric,
    check_task,
)
from lumina_core.testing._tiny_model import HIDDEN_SIZE

CHECKS: dict[str, Callable[..., None]] = {
    "autoencoder": check_autoencoder,
    "backbone": check_backbone,
    "conditioner": check_conditioner,
    "context_drop": check_context_drop,
    "dataset": check_dataset,
    "rope_scaling": check_rope_scaling,
    "feature_extractor": check_feature_extractor,
    "guidance": check_guidance,
    "head": check_head,
    "checkpoint_format": check_checkpoint_format,
    "metric": check_metric,
    "objective": check_objective,
    "path": check_path,
    "position_encoding": check_position_encoding,
    "solver": check_solver,
    "block_cache": check_block_cache,
    "task": check_task,
    "time_sampler": check_time_sampler,
    "schedule": check_schedule,
    "tokenizer": check_tokenizer,
}
"""The check of each kind that is known without any plugin."""

SAMPLE_DESCRIPTIONS = {
    "autoencoder": "real data (B, channels of data, ...) in [-1, 1]",
    "conditioner": "a list of things that can be said",
    "feature_extractor": "data (B, channels, ...) in [-1, 1]",
    "checkpoint_format": "a small folder of this format",
    "metric": "data (B, channels, ...) in [-1, 1]",
    "task": "the fields of a small request",
    "tokenizer": "a latent (B, C, ...)",
}
"""What a sample is, for the kinds whose check cannot make one."""

REQUIRED_DIMS: dict[str, dict[str, int]] = {
    "backbone": {"token_dim": 4, "cross_attention_dim": 8, "pooled_dim": 6},
    "position_encoding": {"head_dim": 8, "num_heads": 2, "num_layers": 2},
    "head": {"hidden_size": HIDDEN_SIZE, "token_dim": 4, "modulation_dim": HIDDEN_SIZE},
}
"""Widths that other parts would decide."""

SMALL_OPTIONS: dict[str, dict[str, Any]] = {
    "backbone": {"hidden_size": HIDDEN_SIZE, "num_layers": 2, "num_heads": 2, "multiple_of": 8}
}
"""Options of a part that is tried, where its Config knows them and nothing else is said."""


@dataclass(frozen=True)
class Sample:
    """What a part is tried on: the first argument of its check after the part, and others by name."""

    value: Any = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def check_component(
    registry: Registry, component_type: str, name: str, options: Mapping[str, Any] | None = None, sample: Any = None
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
    check = _find_check(registry, component_type)
    wrapped_sample = sample if isinstance(sample, Sample) else Sample(sample)
    if wrapped_sample.value is None and component_type in SAMPLE_DESCRIPTIONS:
        raise PluginError(
            f"{component_type} '{name}' is tried on a sample, and none is given; wanted: {SAMPLE_DESCRIPTIONS[component_type]}"
        )
    component = _build(registry, component_type, name, options or {}, wrapped_sample)
    value = () if wrapped_sample.value is None else (wrapped_sample.value,)
    check(component, *value, **wrapped_sample.kwargs)


def _find_check(registry: Registry, component_type: str) -> Callable[..., None]:
    if component_type in CHECKS:
        return CHECKS[component_type]
    component_info = registry.registrations("component_type").get(component_type)
    if component_info is None:
        raise PluginError(
            f"there is no check for parts of the kind '{component_type}'; there is one for: {', '.join(CHECKS)}"
        )
    module, _, attribute = component_info.extra["check"].partition(":")
    try:
        check: Callable[..., None] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise PluginError(
            f"the check of the kind '{component_type}', which the plugin '{component_info.plugin}' brings, cannot be imported from "
            f"{component_info.extra['check']}: {error}"
        ) from error
    return check


def _build(registry: Registry, component_type: str, name: str, options: Mapping[str, Any], sample: Sample) -> Any:
    component = registry.find(component_type, name)
    if component_type == "checkpoint_format":
        return component()
    if not hasattr(component, "Config"):  # a plain function
        return component
    option_names = component.Config.model_fields
    small = {key: value for key, value in SMALL_OPTIONS.get(component_type, {}).items() if key in option_names}
    dims = dict(REQUIRED_DIMS.get(component_type, {}))
    if component_type == "tokenizer":
        dims["channels"] = sample.value.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_component(registry, component_type, ComponentSpec(type=name, **{**small, **options}), **dims)
