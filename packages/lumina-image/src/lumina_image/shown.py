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

from lumina_core.sources.once import read_once
from lumina_image.pictures import PictureError, on_white, read_picture

MAX_PIXELS = 64_000_000
"""Of a picture that is shown; a larger one is refused by its header."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture as it was handed over.

    Attributes:
        image: RGB, upright, transparent parts white.
        name: of its file; empty where it was none.
    """

    image: Image.Image
    name: str = ""

    def told(self) -> dict[str, str]:
        """What belongs into a record: the file's name, and a digest of the size and the pixels."""
        digest = hashlib.sha256(f"{self.image.size}".encode() + self.image.tobytes()).hexdigest()
        return {**({"name": self.name} if self.name else {}), "sha256": digest}


def shown(value: Any) -> Shown:
    """A path, the bytes of a file, a Pillow image, an array or a tensor as a picture.

    Args:
        value: tensors are (3, H, W) in [-1, 1], as answers have them, or (H, W) in 0..1, or of uint8 (0..255) or bool;
            arrays (H, W, 3) or (H, W) of 0..255, or of bool.

    Raises:
        ValueError: it is none of these, cannot be decoded, is too large, or holds what is no number.
    """
    if isinstance(value, Shown):
        return value
    if isinstance(value, str | Path):
        return _from_file(Path(value))
    try:
        if isinstance(value, bytes):
            return Shown(read_picture(value, MAX_PIXELS))
        if isinstance(value, Image.Image):
            return Shown(on_white(value))
    except PictureError as error:
        raise ValueError(f"what was given cannot be used as a picture: {error}") from error
    if isinstance(value, torch.Tensor):
        value = _array(value)
    if (
        isinstance(value, np.ndarray)
        and value.dtype in (np.uint8, bool)
        and (value.ndim == 2 or value.shape[2:] == (3,))
    ):
        levels = value.astype(np.uint8) * 255 if value.dtype == bool else value
        return Shown(Image.fromarray(np.ascontiguousarray(levels)).convert("RGB"))
    raise ValueError(
        "a picture is a path, the bytes of a file, a Pillow image, a tensor (3, H, W) in [-1, 1] or (H, W) in 0..1, or "
        "an array (H, W, 3) or (H, W) of 0..255"
    )


Picture = Annotated[InstanceOf[Shown], BeforeValidator(shown), PlainSerializer(Shown.told)]
"""The type of a request's field; in a record it is a name and a digest."""


_from_file = read_once(lambda path: Shown(read_picture(path, MAX_PIXELS), path.name), "a picture")


def _array(value: torch.Tensor) -> Any:
    data = value.detach().cpu()
    flat, colours = data.ndim == 2, data.ndim == 3 and data.shape[0] == 3
    if not (flat or colours) or not (data.is_floating_point() or data.dtype in (torch.uint8, torch.bool)):
        return None
    wrong = int((~torch.isfinite(data)).sum()) if data.is_floating_point() else 0
    if wrong:
        raise ValueError(f"{wrong} of the picture's {data.numel()} values are no numbers (NaN or infinite)")
    if data.is_floating_point():
        lowest = 0 if flat else -1  # a mask, or a picture as answers have it
        data = ((data.float().clamp(lowest, 1) - lowest) * (255 / (1 - lowest))).round().to(torch.uint8)
    return (data if flat else data.permute(1, 2, 0)).numpy()
