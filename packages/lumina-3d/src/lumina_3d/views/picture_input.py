"""Given pictures: files, Pillow images or tensors -> RGBA of the size of a view, the background removed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BeforeValidator, InstanceOf, PlainSerializer

from lumina_3d.views.scenes import from_views, to_views
from lumina_core.errors import UnusableError
from lumina_core.io import cached_read
from lumina_core.types import is_tensor

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 64_000_000
"""Largest given picture."""
KEPT_SIDE = 512
"""Longest side in pixels to which a larger picture is reduced by a whole number, so that it stays at least as long."""
MIN_TOLERANCE = 3.0
"""Difference of a pixel from the background, of 255, up to which it belongs to it, in a picture without noise."""
MAX_BORDER_DEVIATION = 12.0
"""Deviation of the border's pixels, of 255, above which a picture has no plain background."""

Pixels = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Picture:
    """A given picture.

    Attributes:
        rgba: (H, W, 4) uint8; colours are not multiplied by alpha.
        name: name of its file; empty if it was no file.
        background: what was done: `alpha` (the file's own), `removed` (a plain background) or `kept` (not plain).
    """

    rgba: npt.NDArray[np.uint8]
    name: str = ""
    background: str = "alpha"

    def metadata(self) -> dict[str, str]:
        """Return the file's name, and a SHA-256 of size and pixels."""
        digest = hashlib.sha256(f"{self.rgba.shape}".encode() + self.rgba.tobytes()).hexdigest()
        return {**({"name": self.name} if self.name else {}), "background": self.background, "sha256": digest}

    def data(self, size: int) -> Tensor:
        """Return (4, size, size) in [-1, 1], colours over white; padded to a square first."""
        return to_views(resize_rgba(self.rgba, size)[None])[:, 0]


def parse_picture(value: Any) -> Picture:
    """Convert a path, a Pillow image, an array (H, W), (H, W, 3 or 4) uint8 or a view (4, H, W) in [-1, 1].

    Raises:
        ValueError: the value is none of these, cannot be decoded, is too large, or has nothing but background.
    """
    if isinstance(value, Picture):
        return value
    if isinstance(value, str | Path):
        return _read_file(Path(value))
    if isinstance(value, Image.Image):
        return _of_image(value, "")
    if is_tensor(value) and value.ndim == 3 and value.shape[0] == 4 and value.is_floating_point():
        if not bool(value.isfinite().all()):
            raise ValueError("got NaN or infinite numbers, expected finite ones")
        return _of_rgba(from_views(value[:, None])[0], "")
    is_array = isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.size
    if is_array and (value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (3, 4))):
        return _of_image(Image.fromarray(value), "")
    raise ValueError(
        "expected a path, a Pillow image, an array (H, W), (H, W, 3) or (H, W, 4) of 0..255, or a view (4, H, W) in "
        "[-1, 1]"
    )


def _read(path: Path) -> Picture:
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnusableError(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS}")
            return _of_image(ImageOps.exif_transpose(image), path.name)
    except ValueError as error:
        raise UnusableError(str(error)) from error
    except UnidentifiedImageError as error:
        raise UnusableError("not an image") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnusableError(f"damaged: {error}") from error


_read_file = cached_read(_read, "a picture")

PictureField = Annotated[
    InstanceOf[Picture], BeforeValidator(parse_picture), PlainSerializer(lambda picture: picture.metadata())
]
"""Type of a request's field; serialized as name, background and digest."""


def _of_image(image: Image.Image, name: str) -> Picture:
    if image.mode.startswith("I") or image.mode == "F":
        raise ValueError(f"got the mode {image.mode}, expected 8 bits per channel. Convert it")
    if min(image.size) < 2:
        raise ValueError(f"got {image.width}x{image.height} pixels, expected at least 2x2")
    image, factor = image.convert("RGBA"), max(image.size) // KEPT_SIDE
    if factor > 1:  # RGBa: colours multiplied by alpha, so that invisible ones do not count
        image = (
            image.convert("RGBa")
            .reduce((min(factor, image.width // 2), min(factor, image.height // 2)))
            .convert("RGBA")
        )
    rgba = np.asarray(image)
    if int(rgba[..., 3].min()) < 128:
        return _of_rgba(rgba, name)
    removed = remove_background(rgba[..., :3])
    if removed is None:
        return Picture(rgba, name, "kept")
    return _of_rgba(removed, name, "removed")


def _of_rgba(rgba: npt.NDArray[np.uint8], name: str, background: str = "alpha") -> Picture:
    if int(rgba[..., 3].max()) < 128:
        raise ValueError("got a picture of nothing but background, expected an object")
    return Picture(rgba, name, background)


def remove_background(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8] | None:
    """Return RGBA (H, W, 4) of a picture (H, W, 3) on a plain background; None if the border is not of one colour.

    The background is what has the colour of the border, also within the object (a hole under an arm rest): an object
    that is painted in exactly this colour gets holes, and needs a file with transparency. Pixels at the edge get the
    alpha that explains them as a mixture of the background and of the object next to them.
    """
    pixels: Pixels = rgb.astype(np.float64)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    color = np.median(border, axis=0)
    near = np.abs(border - color).max(axis=1)
    # a part of the object may touch the border: its pixels do not count as noise
    plain = border[near <= 4 * MAX_BORDER_DEVIATION]
    if len(plain) < 0.6 * len(border) or float(plain.std(axis=0).max()) > MAX_BORDER_DEVIATION:
        return None
    tolerance = max(MIN_TOLERANCE, 3.5 * float(plain.std(axis=0).max()))
    outside = np.abs(pixels - color).max(axis=2) <= tolerance
    border = _dilated(outside) & ~outside
    neighbour = _object_color(pixels, color, ~outside & ~border)
    direction = neighbour - color
    length = (direction**2).sum(axis=2)
    share = ((pixels - color) * direction).sum(axis=2) / np.where(length < 1, 1.0, length)
    usable = border & (length > 100)
    alpha, clean = np.where(outside, 0.0, 1.0), pixels.copy()
    alpha[usable] = share[usable].clip(0, 1)
    clean[usable] = neighbour[usable]
    clean[outside] = 0
    return np.concatenate([clean, alpha[..., None] * 255], axis=2).round().clip(0, 255).astype(np.uint8)


def resize_rgba(rgba: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Pad (H, W, 4) to a square and resize it to (size, size, 4); colours are weighted by alpha."""
    height, width = rgba.shape[:2]
    side = max(height, width)
    square = np.zeros((side, side, 4), dtype=np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = rgba
    square[..., :3] *= square[..., 3:] / 255
    if side != size:
        channels = [
            np.asarray(Image.fromarray(square[..., k]).resize((size, size), Image.Resampling.BOX)) for k in range(4)
        ]
        square = np.stack(channels, axis=-1)
    alpha = square[..., 3:]
    square[..., :3] = np.where(alpha > 0, square[..., :3] * 255 / np.where(alpha > 0, alpha, 1), 0)
    return square.round().clip(0, 255).astype(np.uint8)


def _dilated(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return np.asarray(np.stack([part for part in _neighbours(mask, False)]).any(axis=0))


def _object_color(pixels: Pixels, background: Pixels, inner: npt.NDArray[np.bool_]) -> Pixels:
    """Return for each pixel the colour of the object next to it (H, W, 3).

    That is the mean of the inner pixels among the 8 neighbours; where there is none (a part one or two pixels wide),
    the colour among the pixel and its neighbours that differs most from the background.
    """
    neighbours = np.stack(list(_neighbours(pixels, background)))
    weights = np.stack(list(_neighbours(inner, False)))[..., None]
    count = weights.sum(axis=0)
    mean = (neighbours * weights).sum(axis=0) / np.where(count == 0, 1, count)
    distance = ((neighbours - background) ** 2).sum(axis=-1)
    farthest = np.take_along_axis(neighbours, distance.argmax(axis=0)[None, ..., None], axis=0)[0]
    return np.asarray(np.where(count > 0, mean, farthest))


def _neighbours(array: npt.NDArray[Any], outside: Any) -> Iterator[npt.NDArray[Any]]:
    """Yield an array (H, W, ...) shifted by -1, 0 and 1 along both axes; `outside` stands beyond the border."""
    padded = np.empty((array.shape[0] + 2, array.shape[1] + 2, *array.shape[2:]), dtype=array.dtype)
    padded[...] = outside
    padded[1:-1, 1:-1] = array
    for row in range(3):
        for column in range(3):
            yield padded[row : row + array.shape[0], column : column + array.shape[1]]
