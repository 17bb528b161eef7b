"""Text or class to image: what is asked (a prompt or a class, a size), and the PNG that is handed back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.files import whole_file
from lumina_core.types import Extent, Known, Regions, Varied
from lumina_image.asked import MAX_SIDE, ClassRequest, PictureRequest, SizedRequest
from lumina_image.canvas import WHITE, known_of
from lumina_image.emoji_names import spelled_out
from lumina_image.pictures import covered, to_tensor
from lumina_image.regions import shares_of


class _Pictures:
    """What every task of pictures does alike: sizes, and files."""

    data_field = "picture"
    suffix = ".png"

    class Config(Settings):
        """The size a model was trained at."""

        side: int = Field(64, ge=8, le=MAX_SIDE, description="pixels of a side where the request names no size")

    def __init__(self, config: Config) -> None:
        self.config = config

    def extent(self, request: SizedRequest) -> Extent:
        """(rows, columns) of pixels."""
        width, height = request.canvas or (self.config.side, self.config.side)
        return height, width

    def known(self, request: SizedRequest) -> Known | None:
        """The picture that the request begins from, and what of it stays."""
        return known_of(request)

    def varied(self, request: SizedRequest) -> Varied | None:
        """The picture that is varied, cut to the shape of the result, and what it shows."""
        if request.vary is None:
            return None
        height, width = self.extent(request)
        picture = covered(request.vary.image, (width, height))
        shows = getattr(request, "shows", None)
        said = {} if shows is None else {"prompt": shows}
        return Varied(to_tensor(np.asarray(picture)), said, request.fresh or 0.0)

    def notes(self, request: SizedRequest) -> list[str]:
        """What the user should know of the mask: it redraws all or nothing."""
        if request.mask is None:
            return []
        white = np.asarray(request.mask.image.convert("L")) >= WHITE
        if white.all():
            return ["the mask is white everywhere (transparent parts count as white), so all of the picture is redrawn"]
        around = request.expand is not None or request.place is not None
        return [] if white.any() or around else ["the mask is black everywhere, so nothing is redrawn"]

    def trained(self) -> Extent:
        """(rows, columns) of pixels that the model learnt from."""
        return self.config.side, self.config.side

    def save(self, item: Tensor, path: Path, record: Mapping[str, Any]) -> None:
        """(3, H, W) in about [-1, 1] as a PNG with `record` as JSON in its `lumina` text chunk."""
        notes = PngImagePlugin.PngInfo()
        notes.add_itxt("lumina", json.dumps(record, ensure_ascii=False))
        with whole_file(path) as partial:
            to_picture(item).save(partial, format="PNG", pnginfo=notes)

    def save_grid(self, items: Sequence[Tensor], folder: Path, name: str) -> Path:
        """The pictures in rows of eight, as one PNG."""
        folder.mkdir(parents=True, exist_ok=True)
        pictures = [to_picture(item) for item in items]
        columns = min(8, len(pictures))
        width, height = (max(p.width for p in pictures) + 2, max(p.height for p in pictures) + 2)
        sheet = Image.new("RGB", (width * columns, height * -(-len(pictures) // columns)), "white")
        for place, picture in enumerate(pictures):
            sheet.paste(picture, (place % columns * width, place // columns * height))
        with whole_file(folder / f"{name}.png") as partial:
            sheet.save(partial, format="PNG")
        return folder / f"{name}.png"


class TextToImage(_Pictures):
    """The task of every text-to-image recipe."""

    Request = PictureRequest

    class Config(_Pictures.Config):
        """The size a model was trained at, and how it reads a prompt."""

        emoji: Literal["named", "kept"] = Field(
            "named", description="named: an emoji in a prompt is read as its name; kept: as it is written"
        )

    config: Config

    def conditions(self, request: PictureRequest) -> Mapping[str, Sequence[str]]:
        """The prompt for the conditioner called `caption`; an emoji in it is read as its name."""
        return {"caption": [self._read(request.prompt)]}

    def regions(self, request: PictureRequest) -> Regions | None:
        """The prompts of boxes or cells, the prompt of the whole before them for what lies in none.

        Raises:
            ConfigError: a box does not lie within the picture.
        """
        shares = shares_of(request, self.extent(request))
        if shares is None:
            return None
        texts = [request.prompt, *(region.prompt for region in request.region or ())]
        published = request.cells is not None and "published" in request.cells
        return Regions({"caption": [self._read(text) for text in texts]}, shares, published)

    def asked(self, said: Mapping[str, Any]) -> Mapping[str, Any]:
        """The request for an example again: its caption is the prompt.

        Raises:
            ConfigError: it has no caption.
        """
        if not isinstance(said.get("caption"), str):
            raise ConfigError(
                f"an example without caption cannot be asked for; it says only: {', '.join(said) or 'nothing'}"
            )
        return {"prompt": said["caption"]}

    def silences(self, request: PictureRequest) -> Mapping[str, Sequence[str]]:
        """The negative prompt, or nothing."""
        return {} if request.negative is None else {"caption": [self._read(request.negative)]}

    def _read(self, text: str) -> str:
        return spelled_out(text) if self.config.emoji == "named" else text


class ClassToImage(_Pictures):
    """The task of class-conditional recipes: a number of a class instead of words."""

    Request = ClassRequest

    def conditions(self, request: ClassRequest) -> Mapping[str, Sequence[int]]:
        """The class for the conditioner called `label`."""
        return {"label": [request.label]}

    def silences(self, request: ClassRequest) -> Mapping[str, Sequence[Any]]:
        """None: the conditioner's own."""
        return {}

    def asked(self, said: Mapping[str, Any]) -> Mapping[str, Any]:
        """The request for an example again: its class.

        Raises:
            ConfigError: it has none.
        """
        if not isinstance(said.get("label"), int):
            raise ConfigError(
                f"an example without a label cannot be asked for; it says only: {', '.join(said) or 'nothing'}"
            )
        return {"label": said["label"]}


def to_picture(item: Tensor) -> Image.Image:
    """(3, H, W) in about [-1, 1] -> RGB; what lies outside is clipped."""
    return Image.fromarray(levels(item).permute(1, 2, 0).contiguous().cpu().numpy())


def levels(data: Tensor) -> Tensor:
    """About [-1, 1] -> 0..255 uint8 as a file keeps them; what lies outside is clipped."""
    return ((data.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
