"""What can be asked of a model of pictures: a sentence or a class, a size, and a picture to begin from."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from lumina_core.config import Config
from lumina_core.request import Request
from lumina_image.shown import Picture

MAX_SIDE = 4096
BOX = re.compile(r"\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*:\s*(.*)", re.DOTALL)
"""`x,y,w,h: text`"""
USUAL_STRENGTH = 0.8
"""Of the change of a whole picture; where only a part of it is redrawn, that part is made from noise alone."""


class SizedRequest(Request):
    """Pictures of a size, from noise or from a picture."""

    size: tuple[int, int] | None = Field(
        None,
        title="WIDTHxHEIGHT",
        description="sides in pixels, for example 64x64; left out: the model's own, or those of --image",
    )
    image: Picture | None = Field(None, title="FILE", description="a picture to begin from")
    strength: float | None = Field(
        None,
        ge=0,
        le=1,
        description="how much of --image is changed, 0 nothing, 1 all of it.  "
        f"[default: {USUAL_STRENGTH}, or 1 where only a part is redrawn]",
    )
    mask: Picture | None = Field(
        None, title="FILE", description="as large as --image: what is white is redrawn, what is black stays as it is"
    )
    feather: int | None = Field(
        None, ge=0, le=512, description="pixels around what is redrawn over which it passes into --image; else none do"
    )
    expand: tuple[int, int, int, int] | None = Field(
        None, title="LEFT,TOP,RIGHT,BOTTOM", description="pixels to draw on around --image; one number: on every side"
    )
    place: tuple[int, int] | None = Field(
        None,
        title="X,Y",
        description="where on a larger --size the left upper corner of --image lies; the rest is drawn",
    )

    vary: Picture | None = Field(
        None, title="FILE", description="a picture to make another like: its noise is found, and begun from"
    )
    fresh: float | None = Field(
        None, ge=0, le=1, description="share of new noise in a variation of --vary, by the seed; 0 none, 1 nothing else"
    )

    @model_validator(mode="after")
    def _varies_one_picture(self) -> SizedRequest:
        if self.vary is None and self.fresh is not None:
            raise ValueError("fresh is about a picture to vary; name one with vary")
        if self.vary is not None and self.image is not None:
            raise ValueError("image begins from a picture and vary from its noise; give one of them")
        return self

    @model_validator(mode="before")
    @classmethod
    def _usual_strength(cls, values: Any) -> Any:
        # filled in here, so that a record says what was done
        if not isinstance(values, dict) or values.get("image") is None or values.get("strength") is not None:
            return values
        partly = any(values.get(name) is not None for name in ("mask", "expand", "place"))
        return {**values, "strength": 1.0 if partly else USUAL_STRENGTH}

    @field_validator("size", mode="before")
    @classmethod
    def _size_from_words(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        sides = value.lower().replace("×", "x").split("x")
        if len(sides) != 2 or not all(side.strip().isdecimal() for side in sides):
            raise ValueError("a size is WIDTHxHEIGHT, for example 64x64")
        return tuple(int(side) for side in sides)

    @field_validator("expand", "place", mode="before")
    @classmethod
    def _numbers_from_words(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            words = value.split(",")
            if not all(word.strip().removeprefix("-").isdecimal() for word in words):
                raise ValueError("wanted whole numbers of pixels with commas between them")
            value = tuple(int(word) for word in words)
        numbers = (value,) if isinstance(value, int) else value
        if not isinstance(numbers, tuple | list):
            return value
        if info.field_name == "expand" and len(numbers) == 1:
            return tuple(numbers) * 4
        wanted, form = (4, "LEFT,TOP,RIGHT,BOTTOM or one number") if info.field_name == "expand" else (2, "X,Y")
        if len(numbers) != wanted:
            raise ValueError(f"wanted {form}, in pixels")
        return numbers

    @field_validator("expand")
    @classmethod
    def _outward(cls, value: tuple[int, int, int, int] | None) -> tuple[int, int, int, int] | None:
        if value is not None and min(value) < 0:
            raise ValueError("a side can only be moved outward, by 0 or more pixels")
        return value

    @field_validator("size")
    @classmethod
    def _within_bounds(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not all(1 <= side <= MAX_SIDE for side in value):
            raise ValueError(f"a side goes from 1 to {MAX_SIDE} pixels")
        return value

    @model_validator(mode="after")
    def _fits_the_image(self) -> SizedRequest:
        if self.image is None:
            alone = [name for name in ("strength", "mask", "feather", "expand", "place") if getattr(self, name)]
            if self.strength is not None or alone:
                raise ValueError(f"{(alone or ['strength'])[0]} is about a picture to begin from; name one with image")
            return self
        if self.feather is not None and self.mask is None and self.expand is None and self.place is None:
            raise ValueError("feather is about the edges of what is redrawn; say which part with mask, expand or place")
        wide, high = self.image.image.size
        if self.mask is not None and self.mask.image.size != (wide, high):
            other = "x".join(map(str, self.mask.image.size))
            raise ValueError(f"the mask is {other} pixels and the image {wide}x{high}; make the mask as large as it")
        self._check_canvas(wide, high)
        return self

    def _check_canvas(self, wide: int, high: int) -> None:
        if self.expand is not None and (self.size is not None or self.place is not None):
            raise ValueError("expand says the size already; leave out size and place, or give these two instead")
        if self.place is not None and self.size is None:
            raise ValueError("place says where the image lies on a larger size; give the size too")
        if self.place is not None and self.size is not None:
            x, y = self.place
            if not (0 <= x <= self.size[0] - wide and 0 <= y <= self.size[1] - high):
                canvas = "x".join(map(str, self.size))
                raise ValueError(f"an image of {wide}x{high} at {x},{y} does not lie within a size of {canvas}")
        if max(self.canvas or ()) > MAX_SIDE:
            made = "x".join(map(str, self.canvas or ()))
            raise ValueError(
                f"a picture of {made} was to be made, and a side goes up to {MAX_SIDE}; say a smaller size"
            )

    @property
    def canvas(self) -> tuple[int, int] | None:
        """(width, height) of what is made, where the request says it."""
        if self.size is not None or self.image is None:
            return self.size
        wide, high = self.image.image.size
        left, top, right, bottom = self.expand or (0, 0, 0, 0)
        return left + wide + right, top + high + bottom


class Region(Config):
    """What is said of a part of a picture."""

    prompt: str = Field(min_length=1, max_length=20000, description="what it shows")
    box: tuple[int, int, int, int] | None = Field(
        None, description="left, top, width and height in pixels; None: a cell of `cells`"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_words(cls, value: Any) -> Any:
        if isinstance(value, tuple | list) and len(value) == 2:  # (box, prompt), as Python writes it
            return {"box": value[0], "prompt": value[1]}
        if not isinstance(value, str):
            return value
        found = BOX.fullmatch(value)
        if found is None:
            return {"prompt": value.strip()}
        return {"box": tuple(int(number) for number in found.groups()[:4]), "prompt": found[5].strip()}


class PictureRequest(SizedRequest):
    """A sentence in, pictures out."""

    prompt: str = Field(
        max_length=20000, description="what the picture shows, in any language; an emoji is read as its name"
    )
    negative: str | None = Field(None, max_length=20000, description="what to stay away from")
    shows: str | None = Field(
        None,
        max_length=20000,
        description="what --vary shows, where that is not what is wanted: the result is drawn after the prompt",
    )

    region: tuple[Region, ...] | None = Field(
        None,
        title="X,Y,W,H: TEXT",
        description="what a box of the picture shows, in pixels from the left and the top; may be given again and "
        "again; the rest shows the prompt",
    )
    cells: str | None = Field(
        None,
        title="ROWSxCOLUMNS",
        description="cut the picture into equal cells, one --region (a text alone) after another, row by row; "
        "2x2,published numbers and joins them as the published code does",
    )

    @field_validator("cells")
    @classmethod
    def _cells_from_words(cls, value: str | None) -> str | None:
        if value is not None and re.fullmatch(r"[1-9]\d?x[1-9]\d?(,published)?", value) is None:
            raise ValueError("cells are ROWSxCOLUMNS, for example 2x2, or 2x2,published")
        return value

    @field_validator("region", mode="before")
    @classmethod
    def _one_alone(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Region | dict) else value

    @model_validator(mode="after")
    def _every_region_has_a_place(self) -> PictureRequest:
        boxes = [region.box for region in self.region or ()]
        if self.cells is None and None in boxes:
            raise ValueError("a region is x,y,w,h: text, for example '0,0,32,64: a red heart'; or name cells too")
        if self.cells is not None:
            rows, columns = (int(side) for side in self.cells.partition(",")[0].split("x"))
            if len(boxes) != rows * columns or any(box is not None for box in boxes):
                raise ValueError(
                    f"{rows}x{columns} cells want {rows * columns} regions without boxes; got {len(boxes)}"
                )
        return self

    @model_validator(mode="after")
    def _shows_what_is_varied(self) -> PictureRequest:
        if self.shows is not None and self.vary is None:
            raise ValueError("shows says what a picture to vary shows; name one with vary")
        return self

    @field_validator("prompt")
    @classmethod
    def _says_something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("the prompt is empty; say what the picture shows")
        return value


class ClassRequest(SizedRequest):
    """A class in, pictures out."""

    label: int = Field(ge=0, title="LABEL", description="number of the class, from 0", examples=["207"])
