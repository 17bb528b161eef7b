"""A forward pass copies nothing between devices and reads no value back to the CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from backbones import BACKBONES, make_condition, make_times, make_tokens
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Crossings(TorchDispatchMode):
    """Record every operation that copies values between devices or returns one to Python."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        first = args[0] if args else None
        carried = isinstance(first, Tensor) and isinstance(result, Tensor) and first.device != result.device
        if carried or "local_scalar" in str(func) or "nonzero" in str(func):
            self.calls.append(str(func))
        return result


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("build", BACKBONES.values(), ids=BACKBONES)
def test_a_forward_pass_copies_nothing_between_devices(build, padded):
    # the meta device stands in for an accelerator
    model = build().to("meta")
    tokens, condition = make_tokens(2, 3, batch=2), make_condition(2)
    tokens = replace(
        tokens, values=tokens.values.to("meta"), positions=tokens.positions.to("meta"),
        mask=torch.ones(2, 6, dtype=torch.bool, device="meta") if padded else None,
    )  # fmt: skip
    mask = torch.ones(2, 5, dtype=torch.bool, device="meta") if padded else None
    condition = replace(
        condition, context=condition.context.to("meta"), context_mask=mask, pooled=condition.pooled.to("meta")
    )
    now = make_times(2).to("meta")
    with Crossings() as crossings:
        hidden = model(tokens, now, condition)
    assert hidden.hidden_states.shape == (2, 6, 32)
    assert crossings.calls == []
