"""What can be asked of a model of pictures: a sentence or a class, a size, and a picture to begin from."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from lumina_core.config import Config
from lumina_core.request import Request
from lumina_image.image_input import ImageField

MAX_SIDE = 4096
REGION_PATTERN = re.compile(r"\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*:\s*(.*)", re.DOTALL)
"""`x,y,w,h: text`"""
DEFAULT_STRENGTH = 0.8
"""Of the change of a whole picture; where only a part of it is redrawn, that part is made from noise alone."""


class ImageSizeRequest(Request):
    """Pictures of a size, from noise or from a picture."""

    size: tuple[int, int] | None = Field(
        None,
        title="WIDTHxHEIGHT",
        description="sides in pixels, for example 64x64; left out: the model's own, or those of --init-image",
    )
    init_image: ImageField | None = Field(None, title="FILE", description="a picture to begin from")
    strength: float | None = Field(
        None,
        ge=0,
        le=1,
        description="how much of --init-image is changed, 0 nothing, 1 all of it.  "
        f"[default: {DEFAULT_STRENGTH}, or 1 where only a part is redrawn]",
    )
    mask: ImageField | None = Field(
        None,
        title="FILE",
        description="as large as --init-image: what is white is redrawn, what is black stays as it is",
    )
    feather: int | None = Field(
        None,
        ge=0,
        le=512,
        description="pixels around what is redrawn over which it passes into --init-image; else none do",
    )
    outpaint: tuple[int, int, int, int] | None = Field(
        None,
        title="LEFT,TOP,RIGHT,BOTTOM",
        description="pixels to draw on around --init-image; one number: on every side",
    )
    paste_at: tuple[int, int] | None = Field(
        None,
        title="X,Y",
        description="where on a larger --size the left upper corner of --init-image lies; the rest is drawn",
    )

    variation_of: ImageField | None = Field(
        None, title="FILE", description="a picture to make another like: its noise is found, and begun from"
    )
    variation_strength: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of new noise in a variation of --variation-of, by the seed; 0 none, 1 nothing else",
    )

    @model_validator(mode="after")
    def _check_variation(self) -> ImageSizeRequest:
        if self.variation_of is None and self.variation_strength is not None:
            raise ValueError("variation_strength is about a picture to vary; name one with variation_of")
        if self.variation_of is not None and self.init_image is not None:
            raise ValueError("init_image begins from a picture and variation_of from its noise; give one of them")
        return self

    @model_validator(mode="before")
    @classmethod
    def _fill_strength(cls, values: Any) -> Any:
        # filled in here, so that a record says what was done
        if not isinstance(values, dict) or values.get("init_image") is None or values.get("strength") is not None:
            return values
        is_partial = any(values.get(name) is not None for name in ("mask", "outpaint", "paste_at"))
        return {**values, "strength": 1.0 if is_partial else DEFAULT_STRENGTH}

    @field_validator("size", mode="before")
    @classmethod
    def _parse_size(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        sides = value.lower().replace("×", "x").split("x")
        if len(sides) != 2 or not all(side.strip().isdecimal() for side in sides):
            raise ValueError("a size is WIDTHxHEIGHT, for example 64x64")
        return tuple(int(side) for side in sides)

    @field_validator("outpaint", "paste_at", mode="before")
    @classmethod
    def _parse_pixels(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            parts = value.split(",")
            if not all(word.strip().removeprefix("-").isdecimal() for word in parts):
                raise ValueError("wanted whole numbers of pixels with commas between them")
            value = tuple(int(word) for word in parts)
        pixels = (value,) if isinstance(value, int) else value
        if not isinstance(pixels, tuple | list):
            return value
        if info.field_name == "outpaint" and len(pixels) == 1:
            return tuple(pixels) * 4
        count, expected = (4, "LEFT,TOP,RIGHT,BOTTOM or one number") if info.field_name == "outpaint" else (2, "X,Y")
        if len(pixels) != count:
            raise ValueError(f"wanted {expected}, in pixels")
        return pixels

    @field_validator("outpaint")
    @classmethod
    def _check_outpaint(cls, value: tuple[int, int, int, int] | None) -> tuple[int, int, int, int] | None:
        if value is not None and min(value) < 0:
            raise ValueError("a side can only be moved outward, by 0 or more pixels")
        return value

    @field_validator("size")
    @classmethod
    def _check_size(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not all(1 <= side <= MAX_SIDE for side in value):
            raise ValueError(f"a side goes from 1 to {MAX_SIDE} pixels")
        return value

    @model_validator(mode="after")
    def _check_init_image(self) -> ImageSizeRequest:
        if self.init_image is None:
            dependent = [
                name for name in ("strength", "mask", "feather", "outpaint", "paste_at") if getattr(self, name)
            ]
            if self.strength is not None or dependent:
                raise ValueError(
                    f"{(dependent or ['strength'])[0]} is about a picture to begin from; name one with init_image"
                )
            return self
        if self.feather is not None and self.mask is None and self.outpaint is None and self.paste_at is None:
            raise ValueError(
                "feather is about the edges of what is redrawn; say which part with mask, outpaint or paste_at"
            )
        width, height = self.init_image.image.size
        if self.mask is not None and self.mask.image.size != (width, height):
            mask_size = "x".join(map(str, self.mask.image.size))
            raise ValueError(
                f"the mask is {mask_size} pixels and the image {width}x{height}; make the mask as large as it"
            )
        self._check_output_size(width, height)
        return self

    def _check_output_size(self, width: int, height: int) -> None:
        if self.outpaint is not None and (self.size is not None or self.paste_at is not None):
            raise ValueError("outpaint says the size already; leave out size and paste_at, or give these two instead")
        if self.paste_at is not None and self.size is None:
            raise ValueError("paste_at says where the image lies on a larger size; give the size too")
        if self.paste_at is not None and self.size is not None:
            x, y = self.paste_at
            if not (0 <= x <= self.size[0] - width and 0 <= y <= self.size[1] - height):
                size_text = "x".join(map(str, self.size))
                raise ValueError(f"an image of {width}x{height} at {x},{y} does not lie within a size of {size_text}")
        if max(self.output_size or ()) > MAX_SIDE:
            output_text = "x".join(map(str, self.output_size or ()))
            raise ValueError(
                f"a picture of {output_text} was to be made, and a side goes up to {MAX_SIDE}; say a smaller size"
            )

    @property
    def output_size(self) -> tuple[int, int] | None:
        """(width, height) of what is made, where the request says it."""
        if self.size is not None or self.init_image is None:
            return self.size
        width, height = self.init_image.image.size
        left, top, right, bottom = self.outpaint or (0, 0, 0, 0)
        return left + width + right, top + height + bottom


class Region(Config):
    """What is said of a part of a picture."""

    prompt: str = Field(min_length=1, max_length=20000, description="what it shows")
    box: tuple[int, int, int, int] | None = Field(
        None, description="left, top, width and height in pixels; None: a cell of `region_grid`"
    )

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if isinstance(value, tuple | list) and len(value) == 2:  # (box, prompt), as Python writes it
            return {"box": value[0], "prompt": value[1]}
        if not isinstance(value, str):
            return value
        match = REGION_PATTERN.fullmatch(value)
        if match is None:
            return {"prompt": value.strip()}
        return {"box": tuple(int(number) for number in match.groups()[:4]), "prompt": match[5].strip()}


class TextToImageRequest(ImageSizeRequest):
    """A sentence in, pictures out."""

    prompt: str = Field(
        max_length=20000, description="what the picture shows, in any language; an emoji is read as its name"
    )
    negative_prompt: str | None = Field(None, max_length=20000, description="what to stay away from")
    source_prompt: str | None = Field(
        None,
        max_length=20000,
        description="what --variation-of shows, where that is not what is wanted: the result is drawn after the prompt",
    )

    region: tuple[Region, ...] | None = Field(
        None,
        title="X,Y,W,H: TEXT",
        description="what a box of the picture shows, in pixels from the left and the top; may be given again and "
        "again; the rest shows the prompt",
    )
    region_grid: str | None = Field(
        None,
        title="ROWSxCOLUMNS",
        description="cut the picture into equal cells, one --region (a text alone) after another, row by row",
    )
    region_order: Literal["row_major", "published"] | None = Field(
        None,
        title="ORDER",
        description="published numbers and joins the cells of --region-grid as the published code does.  "
        "[default: row_major]",
    )

    @field_validator("region_grid")
    @classmethod
    def _check_region_grid(cls, value: str | None) -> str | None:
        if value is not None and re.fullmatch(r"[1-9]\d?x[1-9]\d?", value) is None:
            raise ValueError("a grid of regions is ROWSxCOLUMNS, for example 2x2")
        return value

    @field_validator("region", mode="before")
    @classmethod
    def _to_tuple(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Region | dict) else value

    @model_validator(mode="after")
    def _check_regions(self) -> TextToImageRequest:
        boxes = [region.box for region in self.region or ()]
        if self.region_grid is None and None in boxes:
            raise ValueError("a region is x,y,w,h: text, for example '0,0,32,64: a red heart'; or give region_grid too")
        if self.region_grid is None and self.region_order is not None:
            raise ValueError("region_order is about the cells of a grid; give region_grid too")
        if self.region_grid is not None:
            rows, columns = (int(side) for side in self.region_grid.split("x"))
            if len(boxes) != rows * columns or any(box is not None for box in boxes):
                raise ValueError(
                    f"{rows}x{columns} cells want {rows * columns} regions without boxes; got {len(boxes)}"
                )
        return self

    @model_validator(mode="after")
    def _check_source_prompt(self) -> TextToImageRequest:
        if self.source_prompt is not None and self.variation_of is None:
            raise ValueError("source_prompt says what a picture to vary shows; name one with variation_of")
        return self

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("the prompt is empty; say what the picture shows")
        return value


class ClassToImageRequest(ImageSizeRequest):
    """A class in, pictures out."""

    label: int = Field(ge=0, title="LABEL", description="number of the class, from 0", examples=["207"])
