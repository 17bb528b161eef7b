"""Cells of a picture: every token in exactly one, but for what was published."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lumina_core.errors import ConfigError
from lumina_image.regions import cells


@given(st.integers(1, 4), st.integers(1, 4), st.integers(4, 9), st.integers(4, 9))
def test_every_token_lies_in_exactly_one_cell_and_cells_are_blocks(down, across, rows, columns):
    shares = cells(rows, columns, down, across)
    assert shares.shape == (down * across, rows * columns)
    assert torch.equal(shares.sum(dim=0), torch.ones(rows * columns))
    for cell in shares.view(-1, rows, columns):
        assert torch.equal(cell, cell.amax(dim=1)[:, None] * cell.amax(dim=0)[None])


def test_cells_are_numbered_row_by_row():
    assert cells(2, 4, 2, 2).argmax(dim=0).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_published_numbers_give_the_second_region_two_cells_and_the_third_none():
    published = cells(2, 2, 2, 2, published=True)
    assert published.tolist() == [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert torch.equal(cells(1, 6, 1, 3, published=True), cells(1, 6, 1, 3))
    assert cells(1, 7, 1, 3, published=True).sum(dim=0).tolist() == [1] * 6 + [0]


def test_more_cells_than_tokens_are_refused():
    with pytest.raises(ConfigError, match="cannot be cut into 1 x 3"):
        cells(4, 2, 1, 3)
