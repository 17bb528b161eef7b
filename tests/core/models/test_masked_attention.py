"""Attention by plain products under a mask: finite, equal to torch's kernel, and without infinities in its graph."""

from __future__ import annotations

import math

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from lumina_core.models.attention import sdpa


def inputs(dtype):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 5, 8, generator=generator).to(dtype) for heads in (4, 2, 2))
    mask = torch.tensor([[True, True, False, False, True], [False, False, True, False, False]])[:, None, None]
    return [part.requires_grad_() for part in (q, k, v)], mask


def as_float(mask):
    return torch.zeros(mask.shape).masked_fill(~mask, -math.inf)


@pytest.mark.parametrize("is_bool", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_are_those_of_the_fused_kernel(dtype, is_bool):
    results = []
    for backend in ("matmul", "fused"):
        parts, mask = inputs(dtype)
        out = sdpa(*parts, mask if is_bool else as_float(mask), 8**-0.5, backend)
        results.append([out, *torch.autograd.grad(out.float().square().sum(), parts)])
    for ours, theirs in zip(*results, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, theirs, rtol=0.1 if dtype == torch.bfloat16 else 1e-4, atol=2e-2)


def test_the_graph_that_a_compiler_gets_has_no_infinity():
    parts, mask = inputs(torch.bfloat16)
    graph = make_fx(lambda *args: sdpa(*args, mask, 8**-0.5, "matmul"))(*parts).graph
    constants = [a for node in graph.nodes for a in (*node.args, *node.kwargs.values()) if isinstance(a, float)]
    assert constants and all(map(math.isfinite, constants))
