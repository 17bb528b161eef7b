"""Reads picture files that may be hostile: a bound on pixels before decoding, few formats, any mode to RGB on white."""

from __future__ import annotations

import warnings
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lumina_core.data.source import FileOrBytes
from lumina_core.errors import UnusableError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Decoded inside this process by Pillow alone; EPS, for example, would start another program."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")


class ImageError(UnusableError):
    """A file cannot be used as a picture; the message says why, in a few words."""


def read_image_size(source: FileOrBytes, max_pixels: int) -> tuple[int, int]:
    """(width, height) as the header states it, upright by its EXIF orientation; nothing is decoded.

    Raises:
        PictureError: no picture in one of FORMATS, or more than `max_pixels`.
    """
    with _open(source, max_pixels) as image:
        return _oriented_size(image)


def read_image(source: FileOrBytes, max_pixels: int) -> Image.Image:
    """The first frame, upright by its EXIF orientation, in RGB, transparent parts white.

    Raises:
        PictureError: as for `check_header`, or the data is damaged or cut off.
    """
    with _open(source, max_pixels) as image:
        try:
            return to_rgb(ImageOps.exif_transpose(image))
        except ImageError:
            raise
        except Exception as error:  # damaged files raise whatever the decoder stumbled over
            raise ImageError(f"damaged: {_error_text(error)}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB. Sixteen bits are brought to eight; an alpha channel is laid on white."""
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip(pixels >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ImageError("holds floating-point numbers of unknown range; save it with 8 bits a colour")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def square_crop_resize(image: Image.Image, size: int, x_fraction: float = 0.5, y_fraction: float = 0.5) -> Image.Image:
    """The largest square of a picture, resized to `side`."""
    return crop_resize(image, (size, size), x_fraction, y_fraction)


def crop_resize(
    image: Image.Image, size: tuple[int, int], x_fraction: float = 0.5, y_fraction: float = 0.5
) -> Image.Image:
    """The largest part of a picture that has the shape of `size`, resized to it.

    Cut before resizing, so that a picture of 1 x 100000 never becomes a giant.

    Args:
        size: (width, height) in pixels.
        across, down: where it is cut, 0 (left, top) to 1 (right, bottom); 0.5 is the middle.
    """
    (width, height), (target_width, target_height) = image.size, size
    is_wider = width * target_height > height * target_width
    crop_width, crop_height = (
        (height * target_width / target_height, height) if is_wider else (width, width * target_height / target_width)
    )
    left, upper = x_fraction * (width - crop_width), y_fraction * (height - crop_height)
    # rounding may lead a hair beyond the edge, which Pillow refuses
    box = (left, upper, min(left + crop_width, width), min(upper + crop_height, height))
    return image.resize(size, Image.Resampling.LANCZOS, box=box)


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) of 0..255 -> (3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32)).div_(127.5).sub_(1)


def _open(source: FileOrBytes, max_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own bound follows
            image = Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"too large: more than {max_pixels} pixels by its header (max_pixels)") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"not a picture in a known format ({', '.join(FORMATS)})") from error
    except Exception as error:  # damaged headers raise whatever the reader stumbled over
        raise ImageError(f"cannot be opened: {_error_text(error)}") from error
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise ImageError(f"too large: {width}x{height}, more than {max_pixels} pixels (max_pixels)")
    return image


def _oriented_size(image: Image.Image) -> tuple[int, int]:
    try:
        is_rotated = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    except Exception:  # a damaged EXIF block turns nothing; the pixels may be whole
        is_rotated = False
    return (image.height, image.width) if is_rotated else image.size


def _error_text(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
