"""Reading of untrusted image files, conversion to RGB and tensors, cropping."""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features
from torch import Tensor

from lumina_core.errors import UnusableError
from lumina_core.io import describe_content

if TYPE_CHECKING:
    from lumina_core.data.source import FileOrBytes

_HAS_AVIF = bool(features.check("avif"))
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", *(("AVIF",) if _HAS_AVIF else ()))
"""Formats that Pillow decodes within this process; EPS, for example, would start another program."""
SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".mpo", ".webp", ".gif", ".bmp", ".dib", ".tif",
    ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", *((".avif", ".avifs") if _HAS_AVIF else ()),
)  # fmt: skip
UNREAD_SUFFIXES = (
    *(() if _HAS_AVIF else (".avif", ".avifs")), ".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".svg", ".psd",
    ".xcf", ".tga", ".ico", ".eps", ".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2",
)  # fmt: skip
"""Suffixes of image files that are not read."""


class ImageError(UnusableError):
    """A file is not a usable image; the message is the reason, in a few words."""


def read_image_size(source: FileOrBytes, max_pixels: int) -> tuple[int, int]:
    """Read (width, height) from the header of an image, upright by its EXIF orientation, without decoding it.

    Args:
        source: a file or its content.
        max_pixels: largest width times height.

    Raises:
        ImageError: the file is not an image in one of FORMATS, or larger than `max_pixels`.
    """
    with _open(source, max_pixels) as image:
        return _oriented_size(image)


def read_image(source: FileOrBytes, max_pixels: int) -> Image.Image:
    """Read the first frame of an image as RGB, upright by its EXIF orientation, on white.

    Args:
        source: a file or its content.
        max_pixels: largest width times height.

    Raises:
        ImageError: the file is not an image in one of FORMATS, larger than `max_pixels`, damaged or truncated.
    """
    with _open(source, max_pixels) as image:
        try:
            return to_rgb(ImageOps.exif_transpose(image))
        except ImageError:
            raise
        except Exception as error:  # decoders raise many types of errors for damaged files
            raise ImageError(f"damaged: {_error_text(error)}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB: 16 bits to 8, an alpha channel on white.

    Raises:
        ImageError: the image has floating-point pixels.
    """
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip(pixels >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ImageError("has floating-point pixels of unknown range; save it with 8 bits per channel")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def crop_resize(
    image: Image.Image, size: tuple[int, int], x_fraction: float = 0.5, y_fraction: float = 0.5
) -> Image.Image:
    """Crop the largest region of the aspect ratio of `size`, and resize it to `size`.

    Cropping precedes resizing, so that an image of 1 x 100000 is never enlarged completely.

    Args:
        image: the image.
        size: (width, height) in pixels.
        x_fraction, y_fraction: position of the region, 0 (left, top) to 1 (right, bottom); 0.5 is the center.
    """
    (width, height), (target_width, target_height) = image.size, size
    if width * target_height > height * target_width:
        crop_width, crop_height = height * target_width / target_height, float(height)
    else:
        crop_width, crop_height = float(width), width * target_height / target_width
    left, upper = x_fraction * (width - crop_width), y_fraction * (height - crop_height)
    # rounding can exceed the edge, which Pillow refuses
    box = (left, upper, min(left + crop_width, width), min(upper + crop_height, height))
    return image.resize(size, Image.Resampling.LANCZOS, box=box)


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Convert (H, W, 3) uint8 to (3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32)).div_(127.5).sub_(1)


def to_uint8(data: Tensor) -> Tensor:
    """Convert values in about [-1, 1] to uint8 as in an image file; values beyond are clipped."""
    return ((data.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_pil(data: Tensor) -> Image.Image:
    """Convert (3, H, W) in about [-1, 1] to an RGB image; values beyond are clipped."""
    return Image.fromarray(to_uint8(data).permute(1, 2, 0).contiguous().cpu().numpy())


def _open(source: FileOrBytes, max_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels is checked below
            image = Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"too large: more than {max_pixels} pixels by its header (max_pixels)") from error
    except UnidentifiedImageError as error:
        content = describe_content(source)
        raise ImageError(content or f"not an image in a known format ({', '.join(FORMATS)})") from error
    except Exception as error:  # readers raise many types of errors for damaged headers
        raise ImageError(f"cannot be opened: {_error_text(error)}") from error
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise ImageError(f"too large: {width}x{height}, more than {max_pixels} pixels (max_pixels)")
    return image


def _oriented_size(image: Image.Image) -> tuple[int, int]:
    try:
        is_rotated = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    except Exception:  # with a damaged EXIF block the pixels may be intact
        is_rotated = False
    return (image.height, image.width) if is_rotated else image.size


def _error_text(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
