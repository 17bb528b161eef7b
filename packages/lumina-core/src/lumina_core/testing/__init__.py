"""The kit for authors: a check for each kind of part, and `check_part` for a registered one (docs: tutorial)."""

from __future__ import annotations

from lumina_core.testing._arrange import check_autoencoder, check_tokenizer
from lumina_core.testing._contract import Contract, ContractError, want
from lumina_core.testing._dispatch import Sample, check_part
from lumina_core.testing._flow import check_guidance, check_path, check_times
from lumina_core.testing._judging import check_features, check_metric
from lumina_core.testing._layout import check_layout
from lumina_core.testing._network import check_backbone, check_conditioner, check_head
from lumina_core.testing._objective import check_objective
from lumina_core.testing._outside import check_dataset, check_task
from lumina_core.testing._scaling import check_context_drop, check_extrapolation, check_step_cache
from lumina_core.testing._solver import check_solver, measured_order

__all__ = [
    "Contract",
    "ContractError",
    "Sample",
    "check_autoencoder",
    "check_backbone",
    "check_conditioner",
    "check_context_drop",
    "check_dataset",
    "check_extrapolation",
    "check_features",
    "check_guidance",
    "check_head",
    "check_layout",
    "check_metric",
    "check_objective",
    "check_part",
    "check_path",
    "check_solver",
    "check_step_cache",
    "check_task",
    "check_times",
    "check_tokenizer",
    "measured_order",
    "want",
]
