"""Audio tokenizer: exact round trip, order of values, positions, errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina_audio.tokenizer import FramePatchify
from lumina_core.errors import ShapeError
from lumina_core.types import stack_tokens


def frames(frame: int = 2, channels: int = 4) -> FramePatchify:
    return FramePatchify(FramePatchify.Config(patch_size=frame, channels=channels))


@settings(max_examples=25)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 9))
def test_latent_round_trip_is_exact(batch, channels, frame, count):
    latent = torch.randn(batch, channels, count * frame)
    part = frames(frame, channels)
    tokens = part.patchify(latent)
    assert tokens.values.shape == (batch, count, part.width)
    assert torch.equal(part.unpatchify(tokens), latent)


def test_token_orders_values_by_channel_then_time():
    latent = torch.arange(2 * 6.0).reshape(1, 2, 6)
    assert frames(2, 2).patchify(latent).values[0, 1].tolist() == [2, 3, 8, 9]


def test_positions_count_tokens_on_the_time_axis():
    assert frames().patchify(torch.zeros(2, 4, 6)).positions[1].tolist() == [[0, 0, 0], [1, 0, 0], [2, 0, 0]]


def test_error_for_a_length_names_the_next_valid_one():
    with pytest.raises(ShapeError, match="expected a multiple of 2, such as 8"):
        frames().patchify(torch.zeros(1, 4, 7))


def test_tokens_of_several_lengths_are_refused():
    part = frames()
    both = stack_tokens([part.empty(1, (4,)), part.empty(1, (6,))])
    assert both.mask is not None
    with pytest.raises(ShapeError, match="got 2 lengths"):
        part.unpatchify(both)
