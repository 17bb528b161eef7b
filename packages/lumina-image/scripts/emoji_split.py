"""Chooses the emoji variants that are kept out of training, and finds pictures drawn alike."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Record = Mapping[str, Any]
Pictures = np.ndarray[Any, np.dtype[np.uint8]]

QUOTAS = {"hair": (24, 2), "pair": (64, 5), "single": (120, 1)}
"""Of each sort of variant how many are kept out, and at most how many of one family."""

VISIBLE = 0.001
"""Least mean squared difference (values in 0..1) to the rest of the family; below it nobody could tell them apart."""


def choose(records: Sequence[Record], pictures: Pictures) -> set[str]:
    """Codes of the variants to keep out: by the checksum of the code, sort by sort, never many of one family.

    Args:
        records: in the order of the pictures.
        pictures: (N, 64, 64, 3).
    """
    clear = _clear(records, pictures)
    ordered = sorted(records, key=lambda record: hashlib.sha256(str(record["code"]).encode()).hexdigest())
    chosen: set[str] = set()
    for sort, (quota, at_most) in QUOTAS.items():
        families: dict[str, int] = defaultdict(int)
        left = quota
        for record in ordered:
            fits = record["code"] in clear and sort_of(record) == sort and families[record["base"]] < at_most
            if fits and left > 0:
                chosen.add(record["code"])
                families[record["base"]] += 1
                left -= 1
    return chosen


def sort_of(record: Record) -> str:
    """`base`, or which sort of variant: `hair` (hair and tone), `pair` (two tones) or `single` (one tone)."""
    if record["skin"] is None:
        return "base"
    if record["hair"] is not None:
        return "hair"
    return "pair" if len(record["skin"]) > 1 else "single"


def twins(records: Sequence[Record], pictures: Pictures) -> list[list[str]]:
    """Groups of keys whose pictures are the same to the last bit."""
    groups: dict[bytes, list[str]] = defaultdict(list)
    for record, picture in zip(records, pictures, strict=True):
        groups[picture.tobytes()].append(record["key"])
    return [group for group in groups.values() if len(group) > 1]


def _clear(records: Sequence[Record], pictures: Pictures) -> set[str]:
    families: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        families[record["base"]].append(index)
    found: set[str] = set()
    for places in families.values():
        values = pictures[places].reshape(len(places), -1).astype(np.float64) / 255
        for row, place in enumerate(places):
            away = ((values - values[row]) ** 2).mean(axis=1)
            away[row] = np.inf
            if away.min() >= VISIBLE:
                found.add(records[place]["code"])
    return found
