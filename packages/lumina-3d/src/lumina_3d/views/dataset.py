"""Data sets of views: the parametric families, rendered as they are read, and stores of rendered objects."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lumina_3d.families.captions import random_caption, vocabulary_text
from lumina_3d.families.shapes import FAMILIES, make_shape
from lumina_3d.views.cameras import Camera
from lumina_3d.views.conditioner import MAX_POSITIONS, ViewInputs
from lumina_3d.views.scenes import random_cameras, random_rig, render_views, to_views
from lumina_3d.views.store import ViewStore
from lumina_core.config import Config as Settings
from lumina_core.config import suggest_or_list
from lumina_core.errors import ConfigError
from lumina_core.protocols import Dataset, EvalSet, Example
from lumina_core.types import Size

EVAL_PER_FAMILY = 20
"""Most shapes of each family in an evaluation."""


class ViewsConfig(Settings):
    """How many views are generated and given, and what is left out."""

    image_size: int = Field(64, ge=8, description="side of a view in pixels")
    channels: Literal[3, 4] = Field(4, description="4: colours over white and alpha; 3: colours over white")
    num_views: tuple[int, ...] = Field((1, 2, 4, 4, 4), min_length=1, description="numbers of generated views, drawn")
    num_given: tuple[int, ...] = Field((0, 1, 1, 1, 2, 3), min_length=1, description="numbers of given pictures, drawn")
    caption_dropout: float = Field(0.12, ge=0, le=1, description="share of captions left out without given pictures")
    caption_dropout_given: float = Field(0.5, ge=0, le=1, description="share of captions left out with given pictures")
    pose_dropout: float = Field(0.04, ge=0, le=1, description="share of examples whose cameras are not known")


class ViewsDataset(Dataset):
    """Base class of data sets of views: draws which views of an object are generated and which are given.

    Examples have the fields `views` (channels, V, H, W) in [-1, 1], `caption`, and `cameras` (`ViewInputs`).
    """

    variable_size = True
    config: ViewsConfig

    @abstractmethod
    def __init__(self, config: Any) -> None:
        """Make the data set of a config."""

    @abstractmethod
    def num_pictures(self, index: int) -> int:
        """Return the number of pictures of an object."""

    @abstractmethod
    def pictures(self, index: int, chosen: Sequence[int]) -> tuple[Tensor, list[Camera]]:
        """Return chosen pictures (4, K, H, W) in [-1, 1] of an object, and their cameras."""

    @abstractmethod
    def caption(self, index: int, rng: random.Random) -> str:
        """Return a caption of an object."""

    def get(self, index: int, rng: random.Random) -> Example:
        """Return an example; views, given pictures, and what is left out are drawn by `rng`."""
        targets, given = self._counts(index, rng)
        chosen = rng.sample(range(self.num_pictures(index)), targets + given)
        pictures, cameras = self.pictures(index, chosen)
        pictures = pictures[: self.config.channels]
        dropout = self.config.caption_dropout_given if given else self.config.caption_dropout
        caption = "" if rng.random() < dropout else self.caption(index, rng)
        if rng.random() < self.config.pose_dropout:
            cameras = [Camera(camera.pose, camera.fov, camera.aspect, known=False) for camera in cameras]
        inputs = ViewInputs(
            tuple(cameras[:targets]),
            tuple(pictures[:, targets + k].contiguous() for k in range(given)),
            tuple(cameras[targets:]),
            tuple(rng.sample(range(MAX_POSITIONS), targets + given)),
        )
        return {"views": pictures[:, :targets].contiguous(), "caption": caption, "cameras": inputs}

    def eval_set(self) -> EvalSet:
        """Return the examples with the largest number of views, one given picture, and nothing left out."""
        return self._eval_set({})

    def _eval_set(self, changes: Mapping[str, Any]) -> EvalSet:
        """Return examples of a data set of this class with nothing left out, and further changes of its options."""
        dropouts = dict.fromkeys(("caption_dropout", "caption_dropout_given", "pose_dropout"), 0.0)
        counts = {"num_views": (max(self.config.num_views),), "num_given": (1,)}
        return ViewsEvalSet(type(self)(self.config.model_copy(update={**dropouts, **counts, **changes})))

    def size(self, index: int, rng: random.Random) -> Size:
        """Return (V, H, W)."""
        return self._counts(index, rng)[0], self.config.image_size, self.config.image_size

    def sizes(self) -> Sequence[Size]:
        """Return every size of examples."""
        side = self.config.image_size
        return tuple((views, side, side) for views in sorted(set(self.config.num_views)))

    def _counts(self, index: int, rng: random.Random) -> tuple[int, int]:
        available = self.num_pictures(index)
        targets = min(rng.choice(self.config.num_views), available)
        return targets, min(rng.choice(self.config.num_given), available - targets)


class ViewsEvalSet(EvalSet):
    """Examples of a data set of views with their fields; what is drawn is fixed by the index."""

    def __init__(self, dataset: ViewsDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def reference(self, index: int) -> Tensor:
        """Return views (channels, V, H, W) in [-1, 1]."""
        views: Tensor = self._dataset.get(index, random.Random(index))["views"]
        return views

    def fields(self, index: int, language: str | None) -> Mapping[str, Any]:
        """Return the caption, and the cameras with the given picture."""
        example = self._dataset.get(index, random.Random(index))
        return {name: example[name] for name in ("caption", "cameras")}


class FamilyViews(ViewsDataset):
    """Views of the parametric families, rendered when they are read; needs embreex."""

    class Config(ViewsConfig):
        """Families, split, and number of pictures of a shape."""

        families: tuple[str, ...] = Field(FAMILIES, min_length=1, description="names of families")
        split: Literal["train", "test", "held_out"] = Field(
            "train", description="held_out: the combinations of attributes that training never has"
        )
        per_family: int = Field(400, ge=1, description="shapes per family")
        pictures_per_shape: int = Field(14, ge=2, le=256, description="pictures of a shape")
        cached_shapes: int = Field(4096, ge=0, description="shapes whose pictures a process keeps, 230 kB each")
        seed: int = Field(0, ge=0, description="of all shapes")

    config: Config

    def __init__(self, config: Config) -> None:
        for name in config.families:
            if name not in FAMILIES:
                raise ConfigError(f"families: got {name!r}, expected some{suggest_or_list(name, FAMILIES)}")
        if config.pictures_per_shape < max(config.num_views) + max(config.num_given):
            raise ConfigError(
                f"pictures_per_shape: got {config.pictures_per_shape}, expected at least as many as generated and "
                f"given views together, {max(config.num_views) + max(config.num_given)}"
            )
        self.config = config
        self._rendered = lru_cache(maxsize=config.cached_shapes)(self._render)

    def __len__(self) -> int:
        return self.config.per_family * len(self.config.families)

    def num_pictures(self, index: int) -> int:
        """Return the number of pictures of a shape."""
        return self.config.pictures_per_shape

    def pictures(self, index: int, chosen: Sequence[int]) -> tuple[Tensor, list[Camera]]:
        """Return chosen pictures (4, K, H, W) in [-1, 1] and their cameras."""
        rgba, cameras = self._rendered(index)
        return to_views(rgba[list(chosen)]), [cameras[k] for k in chosen]

    def eval_set(self) -> EvalSet:
        """Return examples as in training, of new shapes of the families: those of the split test."""
        split = "test" if self.config.split == "train" else self.config.split
        return self._eval_set({"split": split, "per_family": min(self.config.per_family, EVAL_PER_FAMILY)})

    def caption(self, index: int, rng: random.Random) -> str:
        """Return a random caption of a shape."""
        return random_caption(self._shape(index), np.random.default_rng(rng.getrandbits(63)))

    def values(self, field: str) -> Sequence[str]:
        """Return all words of captions, and captions of the first shapes, for the vocabulary of a text encoder.

        Raises:
            ConfigError: another field than `caption`.
        """
        if field != "caption":
            return super().values(field)
        return vocabulary_text(map(self._shape, range(min(len(self), 1000))))

    def _shape(self, index: int):  # type: ignore[no-untyped-def]
        families = self.config.families
        name = families[index % len(families)]
        return make_shape(name, index // len(families), self.config.split, seed=self.config.seed)

    def _render(self, index: int) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], list[Camera]]:
        rng = np.random.default_rng((self.config.seed, index, 7))
        cameras = random_cameras(random_rig(rng), self.config.pictures_per_shape, rng)
        return render_views(self._shape(index).mesh, cameras, self.config.image_size), cameras


class StoredViews(ViewsDataset):
    """Views of rendered objects in a folder or in tar files, as `lumina render` writes them.

    Each object is a folder with pictures and transforms.json, or with `000.png` and `000.npy` (3x4 world-to-camera
    matrices in Blender's camera axes), as the renderings of Objaverse for Zero123 are published. `caption.txt`, or
    `caption` in the JSON file, is the caption; without one it is the name of the folder.
    """

    class Config(ViewsConfig):
        """Where the objects are."""

        folder: Path = Field(description="folder of objects, or of tar files with objects")
        fov: float = Field(49.1, gt=0, lt=180, description="vertical FOV of .npy cameras, which have none: Zero123's")

    config: Config

    def __init__(self, config: Config) -> None:
        self.config = config
        self.store = ViewStore(config.folder, config.fov)

    def __len__(self) -> int:
        return len(self.store)

    def num_pictures(self, index: int) -> int:
        """Return the number of pictures of an object."""
        return self.store.num_pictures(index)

    def pictures(self, index: int, chosen: Sequence[int]) -> tuple[Tensor, list[Camera]]:
        """Return chosen pictures (4, K, H, W) in [-1, 1] and their cameras."""
        items = [self.store.picture(index, k) for k in chosen]
        cameras = self.store.cameras(index)
        data = [picture.data(self.config.image_size) for picture in items]
        return torch.stack(data, dim=1), [cameras[k] for k in chosen]

    def caption(self, index: int, rng: random.Random) -> str:
        """Return the caption of an object."""
        return self.store.caption(index)

    def values(self, field: str) -> Sequence[str]:
        """Return all captions.

        Raises:
            ConfigError: another field than `caption`.
        """
        if field != "caption":
            return super().values(field)
        return list(dict.fromkeys(self.store.caption(index) for index in range(len(self))))
