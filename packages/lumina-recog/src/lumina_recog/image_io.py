"""Reading of untrusted image files of any size as RGB, within limits, and conversion to tensors."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError
from pydantic import BeforeValidator, PlainSerializer

from lumina_core.data.image_formats import FORMATS
from lumina_core.data.source import FileOrBytes
from lumina_core.errors import UnusableError
from lumina_core.types import is_tensor

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 64_000_000
"""Largest image that is decoded completely."""
REDUCE_PIXELS = 4_000_000
"""Larger images are reduced by 2, 4 or 8 to no fewer pixels than these, JPEG files by the decoder itself."""


class ImageError(UnusableError):
    """A file is not a usable image; the message is the reason, in a few words."""


def read_image(source: FileOrBytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read the first frame of an image as RGB, upright by its EXIF orientation, on white.

    An image of 16 million pixels and more is reduced by 2, 4 or 8, see REDUCE_PIXELS; of a JPEG file the full size is
    never in memory.

    Args:
        source: a file or its content.
        max_pixels: largest width times height that is decoded; of a JPEG file after that reduction.

    Raises:
        ImageError: the file is not an image in one of FORMATS, too large, damaged or truncated.
    """
    with _open(source) as image:
        factor = _check_size(image, max_pixels)
        try:
            if isinstance(image, JpegImagePlugin.JpegImageFile) and factor > 1:
                image.draft("RGB", (max(1, image.width // factor), max(1, image.height // factor)))
                factor = 1
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            is_plain = image.mode in ("RGB", "RGBA", "L", "LA", "CMYK") and "transparency" not in image.info
            rgb = to_rgb(image.reduce(factor) if is_plain else image)
            return rgb if is_plain else rgb.reduce(factor)
        except ImageError:
            raise
        except Exception as error:  # decoders raise many types of errors for damaged files
            raise ImageError(f"damaged: {_error_text(error)}") from error


def read_image_size(source: FileOrBytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Read (width, height) of the image of `read_image` from the header, without decoding it.

    Raises:
        ImageError: the file is not an image in one of FORMATS, or too large.
    """
    with _open(source) as image:
        size = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # newer versions of Pillow have turned its size already
            size = image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength]
        width, height = _reduced(size, _check_size(image, max_pixels))
        try:
            is_rotated = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        except Exception:  # with a damaged EXIF block the pixels may be intact
            is_rotated = False
        return (height, width) if is_rotated else (width, height)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB: 16 bits to 8, an alpha channel on white.

    Gray of 16 bits whose largest value fits 8, 10, 12 or 14 bits, as cameras and microscopes write it, is scaled to the
    full range of those bits.

    Raises:
        ImageError: the image has floating-point pixels.
    """
    if image.mode.startswith("I"):
        pixels = np.asarray(image).clip(min=0)
        bits = next(bits for bits in (8, 10, 12, 14, 16, 24, 32) if int(pixels.max(initial=0)) < 2**bits)
        return Image.fromarray((pixels >> (bits - 8)).astype(np.uint8)).convert("RGB")
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


def _check_size(image: Image.Image, max_pixels: int) -> int:
    """Return the factor by which an image is reduced, after a check of the size that is decoded."""
    pixels = image.width * image.height
    factor = next(factor for factor in (8, 4, 2, 1) if pixels >= REDUCE_PIXELS * factor**2 or factor == 1)
    is_jpeg = isinstance(image, JpegImagePlugin.JpegImageFile)
    width, height = _reduced(image.size, factor) if is_jpeg else image.size
    if width * height > max_pixels:
        raise ImageError(
            f"too large: {image.width}x{image.height}, more than {max_pixels} pixels; save it smaller"
            + ("" if is_jpeg else ", or as JPEG")
        )
    return factor


def _reduced(size: tuple[int, int], factor: int) -> tuple[int, int]:
    return -(-size[0] // factor), -(-size[1] // factor)


def _error_text(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
