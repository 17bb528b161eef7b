"""Which tokens of a picture belong to which region: cells of a grid, as published and as meant."""

from __future__ import annotations

import torch
from torch import Tensor

from lumina_core.errors import ConfigError


def cells(rows: int, columns: int, down: int, across: int, published: bool = False) -> Tensor:
    """(down * across, rows * columns) float: 1 where a token of the picture lies in a cell of the grid, row by row.

    A cell is `rows // down` tokens high and `columns // across` wide. What remains at the lower and right border
    belongs to the last cells; published, to none.

    Args:
        rows, columns: tokens of the picture.
        down, across: cells of the grid.
        published: number the cells as lumina_next_compositional_generation does, by (row + 1) (column + 1) - 1, which
            is right for a single row or column only: in 2 x 2 the second region has two cells and the third none.

    Raises:
        ConfigError: there are more cells than tokens along a side.
    """
    if not (1 <= down <= rows and 1 <= across <= columns):
        raise ConfigError(f"a picture of {rows} x {columns} tokens cannot be cut into {down} x {across} regions")
    shares = torch.zeros(down * across, rows, columns)
    for row, column in ((row, column) for row in range(down) for column in range(across)):
        last = (row + 1 == down and not published, column + 1 == across and not published)
        bottom = rows if last[0] else (row + 1) * (rows // down)
        right = columns if last[1] else (column + 1) * (columns // across)
        number = (row + 1) * (column + 1) - 1 if published else row * across + column
        shares[number, row * (rows // down) : bottom, column * (columns // across) : right] = 1
    return shares.flatten(1)
