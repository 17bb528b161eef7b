"""Selection of the emoji variants that are held out of training, and of equal images."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Record = Mapping[str, Any]
Images = np.ndarray[Any, np.dtype[np.uint8]]

QUOTAS = {"hair": (24, 2), "pair": (64, 5), "single": (120, 1)}
"""For each type of variant: number of held-out variants, and their maximum per family."""

MIN_DIFFERENCE = 0.001
"""Smallest mean squared difference, of values in [0, 1], to the other images of the family."""


def choose(records: Sequence[Record], images: Images) -> set[str]:
    """Choose the codes of the held-out variants by the SHA-256 of their codes, type by type.

    Args:
        records: records in the order of the images.
        images: (N, 64, 64, 3) uint8.
    """
    distinct = _distinct_codes(records, images)
    ordered = sorted(records, key=lambda record: hashlib.sha256(str(record["code"]).encode()).hexdigest())
    chosen: set[str] = set()
    for kind, (quota, max_per_family) in QUOTAS.items():
        families: dict[str, int] = defaultdict(int)
        left = quota
        for record in ordered:
            fits = (
                record["code"] in distinct
                and variant_type(record) == kind
                and families[record["base"]] < max_per_family
            )
            if fits and left > 0:
                chosen.add(record["code"])
                families[record["base"]] += 1
                left -= 1
    return chosen


def variant_type(record: Record) -> str:
    """Return the type: `base`, `hair` (hair and tone), `pair` (two tones) or `single` (one tone)."""
    if record["skin"] is None:
        return "base"
    if record["hair"] is not None:
        return "hair"
    return "pair" if len(record["skin"]) > 1 else "single"


def twins(records: Sequence[Record], images: Images) -> list[list[str]]:
    """Return the groups of keys whose images are equal."""
    groups: dict[bytes, list[str]] = defaultdict(list)
    for record, image in zip(records, images, strict=True):
        groups[image.tobytes()].append(record["key"])
    return [group for group in groups.values() if len(group) > 1]


def _distinct_codes(records: Sequence[Record], images: Images) -> set[str]:
    families: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        families[record["base"]].append(index)
    found: set[str] = set()
    for indices in families.values():
        values = images[indices].reshape(len(indices), -1).astype(np.float64) / 255
        for row, index in enumerate(indices):
            distances = ((values - values[row]) ** 2).mean(axis=1)
            distances[row] = np.inf
            if distances.min() >= MIN_DIFFERENCE:
                found.add(records[index]["code"])
    return found
