"""The kit for authors: a check for each kind of part, and `check_component` for a registered one (docs: tutorial)."""

from __future__ import annotations

from lumina_core.testing._contract import Contract, ContractError, expect
from lumina_core.testing._dispatch import Sample, check_component
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

__all__ = [
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
