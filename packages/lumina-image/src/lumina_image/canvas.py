"""The picture of a request on its canvas: what is there, and how much of it stays."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lumina_core.types import Known
from lumina_image.asked import SizedRequest
from lumina_image.pictures import covered, to_tensor

WHITE = 128
"""From this level on a mask's pixel is white: JPEG leaves neither black nor white quite as they were."""


def known_of(request: SizedRequest) -> Known | None:
    """What a request begins from: its image at its place, and beyond it the image's border, drawn out.

    Where the size is another one than the image's and no place is said, image and mask are cut to its shape and
    resized alike.
    """
    if request.image is None or request.canvas is None:
        return None
    image, mask = request.image.image, None if request.mask is None else request.mask.image.convert("L")
    if request.place is None and request.expand is None and image.size != request.canvas:
        image = covered(image, request.canvas)
        mask = None if mask is None else covered(mask, request.canvas)
    edges, strength = _edges(request, image), 1.0 if request.strength is None else request.strength
    data = np.pad(np.asarray(image), (*edges, (0, 0)), mode="edge")
    if mask is None and not any(map(any, edges)):
        return Known(to_tensor(data), strength)
    redrawn = np.zeros((image.height, image.width), bool) if mask is None else np.asarray(mask) >= WHITE
    around = np.pad(redrawn, edges, constant_values=True)
    return Known(to_tensor(data), strength, 1 - feathered(torch.from_numpy(around).float(), request.feather or 0))


def feathered(redrawn: Tensor, width: int) -> Tensor:
    """(H, W) of 0 and 1 with a slope of `width` pixels outside of every 1; all the same where it is 0.

    A pixel that is d pixels away (a diagonal step counts as one) gets 1 - d / (width + 1).
    """
    total, reached = redrawn, redrawn
    for _ in range(width):
        reached = F.max_pool2d(reached[None], 3, stride=1, padding=1)[0]
        total = total + reached
    return total / (width + 1)


def _edges(request: SizedRequest, image: Image.Image) -> tuple[tuple[int, int], tuple[int, int]]:
    """Pixels (above, below), (left, right) of the image."""
    if request.expand is not None:
        left, top, right, bottom = request.expand
        return (top, bottom), (left, right)
    if request.place is None or request.canvas is None:
        return (0, 0), (0, 0)
    (x, y), (wide, high) = request.place, request.canvas
    return (y, high - y - image.height), (x, wide - x - image.width)
