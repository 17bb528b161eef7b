"""Images from untrusted files and in requests, conversion to RGB and tensors, cropping, writing."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError, features
from pydantic import BeforeValidator, InstanceOf, PlainSerializer

from lumina_core.data.image_formats import FORMATS
from lumina_core.errors import LuminaError, UnusableError, printable
from lumina_core.io import cached_read, describe_content, user_path
from lumina_core.types import is_tensor

if TYPE_CHECKING:
    from torch import Tensor

    from lumina_core.data.source import FileOrBytes

MAX_PIXELS = 64_000_000
"""Largest image of a request; a larger one is refused by its header."""
MAX_PROFILE_BYTES = 2**22
"""Largest color profile that is used."""
_DEPTH_KEY = "lumina_depth"
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


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
    """Read the first frame of an image as RGB in sRGB, upright by its EXIF orientation, on white.

    Args:
        source: a file or its content.
        max_pixels: largest width times height.

    Raises:
        ImageError: the file is not an image in one of FORMATS, larger than `max_pixels`, damaged or truncated.
    """
    return _decode(source, max_pixels, normalize_image)


def read_mask(source: FileOrBytes, max_pixels: int) -> Image.Image:
    """Read the first frame of a mask as 8-bit gray, upright: see `normalize_mask`.

    Raises:
        ImageError: as `read_image`, or the mask has transparent pixels.
    """
    return _decode(source, max_pixels, normalize_mask)


def normalize_image(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB: upright by its EXIF orientation, in sRGB, alpha on white, 16 bits to 8.

    Raises:
        ImageError: the pixels cannot be decoded, or are floating-point numbers.
    """
    try:
        image.load()
        return to_rgb(_to_srgb(_turn_upright(image)))
    except ImageError:
        raise
    except Exception as error:  # decoders raise many types of errors for damaged files
        raise ImageError(f"damaged: {_error_text(error)}") from error


def normalize_mask(image: Image.Image) -> Image.Image:
    """Convert a mask of any mode to 8-bit gray, upright by its EXIF orientation.

    A mask of 16 bits, or of 0 and 1, is scaled by its largest value, so that white is white.

    Raises:
        ImageError: the pixels cannot be decoded, or some are transparent: white strokes on a transparent layer and
            erased parts of an image would mean opposite things.
    """
    try:
        image.load()
        image = _turn_upright(image)
        if image.mode == "F":
            raise ImageError("has floating-point pixels of unknown range; save it with 8 bits per channel")
        if image.mode.startswith("I"):
            gray = np.asarray(image).astype(np.int64).clip(min=0)
            return Image.fromarray((gray * 255 // max(int(gray.max()), 1)).astype(np.uint8))
        if _has_alpha(image) and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            raise ImageError(
                "has transparent pixels; flatten it: black where the image stays, white where it is redrawn"
            )
        gray = np.asarray(image.convert("RGB").convert("L"))
        return Image.fromarray(gray * 255 if gray.max(initial=0) == 1 else gray)
    except ImageError:
        raise
    except Exception as error:  # decoders raise many types of errors for damaged files
        raise ImageError(f"damaged: {_error_text(error)}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB: 16 bits to 8, an alpha channel on white.

    Gray of 16 bits whose largest value fits 8, 10, 12 or 14 bits, as cameras and microscopes write it, is scaled to the
    full range of those bits.

    Raises:
        ImageError: the image has floating-point pixels, or 16 bits per color of which only the lowest are used.
    """
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.int64).clip(min=0)
        bits = next(bits for bits in (8, 10, 12, 14, 16, 24, 32) if pixels.max(initial=0) < 2**bits)
        return Image.fromarray((pixels >> (bits - 8)).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ImageError("has floating-point pixels of unknown range; save it with 8 bits per channel")
    if image.info.get(_DEPTH_KEY) == 16 and 0 < max(high for _, high in _extrema(image.convert("RGB"))) < 64:
        raise ImageError("has 16 bits per color of which only the lowest are used; scale it, or save it with 8 bits")
    if _has_alpha(image):
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def _extrema(image: Image.Image) -> list[tuple[int, int]]:
    return [(int(low), int(high)) for low, high in image.getextrema()]  # type: ignore[misc]


def _turn_upright(image: Image.Image) -> Image.Image:
    # not ImageOps.exif_transpose, which writes the EXIF block again and fails if another tag of it is damaged
    method = _ORIENTATIONS.get(_orientation(image))
    if method is None:
        return image
    turned = image.transpose(method)
    turned.info = image.info
    return turned


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # with a damaged EXIF block the pixels may be intact
        return 1


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert the colors by the image's ICC profile, if it has a usable one that differs from sRGB."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not 128 <= len(profile) <= MAX_PROFILE_BYTES or image.mode.startswith("I"):
        return image
    if image.mode not in ("RGB", "L", "CMYK"):
        alpha = image.convert("RGBA").getchannel("A") if _has_alpha(image) else None
        is_gray = image.mode in ("LA", "La", "1")
        converted = _apply_profile(image.convert("L" if is_gray else "RGB"), profile)
        if alpha is not None:
            converted = converted.convert("RGB")
            converted.putalpha(alpha)
        return converted
    return _apply_profile(image, profile)


def _apply_profile(image: Image.Image, profile: bytes) -> Image.Image:
    transform = _profile_transform(profile, image.mode)
    if transform is None:
        return image
    converted = ImageCms.applyTransform(image, transform)
    return image if converted is None else converted


@lru_cache(maxsize=16)
def _profile_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform of a profile to sRGB; None if it is of another mode, damaged, or changes nothing."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, mode, "RGB")
        steps = np.linspace(0, 255, 6).astype(np.uint8)
        axes = {"L": 1, "RGB": 3, "CMYK": 4}[mode]
        colors = np.stack(np.meshgrid(*[steps] * axes), -1).reshape(1, -1, axes)
        test = (
            Image.fromarray(colors[..., 0])
            if axes == 1
            else Image.frombytes(mode, colors.shape[1::-1], colors.tobytes())
        )
        converted = ImageCms.applyTransform(test, transform)
    except Exception:  # a profile of another mode, or a damaged one
        return None
    if converted is None:
        return None
    difference = np.abs(np.asarray(converted).astype(int) - np.asarray(test.convert("RGB")).astype(int)).max()
    return transform if difference > 2 else None


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
    import torch

    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32)).div_(127.5).sub_(1)


def to_uint8(data: Tensor) -> Tensor:
    """Convert values in about [-1, 1] to uint8 as in an image file; values beyond are clipped."""
    return ((data.float().clamp(-1, 1) + 1) * 127.5).round().byte()


def to_pil(data: Tensor) -> Image.Image:
    """Convert (3, H, W) in about [-1, 1] to an RGB image; values beyond are clipped."""
    return Image.fromarray(to_uint8(data).permute(1, 2, 0).contiguous().cpu().numpy())


WRITE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"} | ({".webp": "WEBP"} if features.check("webp") else {})
"""File suffix -> format; PNG is written where a path has no suffix."""
JPEG_QUALITY = 95
_MAX_EXIF_BYTES = 60_000


def encode_image(image: Image.Image, format: str, metadata: Mapping[str, Any]) -> bytes:
    """Encode an RGB image as a file that holds the metadata as JSON.

    Args:
        image: the image.
        format: "PNG", "JPEG" (quality 95) or "WEBP" (lossless).
        metadata: JSON-serializable. JPEG and WebP have room for 60 kB; longer metadata are left out with a warning.
    """
    text, content = json.dumps(metadata, ensure_ascii=False), BytesIO()
    if format == "PNG":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("lumina", text)
        image.save(content, format="PNG", pnginfo=chunks)
        return content.getvalue()
    exif = Image.Exif()
    comment = b"UNICODE\0" + text.encode("utf-16-be")  # EXIF 2.32, 4.6.5: UserComment
    if len(comment) > _MAX_EXIF_BYTES:
        warnings.warn(f"the metadata are too long for {format} and left out; PNG has room for them", stacklevel=2)
    else:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {"quality": JPEG_QUALITY, "subsampling": 0}
    image.save(content, format=format, exif=exif, **options)
    return content.getvalue()


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Read the metadata that `encode_image` stored in a file: the request and how the image was generated.

    Raises:
        LuminaError: the file is no image, or was not written by Lumina.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            text = image.info.get("lumina")
            if text is None and isinstance(image, PngImagePlugin.PngImageFile):
                text = image.text.get("lumina")
            if text is None:
                comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
                text = comment.removeprefix(b"UNICODE\0").decode("utf-16-be")
        metadata: dict[str, Any] = json.loads(text)
    except OSError as error:
        raise LuminaError(f"{path}: not a readable image ({error})") from error
    except (ValueError, AttributeError, SyntaxError) as error:
        raise LuminaError(f"{path}: got no metadata of Lumina; another program wrote it") from error
    return metadata


def _decode(source: FileOrBytes, max_pixels: int, normalize: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        with _open(source, max_pixels) as image:
            return normalize(image)
    except ImageError as error:
        repaired = _repaired(source, str(error))
        if repaired is None:
            raise
    with _open(repaired, max_pixels) as image:
        return normalize(image)


def _repaired(source: FileOrBytes, reason: str) -> bytes | None:
    """Return the content of a file with an unreadable part that its pixels do not need; None if there is none."""
    if _is_of_large_text(reason):
        return _without_text(_content(source))
    if "truncated" not in reason:
        return None
    data = _content(source).rstrip(b"\xff")
    if not data.startswith(b"\xff\xd8"):
        return None
    # without the mark of its end, a JPEG is whole if further data would not change a pixel
    whole, longer = data + b"\xff\xd9", data + b"\x35\xca\x5a\x93" * 64 + b"\xff\xd9"
    try:
        first, second = (np.asarray(Image.open(BytesIO(content), formats=("JPEG",))) for content in (whole, longer))
    except Exception:  # decoders raise many types of errors
        return None
    return whole if np.array_equal(first, second) else None


def _is_of_large_text(reason: str) -> bool:
    return "TEXT" in reason or "Decompressed" in reason  # Pillow before 11 does not name the limit


def _content(source: FileOrBytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def _without_text(data: bytes) -> bytes:
    """Return a PNG without its text, and without a color profile that is too large to unpack."""
    kept, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept += data[at:end]
        at = end
    return bytes(kept)


def _open(source: FileOrBytes, max_pixels: int) -> Image.Image:
    try:
        image = _open_header(source)
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
    if isinstance(image, PngImagePlugin.PngImageFile) and any("16B" in str(tile[3]) for tile in image.tile):
        image.info[_DEPTH_KEY] = 16
    return image


def _open_header(source: FileOrBytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels is checked by the caller
        try:
            return Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
        except ValueError as error:
            if not _is_of_large_text(str(error)):
                raise
        return Image.open(BytesIO(_without_text(_content(source))), formats=FORMATS)


def _oriented_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # newer versions of Pillow have turned its size already
        width, height = image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength]
    return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def _error_text(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


# ---- images in requests


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
    if is_tensor(value):
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


def _to_array(value: Tensor) -> Any:
    data = value.detach().cpu()
    is_mask, is_rgb = data.ndim == 2, data.ndim == 3 and data.shape[0] == 3
    if not (is_mask or is_rgb) or not (data.is_floating_point() or str(data.dtype) in ("torch.uint8", "torch.bool")):
        return None
    if data.is_floating_point():
        num_invalid = int((~data.isfinite()).sum())
        if num_invalid:
            raise ValueError(f"expected finite values, not {num_invalid} NaN or infinite of {data.numel()}")
        low = 0 if is_mask else -1
        data = ((data.float().clamp(low, 1) - low) * (255 / (1 - low))).round().byte()
    return (data if is_mask else data.permute(1, 2, 0)).numpy()
