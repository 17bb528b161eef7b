"""Linear layers with several kernels: every kernel gives the plain product."""

import pytest
import torch
from torch import nn

from lumina_core.models.cpu_kernels import onednn_applies
from lumina_core.models.layers import FeedForward, Linear

SHAPES = [(1, 1, 8, 8), (2, 5, 24, 7), (3, 65, 64, 96)]


def product(x, weight, bias):
    """Each output by itself, in float64."""
    return (x.double()[..., None, :] * weight.double()).sum(-1) + (0 if bias is None else bias.double())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_linear_layer_equals_float64_products_with_and_without_gradients(shape, bias):
    batch, tokens, width, outputs = shape
    layer, x = Linear(width, outputs, bias=bias), torch.randn(batch, tokens, width)
    expected = product(x, layer.weight, layer.bias)
    with torch.inference_mode():
        assert torch.allclose(layer(x).double(), expected, atol=1e-5)
    assert torch.allclose(layer(x).double(), expected, atol=1e-5)


def test_strided_input_gives_the_same_output():
    layer, x = Linear(6, 4), torch.randn(6, 5, 3).permute(1, 2, 0)
    with torch.inference_mode():
        assert torch.allclose(layer(x), layer(x.contiguous()), atol=1e-6)


def test_feed_forward_is_swiglu():
    feed, x = FeedForward(16, 40), torch.randn(2, 9, 16)
    gate, up = feed.up.weight.double().chunk(2)
    inner = torch.nn.functional.silu(product(x, gate, None)) * product(x, up, None)
    with torch.inference_mode():
        assert torch.allclose(feed(x).double(), product(inner, feed.out.weight, None), atol=1e-5)


def test_onednn_is_not_used_with_gradients_or_other_dtypes():
    layer, x = Linear(4, 4), torch.randn(2, 4)
    assert not onednn_applies(x, layer.weight)
    with torch.inference_mode():
        assert not onednn_applies(x.double(), layer.weight.double()) and not onednn_applies(x.bfloat16(), layer.weight)
        assert not onednn_applies(x[:0], layer.weight)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16


def test_parameters_are_named_as_in_a_torch_layer():
    assert list(Linear(3, 2).state_dict()) == list(nn.Linear(3, 2).state_dict())
