"""Requests for images: prompt or class, size, and images to begin from."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from lumina_core.config import Config
from lumina_core.request import Request
from lumina_image.image_io import ImageField, MaskField

MAX_SIDE = 4096
MAX_PROMPT_CHARS = 20000
DEFAULT_STRENGTH = 0.8
"""Strength of image-to-image; inpainting replaces its region completely by default."""
_REGION_PATTERN = re.compile(r"\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*:\s*(.*)", re.DOTALL)
_PIXEL_FORMS = {"outpaint": (4, "LEFT,TOP,RIGHT,BOTTOM or one number"), "paste_at": (2, "X,Y")}


class ImageSizeRequest(Request):
    """Request for images of a size, from noise or from an image."""

    size: tuple[int, int] | None = Field(
        None,
        title="WIDTHxHEIGHT",
        description="size of the image in pixels, for example 64x48, or 64 for a square; "
        "default: that of init_image, or of training",
    )
    init_image: ImageField | None = Field(
        None, title="FILE", description="initial image: image-to-image, or inpainting with mask, outpaint or paste_at"
    )
    strength: float | None = Field(
        None,
        ge=0,
        le=1,
        description="amount of change of init_image, 0 (none) to 1 (all of it).  "
        f"[default: {DEFAULT_STRENGTH}, or 1 for inpainting]",
    )
    mask: MaskField | None = Field(
        None, title="FILE", description="mask of the size of init_image: white is redrawn, black is preserved"
    )
    feather: int | None = Field(
        None,
        ge=0,
        le=512,
        description="width in pixels of the transition between the redrawn region and init_image; default: 0",
    )
    outpaint: tuple[int, int, int, int] | None = Field(
        None,
        title="LEFT,TOP,RIGHT,BOTTOM",
        description="pixels to add on each side of init_image; one number: on every side",
    )
    paste_at: tuple[int, int] | None = Field(
        None,
        title="X,Y",
        description="position of the upper left corner of init_image on a larger size; the rest is generated",
    )
    variation_of: ImageField | None = Field(
        None, title="FILE", description="image to make variations of: sampling starts from its inverted noise"
    )
    variation_strength: float | None = Field(
        None, ge=0, le=1, description="share of new noise in a variation, 0 (none) to 1 (all); default: 0"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_strength(cls, values: Any) -> Any:
        # filled in here, so that the metadata of an image contains the strength
        if not isinstance(values, dict) or values.get("init_image") is None or values.get("strength") is not None:
            return values
        is_partial = any(values.get(name) is not None for name in ("mask", "outpaint", "paste_at"))
        return {**values, "strength": 1.0 if is_partial else DEFAULT_STRENGTH}

    @field_validator("size", mode="before")
    @classmethod
    def _parse_size(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return value, value
        if not isinstance(value, str):
            return value
        match = re.fullmatch(r"\s*([0-9]{1,9})(?:\s*[x×,*]\s*([0-9]{1,9}))?\s*(?:px)?\s*", value.lower())
        if match is None:
            raise ValueError("expected WIDTHxHEIGHT in pixels, for example 64x64, or the side of a square")
        return int(match[1]), int(match[2] or match[1])

    @field_validator("size")
    @classmethod
    def _check_size(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not all(1 <= side <= MAX_SIDE for side in value):
            raise ValueError(f"expected sides of 1 to {MAX_SIDE} pixels")
        return value

    @field_validator("outpaint", "paste_at", mode="before")
    @classmethod
    def _parse_pixels(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]+\s*(,\s*-?[0-9]+\s*)*", value):
            value = [int(number) for number in value.split(",")]
        pixels = [value] if isinstance(value, int) else value
        count, form = _PIXEL_FORMS[str(info.field_name)]
        if info.field_name == "outpaint" and isinstance(pixels, tuple | list) and len(pixels) == 1:
            pixels = list(pixels) * count
        if isinstance(pixels, str | int) or (isinstance(pixels, tuple | list) and len(pixels) != count):
            raise ValueError(f"expected {form} in pixels")
        return pixels

    @field_validator("outpaint")
    @classmethod
    def _check_outpaint(cls, value: tuple[int, int, int, int] | None) -> tuple[int, int, int, int] | None:
        if value is not None and min(value) < 0:
            raise ValueError("expected 0 or more pixels on each side")
        return value

    @model_validator(mode="after")
    def _check_init_image(self) -> ImageSizeRequest:
        if self.variation_of is None and self.variation_strength is not None:
            raise ValueError("variation_strength: got no variation_of, expected an image to make variations of")
        if self.variation_of is not None and self.init_image is not None:
            raise ValueError("variation_of: got init_image too, expected only one of them")
        if self.init_image is None:
            for name in ("strength", "mask", "feather", "outpaint", "paste_at"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name}: got no init_image, expected an image to begin from")
            return self
        if self.feather is not None and self.mask is None and self.outpaint is None and self.paste_at is None:
            raise ValueError("feather: got no region to redraw, expected mask, outpaint or paste_at")
        size = self.init_image.image.size
        if self.mask is not None and self.mask.image.size != size:
            raise ValueError(
                f"mask: got a size of {_size_text(self.mask.image.size)}, expected {_size_text(size)} as of init_image"
            )
        self._check_output_size(*size)
        return self

    def _check_output_size(self, width: int, height: int) -> None:
        if self.outpaint is not None and (self.size is not None or self.paste_at is not None):
            raise ValueError("outpaint: got size or paste_at too, expected outpaint alone. It determines the size")
        if self.paste_at is not None:
            if self.size is None:
                raise ValueError("paste_at: got no size, expected the size of the result")
            x, y = self.paste_at
            if not (0 <= x <= self.size[0] - width and 0 <= y <= self.size[1] - height):
                raise ValueError(
                    f"paste_at: got an image of {width}x{height} at {x},{y}, "
                    f"expected a position within {_size_text(self.size)}"
                )
        if max(self.output_size or ()) > MAX_SIDE:
            raise ValueError(
                f"size: got a result of {_size_text(self.output_size or ())}, expected sides up to {MAX_SIDE} pixels. "
                "Request a smaller size"
            )

    @property
    def output_size(self) -> tuple[int, int] | None:
        """Return (width, height) of the result; None if the request does not determine it."""
        if self.size is not None or self.init_image is None:
            return self.size
        width, height = self.init_image.image.size
        left, top, right, bottom = self.outpaint or (0, 0, 0, 0)
        return left + width + right, top + height + bottom


class Region(Config):
    """Prompt of a region of an image."""

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT_CHARS, description="content of the region")
    box: tuple[int, int, int, int] | None = Field(
        None, description="left, top, width and height in pixels; null: a cell of `region_grid`"
    )

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if isinstance(value, tuple | list) and len(value) == 2:  # (box, prompt)
            return {"box": value[0], "prompt": value[1]}
        if not isinstance(value, str):
            return value
        match = _REGION_PATTERN.fullmatch(value)
        if match is None:
            return {"prompt": value.strip()}
        return {"box": tuple(int(number) for number in match.groups()[:4]), "prompt": match[5].strip()}


class TextToImageRequest(ImageSizeRequest):
    """Request for images of a prompt."""

    prompt: str = Field(
        max_length=MAX_PROMPT_CHARS,
        description="content of the image, in any language; emoji are replaced by their names",
    )
    negative_prompt: str | None = Field(
        None, max_length=MAX_PROMPT_CHARS, description="content to avoid, used by classifier-free guidance"
    )
    source_prompt: str | None = Field(
        None,
        max_length=MAX_PROMPT_CHARS,
        description="content of variation_of, used by its inversion; default: the prompt",
    )
    region: tuple[Region, ...] | None = Field(
        None,
        title="X,Y,W,H: TEXT",
        description="prompt of a box, in pixels from the upper left corner; repeatable; the prompt applies elsewhere",
    )
    region_grid: str | None = Field(
        None,
        title="ROWSxCOLUMNS",
        description="grid of equal cells for regions without boxes: one region per cell, row by row",
    )
    region_order: Literal["row_major", "published"] | None = Field(
        None,
        title="ORDER",
        description="order of the cells; published: numbered and joined as in the published code.  "
        "[default: row_major]",
    )

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("expected a text that describes the image")
        return value

    @field_validator("region_grid")
    @classmethod
    def _check_region_grid(cls, value: str | None) -> str | None:
        if value is not None and re.fullmatch(r"[1-9]\d?x[1-9]\d?", value) is None:
            raise ValueError("expected ROWSxCOLUMNS, for example 2x2")
        return value

    @field_validator("region", mode="before")
    @classmethod
    def _to_tuple(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Region | dict) else value

    @model_validator(mode="after")
    def _check_regions(self) -> TextToImageRequest:
        if self.source_prompt is not None and self.variation_of is None:
            raise ValueError("source_prompt: got no variation_of, expected an image to make variations of")
        boxes = [region.box for region in self.region or ()]
        if self.region_grid is None:
            if None in boxes:
                raise ValueError("region: got a text without box, expected 'x,y,w,h: text', or region_grid too")
            if self.region_order is not None:
                raise ValueError("region_order: got no region_grid, expected a grid of cells")
            return self
        rows, columns = (int(side) for side in self.region_grid.split("x"))
        if len(boxes) != rows * columns or any(box is not None for box in boxes):
            raise ValueError(
                f"region: got {len(boxes)} regions, expected {rows * columns} without boxes for region_grid "
                f"{self.region_grid}"
            )
        return self


class ClassToImageRequest(ImageSizeRequest):
    """Request for images of a class."""

    label: int | str = Field(
        title="LABEL",
        description="index of the class, from 0, or its name if the model has names",
        examples=["207"],
    )

    @field_validator("label", mode="before")
    @classmethod
    def _parse_label(cls, value: Any) -> Any:
        if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,18}\s*", value):
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value < 0:
            raise ValueError("expected an index from 0")
        if isinstance(value, str) and not value.strip():
            raise ValueError("expected the index or the name of a class")
        return value


def _size_text(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))
