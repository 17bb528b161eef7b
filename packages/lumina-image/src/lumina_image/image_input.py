"""Images in requests: files, bytes, Pillow images, arrays or tensors, decoded within limits; masks of inpainting."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from pydantic import BeforeValidator, InstanceOf, PlainSerializer

from lumina_core.errors import printable
from lumina_core.io import cached_read, user_path
from lumina_image.image_io import ImageError, normalize_image, normalize_mask, read_image, read_mask

MAX_PIXELS = 64_000_000
"""Largest image of a request; a larger one is refused by its header."""


@dataclass(frozen=True, eq=False)
class ImageInput:
    """Image of a request.

    Attributes:
        image: RGB in sRGB, upright, transparent pixels on white; of a mask gray.
        name: name of its file; empty if it was no file.
    """

    image: Image.Image
    name: str = ""

    def metadata(self) -> dict[str, str]:
        """Return the file's name, and a SHA-256 of size and pixels."""
        digest = hashlib.sha256(f"{self.image.size}".encode() + self.image.tobytes()).hexdigest()
        return {**({"name": self.name} if self.name else {}), "sha256": digest}


def parse_image(value: Any) -> ImageInput:
    """Convert a path, the bytes of a file, a Pillow image, an array or a tensor to an image.

    Args:
        value: a tensor is (3, H, W) in [-1, 1] like results, or (H, W) in [0, 1], or uint8 (0..255) or bool; an array
            is (H, W, 3) or (H, W) of uint8 (0..255) or bool.

    Raises:
        ValueError: the value is none of these, cannot be decoded, is too large, or has NaN or infinite values.
    """
    return _parse(value, False)


def parse_mask(value: Any) -> ImageInput:
    """Convert a mask in any of the forms of `parse_image`; white is redrawn, and nothing may be transparent.

    Raises:
        ValueError: as `parse_image`, or the mask has transparent pixels.
    """
    return _parse(value, True)


def _parse(value: Any, is_mask: bool) -> ImageInput:
    if isinstance(value, ImageInput):
        return value
    read, normalize = (read_mask, normalize_mask) if is_mask else (read_image, normalize_image)
    if isinstance(value, str | Path):
        return (_read_mask_file if is_mask else _read_file)(user_path(value))
    if isinstance(value, torch.Tensor):
        value = _to_array(value)
    is_array = isinstance(value, np.ndarray) and value.dtype in (np.uint8, bool)
    if is_array and (value.ndim == 2 or value.shape[2:] == (3,)):
        pixels = value.astype(np.uint8) * 255 if value.dtype == bool else value
        value = Image.fromarray(np.ascontiguousarray(pixels))
    try:
        if isinstance(value, bytes):
            return ImageInput(read(value, MAX_PIXELS).convert("RGB"))
        if isinstance(value, Image.Image):
            return ImageInput(normalize(value).convert("RGB"))
    except ImageError as error:
        raise ValueError(f"expected a usable {'mask' if is_mask else 'image'} ({error})") from error
    raise ValueError(
        "expected a path, the bytes of an image file, a Pillow image, a tensor (3, H, W) in [-1, 1] or (H, W) in "
        "[0, 1], or an array (H, W, 3) or (H, W) of 0..255"
    )


ImageField = Annotated[InstanceOf[ImageInput], BeforeValidator(parse_image), PlainSerializer(ImageInput.metadata)]
"""Type of a request's field; serialized as name and digest."""
MaskField = Annotated[InstanceOf[ImageInput], BeforeValidator(parse_mask), PlainSerializer(ImageInput.metadata)]
"""Type of a request's field with a mask; serialized as name and digest."""

_read_file = cached_read(lambda path: ImageInput(read_image(path, MAX_PIXELS), printable(path.name)), "an image")
_read_mask_file = cached_read(
    lambda path: ImageInput(read_mask(path, MAX_PIXELS).convert("RGB"), printable(path.name)), "a mask"
)


def _to_array(value: torch.Tensor) -> Any:
    data = value.detach().cpu()
    is_mask, is_rgb = data.ndim == 2, data.ndim == 3 and data.shape[0] == 3
    if not (is_mask or is_rgb) or not (data.is_floating_point() or data.dtype in (torch.uint8, torch.bool)):
        return None
    if data.is_floating_point():
        num_invalid = int((~torch.isfinite(data)).sum())
        if num_invalid:
            raise ValueError(f"expected finite values, not {num_invalid} NaN or infinite of {data.numel()}")
        low = 0 if is_mask else -1
        data = ((data.float().clamp(low, 1) - low) * (255 / (1 - low))).round().to(torch.uint8)
    return (data if is_mask else data.permute(1, 2, 0)).numpy()
