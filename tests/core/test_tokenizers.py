"""Tokenizers of grids are exact rearrangements of a latent."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina_core.errors import ShapeError
from lumina_core.tokenizers import Patchify1D, Patchify2D, StackPatchify
from lumina_core.types import Tokens, stack_tokens


def patches(patch: int = 2, channels: int = 4) -> Patchify2D:
    return Patchify2D(Patchify2D.Config(patch_size=patch, channels=channels))


@settings(max_examples=25)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
def test_a_latent_comes_back_exactly(batch, channels, patch, rows, columns):
    latent = torch.randn(batch, channels, rows * patch, columns * patch)
    part = patches(patch, channels)
    tokens = part.patchify(latent)
    assert tokens.values.shape == (batch, rows * columns, part.width)
    assert torch.equal(part.unpatchify(tokens), latent)


def test_a_token_lists_its_channels_first_then_rows_then_columns():
    latent = torch.arange(2 * 4 * 6.0).reshape(1, 2, 4, 6)
    token = patches(2, 2).patchify(latent).values[0, 4]  # second row of patches, second column
    by_hand = [float(latent[0, c, 2 + r, 2 + k]) for c in (0, 1) for r in (0, 1) for k in (0, 1)]
    assert token.tolist() == by_hand


def test_positions_are_rows_and_columns_counted_in_patches_and_shared_by_the_batch():
    positions = patches().patchify(torch.zeros(3, 4, 4, 6)).positions
    assert positions[1].tolist() == [[0, r, c] for r in range(2) for c in range(3)]
    assert positions.dtype == torch.float32
    assert positions.stride(0) == 0


def test_empty_tokens_have_the_positions_of_a_latent():
    part = patches(3, 5)
    blank, real = part.empty(2, (6, 9)), part.patchify(torch.randn(2, 5, 6, 9))
    assert torch.equal(blank.positions, real.positions)
    assert blank.sizes == real.sizes
    assert blank.values.shape == real.values.shape
    assert not blank.values.any()


def test_padded_tokens_of_two_sizes_come_back_one_by_one():
    part = patches()
    latents = [torch.randn(1, 4, 4, 4), torch.randn(1, 4, 2, 6)]
    batch = stack_tokens([part.patchify(latent) for latent in latents])
    for item, latent in zip(batch.items(), latents, strict=True):
        assert torch.equal(part.unpatchify(item), latent)


def test_an_unsupported_size_is_refused_with_the_nearest_ones():
    with pytest.raises(ShapeError, match=r"33x40.*patch size 2.*32x40 or 34x40"):
        patches().patchify(torch.zeros(1, 4, 33, 40))
    with pytest.raises(ShapeError, match="Nearest: 8x8"):
        patches(8).empty(1, (3, 8))


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (4, 4, 4)])
def test_a_latent_of_other_channels_is_refused(shape):
    with pytest.raises(ShapeError, match="a latent"):
        patches().patchify(torch.zeros(shape))


def test_tokens_of_two_sizes_are_no_single_latent():
    both = stack_tokens([patches().empty(1, (4, 4)), patches().empty(1, (2, 6))])
    with pytest.raises(ShapeError, match="2 sizes"):
        patches().unpatchify(both)


def test_a_number_of_tokens_that_does_not_fill_the_extent_is_refused():
    tokens = patches().empty(1, (4, 4))
    with pytest.raises(ShapeError, match="tokens of a latent"):
        patches().unpatchify(Tokens(tokens.values[:, :3], tokens.positions[:, :3], tokens.sizes))


# ---- sequences and stacks


def frames(patch: int = 2, channels: int = 4) -> Patchify1D:
    return Patchify1D(Patchify1D.Config(patch_size=patch, channels=channels))


@settings(max_examples=25)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 9))
def test_a_sequence_comes_back_exactly(batch, channels, patch, count):
    latent = torch.randn(batch, channels, count * patch)
    part = frames(patch, channels)
    tokens = part.patchify(latent)
    assert tokens.values.shape == (batch, count, part.width)
    assert torch.equal(part.unpatchify(tokens), latent)


def test_a_token_of_a_sequence_lists_its_channels_first_then_times():
    latent = torch.arange(2 * 6.0).reshape(1, 2, 6)
    assert frames(2, 2).patchify(latent).values[0, 1].tolist() == [2, 3, 8, 9]


def test_positions_of_a_sequence_count_tokens_on_the_time_axis():
    assert frames().patchify(torch.zeros(2, 4, 6)).positions[1].tolist() == [[0, 0, 0], [1, 0, 0], [2, 0, 0]]


def test_a_length_that_patches_do_not_fill_is_refused_with_the_nearest_ones():
    with pytest.raises(ShapeError, match=r"multiples of the patch size 2\. Nearest: 6 or 8"):
        frames().patchify(torch.zeros(1, 4, 7))


def test_sequences_of_several_lengths_are_refused():
    part = frames()
    both = stack_tokens([part.empty(1, (4,)), part.empty(1, (6,))])
    assert both.mask is not None
    with pytest.raises(ShapeError, match="got 2 sizes"):
        part.unpatchify(both)


@settings(max_examples=15)
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_a_stack_comes_back_exactly_and_its_pictures_are_cut_one_by_one(batch, patch, views, rows, columns):
    latent = torch.randn(batch, 4, views, rows * patch, columns * patch)
    part = StackPatchify(StackPatchify.Config(patch_size=patch, channels=4))
    tokens = part.patchify(latent)
    assert torch.equal(part.unpatchify(tokens), latent)
    single = [patches(patch).patchify(latent[:, :, view]) for view in range(views)]
    assert torch.equal(tokens.values, torch.cat([one.values for one in single], dim=1))
    expected = torch.cat([one.positions + torch.tensor([view, 0, 0]) for view, one in enumerate(single)], dim=1)
    assert torch.equal(tokens.positions, expected)
