"""Data sets of point clouds: parametric families, and folders of clouds and meshes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lumina_3d.families.captions import random_caption, read_caption, vocabulary_text
from lumina_3d.families.shapes import FAMILIES, Shape, make_shape
from lumina_3d.points.cloud_io import CLOUD_SUFFIXES, read_cloud
from lumina_3d.points.normalize import center_and_scale
from lumina_core.config import Config as Settings
from lumina_core.config import suggest_or_list
from lumina_core.errors import ConfigError
from lumina_core.protocols import Dataset, EvalSet, Example
from lumina_core.types import Size

CACHED_SHAPES = 4096
"""Shapes whose meshes a process keeps."""


class FamilyClouds(Dataset):
    """Point clouds of the parametric families, drawn by area, each shape's box in [-1, 1], with captions.

    Examples have the fields `points` (3, count), `caption`, `label` and `partial`: points of one half-space of the same
    shape (K, 3), or None.
    """

    class Config(Settings):
        """Families, split and number of points."""

        families: tuple[str, ...] = Field(FAMILIES, min_length=1, description="names of families")
        split: Literal["train", "test", "held_out"] = Field(
            "train", description="held_out: the combinations of attributes that training never has"
        )
        per_family: int = Field(4000, ge=1, description="shapes per family")
        count: int = Field(256, ge=1, description="points per cloud")
        partial_prob: float = Field(0.25, ge=0, le=1, description="share of examples with a partial cloud")
        partial_counts: tuple[int, ...] = Field((64, 128), min_length=1, description="points of a partial cloud")
        seed: int = Field(0, ge=0, description="of all shapes")

    def __init__(self, config: Config) -> None:
        for name in config.families:
            if name not in FAMILIES:
                raise ConfigError(f"families: got {name!r}, expected some{suggest_or_list(name, FAMILIES)}")
        self.config = config
        self._shape = lru_cache(maxsize=CACHED_SHAPES)(self._make_shape)

    def __len__(self) -> int:
        return self.config.per_family * len(self.config.families)

    def shape(self, index: int) -> Shape:
        """Return the shape of an example; the families alternate."""
        return self._shape(index)

    def cloud(self, index: int, count: int, seed: int = 0) -> Tensor:
        """Draw points (3, count) in [-1, 1] of a shape, by its index and a seed."""
        points, _ = self.shape(index).mesh.sample(count, np.random.default_rng((seed, index, 7)))
        return _to_tensor(points).T

    def get(self, index: int, rng: random.Random) -> Example:
        """Return an example; points, caption and partial cloud are drawn by `rng`."""
        shape, draws = self.shape(index), np.random.default_rng(rng.getrandbits(63))
        points, _ = shape.mesh.sample(self.config.count, draws)
        partial = None
        if draws.random() < self.config.partial_prob:
            partial = half_space(shape, int(draws.choice(self.config.partial_counts)), draws)
        caption = random_caption(shape, draws)
        return {"points": _to_tensor(points).T, "caption": caption, "label": shape.label, "partial": partial}

    def values(self, field: str) -> Sequence[str]:
        """Return all words of captions, and captions of the first shapes, for the vocabulary of a text encoder.

        Raises:
            ConfigError: another field than `caption`.
        """
        if field != "caption":
            return super().values(field)
        return vocabulary_text(map(self.shape, range(min(len(self), 1000))))

    def size(self, index: int, rng: random.Random) -> Size:
        """Return (count,)."""
        return (self.config.count,)

    def sizes(self) -> Sequence[Size]:
        """Return the one size of all clouds."""
        return ((self.config.count,),)

    def eval_set(self) -> EvalSet:
        """Return the evaluation set of new shapes."""
        from lumina_3d.points.eval_set import FamilyEvalSet

        return FamilyEvalSet(self.config.families, self.config.seed)

    def _make_shape(self, index: int) -> Shape:
        families = self.config.families
        return make_shape(
            families[index % len(families)], index // len(families), self.config.split, seed=self.config.seed
        )


def half_space(shape: Shape, count: int, rng: np.random.Generator) -> Tensor:
    """Draw points (count, 3) in [-1, 1] of a shape that lie on one side of a random plane through its middle."""
    points, _ = shape.mesh.sample(6 * count, rng)
    normal = rng.normal(size=3)
    along = points @ (normal / np.linalg.norm(normal))
    # the median plane leaves three times as many points as are requested
    return _to_tensor(points[along >= np.median(along)][:count])


def _to_tensor(points: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Tensor:
    """Return coordinates of a shape whose longest side is 1, in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(2 * points, dtype=np.float32))


class CloudFolder(Dataset):
    """Folder of point clouds and meshes: `chair/0001.ply`; the caption is the name of the folder, or of a text file.

    A file `0001.txt` next to `0001.ply` holds its caption. Each cloud is centred and scaled into [-1, 1] by the box.
    """

    class Config(Settings):
        """Folder and number of points."""

        folder: Path = Field(description="folder with files, in folders named by their class")
        count: int = Field(
            256, ge=1, description="points per cloud, drawn anew for every epoch; of fewer, points are repeated"
        )
        points_per_file: int = Field(8192, ge=1, description="points that are kept of each mesh")

    def __init__(self, config: Config) -> None:
        self.config = config
        if not config.folder.is_dir():
            raise ConfigError(f"folder: got {config.folder}, expected a folder of clouds or meshes.")
        self.files = sorted(p for p in config.folder.rglob("*") if p.suffix.lower() in CLOUD_SUFFIXES and p.is_file())
        if not self.files:
            raise ConfigError(
                f"folder: got {config.folder} without files of {', '.join(CLOUD_SUFFIXES)}, expected some."
            )
        self.classes = sorted({path.parent.name for path in self.files})
        self._points = lru_cache(maxsize=CACHED_SHAPES)(self._read)

    def __len__(self) -> int:
        return len(self.files)

    def get(self, index: int, rng: random.Random) -> Example:
        """Return an example with the fields `points` (3, count), `caption`, `label` and `partial` (None)."""
        points = self._points(index)
        count = self.config.count
        chosen = np.random.default_rng(rng.getrandbits(63)).choice(len(points), count, replace=count > len(points))
        cloud = torch.from_numpy(points[chosen]).T
        return {"points": cloud, "caption": self._caption(index), "label": self._label(index), "partial": None}

    def values(self, field: str) -> Sequence[str]:
        """Return all captions.

        Raises:
            ConfigError: another field than `caption`.
        """
        if field != "caption":
            return super().values(field)
        return list(dict.fromkeys(self._caption(index) for index in range(len(self))))

    def groups(self, index: int) -> Mapping[str, str]:
        """Return the class of an example."""
        return {"class": self.files[index].parent.name}

    def _caption(self, index: int) -> str:
        return read_caption(self.files[index], self.files[index].parent.name)

    def _label(self, index: int) -> int:
        return self.classes.index(self.files[index].parent.name)

    def _read(self, index: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        cloud = read_cloud(self.files[index], self.config.points_per_file, seed=0)
        try:
            return center_and_scale(cloud.points).astype(np.float32)
        except ConfigError as error:
            raise ConfigError(f"{self.files[index]}: {error}") from error
