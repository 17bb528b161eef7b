"""Contract checks for plugin authors: one function per component type, and `check_component` for a registered one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lumina_core.config import ComponentSpec
from lumina_core.errors import PluginError, suggest
from lumina_core.model import build_component
from lumina_core.plugins.registry import Registry
from lumina_core.testing._contract import Contract, ContractError, expect
from lumina_core.testing._flow import (
    check_block_cache,
    check_context_drop,
    check_coupling,
    check_guidance,
    check_objective,
    check_path,
    check_position_encoding,
    check_rope_scaling,
    check_schedule,
    check_solver,
    check_time_sampler,
    measured_order,
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
    "block_cache": check_block_cache,
    "checkpoint_format": check_checkpoint_format,
    "conditioner": check_conditioner,
    "context_drop": check_context_drop,
    "coupling": check_coupling,
    "dataset": check_dataset,
    "feature_extractor": check_feature_extractor,
    "guidance": check_guidance,
    "head": check_head,
    "metric": check_metric,
    "objective": check_objective,
    "path": check_path,
    "position_encoding": check_position_encoding,
    "rope_scaling": check_rope_scaling,
    "schedule": check_schedule,
    "solver": check_solver,
    "task": check_task,
    "time_sampler": check_time_sampler,
    "tokenizer": check_tokenizer,
}
"""Check of each component type of the core."""

__all__ = [
    "CHECKS",
    "Contract",
    "ContractError",
    "Sample",
    "check_autoencoder",
    "check_backbone",
    "check_block_cache",
    "check_checkpoint_format",
    "check_component",
    "check_conditioner",
    "check_context_drop",
    "check_coupling",
    "check_dataset",
    "check_feature_extractor",
    "check_guidance",
    "check_head",
    "check_metric",
    "check_objective",
    "check_path",
    "check_position_encoding",
    "check_rope_scaling",
    "check_schedule",
    "check_solver",
    "check_task",
    "check_time_sampler",
    "check_tokenizer",
    "expect",
    "measured_order",
]

SAMPLE_DESCRIPTIONS = {
    "autoencoder": "real data (B, channels, ...) in [-1, 1]",
    "checkpoint_format": "a small folder of this format",
    "conditioner": "a list of values",
    "feature_extractor": "data (B, channels, ...) in [-1, 1]",
    "metric": "data (B, channels, ...) in [-1, 1]",
    "task": "the fields of a small request",
    "tokenizer": "a latent (B, C, ...)",
}
"""Required sample of the component types whose check cannot make one."""

DERIVED_OPTIONS: dict[str, dict[str, int]] = {
    "backbone": {"token_dim": 4, "cross_attention_dim": 8, "pooled_dim": 6},
    "head": {"hidden_size": HIDDEN_SIZE, "token_dim": 4, "modulation_dim": HIDDEN_SIZE},
    "position_encoding": {"head_dim": 8, "num_heads": 2, "num_layers": 2},
}
"""Options that other components decide in a model."""

SMALL_OPTIONS: dict[str, dict[str, Any]] = {
    "backbone": {"hidden_size": HIDDEN_SIZE, "num_layers": 2, "num_heads": 2, "multiple_of": 8}
}
"""Options of a small component, set if its Config has them and the caller does not set them."""


@dataclass(frozen=True)
class Sample:
    """Arguments of a check after the component: the first one, and others by name."""

    value: Any = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def check_component(
    registry: Registry, component_type: str, name: str, options: Mapping[str, Any] | None = None, sample: Any = None
) -> None:
    """Build a registered component and check every clause of its contract.

    Args:
        registry: the registry, such as `lumina_core.plugins.loader.load_plugins()`.
        component_type: "solver", "dataset", ...
        name: name of the component: "ralston.step".
        options: options as in a recipe; widths that other components decide are filled in.
        sample: first argument of the check after the component, or a `Sample` with others by name.

    Raises:
        PluginError: the component type or component is unknown, or the check needs a sample.
        ConfigError: an option is invalid.
        ContractError: a clause is violated.
    """
    check = _find_check(registry, component_type)
    arguments = sample if isinstance(sample, Sample) else Sample(sample)
    if arguments.value is None and component_type in SAMPLE_DESCRIPTIONS:
        raise PluginError(
            f"check of {component_type} '{name}': got no sample, expected {SAMPLE_DESCRIPTIONS[component_type]}"
        )
    component = registry.find(component_type, name)
    if component_type == "checkpoint_format":
        component = component()
    elif hasattr(component, "Config"):  # else a plain function
        small = SMALL_OPTIONS.get(component_type, {})
        small = {key: value for key, value in small.items() if key in component.Config.model_fields}
        derived = dict(DERIVED_OPTIONS.get(component_type, {}))
        if component_type == "tokenizer":
            derived["channels"] = arguments.value.shape[1]
        spec = ComponentSpec(type=name, **{**small, **(options or {})})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            component = build_component(registry, component_type, spec, **derived)
    values = () if arguments.value is None else (arguments.value,)
    check(component, *values, **arguments.kwargs)


def _find_check(registry: Registry, component_type: str) -> Callable[..., None]:
    if component_type in CHECKS:
        return CHECKS[component_type]
    registration = registry.registrations("component_type").get(component_type)
    if registration is None:
        raise PluginError(
            f"component type: got '{component_type}', expected one of {', '.join(CHECKS)}"
            f"{suggest(component_type, CHECKS)}"
        )
    module, _, attribute = registration.extra["check"].partition(":")
    try:
        check: Callable[..., None] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise PluginError(
            f"component type '{component_type}' of the plugin '{registration.plugin}': the check "
            f"{registration.extra['check']} cannot be imported ({error})"
        ) from error
    return check
