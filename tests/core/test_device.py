"""Precision: automatic choice by native support, and explicit choice."""

from __future__ import annotations

import pytest
import torch

from lumina_core import device
from lumina_core.device import autocast, resolve_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bfloat16_with_native_support_only(monkeypatch, native):
    monkeypatch.setattr(device, "_has_native_bfloat16", lambda device: native)
    assert resolve_dtype("auto", CPU) == (torch.bfloat16 if native else torch.float32)


@pytest.mark.parametrize("feature", ["_is_avx512_bf16_supported", "_is_amx_tile_supported"])
def test_a_processor_with_either_instruction_counts_as_native(monkeypatch, feature):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name == feature, raising=False)
    assert resolve_dtype("auto", CPU) == torch.bfloat16


def test_a_torch_without_the_query_means_no_support():
    for_all = torch.device("mps")
    assert resolve_dtype("auto", for_all) == torch.float32


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_named_precision_is_that_dtype(precision, dtype):
    assert resolve_dtype(precision, CPU) == dtype


def test_autocast_changes_products_but_not_weights_and_losses():
    layer, x = torch.nn.Linear(4, 4), torch.ones(2, 4)
    with autocast(torch.bfloat16, CPU):
        assert layer(x).dtype == torch.bfloat16
        assert torch.nn.functional.mse_loss(layer(x).float(), x).dtype == torch.float32
    with autocast(torch.float32, CPU):
        assert layer(x).dtype == torch.float32
    assert layer.weight.dtype == torch.float32
