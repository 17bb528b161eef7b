"""Tasks text-to-image and class-to-image: conditions of a request, and results as PIL images and files."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from pydantic import Field

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.io import atomic_file, new_dir
from lumina_core.protocols import GenerationTask
from lumina_core.types import GenerationOutput, InitData, RegionalPrompts, Size, VariationInput
from lumina_image.image_io import WRITE_FORMATS, crop_resize, encode_image, to_pil, to_tensor
from lumina_image.inpaint_input import MASK_THRESHOLD, init_data
from lumina_image.request import MAX_SIDE, ClassToImageRequest, ImageSizeRequest, TextToImageRequest

if TYPE_CHECKING:
    from torch import Tensor

_ZERO_WIDTH_JOINER, _VARIATION_SELECTOR = "\u200d", "\ufe0f"
# blocks of emoji, and the characters that join, color and style them: other texts need no table of names
_EMOJI_CHARACTERS = re.compile(
    "[\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u23ff\u24c2\u25a0-\u27bf\u2900-\u297f\u2b00-\u2bff"
    "\u3030\u303d\u3297\u3299\U0001f000-\U0001faff\U000e0020-\U000e007f\u200d\ufe0f\u20e3]"
)


def replace_emoji(text: str) -> str:
    """Replace each emoji (the longest sequence that has a name) by its name, separated by spaces."""
    if not _EMOJI_CHARACTERS.search(text):
        return text
    names, longest = _emoji_names()
    plain, result, index = text.replace(_VARIATION_SELECTOR, ""), "", 0
    while index < len(plain):
        lengths = range(min(longest, len(plain) - index), 0, -1)
        length = next((n for n in lengths if plain[index : index + n] in names), 0)
        if length and (length > 1 or _EMOJI_CHARACTERS.match(plain[index])):
            result += f" {names[plain[index : index + length]]} "
            index += length
        else:
            result += "" if plain[index] == _ZERO_WIDTH_JOINER else plain[index]
            index += 1
    return " ".join(result.split())


@functools.lru_cache(maxsize=1)
def _emoji_names() -> tuple[dict[str, str], int]:
    names: dict[str, str] = json.loads((files("lumina_image") / "data/emoji/names.json").read_text(encoding="utf-8"))
    return names, max(map(len, names))


def grid_region_weights(
    rows: int, columns: int, grid_rows: int, grid_columns: int, published_order: bool = False
) -> Tensor:
    """Return the weights of the cells of a grid: 1 for the tokens of a cell, else 0.

    A cell has `rows // grid_rows` rows and `columns // grid_columns` columns. The remainder at the lower and right
    border belongs to the last cells; with `published_order`, to none.

    Args:
        rows, columns: tokens of the image.
        grid_rows, grid_columns: cells of the grid.
        published_order: number the cells as in lumina_next_compositional_generation, by (row + 1) (column + 1) - 1,
            which is right for a single row or column only: in 2 x 2 region 1 has two cells and region 2 none.

    Returns:
        (grid_rows * grid_columns, rows * columns) float32.

    Raises:
        ConfigError: there are more cells than tokens along a side.
    """
    if not (1 <= grid_rows <= rows and 1 <= grid_columns <= columns):
        raise ConfigError(
            f"region_grid: got {grid_rows}x{grid_columns}, expected at most {rows}x{columns}, the size of the image."
        )
    import torch

    weights = torch.zeros(grid_rows * grid_columns, rows, columns)
    cell_rows, cell_columns = rows // grid_rows, columns // grid_columns
    for row in range(grid_rows):
        for column in range(grid_columns):
            is_last_row = row + 1 == grid_rows and not published_order
            is_last_column = column + 1 == grid_columns and not published_order
            bottom = rows if is_last_row else (row + 1) * cell_rows
            right = columns if is_last_column else (column + 1) * cell_columns
            index = (row + 1) * (column + 1) - 1 if published_order else row * grid_columns + column
            weights[index, row * cell_rows : bottom, column * cell_columns : right] = 1
    return weights.flatten(1)


def region_weights(request: TextToImageRequest, image_size: Size) -> Tensor | None:
    """Return the weight of the prompt, and of each region's prompt, for each pixel.

    Overlapping regions have equal weights; pixels without a region belong to the prompt.

    Args:
        request: the request.
        image_size: (rows, columns) of the image in pixels.

    Returns:
        (R + 1, rows, columns) float32 that sums to 1 over R + 1, the prompt first. None for a request without regions.

    Raises:
        ConfigError: a box is not within the image.
    """
    if not request.region:
        return None
    import torch

    if request.region_grid is not None:
        grid_rows, grid_columns = (int(side) for side in request.region_grid.split("x"))
        rows, columns = image_size
        published_order = request.region_order == "published"
        weights = grid_region_weights(rows, columns, grid_rows, grid_columns, published_order).view(-1, rows, columns)
        return torch.cat([torch.zeros(1, *image_size), weights])
    weights = torch.stack([_box_mask(region.box or (0, 0, 0, 0), image_size) for region in request.region])
    coverage = weights.sum(dim=0, keepdim=True)
    return torch.cat([1 - coverage.clamp_max(1), weights / coverage.clamp_min(1)])


def _box_mask(box: tuple[int, int, int, int], image_size: Size) -> Tensor:
    (left, top, width, height), (rows, columns) = box, image_size
    if width < 1 or height < 1 or left < 0 or top < 0 or left + width > columns or top + height > rows:
        raise ConfigError(
            f"region: got the box {','.join(map(str, box))} (x,y,width,height), "
            f"expected a box within the image of {columns}x{rows}."
        )
    import torch

    mask = torch.zeros(rows, columns)
    mask[top : top + height, left : left + width] = 1
    return mask


class ImageOutput(GenerationOutput):
    """Generated images: a sequence of results, and `images`."""

    @property
    def images(self) -> Sequence[Any]:
        """The images in the requested output type: PIL images by default."""
        return self.values


class ImageTask(GenerationTask):
    """Base class of image tasks: sizes, initial images, output types and files."""

    data_field = "image"
    suffixes = tuple(WRITE_FORMATS)
    Output = ImageOutput
    output_types = ("pil", "tensor", "np")
    editing_fields = (
        "init_image", "strength", "mask", "feather", "outpaint", "paste_at", "variation_of", "variation_strength",
        "source_prompt", "region", "region_grid", "region_order",
    )  # fmt: skip

    class Config(Settings):
        """Size of the training images."""

        image_size: int = Field(64, ge=8, le=MAX_SIDE, description="side in pixels; requests without size use it")

    def __init__(self, config: Config) -> None:
        self.config = config

    def train_size(self) -> Size:
        """Return (rows, columns) of the training images in pixels."""
        return self.config.image_size, self.config.image_size

    def size(self, request: ImageSizeRequest) -> Size:
        """Return (rows, columns) of the requested image in pixels."""
        width, height = request.output_size or (self.config.image_size, self.config.image_size)
        return height, width

    def format_size(self, size: Size) -> str:
        """Format (rows, columns) as requests have it: width x height."""
        return f"{size[1]}x{size[0]}"

    def init_data(self, request: ImageSizeRequest) -> InitData | None:
        """Return the initial image and its preserved pixels."""
        return None if request.init_image is None else init_data(request)

    def variation(self, request: ImageSizeRequest) -> VariationInput | None:
        """Return the image to make variations of, cropped to the aspect ratio of the result."""
        if request.variation_of is None:
            return None
        height, width = self.size(request)
        image = crop_resize(request.variation_of.image, (width, height))
        return VariationInput(to_tensor(np.asarray(image)), {}, request.variation_strength or 0.0)

    def notes(self, request: ImageSizeRequest) -> list[str]:
        """Return a warning about a mask of one color: it redraws everything or nothing."""
        if request.mask is None:
            return []
        white = np.asarray(request.mask.image.convert("L")) >= MASK_THRESHOLD
        if white.all():
            return ["The mask is white everywhere: the whole image is redrawn."]
        has_border = request.outpaint is not None or request.paste_at is not None
        return [] if white.any() or has_border else ["The mask is black everywhere: nothing is redrawn."]

    def to_output(self, item: Tensor, output_type: str) -> Any:
        """Convert (3, H, W) in about [-1, 1] to "pil" (RGB), "np" ((H, W, 3) float32 in [0, 1]) or "tensor" (as it is).

        Raises:
            ConfigError: another output type.
        """
        if output_type == "pil":
            return to_pil(item)
        if output_type == "np":
            return ((item.float().clamp(-1, 1) + 1) / 2).permute(1, 2, 0).contiguous().numpy()
        return super().to_output(item, output_type)

    def encode(self, item: Tensor, format: str, metadata: Mapping[str, Any]) -> bytes:
        """Encode (3, H, W) in about [-1, 1] as PNG, JPEG or WebP, the metadata as JSON in it.

        PNG has them in its text chunk `lumina`, the others in the comment of their EXIF block; see `read_metadata`.

        Raises:
            ConfigError: another format.
        """
        suffix = f".{format.lower().removeprefix('.')}" if format else self.suffixes[0]
        if suffix not in WRITE_FORMATS:
            raise ConfigError(f"format: got {format!r}, expected {' or '.join(WRITE_FORMATS)}.")
        return encode_image(to_pil(item), WRITE_FORMATS[suffix], metadata)

    def save_grid(self, items: Sequence[Tensor], folder: Path, name: str) -> Path:
        """Write the images in rows of eight as one PNG, and return its path."""
        images = [to_pil(item) for item in items]
        columns = min(8, len(images))
        width, height = max(image.width for image in images) + 2, max(image.height for image in images) + 2
        grid = Image.new("RGB", (width * columns, height * -(-len(images) // columns)), "white")
        for index, image in enumerate(images):
            grid.paste(image, (index % columns * width, index // columns * height))
        with new_dir(folder), atomic_file(folder / f"{name}.png") as partial:
            grid.save(partial, format="PNG")
        return folder / f"{name}.png"


class TextToImage(ImageTask):
    """Task of text-to-image recipes: the prompt is the condition `caption`."""

    Request = TextToImageRequest

    class Config(ImageTask.Config):
        """Size of the training images, and treatment of prompts."""

        emoji_to_text: bool = Field(True, description="replace emoji in prompts by their names")

    config: Config

    def conditions(self, request: TextToImageRequest) -> Mapping[str, Sequence[str]]:
        """Return the prompt for the conditioner `caption`."""
        return {"caption": [self._prepare_prompt(request.prompt)]}

    def negative_conditions(self, request: TextToImageRequest) -> Mapping[str, Sequence[str]]:
        """Return the negative prompt for the conditioner `caption`, if there is one."""
        return {} if request.negative_prompt is None else {"caption": [self._prepare_prompt(request.negative_prompt)]}

    def variation(self, request: ImageSizeRequest) -> VariationInput | None:
        """Return the image to make variations of, and the prompt of its inversion."""
        variation = super().variation(request)
        if variation is None or not isinstance(request, TextToImageRequest) or request.source_prompt is None:
            return variation
        return replace(variation, cond_fields={"prompt": request.source_prompt})

    def regions(self, request: TextToImageRequest) -> RegionalPrompts | None:
        """Return the prompts and weights of regions, the prompt first.

        Raises:
            ConfigError: a box is not within the image.
        """
        weights = region_weights(request, self.size(request))
        if weights is None:
            return None
        prompts = [request.prompt, *(region.prompt for region in request.region or ())]
        published_order = request.region_order == "published"
        return RegionalPrompts({"caption": [self._prepare_prompt(text) for text in prompts]}, weights, published_order)

    def request_for(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return request fields for an example: its caption is the prompt.

        Raises:
            ConfigError: the example has no caption.
        """
        return {"prompt": _require_field(fields, "caption", str)}

    def _prepare_prompt(self, prompt: str) -> str:
        return replace_emoji(prompt) if self.config.emoji_to_text else prompt


class ClassToImage(ImageTask):
    """Task of class-conditional recipes: the class index is the condition `label`."""

    Request = ClassToImageRequest

    def conditions(self, request: ClassToImageRequest) -> Mapping[str, Sequence[int | str]]:
        """Return the class for the conditioner `label`."""
        return {"label": [request.label]}

    def request_for(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return request fields for an example: its label.

        Raises:
            ConfigError: the example has no label.
        """
        return {"label": _require_field(fields, "label", int)}


def _require_field(fields: Mapping[str, Any], name: str, value_type: type) -> Any:
    if not isinstance(fields.get(name), value_type):
        raise ConfigError(f"example: got the fields {', '.join(fields) or 'none'}, expected a {name}.")
    return fields[name]
