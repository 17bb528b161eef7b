"""Text or class to image: what is asked (a prompt or a class, a size), and the PNG that is handed back."""

from __future__ import annotations

import functools
import io
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.io import atomic_file
from lumina_core.protocols import GenerationTask
from lumina_core.types import GenerationOutput, InitData, RegionalPrompts, Size, VariationInput
from lumina_image.image_io import crop_resize, to_tensor
from lumina_image.inpaint_input import MASK_THRESHOLD, init_data
from lumina_image.request import MAX_SIDE, ClassToImageRequest, ImageSizeRequest, TextToImageRequest

_ZERO_WIDTH_JOINER, _VARIATION_SELECTOR = "\u200d", "\ufe0f"
# the blocks that emoji come from, and the marks that join, colour and style them; plain text never enters the table
_EMOJI_CHARACTERS = re.compile(
    "[\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u23ff\u24c2\u25a0-\u27bf\u2900-\u297f\u2b00-\u2bff"
    "\u3030\u303d\u3297\u3299\U0001f000-\U0001faff\U000e0020-\U000e007f\u200d\ufe0f\u20e3]"
)


def replace_emoji(text: str) -> str:
    """The text with each emoji (the longest sequence that has a name) replaced by its name between blanks."""
    if not _EMOJI_CHARACTERS.search(text):
        return text
    names, longest = _emoji_names()
    plain, result, index = text.replace(_VARIATION_SELECTOR, ""), "", 0
    while index < len(plain):
        length = next(
            (n for n in range(min(longest, len(plain) - index), 0, -1) if plain[index : index + n] in names), 0
        )
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
    """(down * across, rows * columns) float: 1 where a token of the picture lies in a cell of the grid, row by row.

    A cell is `rows // down` tokens high and `columns // across` wide. What remains at the lower and right border
    belongs to the last cells; published, to none.

    Args:
        rows, columns: tokens of the picture.
        down, across: cells of the grid.
        published: number the cells as lumina_next_compositional_generation does, by (row + 1) (column + 1) - 1, which
            is right for a single row or column only: in 2 x 2 the second region has two cells and the third none.

    Raises:
        ConfigError: there are more cells than tokens along a side.
    """
    if not (1 <= grid_rows <= rows and 1 <= grid_columns <= columns):
        raise ConfigError(
            f"a picture of {rows} x {columns} tokens cannot be cut into {grid_rows} x {grid_columns} regions"
        )
    weights = torch.zeros(grid_rows * grid_columns, rows, columns)
    for row, column in ((row, column) for row in range(grid_rows) for column in range(grid_columns)):
        is_last = (row + 1 == grid_rows and not published_order, column + 1 == grid_columns and not published_order)
        bottom = rows if is_last[0] else (row + 1) * (rows // grid_rows)
        right = columns if is_last[1] else (column + 1) * (columns // grid_columns)
        index = (row + 1) * (column + 1) - 1 if published_order else row * grid_columns + column
        weights[index, row * (rows // grid_rows) : bottom, column * (columns // grid_columns) : right] = 1
    return weights.flatten(1)


def region_weights(request: TextToImageRequest, image_size: Size) -> Tensor | None:
    """(R + 1, rows, columns) float: how much of each pixel belongs to the prompt of the whole, and to each region.

    Where regions overlap they count alike; where none lies, the whole does. None where the request names no region.

    Args:
        request: what is asked for.
        extent: (rows, columns) of the picture's pixels.

    Raises:
        ConfigError: a box does not lie within the picture.
    """
    if not request.region:
        return None
    if request.region_grid is not None:
        grid_rows, grid_columns = (int(side) for side in request.region_grid.split("x"))
        published_order = request.region_order == "published"
        rows, columns = image_size
        weights = grid_region_weights(rows, columns, grid_rows, grid_columns, published_order).view(-1, rows, columns)
        return torch.cat([torch.zeros(1, *image_size), weights])
    weights = torch.stack([_box_mask(region.box or (0, 0, 0, 0), image_size) for region in request.region])
    coverage = weights.sum(dim=0, keepdim=True)
    return torch.cat([1 - coverage.clamp_max(1), weights / coverage.clamp_min(1)])


def _box_mask(box: tuple[int, int, int, int], image_size: Size) -> Tensor:
    (left, top, width, height), (rows, columns) = box, image_size
    if width < 1 or height < 1 or left < 0 or top < 0 or left + width > columns or top + height > rows:
        box_text = ",".join(map(str, box))
        raise ConfigError(f"the region {box_text} (x,y,width,height) does not lie within a picture of {columns}x{rows}")
    mask = torch.zeros(rows, columns)
    mask[top : top + height, left : left + width] = 1
    return mask


class ImageOutput(GenerationOutput):
    """Generated images: a sequence of results, and `images`."""

    @property
    def images(self) -> Sequence[Any]:
        """The images in the requested output type: PIL images by default."""
        return self.values


class _ImageTask(GenerationTask):
    """What every task of pictures does alike: sizes, and files."""

    data_field = "image"
    suffixes = (".png",)
    Output = ImageOutput
    output_types = ("pil", "tensor", "np")

    class Config(Settings):
        """The size a model was trained at."""

        image_size: int = Field(64, ge=8, le=MAX_SIDE, description="pixels of a side where the request names no size")

    def __init__(self, config: Config) -> None:
        self.config = config

    def size(self, request: ImageSizeRequest) -> Size:
        """(rows, columns) of pixels."""
        width, height = request.output_size or (self.config.image_size, self.config.image_size)
        return height, width

    def init_data(self, request: ImageSizeRequest) -> InitData | None:
        """The picture that the request begins from, and what of it stays."""
        return init_data(request)

    def variation(self, request: ImageSizeRequest) -> VariationInput | None:
        """The picture that is varied, cut to the shape of the result, and what it shows."""
        if request.variation_of is None:
            return None
        height, width = self.size(request)
        image = crop_resize(request.variation_of.image, (width, height))
        source_prompt = getattr(request, "source_prompt", None)
        cond_fields = {} if source_prompt is None else {"prompt": source_prompt}
        return VariationInput(to_tensor(np.asarray(image)), cond_fields, request.variation_strength or 0.0)

    def notes(self, request: ImageSizeRequest) -> list[str]:
        """What the user should know of the mask: it redraws all or nothing."""
        if request.mask is None:
            return []
        white = np.asarray(request.mask.image.convert("L")) >= MASK_THRESHOLD
        if white.all():
            return ["the mask is white everywhere (transparent parts count as white), so all of the picture is redrawn"]
        has_border = request.outpaint is not None or request.paste_at is not None
        return [] if white.any() or has_border else ["the mask is black everywhere, so nothing is redrawn"]

    def train_size(self) -> Size:
        """(rows, columns) of pixels that the model learnt from."""
        return self.config.image_size, self.config.image_size

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
        """Encode (3, H, W) in about [-1, 1] as PNG, the metadata as JSON in its text chunk `lumina`.

        Raises:
            ConfigError: another format.
        """
        suffix = format.lower().removeprefix(".")
        if suffix not in ("", "png"):
            raise ConfigError(f"format: got {format!r}, expected '.png'. Images are written as PNG.")
        text_chunks = PngImagePlugin.PngInfo()
        text_chunks.add_itxt("lumina", json.dumps(metadata, ensure_ascii=False))
        content = io.BytesIO()
        to_pil(item).save(content, format="PNG", pnginfo=text_chunks)
        return content.getvalue()

    def save_grid(self, items: Sequence[Tensor], folder: Path, name: str) -> Path:
        """The pictures in rows of eight, as one PNG."""
        folder.mkdir(parents=True, exist_ok=True)
        images = [to_pil(item) for item in items]
        columns = min(8, len(images))
        width, height = (max(p.width for p in images) + 2, max(p.height for p in images) + 2)
        grid = Image.new("RGB", (width * columns, height * -(-len(images) // columns)), "white")
        for index, image in enumerate(images):
            grid.paste(image, (index % columns * width, index // columns * height))
        with atomic_file(folder / f"{name}.png") as partial:
            grid.save(partial, format="PNG")
        return folder / f"{name}.png"


class TextToImage(_ImageTask):
    """The task of every text-to-image recipe."""

    Request = TextToImageRequest

    class Config(_ImageTask.Config):
        """The size a model was trained at, and how it reads a prompt."""

        emoji_to_text: bool = Field(
            True, description="an emoji in a prompt is read as its name; false: as it is written"
        )

    config: Config

    def conditions(self, request: TextToImageRequest) -> Mapping[str, Sequence[str]]:
        """The prompt for the conditioner called `caption`; an emoji in it is read as its name."""
        return {"caption": [self._prepare_prompt(request.prompt)]}

    def regions(self, request: TextToImageRequest) -> RegionalPrompts | None:
        """The prompts of boxes or cells, the prompt of the whole before them for what lies in none.

        Raises:
            ConfigError: a box does not lie within the picture.
        """
        weights = region_weights(request, self.size(request))
        if weights is None:
            return None
        prompts = [request.prompt, *(region.prompt for region in request.region or ())]
        published_order = request.region_order == "published"
        return RegionalPrompts({"caption": [self._prepare_prompt(text) for text in prompts]}, weights, published_order)

    def request_for(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """The request for an example again: its caption is the prompt.

        Raises:
            ConfigError: it has no caption.
        """
        if not isinstance(fields.get("caption"), str):
            raise ConfigError(
                f"an example without caption cannot be asked for; it says only: {', '.join(fields) or 'nothing'}"
            )
        return {"prompt": fields["caption"]}

    def negative_conditions(self, request: TextToImageRequest) -> Mapping[str, Sequence[str]]:
        """The negative prompt, or nothing."""
        return {} if request.negative_prompt is None else {"caption": [self._prepare_prompt(request.negative_prompt)]}

    def _prepare_prompt(self, prompt: str) -> str:
        return replace_emoji(prompt) if self.config.emoji_to_text else prompt


class ClassToImage(_ImageTask):
    """The task of class-conditional recipes: a number of a class instead of words."""

    Request = ClassToImageRequest

    def conditions(self, request: ClassToImageRequest) -> Mapping[str, Sequence[int]]:
        """The class for the conditioner called `label`."""
        return {"label": [request.label]}

    def negative_conditions(self, request: ClassToImageRequest) -> Mapping[str, Sequence[Any]]:
        """None: the conditioner's own."""
        return {}

    def request_for(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """The request for an example again: its class.

        Raises:
            ConfigError: it has none.
        """
        if not isinstance(fields.get("label"), int):
            raise ConfigError(
                f"an example without a label cannot be asked for; it says only: {', '.join(fields) or 'nothing'}"
            )
        return {"label": fields["label"]}


def to_pil(item: Tensor) -> Image.Image:
    """(3, H, W) in about [-1, 1] -> RGB; what lies outside is clipped."""
    return Image.fromarray(to_uint8(item).permute(1, 2, 0).contiguous().cpu().numpy())


def to_uint8(data: Tensor) -> Tensor:
    """About [-1, 1] -> 0..255 uint8 as a file keeps them; what lies outside is clipped."""
    return ((data.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
