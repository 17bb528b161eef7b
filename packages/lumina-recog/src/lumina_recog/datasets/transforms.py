"""Sizes and augmentation of training images, from the random numbers of one example alone."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.pretrained import require
from lumina_recog.image_io import to_tensor

ImageSize = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
"""Height and width in pixels, each at least 1."""
FLIP = Image.Transpose.FLIP_LEFT_RIGHT


class TransformConfig(Settings):
    """Size and augmentation of the images."""

    image_sizes: tuple[ImageSize, ...] = Field(
        (),
        description="[height, width] in pixels; each draw takes one of them, and a batch has one size; empty: every "
        "image at its own size",
    )
    fit: Literal["crop", "stretch", "pad"] = Field(
        "crop", description="crop the middle to the shape of the size, stretch, or pad with white"
    )
    augment: Literal["none", "flip", "affine", "deit", "three"] = Field(
        "none",
        description="flip: mirrored and slightly cropped images; affine: slightly turned, moved and scaled, for digits "
        "and letters; deit: RandAugment, random crops and erasing by timm (arXiv 2012.12877); three: 3-Augment of DeiT "
        "III by timm (arXiv 2204.07118)",
    )
    erasing: float = Field(0.25, ge=0, le=1, description="probability of random erasing with `deit`")
    min_crop_area: float = Field(0.08, gt=0, le=1, description="smallest area of a random crop with `deit`, `three`")


def sample_size(config: TransformConfig, own_size: tuple[int, int], rng: random.Random) -> tuple[int, int]:
    """Return (height, width) of an example: one of the sizes, or its own."""
    return rng.choice(config.image_sizes) if config.image_sizes else own_size


def transform(image: Image.Image, size: tuple[int, int], config: TransformConfig, rng: random.Random) -> Tensor:
    """Fit an RGB image to (height, width) and augment it; returns (3, height, width) in [-1, 1]."""
    if config.augment in ("deit", "three"):
        pipeline = _timm_transform(size, config.augment, config.erasing, config.min_crop_area)
        with seeded_globals(rng):
            result: Tensor = pipeline(image)
        return result
    if config.augment == "flip":
        image = image.transpose(FLIP) if rng.random() < 0.5 else image
        margin = [rng.uniform(0, 0.1) for _ in range(4)]
        width, height = image.size
        box = (margin[0] * width, margin[1] * height, (1 - margin[2]) * width, (1 - margin[3]) * height)
        image = image.resize(image.size, Image.Resampling.BICUBIC, box=box)
    if config.augment == "affine":
        image = _affine(image, rng)
    return to_tensor(fit_size(image, size, config.fit))


def _affine(image: Image.Image, rng: random.Random) -> Image.Image:
    """Turn, move and scale an image a little; what comes in at the edges has the color of the first pixel."""
    angle, scale = math.radians(rng.gauss(0, 7)), rng.uniform(0.9, 1.12)
    x_shift, y_shift = (rng.uniform(-0.08, 0.08) * side for side in image.size)
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    center_x, center_y = image.width / 2, image.height / 2
    matrix = (
        cos, sin, center_x - cos * (center_x + x_shift) - sin * (center_y + y_shift),
        -sin, cos, center_y + sin * (center_x + x_shift) - cos * (center_y + y_shift),
    )  # fmt: skip
    edge = image.getpixel((0, 0))
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=edge if edge else 0
    )


def fit_size(image: Image.Image, size: tuple[int, int], fit: str) -> Image.Image:
    """Fit an RGB image to (height, width) by cropping, stretching or padding with white."""
    (width, height), (target_height, target_width) = image.size, size
    if (height, width) == size:
        return image
    if fit == "stretch":
        return image.resize((target_width, target_height), Image.Resampling.BICUBIC)
    if fit == "pad":
        scale = min(target_width / width, target_height / height)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
        canvas = Image.new("RGB", (target_width, target_height), "white")
        offset = ((target_width - inner[0]) // 2, (target_height - inner[1]) // 2)
        canvas.paste(image.resize(inner, Image.Resampling.BICUBIC), offset)
        return canvas
    scale = max(target_width / width, target_height / height)
    crop_width, crop_height = target_width / scale, target_height / scale
    left, top = (width - crop_width) / 2, (height - crop_height) / 2
    box = (left, top, min(left + crop_width, width), min(top + crop_height, height))
    return image.resize((target_width, target_height), Image.Resampling.BICUBIC, box=box)


@functools.lru_cache(maxsize=64)
def _timm_transform(size: tuple[int, int], kind: str, erasing: float, min_crop_area: float) -> Any:
    data = require("timm", "lumina-recog[timm]", f"augment: {kind}").data
    kwargs: dict[str, Any] = {"auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": erasing, "re_mode": "pixel"}
    if kind == "three":
        kwargs = {"auto_augment": "3a", "re_prob": 0.0}
    half = (0.5, 0.5, 0.5)
    return data.create_transform(
        (3, *size), is_training=True, scale=(min_crop_area, 1.0), interpolation="bicubic", color_jitter=0.3, mean=half,
        std=half, **kwargs,
    )  # fmt: skip


@contextmanager
def seeded_globals(rng: random.Random) -> Iterator[None]:
    """Seed the global random numbers of Python, numpy and torch from `rng`; restore their states afterwards."""
    states = random.getstate(), np.random.get_state()
    random.seed(rng.getrandbits(63))
    np.random.seed(rng.getrandbits(32))
    try:
        with torch.random.fork_rng([]):
            torch.manual_seed(rng.getrandbits(62))
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
