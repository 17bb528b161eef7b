"""Other colors for drawings of one hue, so that a model learns what a color word does (our own proposal)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HUES: dict[str, tuple[float | None, float, float]] = {
    "red": (0, 1, 1),
    "orange": (28, 1, 1),
    "yellow": (52, 1, 1),
    "green": (125, 1, 0.8),
    "blue": (215, 1, 1),
    "purple": (275, 1, 0.9),
    "pink": (330, 0.75, 1),
    "black": (None, 0.1, 0.33),
    "brown": (22, 0.9, 0.55),
}
"""Color name -> hue in degrees (None: the hue stays), factors of saturation and value."""

_OTHER_NAMES = {"white", "gray", "grey", "rainbow", "colorful", "silver", "gold"}
HUE_RANGE = 28.0
"""Degrees on both sides of the dominant hue that count as the same color."""
SOFT_EDGE = 12.0
MIN_PIXELS = 400


def names_color(text: str) -> bool:
    """Return whether a text has a word for a color."""
    return any(word in HUES or word in _OTHER_NAMES for word in text.replace("-", " ").split())


def recolor(image: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    """Return a drawing on white in all colors of `HUES`, its own among them; empty if it has no dominant hue.

    A hue is dominant if at least 0.45 of the drawing is colored, and at least 0.8 of that lies within 28 degrees of the
    mean hue. Only pixels near that hue change.

    Args:
        image: (H, W, 3) uint8.
    """
    hsv = np.asarray(Image.fromarray(image).convert("HSV")).astype(np.float32)
    hue, saturation, value = hsv[..., 0] * (360 / 255), hsv[..., 1] / 255, hsv[..., 2] / 255
    drawn = image.min(axis=-1) < 240
    colored = drawn & (saturation > 0.35) & (value > 0.3)
    if drawn.sum() < MIN_PIXELS or colored.sum() < 0.45 * drawn.sum():
        return {}
    angle = np.deg2rad(hue[colored])
    mean = float(np.rad2deg(np.arctan2(*((f(angle) * saturation[colored]).sum() for f in (np.sin, np.cos))))) % 360
    distance = np.abs((hue - mean + 180) % 360 - 180)
    dominant = colored & (distance < HUE_RANGE)
    if dominant.sum() < 0.8 * colored.sum():
        return {}
    own = _name(mean, float(np.median(saturation[dominant])), float(np.median(value[dominant])))
    weight = np.clip((HUE_RANGE + SOFT_EDGE - distance) / SOFT_EDGE, 0, 1) * (saturation > 0.12)
    variants = {own: image}
    for color, (target, saturation_factor, value_factor) in HUES.items():
        if color == own:
            continue
        if own == "brown" and target is not None:  # a dark drawing becomes a bright one
            saturation_factor, value_factor = 1.25 * saturation_factor, min(1.6, 1.45 * value_factor)
        changed = hsv.copy()
        if target is not None:
            changed[..., 0] = ((hue + target - mean) % 360) * (255 / 360)
        changed[..., 1] = np.clip(hsv[..., 1] * saturation_factor, 0, 255)
        changed[..., 2] = np.clip(hsv[..., 2] * value_factor, 0, 255)
        rgb = np.asarray(Image.fromarray(changed.round().astype(np.uint8), "HSV").convert("RGB")).astype(np.float32)
        mixed = weight[..., None] * rgb + (1 - weight[..., None]) * image
        variants[color] = mixed.round().clip(0, 255).astype(np.uint8)
    return variants


def _name(hue: float, saturation: float, value: float) -> str:
    """Return the name of a drawing's color."""
    if 10 < hue < 45 and value < 0.68:
        return "brown"
    names = {color: target for color, (target, _, _) in HUES.items() if target is not None and color != "brown"}
    nearest = min(names, key=lambda color: abs((names[color] - hue + 180) % 360 - 180))
    if nearest == "pink" and saturation > 0.8:
        return "red" if hue > 335 else "purple"
    return nearest
