"""Requests for point clouds: prompt, number of points, and given points."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, InstanceOf, PlainSerializer

from lumina_3d.points.cloud_io import read_cloud
from lumina_core.errors import ConfigError
from lumina_core.request import Request
from lumina_core.types import is_tensor

MAX_COUNT = 2**22
"""Largest number of points of a request."""
MAX_PARTIAL = 2**16
"""Largest number of given points."""


@dataclass(frozen=True, eq=False)
class PartialCloud:
    """Given points of a request.

    Attributes:
        points: (K, 3) float32, in the frame of the whole object: its box in [-1, 1].
        name: name of the file; empty if it was no file.
    """

    points: NDArray[np.float32]
    name: str = ""

    def metadata(self) -> dict[str, Any]:
        """Return the file's name, the number of points, and a SHA-256 of the coordinates."""
        digest = sha256(self.points.tobytes()).hexdigest()
        return {**({"name": self.name} if self.name else {}), "points": len(self.points), "sha256": digest}


def parse_partial(value: Any) -> PartialCloud:
    """Convert a path, an array or a tensor (K, 3) to given points.

    Raises:
        ValueError: the value is none of these, or has no points, too many, or coordinates that are not finite.
    """
    if isinstance(value, PartialCloud):
        return value
    name = ""
    if isinstance(value, str | Path):
        try:
            value, name = read_cloud(value).points, Path(value).name
        except ConfigError as error:
            raise ValueError(str(error)) from error
    if is_tensor(value):
        value = (value if value.is_complex() else value.float()).detach().cpu().numpy()
    elif not isinstance(value, np.ndarray):
        raise ValueError(f"got {type(value).__name__}, expected a file, an array or a tensor of points (K, 3)")
    if np.iscomplexobj(value):
        raise ValueError(f"got numbers of the type {value.dtype}, expected real ones")
    points = np.array(value, dtype=np.float32, order="C")
    if points.ndim != 2 or points.shape[1] != 3 or not 1 <= len(points) <= MAX_PARTIAL:
        raise ValueError(f"got the shape {tuple(points.shape)}, expected (K, 3) with 1 to {MAX_PARTIAL} points")
    if not np.isfinite(points).all():
        raise ValueError("got coordinates that are not finite, expected finite ones")
    if np.abs(points).max() > 1.05:
        raise ValueError(
            f"got coordinates up to {np.abs(points).max():.3g}, expected the frame of the whole object: its box "
            "centred, half of its longest side 1"
        )
    return PartialCloud(points, name)


PartialField = Annotated[
    InstanceOf[PartialCloud], BeforeValidator(parse_partial), PlainSerializer(lambda cloud: cloud.metadata())
]


class CloudRequest(Request):
    """Number of points, and given points of a cloud to complete."""

    results_field: ClassVar[str] = "clouds"

    count: int = Field(2048, ge=1, le=MAX_COUNT, description="number of points")
    clouds: int = Field(1, ge=1, le=1024, description="number of results, with the seeds SEED, SEED + 1 and so on")
    partial: PartialField | None = Field(
        None,
        title="FILE",
        description="points of an incomplete cloud, in the frame of the whole object; they stay exactly as they are",
    )
    normals: bool = Field(False, description="store normals, estimated by local principal components")
    ascii: bool = Field(False, description="write PLY as text")


class PointsRequest(CloudRequest):
    """Prompt, number of points, and given points."""

    prompt: str = Field(max_length=20000, description="text that describes the object")
    negative_prompt: str | None = Field(
        None, max_length=20000, description="content to avoid, used by classifier-free guidance"
    )


class ClassPointsRequest(CloudRequest):
    """Class, number of points, and given points."""

    label: str = Field(min_length=1, max_length=200, description="name or index of a class of the model")
