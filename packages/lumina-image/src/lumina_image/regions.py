"""Which places of a picture belong to which region: boxes, and cells of a grid, as published and as meant."""

from __future__ import annotations

import torch
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.types import Extent
from lumina_image.asked import PictureRequest


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


def shares_of(request: PictureRequest, extent: Extent) -> Tensor | None:
    """(R + 1, rows, columns) float: how much of each pixel belongs to the prompt of the whole, and to each region.

    Where regions overlap they count alike; where none lies, the whole does. None where the request names no region.

    Args:
        request: what is asked for.
        extent: (rows, columns) of the picture's pixels.

    Raises:
        ConfigError: a box does not lie within the picture.
    """
    if not request.region:
        return None
    if request.cells is not None:
        size, _, published = request.cells.partition(",")
        down, across = (int(side) for side in size.split("x"))
        shares = cells(extent[0], extent[1], down, across, bool(published)).view(-1, *extent)
        return torch.cat([torch.zeros(1, *extent), shares])
    shares = torch.stack([_box(region.box or (0, 0, 0, 0), extent) for region in request.region])
    covered = shares.sum(dim=0, keepdim=True)
    return torch.cat([1 - covered.clamp_max(1), shares / covered.clamp_min(1)])


def _box(box: tuple[int, int, int, int], extent: Extent) -> Tensor:
    (left, top, wide, high), (rows, columns) = box, extent
    if wide < 1 or high < 1 or left < 0 or top < 0 or left + wide > columns or top + high > rows:
        said = ",".join(map(str, box))
        raise ConfigError(f"the region {said} (x,y,width,height) does not lie within a picture of {columns}x{rows}")
    share = torch.zeros(rows, columns)
    share[top : top + high, left : left + wide] = 1
    return share
