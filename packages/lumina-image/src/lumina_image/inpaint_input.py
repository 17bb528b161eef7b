"""Initial data of image-to-image and inpainting: the image on the canvas of the result, and its preserved pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from lumina_core.types import InitData
from lumina_image.image_io import crop_resize, to_tensor
from lumina_image.request import ImageSizeRequest

if TYPE_CHECKING:
    from torch import Tensor

MASK_THRESHOLD = 128
"""Smallest gray level of white in a mask: JPEG changes black and white slightly."""


def init_data(request: ImageSizeRequest) -> InitData | None:
    """Return the initial data of a request; None without `init_image`.

    The image lies at its position, and its border is repeated beyond it. If the size is another one and no position is
    requested, image and mask are cropped to its aspect ratio and resized.
    """
    if request.init_image is None or request.output_size is None:
        return None
    image = request.init_image.image
    mask = None if request.mask is None else request.mask.image.convert("L")
    if request.paste_at is None and request.outpaint is None and image.size != request.output_size:
        image = crop_resize(image, request.output_size)
        mask = None if mask is None else crop_resize(mask, request.output_size)
    padding, strength = _padding(request, image), 1.0 if request.strength is None else request.strength
    data = to_tensor(np.pad(np.asarray(image), (*padding, (0, 0)), mode="edge"))
    if mask is None and not any(map(any, padding)):
        return InitData(data, strength)
    redrawn = np.zeros((image.height, image.width), bool) if mask is None else np.asarray(mask) >= MASK_THRESHOLD
    import torch

    redrawn_mask = torch.from_numpy(np.pad(redrawn, padding, constant_values=True)).float()
    return InitData(data, strength, 1 - feather_mask(redrawn_mask, request.feather or 0))


def feather_mask(mask: Tensor, width: int) -> Tensor:
    """Add a slope to the outside of a mask: d pixels away (diagonally too) the value is 1 - d / (width + 1).

    Args:
        mask: (H, W) of 0 and 1.
        width: width of the slope in pixels; 0 changes nothing.
    """
    import torch.nn.functional as F

    total, dilated = mask, mask
    for _ in range(width):
        dilated = F.max_pool2d(dilated[None], 3, stride=1, padding=1)[0]
        total = total + dilated
    return total / (width + 1)


def _padding(request: ImageSizeRequest, image: Image.Image) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the pixels (above, below), (left, right) of the image."""
    if request.outpaint is not None:
        left, top, right, bottom = request.outpaint
        return (top, bottom), (left, right)
    if request.paste_at is None or request.output_size is None:
        return (0, 0), (0, 0)
    (x, y), (width, height) = request.paste_at, request.output_size
    return (y, height - y - image.height), (x, width - x - image.width)
