"""Throughput: operations as torch counts them, peaks of devices, time left."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lumina_core.models.flag_dit import FlagDiTBackbone
from lumina_core.models.next_dit import NextDiTBackbone
from lumina_core.training.metrics import (
    BACKWARD_FACTOR,
    TimeLeft,
    UsageCounter,
    forward_flops,
    memory_bytes,
    peak_flops,
)
from lumina_core.types import Batch, Condition, Tokens

SIZES = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "multiple_of": 8, "token_dim": 6, "attn_backend": "matmul"}


def inputs(items, length, context_length, reference_length):
    positions = torch.arange(float(length))[None, :, None].expand(items, -1, 3)
    tokens = Tokens(torch.randn(items, length, 6), positions, ((length,),) * items)
    reference = None
    if reference_length:
        reference = Tokens(
            torch.randn(items, reference_length, 6), positions[:, :reference_length], ((reference_length,),) * items
        )
    context = torch.randn(items, context_length, 8) if context_length else None
    pooled = torch.randn(items, 5)
    return tokens, Condition(context=context, pooled=pooled, reference=reference)


@pytest.mark.parametrize("backbone_type", [NextDiTBackbone, FlagDiTBackbone])
@pytest.mark.parametrize(
    ("options", "context_length", "reference_length"),
    [({}, 0, 0), ({"cross_attention_dim": 8}, 7, 0), ({"cross_attention_dim": 8, "num_kv_heads": 2}, 7, 3)],
)
def test_operations_are_those_that_torch_counts(backbone_type, options, context_length, reference_length):
    backbone = backbone_type(backbone_type.Config(**SIZES, pooled_dim=5, **options))
    tokens, condition = inputs(3, 10, context_length, reference_length)
    with FlopCounterMode(display=False) as counter:
        output = backbone(tokens, torch.rand(3), condition).hidden_states
    counted = counter.get_total_flops()
    assert UsageCounter(backbone).count(Batch(tokens, condition)).flops == counted
    with FlopCounterMode(display=False) as counter:
        output.sum().backward()
    # inputs that need no gradient save a few products of the backward pass
    assert counter.get_total_flops() == pytest.approx((BACKWARD_FACTOR - 1) * counted, rel=0.1)


def test_operations_of_other_networks_follow_from_their_weights():
    assert forward_flops(torch.nn.Linear(3, 4, bias=False), 2, 5) == 2 * 2 * 5 * 12
    assert UsageCounter(None).count(Batch(*inputs(2, 4, 0, 0))).tokens == 8


def test_the_peak_is_that_of_the_device_or_of_the_recipe(monkeypatch):
    cuda, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert peak_flops(cpu, torch.float32, None) is None
    assert peak_flops(cpu, torch.float32, 2.5) == 2.5e12
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    assert peak_flops(cuda, torch.bfloat16, None) == 989e12
    assert peak_flops(cuda, torch.float32, None) == 989e12 / 2
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some other device")
    assert peak_flops(cuda, torch.bfloat16, None) is None


def test_memory_grows_with_what_is_allocated():
    before = memory_bytes(torch.device("cpu"))
    held = torch.ones(max(before // 4, 10**8))
    assert memory_bytes(torch.device("cpu")) >= before + held.nbytes // 2


def test_the_time_left_follows_from_the_median_of_recent_steps():
    left = TimeLeft()
    assert [left.update(seconds, steps) for seconds, steps in ((100, 9), (1, 8), (1, 7))] == [900, 404, 7]
    assert left.update(1, 0) == 0
