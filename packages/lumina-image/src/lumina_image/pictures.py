"""Reads picture files that may be hostile: a bound on pixels before decoding, few formats, any mode to RGB on white."""

from __future__ import annotations

import warnings
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lumina_core.sources.source import Held
from lumina_core.sources.unusable import UnusableError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Decoded inside this process by Pillow alone; EPS, for example, would start another program."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")


class PictureError(UnusableError):
    """A file cannot be used as a picture; the message says why, in a few words."""


def check_header(held: Held, max_pixels: int) -> tuple[int, int]:
    """(width, height) as the header states it, upright by its EXIF orientation; nothing is decoded.

    Raises:
        PictureError: no picture in one of FORMATS, or more than `max_pixels`.
    """
    with _opened(held, max_pixels) as image:
        return _upright(image)


def read_picture(held: Held, max_pixels: int) -> Image.Image:
    """The first frame, upright by its EXIF orientation, in RGB, transparent parts white.

    Raises:
        PictureError: as for `check_header`, or the data is damaged or cut off.
    """
    with _opened(held, max_pixels) as image:
        try:
            return on_white(ImageOps.exif_transpose(image))
        except PictureError:
            raise
        except Exception as error:  # damaged files raise whatever the decoder stumbled over
            raise PictureError(f"damaged: {_brief(error)}") from error


def on_white(image: Image.Image) -> Image.Image:
    """Any mode as RGB. Sixteen bits are brought to eight; an alpha channel is laid on white."""
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip(wide >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise PictureError("holds floating-point numbers of unknown range; save it with 8 bits a colour")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def square(image: Image.Image, side: int, across: float = 0.5, down: float = 0.5) -> Image.Image:
    """The largest square of a picture, resized to `side`."""
    return covered(image, (side, side), across, down)


def covered(image: Image.Image, size: tuple[int, int], across: float = 0.5, down: float = 0.5) -> Image.Image:
    """The largest part of a picture that has the shape of `size`, resized to it.

    Cut before resizing, so that a picture of 1 x 100000 never becomes a giant.

    Args:
        size: (width, height) in pixels.
        across, down: where it is cut, 0 (left, top) to 1 (right, bottom); 0.5 is the middle.
    """
    (width, height), (wide, high) = image.size, size
    too_wide = width * high > height * wide
    kept_width, kept_height = (height * wide / high, height) if too_wide else (width, width * high / wide)
    left, upper = across * (width - kept_width), down * (height - kept_height)
    # rounding may lead a hair beyond the edge, which Pillow refuses
    box = (left, upper, min(left + kept_width, width), min(upper + kept_height, height))
    return image.resize(size, Image.Resampling.LANCZOS, box=box)


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) of 0..255 -> (3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32)).div_(127.5).sub_(1)


def _opened(held: Held, max_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own bound follows
            image = Image.open(BytesIO(held) if isinstance(held, bytes) else held, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise PictureError(f"too large: more than {max_pixels} pixels by its header (max_pixels)") from error
    except UnidentifiedImageError as error:
        raise PictureError(f"not a picture in a known format ({', '.join(FORMATS)})") from error
    except Exception as error:  # damaged headers raise whatever the reader stumbled over
        raise PictureError(f"cannot be opened: {_brief(error)}") from error
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise PictureError(f"too large: {width}x{height}, more than {max_pixels} pixels (max_pixels)")
    return image


def _upright(image: Image.Image) -> tuple[int, int]:
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    except Exception:  # a damaged EXIF block turns nothing; the pixels may be whole
        turned = False
    return (image.height, image.width) if turned else image.size


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
