"""Patches of images of any size, and larger patches within a budget."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lumina_core.errors import ShapeError
from lumina_recog.patchify import Patchify, choose_patch, cut_patches, resize_matrix, resize_patch_weights


def tokenizer(patch_size=8, max_tokens=None):
    return Patchify(Patchify.Config(patch_size=patch_size, max_tokens=max_tokens, channels=3))


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 31), (64, 40)])
def test_unpatchify_is_the_inverse_for_any_size(size):
    image = torch.randn(2, 3, *size)
    tokens = tokenizer().patchify(image)
    assert tokens.values.shape[1] == -(-size[0] // 8) * -(-size[1] // 8)
    assert torch.equal(tokenizer().unpatchify(tokens), image)


def test_a_side_that_is_no_multiple_repeats_the_last_pixels():
    tokens = tokenizer().patchify(torch.arange(3.0 * 9).view(1, 3, 9, 1))
    grid = tokens.values.view(2, 3, 8, 8)
    assert (grid[1, 0] == 8).all()
    assert tokens.positions[0].tolist() == [[0, 0, 0], [0, 1, 0]]


def test_a_larger_patch_reads_as_resized_weights_do():
    weight, x = torch.randn(7, 3 * 64), torch.randn(2, 3, 24, 36)
    values, rows, columns = cut_patches(x, 12, 8)
    native, _, _ = cut_patches(x, 12, 12)
    assert (rows, columns) == (2, 3)
    torch.testing.assert_close(values @ weight.T, native @ resize_patch_weights(weight, 3, 12).T, rtol=1e-4, atol=1e-4)


def test_resized_weights_answer_an_enlarged_patch_as_the_original_patch():
    small = torch.randn(1, 3, 8, 8)
    large = torch.nn.functional.interpolate(small, (20, 20), mode="bilinear")
    values, _, _ = cut_patches(large, 20, 8)
    torch.testing.assert_close(values.view(1, 3, 8, 8), small, rtol=1e-3, atol=1e-4)
    assert resize_matrix(8, 8).allclose(torch.eye(64), atol=1e-5)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 500))
def test_an_image_fits_its_budget_and_is_enlarged_nowhere(height, width, budget):
    patch, (rows, columns) = choose_patch((height, width), 8, budget)
    assert -(-rows // patch) * -(-columns // patch) <= budget
    assert 1 <= rows <= height
    assert 1 <= columns <= width
    assert 8 <= patch <= 32
    if (rows, columns) != (height, width):  # shrunk only if the largest patch does not do
        assert patch == 32
        assert -(-height // 32) * -(-width // 32) > budget


def test_an_image_within_the_budget_keeps_its_patches():
    assert choose_patch((64, 64), 8, 64) == (8, (64, 64))
    assert choose_patch((65, 64), 8, 64) == (9, (65, 64))


def test_what_cannot_be_put_together_again_is_refused():
    budgeted = tokenizer(8, 4)
    with pytest.raises(ShapeError, match="cut into patches of 32"):
        budgeted.unpatchify(budgeted.patchify(torch.randn(1, 3, 64, 64)))
    with pytest.raises(ShapeError, match=r"expected \(B, 3, H, W\)"):
        tokenizer().patchify(torch.randn(1, 4, 8, 8))
    with pytest.raises(ShapeError, match="at least one pixel"):
        tokenizer().patchify(torch.randn(1, 3, 0, 8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_image_in_half_precision_is_shrunk_too(dtype):
    image = torch.rand(1, 3, 90, 200)
    found = tokenizer(8, 4).patchify(image.to(dtype)).values
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), tokenizer(8, 4).patchify(image).values, rtol=0.1, atol=0.1)
