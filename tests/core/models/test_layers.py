"""Linear layers that choose who multiplies: the numbers are those of plain products, whoever does."""

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
def test_an_answer_is_the_sum_of_products_with_and_without_gradients(shape, bias):
    batch, tokens, width, outputs = shape
    layer, x = Linear(width, outputs, bias=bias), torch.randn(batch, tokens, width)
    wanted = product(x, layer.weight, layer.bias)
    with torch.inference_mode():
        assert torch.allclose(layer(x).double(), wanted, atol=1e-5)
    assert torch.allclose(layer(x).double(), wanted, atol=1e-5)


def test_rows_that_do_not_lie_in_order_give_the_same():
    layer, x = Linear(6, 4), torch.randn(6, 5, 3).permute(1, 2, 0)
    with torch.inference_mode():
        assert torch.allclose(layer(x), layer(x.contiguous()), atol=1e-6)


def test_the_inner_half_of_swiglu_is_silu_of_the_gate_times_the_other():
    feed, x = FeedForward(16, 40), torch.randn(2, 9, 16)
    gate, up = feed.up.weight.double().chunk(2)
    inner = torch.nn.functional.silu(product(x, gate, None)) * product(x, up, None)
    with torch.inference_mode():
        assert torch.allclose(feed(x).double(), product(inner, feed.out.weight, None), atol=1e-5)


def test_gradients_and_other_formats_are_left_to_torch():
    layer, x = Linear(4, 4), torch.randn(2, 4)
    assert not onednn_applies(x, layer.weight)
    with torch.inference_mode():
        assert not onednn_applies(x.double(), layer.weight.double()) and not onednn_applies(x.bfloat16(), layer.weight)
        assert not onednn_applies(x[:0], layer.weight)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16


def test_weights_are_found_where_a_plain_layer_has_them():
    assert list(Linear(3, 2).state_dict()) == list(nn.Linear(3, 2).state_dict())
