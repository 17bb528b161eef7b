"""Ten parametric families: continuous parameters, attributes that words name, and the meshes they give.

Every attribute has values that lie apart in geometry, so that `measure` can read them back from points. The world is
right-handed with +z up, and the front of every object faces +x.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np

from lumina_3d.families.mesh import Color, Mesh, MeshBuilder
from lumina_core.config import suggest_or_list
from lumina_core.errors import ConfigError

Attributes = Mapping[str, str]
Split = Literal["train", "test", "held_out"]
"""train and test draw from all combinations of attributes but the held-out ones; held_out from these alone."""

ATTRIBUTES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "chair": {"height": ("tall", "low"), "arms": ("yes", "no"), "legs": ("four", "pedestal", "wheels")},
    "table": {"height": ("tall", "low"), "top": ("round", "square"), "legs": ("four", "pedestal")},
    "lamp": {"height": ("tall", "short"), "shade": ("cone", "ball")},
    "sofa": {"width": ("narrow", "wide"), "arms": ("yes", "no")},
    "shelf": {"height": ("tall", "wide"), "back": ("open", "closed")},
    "bed": {"width": ("single", "double"), "headboard": ("yes", "no")},
    "aeroplane": {"length": ("long", "short"), "wings": ("straight", "swept")},
    "car": {"body": ("sedan", "van", "pickup"), "wheels": ("four", "six")},
    "mug": {"height": ("tall", "wide"), "handle": ("yes", "no")},
    "vase": {"height": ("tall", "short"), "neck": ("narrow", "wide")},
}
"""Attributes of each family and their values."""
FAMILIES = tuple(ATTRIBUTES)
"""Names of the families; a class label is an index into it."""
HELD_OUT: Mapping[str, Attributes] = {
    "chair": {"legs": "pedestal", "arms": "yes"},
    "table": {"legs": "four", "top": "round"},
    "lamp": {"height": "short", "shade": "ball"},
    "sofa": {"width": "narrow", "arms": "no"},
    "shelf": {"height": "wide", "back": "closed"},
    "bed": {"width": "double", "headboard": "no"},
    "aeroplane": {"length": "short", "wings": "swept"},
    "car": {"body": "van", "wheels": "six"},
    "mug": {"height": "tall", "handle": "no"},
    "vase": {"height": "short", "neck": "narrow"},
}
"""One combination of attributes per family that no training shape has."""
COLORS: Mapping[str, Color] = {
    "red": (200, 40, 40),
    "orange": (230, 130, 40),
    "yellow": (235, 205, 60),
    "green": (60, 150, 70),
    "blue": (50, 90, 190),
    "purple": (130, 70, 160),
    "pink": (235, 150, 180),
    "brown": (130, 85, 50),
    "black": (45, 45, 48),
    "grey": (140, 140, 145),
    "white": (235, 235, 230),
}
"""Colours of parts by their English names."""
_RUBBER: Color = (30, 30, 30)
_METAL: Color = (165, 168, 172)
_GLASS: Color = (150, 195, 220)

Number = Callable[[float, float], float]


@dataclass(frozen=True)
class Shape:
    """One shape of a family.

    Attributes:
        family: name of the family.
        attributes: value of each attribute.
        colors: names of the colours of the main part and of the second part.
        seed: seed of the continuous parameters.
    """

    family: str
    attributes: Attributes
    colors: tuple[str, str]
    seed: tuple[int, ...]

    @property
    def label(self) -> int:
        """Class index, into `FAMILIES`."""
        return FAMILIES.index(self.family)

    @cached_property
    def mesh(self) -> Mesh:
        """The mesh, its box centred and its longest side 1."""
        rng = np.random.default_rng(self.seed)
        builder = MeshBuilder()
        first, second = (COLORS[name] for name in self.colors)

        def number(low: float, high: float) -> float:
            return float(rng.uniform(low, high))

        _BUILDERS[self.family](builder, self.attributes, number, first, second)
        return builder.build().normalized()


def make_shape(
    family: str, index: int, split: Split = "train", attributes: Attributes | None = None, seed: int = 0
) -> Shape:
    """Draw a shape; equal arguments give the same shape.

    Args:
        family: one of `FAMILIES`.
        index: number of the shape in its split.
        split: see `Split`; the draws of two splits are independent.
        attributes: attributes that are set instead of drawn. With them, the combination may be a held-out one.
        seed: of all draws.

    Raises:
        ConfigError: there is no such family, attribute or value.
    """
    if family not in ATTRIBUTES:
        raise ConfigError(f"family: got {family!r}, expected one{suggest_or_list(family, FAMILIES)}")
    choices, requested = ATTRIBUTES[family], dict(attributes or {})
    for name, value in requested.items():
        if value not in choices.get(name, ()):
            listed = "; ".join(f"{key}: {', '.join(values)}" for key, values in choices.items())
            raise ConfigError(f"attributes of {family}: got {name}={value}, expected some of {listed}.")
    key = (seed, ("train", "test", "held_out").index(split), FAMILIES.index(family), index)
    rng = np.random.default_rng(key)
    while True:
        drawn = {name: values[int(rng.integers(len(values)))] for name, values in choices.items()}
        if requested or is_held_out(family, drawn) == (split == "held_out"):
            break
    names = tuple(COLORS)
    first, second = rng.choice(len(names), size=2, replace=False)
    return Shape(family, {**drawn, **requested}, (names[first], names[second]), (*key, 1))


def is_held_out(family: str, attributes: Attributes) -> bool:
    """Return whether a combination of attributes contains the held-out one of its family."""
    return all(attributes.get(name) == value for name, value in HELD_OUT[family].items())


def _chair(mesh: MeshBuilder, values: Attributes, number: Number, main: Color, second: Color) -> None:
    width, depth, seat = number(0.42, 0.54), number(0.42, 0.52), number(0.42, 0.48)
    ratio = number(1.95, 2.3) if values["height"] == "tall" else number(1.3, 1.5)
    thick, leg = number(0.03, 0.07), number(0.016, 0.028)
    reach = number(0.46, 0.56) * max(width, depth)  # of the foot of a pedestal or of the wheels
    height = ratio * max(width, depth + 0.02, 2 * reach)
    mesh.box((0, 0, seat - thick / 2), (depth, width, thick), main)
    lean, back_thick = number(0.0, 0.1), number(0.025, 0.05)
    rise = height - seat
    style = number(0, 3)
    at = -depth / 2 + back_thick / 2
    if style < 1.2:
        mesh.box((at, 0, seat + rise / 2), (back_thick, width * number(0.85, 1), rise), main, -lean)
    else:
        panel = number(0.25, 0.6) * rise
        for side in (-1, 1):
            post = side * (width / 2 - 0.03)
            mesh.box((at, post, seat + rise / 2), (back_thick, 0.035, rise), second)
        mesh.box((at, 0, height - panel / 2), (back_thick, width - 0.04, panel), main)
    if values["legs"] == "four":
        splay = number(0, 0.03)
        for x in (-1, 1):
            for y in (-1, 1):
                top = (x * (depth / 2 - 0.03), y * (width / 2 - 0.03), seat - thick / 2)
                foot = (top[0] + x * splay, top[1] + y * splay, 0.0)
                mesh.rod(foot, top, leg * number(0.7, 1.0), second, leg, 10)
    else:
        column = number(0.025, 0.04)
        mesh.rod((0, 0, 0.03), (0, 0, seat - thick / 2), column, second, segments=12)
        if values["legs"] == "pedestal":
            mesh.lathe([(0, 0), (reach, 0), (reach, 0.015), (column, 0.05), (0, 0.05)], second)
        else:
            wheel, turn = number(0.022, 0.032), number(0, 2 * math.pi)
            for spoke in range(5):
                angle = turn + spoke * 2 * math.pi / 5
                end = ((reach - wheel) * math.cos(angle), (reach - wheel) * math.sin(angle))
                mesh.rod((0, 0, 0.075), (*end, 2 * wheel), 0.018, second, 0.013, 8)
                mesh.ellipsoid((*end, wheel), (wheel, wheel, wheel), _RUBBER, 10)
    if values["arms"] == "yes":
        arm, length = min(number(0.18, 0.24), rise * 0.85), depth * number(0.75, 0.95)
        for side in (-1, 1):
            out = side * (width / 2 + 0.01)
            front = -depth / 2 + length
            mesh.box((-depth / 2 + length / 2, out, seat + arm), (length, 0.05, 0.03), second)
            mesh.box((front - 0.02, out, seat + arm / 2 - thick / 2), (0.03, 0.035, arm + thick), second)


def _table(mesh: MeshBuilder, values: Attributes, number: Number, main: Color, second: Color) -> None:
    height = number(0.72, 0.95)
    ratio = number(0.75, 1.15) if values["height"] == "tall" else number(0.28, 0.45)
    side = height / ratio
    thick = number(0.025, 0.06) * max(1.0, side)
    leg = number(0.02, 0.045) * max(1.0, 0.7 * side)
    if values["top"] == "round":
        mesh.lathe([(0, height - thick), (side / 2, height - thick), (side / 2, height), (0, height)], main)
        inner = (side * 0.33, side * 0.33)
    else:
        short = side * number(0.6, 1.0)
        mesh.box((0, 0, height - thick / 2), (short, side, thick), main)
        inner = (short / 2 - leg, side / 2 - leg)
    if values["legs"] == "four":
        inset = number(0.85, 1.0)
        is_round = number(0, 1) < 0.5
        for x in (-1, 1):
            for y in (-1, 1):
                at = (x * inner[0] * inset, y * inner[1] * inset)
                if is_round:
                    mesh.rod((*at, 0), (*at, height - thick / 2), leg * 0.7, second, leg, 10)
                else:
                    mesh.box((*at, (height - thick) / 2), (1.6 * leg, 1.6 * leg, height - thick), second)
    else:
        foot, column = min(inner) * number(0.7, 1.0), leg * number(1.0, 1.8)
        mesh.rod((0, 0, 0.02), (0, 0, height - thick / 2), column, second, segments=16)
        mesh.lathe([(0, 0), (foot, 0), (foot, 0.02), (column, 0.06), (0, 0.06)], second)


def _lamp(mesh: MeshBuilder, values: Attributes, number: Number, main: Color, second: Color) -> None:
    ratio = number(3.2, 4.6) if values["height"] == "tall" else number(1.25, 1.85)
    width = 0.4
    height, radius = ratio * width, width / 2
    base = radius * number(0.5, 0.8)
    pole = number(0.02, 0.035) * (1.0 if values["height"] == "tall" else 0.8)
    mesh.lathe([(0, 0), (base, 0), (base, 0.02), (pole, 0.045), (0, 0.045)], second)
    if values["shade"] == "cone":
        tall, top = number(0.22, 0.32), radius * number(0.35, 0.6)
        bottom = height - tall
        mesh.lathe([(radius, bottom), (top, height)], main, segments=28)
        mesh.lathe([(top - 0.006, height), (radius - 0.006, bottom)], main, segments=28)
        mesh.rod((0, 0, 0.02), (0, 0, height - 0.1), pole, second, segments=10)
    else:
        mesh.ellipsoid((0, 0, height - radius), (radius, radius, radius), main, 24)
        mesh.rod((0, 0, 0.02), (0, 0, height - 2 * radius), pole, second, segments=10)
    if values["height"] == "short" and number(0, 1) < 0.5:
        mesh.ellipsoid((0, 0, 0.1), (0.07, 0.07, 0.08), second, 12)


def _sofa(mesh: MeshBuilder, values: Attributes, number: Number, main: Color, second: Color) -> None:
    depth, seat, height = number(0.78, 0.95), number(0.38, 0.46), number(0.75, 0.95)
    width = depth * (number(0.95, 1.2) if values["width"] == "narrow" else number(1.95, 2.8))
    has_arms = values["arms"] == "yes"
    arm_wide, arm_high = number(0.12, 0.2), number(0.16, 0.22)
    foot, back = number(0.05, 0.12), number(0.15, 0.25)
    lean = number(0, 0.15)
    mesh.box((0, 0, (foot + seat - 0.12) / 2), (depth, width, seat - 0.12 - foot), main)
    inner = width - 2 * arm_wide if has_arms else width
    seats = max(1, round(inner / 0.68))
    each = inner / seats
    for index in range(seats):
        y = -inner / 2 + each * (index + 0.5)
        mesh.box((back / 2, y, seat - 0.07), (depth - back - 0.01, each * 0.97, 0.14), second)
        mesh.box((-depth / 2 + back, y, seat + 0.2), (0.12, each * 0.94, 0.34), second, -lean)
    mesh.box((-depth / 2 + back / 2, 0, (foot + height) / 2), (back, width, height - foot), main)
    if has_arms:
        for side in (-1, 1):
            y = side * (width / 2 - arm_wide / 2)
            top = seat + arm_high
            mesh.box((0, y, (foot + top) / 2), (depth, arm_wide, top - foot), main)
    for x in (-1, 1):
        for y in (-1, 1):
            at = (x * (depth / 2 - 0.06), y * (width / 2 - 0.06))
            mesh.rod((*at, 0), (*at, foot + 0.03), 0.02, second, 0.03, 8)


def _shelf(mesh: MeshBuilder, values: Attributes, number: Number, main: Color, second: Color) -> None:
    if values["height"] == "tall":
        height = number(1.6, 2.0)
        width = height / number(1.7, 2.6)
    else:
        width = number(1.2, 1.8)
        height = width * number(0.45, 0.75)
    depth, board = number(0.28, 0.42), number(0.02, 0.04)
    count = max(2, round(height / number(0.28, 0.42)))
    for side in (-1, 1):
        mesh.box((0, side * (width - board) / 2, height / 2), (depth, board, height), main)
    plinth = number(0.0, 0.1)
    for index in range(count + 1):
        z = plinth + (height - plinth - board) * index / count + board / 2
        mesh.box((0, 0, z), (depth * 0.98, width - 2 * board, board), main)
    if values["back"] == "closed":
        mesh.box((-depth / 2 + 0.008, 0, (height + plinth) / 2), (0.016, width - 2 * board, height - plinth), second)
    if number(0, 1) < 0.4:
        mesh.box((0, 0, (height + plinth) / 2), (depth * 0.96, board, height - plinth - board), main)


def _bed(mesh: MeshBuilder, values: Attributes, number: Number, main: Color, second: Color) -> None:
    length = 2.0
    width = length * (number(0.42, 0.52) if values["width"] == "single" else number(0.75, 0.95))
    foot, frame, mattress = number(0.1, 0.25), number(0.12, 0.2), number(0.15, 0.28)
    mesh.box((0, 0, foot + frame / 2), (length, width, frame), main)
    surface = foot + frame + mattress
    mesh.box((0.01, 0, foot + frame + mattress / 2 - 0.01), (length * 0.96, width * 0.95, mattress), second)
    pillows = 1 if values["width"] == "single" else 2
    for index in range(pillows):
        y = (index - (pillows - 1) / 2) * width * 0.46
        mesh.ellipsoid((-length / 2 + 0.3, y, surface + 0.03), (0.2, width * 0.38 / pillows, 0.08), COLORS["white"], 14)
    leg = number(0.03, 0.05)
    for x in (-1, 1):
        for y in (-1, 1):
            at = (x * (length / 2 - leg), y * (width / 2 - leg))
            mesh.box((*at, foot / 2), (2 * leg, 2 * leg, foot), main)
    if values["headboard"] == "yes":
        top, thick = surface + number(0.4, 0.75), number(0.04, 0.09)
        mesh.box((-length / 2 + thick / 2, 0, (foot + top) / 2), (thick, width, top - foot), main)
        if number(0, 1) < 0.4:
            low = surface + number(-0.05, 0.08)
            mesh.box((length / 2 - thick / 2, 0, (foot + low) / 2), (thick, width, low - foot), main)


def _aeroplane(mesh: MeshBuilder, values: Attributes, number: Number, main: Color, second: Color) -> None:
    span = 1.0
    length = number(1.25, 1.55) if values["length"] == "long" else number(0.7, 0.85)
    radius = number(0.055, 0.085) * (0.6 + 0.4 * length)
    nose, tail = length / 2, -length / 2
    stations = ((0.0, 0.15), (0.06, 0.65), (0.15, 1.0), (0.62, 1.0), (0.85, 0.6), (1.0, 0.18))
    for (a, r), (b, s) in pairwise(stations):
        mesh.rod((nose - a * length, 0, 0), (nose - b * length, 0, 0), r * radius, main, s * radius, 16)
    sweep = number(0.28, 0.4) if values["wings"] == "swept" else number(-0.02, 0.03)
    chord, taper = number(0.15, 0.22), number(0.45, 0.75)
    at = number(-0.02, 0.08) * length + sweep * 0.25
    level, rise = number(-0.6, 0.6) * radius, number(0.0, 0.06)
    for side in (-1, 1):
        tip = (at - sweep * span, side * span / 2, level + rise)
        mesh.wing((at, 0, level), tip, (chord, chord * taper), 0.022, second)
        stabilizer = (tail + 0.06 - sweep * 0.3, side * number(0.16, 0.21), 0.02)
        mesh.wing((tail + 0.09, 0, 0.02), stabilizer, (0.11, 0.07), 0.014, second)
    fin = number(0.15, 0.22)
    mesh.wing((tail + 0.1, 0, 0), (tail + 0.05, 0, fin), (0.15, 0.09), 0.014, second)
    engines = int(number(0, 3))
    for engine in range(engines):
        out = 0.16 + 0.13 * engine
        for side in (-1, 1):
            x = at - sweep * span * out / 0.5 + chord * 0.35
            z = level - 0.035 + rise * out
            mesh.rod((x - 0.13, side * out, z), (x + 0.02, side * out, z), 0.022, _METAL, 0.028, 10)
    if engines == 0:
        mesh.box((nose + 0.008, 0, 0), (0.012, 0.03, number(0.2, 0.28)), _METAL)


def _car(mesh: MeshBuilder, values: Attributes, number: Number, main: Color, second: Color) -> None:
    length, width, wheel = number(1.7, 2.1), number(0.72, 0.85), number(0.15, 0.19)
    floor, hood = wheel * 0.8, wheel * 0.8 + number(0.26, 0.34)
    body = values["body"]
    roof = hood + (number(0.4, 0.55) if body == "van" else number(0.26, 0.36))
    half = length / 2
    lower = [(-half, floor), (half, floor), (half, hood - 0.05), (half - 0.05, hood), (-half, hood)]
    mesh.extrude(lower, width, main)
    if body == "sedan":
        rear, front = -half + number(0.14, 0.2) * length, half - number(0.3, 0.36) * length
        slope = (number(0.1, 0.16) * length, number(0.1, 0.15) * length)
    elif body == "van":
        rear, front, slope = -half + 0.01, half - number(0.08, 0.14) * length, (0.02, number(0.06, 0.1) * length)
    else:
        rear, front = -half + number(0.44, 0.5) * length, half - number(0.2, 0.25) * length
        slope = (0.02, number(0.06, 0.1) * length)
        for side in (-1, 1):
            rail = (rear + half) / 2
            mesh.box((-half + rail, side * (width / 2 - 0.02), hood + 0.04), (2 * rail, 0.04, 0.08), main)
    cabin = [(rear, hood), (front, hood), (front - slope[1], roof), (rear + slope[0], roof)]
    mesh.extrude(cabin, width * 0.9, second if number(0, 1) < 0.35 else main)
    window = [
        (rear + slope[0] * 0.5 + 0.05, hood + 0.03),
        (front - slope[1] * 0.4 - 0.05, hood + 0.03),
        (front - slope[1] - 0.03, roof - 0.05),
        (rear + slope[0] + 0.03, roof - 0.05),
    ]
    mesh.extrude(window, width * 0.91, _GLASS)
    inset = number(0.16, 0.2) * length
    places = [half - inset, -half + inset]
    if values["wheels"] == "six":
        places.append(-half + inset + 2 * wheel + number(0.05, 0.09) * length)
    for x in places:
        for side in (-1, 1):
            y = side * width / 2
            mesh.rod((x, y - side * 0.13, wheel), (x, y + side * 0.015, wheel), wheel, _RUBBER, segments=18)
            mesh.rod((x, y, wheel), (x, y + side * 0.02, wheel), wheel * 0.55, _METAL, segments=12)


def _mug(mesh: MeshBuilder, values: Attributes, number: Number, main: Color, second: Color) -> None:
    radius = 0.5
    height = 2 * radius * (number(1.5, 2.1) if values["height"] == "tall" else number(0.65, 0.95))
    bottom, wall = radius * number(0.7, 1.0), number(0.04, 0.08)
    bulge = number(-0.04, 0.05)
    outer = [(bottom, 0.0), ((bottom + radius) / 2 + bulge, height / 2), (radius, height)]
    mesh.lathe([(0, 0), *outer], main, segments=32)
    inner = [(radius - wall, height), ((bottom + radius) / 2 + bulge - wall, height / 2), (bottom - wall, wall)]
    mesh.lathe([(radius, height), *inner, (0, wall)], main, segments=32)
    if values["handle"] == "yes":
        tall, out, thick = height * number(0.28, 0.38), number(0.28, 0.42), number(0.045, 0.075)
        angles = np.linspace(-math.pi / 2, math.pi / 2, 14)
        start = (bottom + radius) / 2 + bulge - wall
        path = np.stack(
            [np.zeros(14), start + (out + wall) * np.cos(angles) ** 0.7, height * 0.52 + tall * np.sin(angles)], axis=1
        )
        mesh.tube(path, thick, (1, 0, 0), second)


def _vase(mesh: MeshBuilder, values: Attributes, number: Number, main: Color, second: Color) -> None:
    belly = 0.5
    height = 2 * belly * (number(2.2, 3.2) if values["height"] == "tall" else number(0.9, 1.3))
    top = belly * (number(0.2, 0.36) if values["neck"] == "narrow" else number(0.75, 0.95))
    foot, wide = belly * number(0.4, 0.75), number(0.3, 0.55)
    neck_at = number(0.72, 0.85)
    lip = top * number(1.0, 1.12)
    knots = np.array([0.0, wide, neck_at, 1.0])
    radii = np.array([foot, belly, top, lip])
    heights = np.linspace(0, 1, 18)
    # between knots a cosine, so that the profile has its extremes at the knots
    segment = np.clip(np.searchsorted(knots, heights, side="right") - 1, 0, 2)
    share = (heights - knots[segment]) / (knots[segment + 1] - knots[segment])
    smooth = (1 - np.cos(math.pi * share)) / 2
    radius = radii[segment] * (1 - smooth) + radii[segment + 1] * smooth
    outside = [(float(r), float(h * height)) for r, h in zip(radius, heights, strict=True)]
    mesh.lathe([(0, 0), *outside], main, segments=28)
    inside = [(max(r - 0.03, 0.02), h) for r, h in outside[:0:-3]]
    mesh.lathe([outside[-1], *inside, (0.0, 0.06)], second, segments=28)


_BUILDERS: Mapping[str, Callable[[MeshBuilder, Attributes, Number, Color, Color], None]] = {
    "chair": _chair,
    "table": _table,
    "lamp": _lamp,
    "sofa": _sofa,
    "shelf": _shelf,
    "bed": _bed,
    "aeroplane": _aeroplane,
    "car": _car,
    "mug": _mug,
    "vase": _vase,
}
