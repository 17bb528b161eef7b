"""The picture of a request on its canvas: what is there, and how much of it stays."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lumina_core.types import InitData
from lumina_image.image_io import crop_resize, to_tensor
from lumina_image.request import ImageSizeRequest

MASK_THRESHOLD = 128
"""From this level on a mask's pixel is white: JPEG leaves neither black nor white quite as they were."""


def init_data(request: ImageSizeRequest) -> InitData | None:
    """What a request begins from: its image at its place, and beyond it the image's border, drawn out.

    Where the size is another one than the image's and no place is said, image and mask are cut to its shape and
    resized alike.
    """
    if request.init_image is None or request.output_size is None:
        return None
    image, mask = request.init_image.image, None if request.mask is None else request.mask.image.convert("L")
    if request.paste_at is None and request.outpaint is None and image.size != request.output_size:
        image = crop_resize(image, request.output_size)
        mask = None if mask is None else crop_resize(mask, request.output_size)
    padding, strength = _padding(request, image), 1.0 if request.strength is None else request.strength
    data = np.pad(np.asarray(image), (*padding, (0, 0)), mode="edge")
    if mask is None and not any(map(any, padding)):
        return InitData(to_tensor(data), strength)
    repaint_mask = np.zeros((image.height, image.width), bool) if mask is None else np.asarray(mask) >= MASK_THRESHOLD
    padded_mask = np.pad(repaint_mask, padding, constant_values=True)
    return InitData(
        to_tensor(data), strength, 1 - feather_mask(torch.from_numpy(padded_mask).float(), request.feather or 0)
    )


def feather_mask(mask: Tensor, width: int) -> Tensor:
    """(H, W) of 0 and 1 with a slope of `width` pixels outside of every 1; all the same where it is 0.

    A pixel that is d pixels away (a diagonal step counts as one) gets 1 - d / (width + 1).
    """
    total, dilated = mask, mask
    for _ in range(width):
        dilated = F.max_pool2d(dilated[None], 3, stride=1, padding=1)[0]
        total = total + dilated
    return total / (width + 1)


def _padding(request: ImageSizeRequest, image: Image.Image) -> tuple[tuple[int, int], tuple[int, int]]:
    """Pixels (above, below), (left, right) of the image."""
    if request.outpaint is not None:
        left, top, right, bottom = request.outpaint
        return (top, bottom), (left, right)
    if request.paste_at is None or request.output_size is None:
        return (0, 0), (0, 0)
    (x, y), (width, height) = request.paste_at, request.output_size
    return (y, height - y - image.height), (x, width - x - image.width)
