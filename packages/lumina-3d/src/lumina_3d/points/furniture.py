"""Data set of real furniture: a shipped pack of 175 CC0 models, or a pack of scripts/build_furniture.py."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lumina_3d.families.shapes import FAMILIES
from lumina_3d.points.normalize import center_and_scale
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.protocols import Dataset, EvalSet, Example
from lumina_core.types import Size

PACK_FILE, NAMES_FILE = "furniture.npz", "furniture.json"


class Furniture(Dataset):
    """Point clouds of real furniture, 2048 points each, the box in [-1, 1]: a test for models of the families.

    Examples have the fields `points` (3, count), `caption` (the model's English name), `label` (an index into the
    families) and `partial` (None). The models were made by many authors and are in no training of a shipped model.
    """

    class Config(Settings):
        """Pack, families and number of points."""

        folder: Path | None = Field(
            None, description="folder with furniture.npz and furniture.json; None: the shipped CC0 models"
        )
        families: tuple[str, ...] = Field(
            ("chair", "table", "sofa", "bed"), min_length=1, description="families whose models are read"
        )
        count: int = Field(256, ge=1, description="points per cloud, drawn anew for every epoch")

    def __init__(self, config: Config) -> None:
        self.config = config
        points, self.names = read_pack(config.folder)
        absent = [one for one in config.families if one not in {model["family"] for model in self.names}]
        if absent:
            present = dict.fromkeys(model["family"] for model in self.names if model["family"])
            raise ConfigError(f"families: got {', '.join(absent)}, expected some of {', '.join(present)}")
        self.rows = [row for row, model in enumerate(self.names) if model["family"] in config.families]
        if points.shape[1] < config.count:
            raise ConfigError(f"count: got {config.count}, expected at most the {points.shape[1]} points of the pack")
        self._points = points

    def __len__(self) -> int:
        return len(self.rows)

    def family(self, index: int) -> str:
        """Return the family of an example."""
        return str(self.names[self.rows[index]]["family"])

    def cloud(self, index: int) -> Tensor:
        """Return points (3, 2048) of an example."""
        points = center_and_scale(self._points[self.rows[index]].astype(np.float64))
        return torch.from_numpy(np.ascontiguousarray(points.T, dtype=np.float32))

    def get(self, index: int, rng: random.Random) -> Example:
        """Return an example with `count` of its points."""
        chosen = torch.tensor(rng.sample(range(self._points.shape[1]), self.config.count))
        caption, label = str(self.names[self.rows[index]]["name"]).lower(), FAMILIES.index(self.family(index))
        return {"points": self.cloud(index)[:, chosen], "caption": caption, "label": label, "partial": None}

    def values(self, field: str) -> Sequence[str]:
        """Return all captions.

        Raises:
            ConfigError: another field than `caption`.
        """
        if field != "caption":
            return super().values(field)
        return list(dict.fromkeys(str(self.names[row]["name"]).lower() for row in self.rows))

    def size(self, index: int, rng: random.Random) -> Size:
        """Return (count,)."""
        return (self.config.count,)

    def sizes(self) -> Sequence[Size]:
        """Return the one size of all clouds."""
        return ((self.config.count,),)

    def eval_set(self) -> EvalSet:
        """Return the clouds with the names of their families as captions."""
        return FurnitureEvalSet(self)


class FurnitureEvalSet(EvalSet):
    """Real clouds of 2048 points; the caption is the name of the family, since a model of families knows no others."""

    splits: Sequence[str] = ("test",)

    def __init__(self, furniture: Furniture) -> None:
        self._furniture = furniture

    def __len__(self) -> int:
        return len(self._furniture)

    def reference(self, index: int) -> Tensor:
        """Return points (3, 2048) in [-1, 1]."""
        return self._furniture.cloud(index)

    def fields(self, index: int, language: str | None) -> Mapping[str, Any]:
        """Return caption, label, family, and the number of points."""
        family, cloud = self._furniture.family(index), self._furniture.cloud(index)
        return {
            "caption": family,
            "label": FAMILIES.index(family),
            "family": family,
            "attributes": {},
            "count": cloud.shape[1],
        }

    def groups(self, index: int) -> Mapping[str, str]:
        """Return the family."""
        return {"family": self._furniture.family(index)}


def read_pack(folder: Path | None) -> tuple[np.ndarray[Any, np.dtype[np.float16]], list[dict[str, str]]]:
    """Return clouds (N, 2048, 3) and for each its name, family, creator and catalogue.

    Raises:
        ConfigError: the folder has no pack, or its two files do not fit.
    """
    if folder is None:
        with as_file(files("lumina_3d.points") / "data") as shipped:
            return read_pack(shipped)
    try:
        with np.load(folder / PACK_FILE, allow_pickle=False) as pack:
            points = pack["points"]
        models = json.loads((folder / NAMES_FILE).read_text(encoding="utf-8"))["models"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"folder: got {folder} without a readable {PACK_FILE} and {NAMES_FILE} ({error}), expected those of "
            "scripts/build_furniture.py"
        ) from error
    if points.ndim != 3 or points.shape[2] != 3 or len(points) != len(models):
        raise ConfigError(
            f"folder: got clouds of the shape {points.shape} and {len(models)} names in {folder}, expected as many"
        )
    return points, models
