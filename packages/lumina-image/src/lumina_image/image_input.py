"""Pictures that a request shows the model: from a file, bytes, Pillow, an array or a tensor; decoded within bounds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from pydantic import BeforeValidator, InstanceOf, PlainSerializer

from lumina_core.io import cached_read
from lumina_image.image_io import ImageError, read_image, to_rgb

MAX_PIXELS = 64_000_000
"""Of a picture that is shown; a larger one is refused by its header."""


@dataclass(frozen=True, eq=False)
class ImageInput:
    """A picture as it was handed over.

    Attributes:
        image: RGB, upright, transparent parts white.
        name: of its file; empty where it was none.
    """

    image: Image.Image
    name: str = ""

    def metadata(self) -> dict[str, str]:
        """What belongs into a record: the file's name, and a digest of the size and the pixels."""
        digest = hashlib.sha256(f"{self.image.size}".encode() + self.image.tobytes()).hexdigest()
        return {**({"name": self.name} if self.name else {}), "sha256": digest}


def parse_image(value: Any) -> ImageInput:
    """A path, the bytes of a file, a Pillow image, an array or a tensor as a picture.

    Args:
        value: tensors are (3, H, W) in [-1, 1], as answers have them, or (H, W) in 0..1, or of uint8 (0..255) or bool;
            arrays (H, W, 3) or (H, W) of 0..255, or of bool.

    Raises:
        ValueError: it is none of these, cannot be decoded, is too large, or holds what is no number.
    """
    if isinstance(value, ImageInput):
        return value
    if isinstance(value, str | Path):
        return _read_file(Path(value))
    try:
        if isinstance(value, bytes):
            return ImageInput(read_image(value, MAX_PIXELS))
        if isinstance(value, Image.Image):
            return ImageInput(to_rgb(value))
    except ImageError as error:
        raise ValueError(f"what was given cannot be used as a picture: {error}") from error
    if isinstance(value, torch.Tensor):
        value = _to_array(value)
    if (
        isinstance(value, np.ndarray)
        and value.dtype in (np.uint8, bool)
        and (value.ndim == 2 or value.shape[2:] == (3,))
    ):
        pixels = value.astype(np.uint8) * 255 if value.dtype == bool else value
        return ImageInput(Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB"))
    raise ValueError(
        "a picture is a path, the bytes of a file, a Pillow image, a tensor (3, H, W) in [-1, 1] or (H, W) in 0..1, or "
        "an array (H, W, 3) or (H, W) of 0..255"
    )


ImageField = Annotated[InstanceOf[ImageInput], BeforeValidator(parse_image), PlainSerializer(ImageInput.metadata)]
"""The type of a request's field; in a record it is a name and a digest."""


_read_file = cached_read(lambda path: ImageInput(read_image(path, MAX_PIXELS), path.name), "a picture")


def _to_array(value: torch.Tensor) -> Any:
    data = value.detach().cpu()
    is_mask, is_rgb = data.ndim == 2, data.ndim == 3 and data.shape[0] == 3
    if not (is_mask or is_rgb) or not (data.is_floating_point() or data.dtype in (torch.uint8, torch.bool)):
        return None
    num_invalid = int((~torch.isfinite(data)).sum()) if data.is_floating_point() else 0
    if num_invalid:
        raise ValueError(f"{num_invalid} of the picture's {data.numel()} values are no numbers (NaN or infinite)")
    if data.is_floating_point():
        low = 0 if is_mask else -1  # a mask, or a picture as answers have it
        data = ((data.float().clamp(low, 1) - low) * (255 / (1 - low))).round().to(torch.uint8)
    return (data if is_mask else data.permute(1, 2, 0)).numpy()
