"""Reading of untrusted image files of any size as RGB, within limits, and conversion to tensors."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin, UnidentifiedImageError
from pydantic import BeforeValidator, PlainSerializer

from lumina_core.data.source import FileOrBytes
from lumina_core.errors import UnusableError
from lumina_core.types import is_tensor

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Formats that Pillow decodes within this process; EPS, for example, would start another program."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
MAX_PIXELS = 64_000_000
"""Largest image that is decoded completely."""
REDUCE_PIXELS = 4_000_000
"""JPEG files with more pixels are decoded at a half, a quarter or an eighth of their size, by the decoder itself."""
MAX_JPEG_PIXELS = MAX_PIXELS * 16


class ImageError(UnusableError):
    """A file is not a usable image; the message is the reason, in a few words."""


def read_image(source: FileOrBytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read the first frame of an image as RGB, upright by its EXIF orientation, on white.

    A JPEG file of more than 4 million pixels is reduced by its decoder, so that its full size is never in memory.

    Args:
        source: a file or its content.
        max_pixels: largest width times height after that reduction.

    Raises:
        ImageError: the file is not an image in one of FORMATS, too large, damaged or truncated.
    """
    with _open(source) as image:
        if isinstance(image, JpegImagePlugin.JpegImageFile) and image.width * image.height > REDUCE_PIXELS:
            scale = (REDUCE_PIXELS / (image.width * image.height)) ** 0.5
            image.draft("RGB", (max(1, int(image.width * scale)), max(1, int(image.height * scale))))
        _check_pixels(image.size, max_pixels)
        try:
            return to_rgb(ImageOps.exif_transpose(image))
        except ImageError:
            raise
        except Exception as error:  # decoders raise many types of errors for damaged files
            raise ImageError(f"damaged: {_error_text(error)}") from error


def read_image_size(source: FileOrBytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Read (width, height) from the header of an image, upright by its EXIF orientation, without decoding it.

    Raises:
        ImageError: the file is not an image in one of FORMATS, or too large.
    """
    with _open(source) as image:
        is_jpeg = isinstance(image, JpegImagePlugin.JpegImageFile)
        _check_pixels(image.size, max(max_pixels, MAX_JPEG_PIXELS) if is_jpeg else max_pixels)
        try:
            is_rotated = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        except Exception:  # with a damaged EXIF block the pixels may be intact
            is_rotated = False
        return (image.height, image.width) if is_rotated else image.size


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


def to_tensor(image: Image.Image | NDArray[np.uint8]) -> Tensor:
    """Convert an RGB image, or (H, W, 3) uint8, to (3, H, W) float32 in [-1, 1]."""
    import torch

    pixels = np.asarray(image, dtype=np.uint8)
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32)).div_(127.5).sub_(1)


def to_pil(data: Tensor) -> Image.Image:
    """Convert (3, H, W) in about [-1, 1] to an RGB image; values beyond are clipped."""
    pixels = ((data.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def parse_image(value: Any) -> Tensor:
    """Convert a path, the bytes of a file, a Pillow image, an array or a tensor to (3, H, W) in [-1, 1].

    Args:
        value: a tensor is (3, H, W) in [-1, 1]; an array is (H, W, 3) or (H, W) of uint8.

    Raises:
        ValueError: the value is none of these, or cannot be decoded.
    """
    try:
        if isinstance(value, str | Path):
            path = Path(value)
            if not path.is_file():
                raise ImageError("a folder, not a file" if path.is_dir() else "no such file")
            return to_tensor(read_image(path))
        if isinstance(value, bytes):
            return to_tensor(read_image(value))
        if isinstance(value, Image.Image):
            return to_tensor(to_rgb(value))
    except ImageError as error:
        name = f" {value}" if isinstance(value, str | Path) else ""
        raise ValueError(f"expected a usable image{name} ({error})") from error
    is_array = isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.size > 0
    if is_array and (value.ndim == 2 or value.shape[2:] == (3,)):
        return to_tensor(Image.fromarray(value).convert("RGB"))
    is_float = is_tensor(value) and value.is_floating_point() and value.numel() > 0
    if is_float and value.ndim == 3 and value.shape[0] == 3 and bool(value.isfinite().all()):
        data: Tensor = value.float()
        return data
    raise ValueError(
        "expected a path, the bytes of an image file, a Pillow image, an array (H, W, 3) or (H, W) of 0..255, or a "
        "finite tensor (3, H, W) in [-1, 1]"
    )


def _describe(value: Tensor) -> str:
    return f"{value.shape[2]}x{value.shape[1]}"


ImageField = Annotated[Any, BeforeValidator(parse_image), PlainSerializer(_describe)]
"""Type of a request's field: a tensor (3, H, W) in [-1, 1]; serialized as its size."""


def _open(source: FileOrBytes) -> Image.Image:
    try:
        head = source[:3] if isinstance(source, bytes) else _first_bytes(source)
        if head == b"\xff\xd8\xff":
            # Image.open refuses large files before their decoder can reduce them
            return JpegImagePlugin.JpegImageFile(BytesIO(source) if isinstance(source, bytes) else source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked afterwards
            return Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"too large: more than {MAX_PIXELS} pixels; save it smaller, or as JPEG") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"not an image in a known format ({', '.join(FORMATS)})") from error
    except Exception as error:  # readers raise many types of errors for damaged headers
        raise ImageError(f"cannot be opened: {_error_text(error)}") from error


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(3)


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise ImageError(f"too large: {size[0]}x{size[1]}, more than {max_pixels} pixels; save it smaller, or as JPEG")


def _error_text(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
