"""Tasks text-to-points and class-to-points: request -> conditions and given points; result -> file and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from lumina_3d.families.shapes import FAMILIES
from lumina_3d.points.cloud_io import WRITE_FORMATS, Cloud, check_normals, encode_cloud, estimate_normals
from lumina_3d.points.memory import check_memory
from lumina_3d.points.pictures import check_plotly, draw_grid, write_gif, write_html, write_strip
from lumina_3d.points.request import ClassPointsRequest, CloudRequest, PointsRequest
from lumina_core.config import Config as Settings
from lumina_core.config import suggest_or_list
from lumina_core.errors import ConfigError
from lumina_core.protocols import GenerationTask
from lumina_core.types import GenerationOutput, InitData, Size

if TYPE_CHECKING:
    from torch import Tensor


class PointsOutput(GenerationOutput):
    """Generated point clouds: a sequence of results, and `points`."""

    @property
    def points(self) -> Sequence[Any]:
        """Clouds in the requested output type: by default float32 arrays (N, 3)."""
        return self.values


class CloudTask(GenerationTask):
    """Base class of tasks that generate point clouds, and complete partial clouds."""

    data_field = "points"
    suffixes = WRITE_FORMATS
    Output = PointsOutput
    output_types = ("np", "tensor")
    editing_fields = ("partial",)
    sidecars: ClassVar[Mapping[str, tuple[str, str]]] = {
        "strip": (".png", "PNG file with the cloud from eight sides; auto: the name of the result."),
        "turn": (".gif", "GIF file in which the cloud turns; auto: the name of the result."),
        "html": (".html", "page on which the cloud can be turned (plotly); auto: the name of the result."),
    }

    class Config(Settings):
        """Number of points of training."""

        train_count: int = Field(256, ge=1, description="points per cloud in training")

    def __init__(self, config: Config) -> None:
        self.config = config

    def size(self, request: CloudRequest) -> Size:
        """Return (count,).

        Raises:
            ConfigError: there are at least as many given points as points, too few for normals, or the memory does not
                suffice.
        """
        if request.normals:
            check_normals(request.count)
        if request.partial is not None and len(request.partial.points) >= request.count:
            raise ConfigError(
                f"count: got {request.count} with {len(request.partial.points)} given points, expected more than "
                "these. Request more points."
            )
        check_memory(request.count)
        return (request.count,)

    def format_size(self, size: Size) -> str:
        """Format a number of points."""
        return f"{size[0]} points"

    def partial_conditions(self, request: CloudRequest) -> Mapping[str, Sequence[Any]]:
        """Return the given points as `partial`, for both halves of guidance; empty without given points."""
        return {} if request.partial is None else {"partial": [request.partial.points]}

    def init_data(self, request: CloudRequest) -> InitData | None:
        """Return the given points, which are preserved exactly, as the last points of the cloud."""
        if request.partial is None:
            return None
        import torch

        points, count = torch.from_numpy(request.partial.points), request.count
        data, keep = torch.zeros(3, count), torch.zeros(count)
        data[:, count - len(points) :], keep[count - len(points) :] = points.T, 1
        return InitData(data, strength=1.0, keep_mask=keep)

    def eval_count(self, fields: Mapping[str, Any]) -> int:
        """Return the number of points that the fields of an example ask for, or that of training."""
        return fields["count"] if isinstance(fields.get("count"), int) else self.config.train_count

    def notes(self, request: CloudRequest) -> list[str]:
        """Return a warning for fewer points than in training, with which the model has no experience."""
        if request.count >= self.config.train_count:
            return []
        return [
            f"count: got {request.count}, fewer points than the {self.config.train_count} of training; generate more "
            "and keep some"
        ]

    def to_output(self, item: Tensor, output_type: str) -> Any:
        """Convert (3, N) in about [-1, 1] to "np", an array (N, 3), or "tensor" (unchanged).

        Raises:
            ConfigError: another output type.
        """
        return item.T.contiguous().numpy() if output_type == "np" else super().to_output(item, output_type)

    def encode(self, item: Tensor, format: str, metadata: Mapping[str, Any]) -> bytes:
        """Encode (3, N) as PLY, NPZ or OBJ, the metadata as a comment.

        Raises:
            ConfigError: another format.
        """
        suffix = f".{format.lower().removeprefix('.')}" if format else self.suffixes[0]
        if suffix not in self.suffixes:
            raise ConfigError(f"format: got {format!r}, expected {' or '.join(self.suffixes)}.")
        points = _to_array(item)
        normals = estimate_normals(points) if metadata.get("normals") else None
        return encode_cloud(Cloud(points, normals), suffix, metadata, bool(metadata.get("ascii")))

    @classmethod
    def check_sidecar(cls, sidecar: str, paths: Sequence[Path], overwrite: bool) -> None:
        """Raise PluginError if plotly is not installed and a page is requested."""
        if sidecar == "html":
            check_plotly()

    def write_sidecar(self, sidecar: str, item: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
        """Write a strip (PNG), a turning cloud (GIF) or a page (HTML)."""
        write = {"strip": write_strip, "turn": write_gif, "html": write_html}[sidecar]
        write(_to_array(item), path, str(metadata.get("prompt", "")))

    def save_grid(self, items: Sequence[Tensor], folder: Path, name: str) -> Path:
        """Save pictures of several clouds as one PNG image."""
        return draw_grid([_to_array(item) for item in items], folder / f"{name}.png")


class TextToPoints(CloudTask):
    """Task of models that generate point clouds from text."""

    Request = PointsRequest
    examples = (
        '"an office chair" --count 4096 --out chair.ply',
        '"a round table on a pedestal" --count 8192 --out table.ply --strip auto --html auto',
        '"a car" --partial half.ply --count 2048 --out car.npz',
        "--prompts prompts.txt --out clouds --turn auto",
    )

    def conditions(self, request: PointsRequest) -> Mapping[str, Sequence[Any]]:
        """Return the prompt as `caption`, and the given points as `partial`."""
        return {"caption": [request.prompt], **self.partial_conditions(request)}

    def negative_conditions(self, request: PointsRequest) -> Mapping[str, Sequence[Any]]:
        """Return the negative prompt as `caption`, and the given points: guidance concerns the text alone."""
        partial = self.partial_conditions(request)
        return partial if request.negative_prompt is None else {"caption": [request.negative_prompt], **partial}

    def request_for(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a request whose prompt is the caption of an example.

        Raises:
            ConfigError: the example has no caption.
        """
        if not isinstance(fields.get("caption"), str):
            raise ConfigError(f"example: got the fields {', '.join(fields) or 'none'}, expected a caption")
        return {"prompt": fields["caption"], "count": self.eval_count(fields)}


class ClassToPoints(CloudTask):
    """Task of models that generate point clouds of a class."""

    Request = ClassPointsRequest
    examples = ("chair --count 4096 --out chair.ply", "3 --clouds 4 --out clouds")

    class Config(CloudTask.Config):
        """Number of points of training, and names of the classes."""

        classes: tuple[str, ...] = Field(FAMILIES, min_length=1, description="names of the classes, in their order")

    config: Config

    def conditions(self, request: ClassPointsRequest) -> Mapping[str, Sequence[Any]]:
        """Return the index of the class as `label`, and the given points as `partial`.

        Raises:
            ConfigError: the model has no such class.
        """
        classes, label = self.config.classes, request.label
        if label not in classes and not (label.isdecimal() and int(label) < len(classes)):
            raise ConfigError(
                f"label: got {label!r}, expected an index below {len(classes)}, or a class"
                f"{suggest_or_list(label, classes)}"
            )
        index = classes.index(label) if label in classes else int(label)
        return {"label": [index], **self.partial_conditions(request)}

    def negative_conditions(self, request: ClassPointsRequest) -> Mapping[str, Sequence[Any]]:
        """Return the given points: guidance concerns the class alone."""
        return self.partial_conditions(request)

    def request_for(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a request for the class of an example.

        Raises:
            ConfigError: the example has no label.
        """
        if not isinstance(fields.get("label"), int):
            raise ConfigError(f"example: got the fields {', '.join(fields) or 'none'}, expected a label")
        return {"label": str(fields["label"]), "count": self.eval_count(fields)}


def _to_array(item: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return item.T.double().numpy()
