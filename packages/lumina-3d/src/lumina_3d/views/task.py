"""Task views: request -> conditions and size; result -> contact sheet, turning GIF, and pictures with cameras."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from PIL import Image, PngImagePlugin
from pydantic import Field

from lumina_3d.views.cameras import Camera
from lumina_3d.views.request import ViewsRequest, cameras_of
from lumina_3d.views.scenes import ELEVATION_RANGE, FILL_RANGE, FOV_RANGE, from_views, radius_for
from lumina_3d.views.transforms import transforms_json
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.io import atomic_dir, atomic_file
from lumina_core.protocols import GenerationTask
from lumina_core.types import GenerationOutput, Size

if TYPE_CHECKING:
    from torch import Tensor

    from lumina_3d.views.conditioner import ViewInputs

PICTURE_NAME = re.compile(r"\d{3}\.png")
"""Names of the pictures beside transforms.json."""
GAP = 2
"""Pixels between the views of a contact sheet."""
FRAME_MILLISECONDS = 120


class ViewsOutput(GenerationOutput):
    """Generated views: a sequence of results, `views` and `cameras`."""

    @property
    def views(self) -> Sequence[Any]:
        """For each result its views in the requested output type: by default a list of RGBA PIL images."""
        return self.values

    @property
    def cameras(self) -> Sequence[list[Camera]]:
        """For each result the cameras of its views."""
        return [cameras_of(result.metadata) for result in self.results]


class Views(GenerationTask):
    """Task of models that generate several views of one object, from text, given pictures, or both."""

    Request = ViewsRequest
    data_field = "views"
    suffixes = (".png", ".gif")
    Output = ViewsOutput
    output_types = ("pil", "tensor", "np")
    editing_fields = ("image", "image_azimuth", "image_elevation")
    sidecars: ClassVar[Mapping[str, tuple[str, str]]] = {
        "turn": (".gif", "GIF file that turns through the views; auto: the name of the result."),
        "transforms": (".json", "transforms.json of nerfstudio, RGBA pictures in NAME-views/ beside it; auto."),
    }
    examples = (
        '"a red sofa" --views 8 --out sofa.png --turn auto --transforms auto',
        "--image sofa.png --views 8 --out turned.png",
        "--image front.png --image side.png --image-azimuth 0,90 --azimuths 45,135,225,315 --out sofa.gif",
        '"a wooden chair" --elevation 35 --fov 30 --out chair.png',
    )

    class Config(Settings):
        """Size and number of the training views."""

        image_size: int = Field(64, ge=8, description="side of a view in pixels")
        num_views: int = Field(4, ge=1, description="largest number of generated views in training")
        channels: Literal[3, 4] = Field(4, description="4: colours over white and alpha; 3: colours over white")
        notice: str = Field("", description="what a user has to know of the model, shown with every request")
        fov_range: tuple[float, float] = Field(FOV_RANGE, description="vertical FOV in degrees of training")
        elevation_range: tuple[float, float] = Field(ELEVATION_RANGE, description="elevation in degrees of training")

    def __init__(self, config: Config) -> None:
        self.config = config

    def train_size(self) -> Size:
        """Return (views, rows, columns) of the largest training examples."""
        return self.config.num_views, self.config.image_size, self.config.image_size

    def size(self, request: ViewsRequest) -> Size:
        """Return (views, rows, columns)."""
        return request.num_views, self.config.image_size, self.config.image_size

    def format_size(self, size: Size) -> str:
        """Format a number of views and their size."""
        return f"{size[0]} views of {size[2]}x{size[1]}"

    def conditions(self, request: ViewsRequest) -> Mapping[str, Sequence[Any]]:
        """Return the prompt as `caption`, and cameras and given pictures as `cameras`."""
        return {"caption": [request.prompt or ""], "cameras": [self._inputs(request)]}

    def negative_conditions(self, request: ViewsRequest) -> Mapping[str, Sequence[Any]]:
        """Return the negative prompt, and the cameras without pictures: guidance leads towards text and pictures."""
        return {"caption": [request.negative_prompt or ""], "cameras": [self._inputs(request).without_pictures()]}

    def request_for(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a request for an example: its caption, its cameras, and its given pictures.

        Raises:
            ConfigError: the example has no caption.
        """
        if not isinstance(fields.get("caption"), str):
            raise ConfigError(f"example: got the fields {', '.join(fields) or 'none'}, expected a caption")
        from lumina_3d.views.conditioner import ViewInputs

        request: dict[str, Any] = {"prompt": fields["caption"]}
        inputs = fields.get("cameras")
        if isinstance(inputs, ViewInputs):
            request["cameras"] = inputs.cameras
            if inputs.pictures:
                given = inputs.picture_cameras
                request |= {
                    "image": [_pictures(picture[:, None])[0] for picture in inputs.pictures],
                    "image_azimuth": [camera.azimuth for camera in given],
                    "image_elevation": [camera.elevation for camera in given],
                    "fov": given[0].fov,
                    "radius": given[0].radius,
                }
        return request

    def notes(self, request: ViewsRequest) -> list[str]:
        """Return warnings: other lenses, heights and distances than in training, and backgrounds that stayed."""
        notes = [self.config.notice] if self.config.notice else []
        notes += [
            f"{picture.name or 'image'}: the border is not of one colour, so that the background was kept; give a "
            "picture with transparency or on a plain background"
            for picture in request.image or ()
            if picture.background == "kept"
        ]
        cameras = [*request.view_cameras(), *request.picture_cameras()]
        for name, values, (low, high) in (
            ("fov", [camera.fov for camera in cameras], self.config.fov_range),
            ("elevation", [camera.elevation for camera in cameras], self.config.elevation_range),
        ):
            outside = [value for value in values if not low - 0.01 <= value <= high + 0.01]
            if outside:
                notes.append(f"{name}: got {outside[0]:g} degrees, and the model was trained on {low:g} to {high:g}")
        for camera in cameras:
            near, far = (radius_for(camera.fov, fill) for fill in FILL_RANGE)
            if not near - 0.01 <= camera.radius <= far + 0.01:
                notes.append(
                    f"radius: got {camera.radius:.3g}, and the model was trained on {near:.3g} to {far:.3g} with "
                    "this FOV"
                )
                break
        return notes

    def to_output(self, item: Tensor, output_type: str) -> Any:
        """Convert (4, V, H, W) in about [-1, 1] to "pil" (V RGBA images), "np" ((V, H, W, 4) uint8) or "tensor".

        Raises:
            ConfigError: another output type.
        """
        if output_type in ("pil", "np"):
            pictures = _pictures(item)
            return pictures if output_type == "np" else [Image.fromarray(picture) for picture in pictures]
        return super().to_output(item, output_type)

    def encode(self, item: Tensor, format: str, metadata: Mapping[str, Any]) -> bytes:
        """Encode (C, V, H, W) in about [-1, 1] as a contact sheet (PNG) or a turning GIF, the metadata in it.

        Raises:
            ConfigError: another format.
        """
        suffix = f".{format.lower().removeprefix('.')}" if format else ".png"
        if suffix not in self.suffixes:
            raise ConfigError(f"format: got {format!r}, expected {' or '.join(self.suffixes)}.")
        content, text = io.BytesIO(), json.dumps(metadata, ensure_ascii=False)
        if suffix == ".gif":
            frames = [_on_white(picture) for picture in _pictures(item)]
            frames[0].save(
                content,
                format="GIF",
                save_all=True,
                append_images=frames[1:],
                duration=FRAME_MILLISECONDS,
                loop=0,
                comment=text.encode()[:65000],
            )
            return content.getvalue()
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("lumina", text)
        contact_sheet([_pictures(item)]).save(content, format="PNG", pnginfo=chunks)
        return content.getvalue()

    @classmethod
    def check_sidecar(cls, sidecar: str, paths: Sequence[Path], overwrite: bool) -> None:
        """Raise ConfigError if the folder of the pictures exists; with `overwrite` only if it holds other files."""
        for folder in map(_pictures_folder, paths) if sidecar == "transforms" else ():
            inside = [path.name for path in folder.iterdir()] if folder.is_dir() else [folder.name]
            others = [name for name in inside if not PICTURE_NAME.fullmatch(name)]
            if folder.exists() and (others or not overwrite):
                reason = f"which holds {others[0]}" if others else "which exists: choose another name, or --overwrite"
                raise ConfigError(f"--transforms: got {folder} for its pictures, expected a new folder ({reason}).")

    def write_sidecar(self, sidecar: str, item: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
        """Write a turning GIF, or transforms.json with its pictures, each complete or not at all."""
        if sidecar == "turn":
            with atomic_file(path) as partial:
                partial.write_bytes(self.encode(item, ".gif", metadata))
            return
        folder = _pictures_folder(path)
        pictures = _pictures(item)
        names = [f"{index:03d}.png" for index in range(len(pictures))]
        with atomic_dir(folder) as partial:
            for name, picture in zip(names, pictures, strict=True):
                Image.fromarray(picture).save(partial / name)
        content = transforms_json(cameras_of(metadata), item.shape[-1], [f"{folder.name}/{name}" for name in names])
        with atomic_file(path) as partial:
            partial.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def save_grid(self, items: Sequence[Tensor], folder: Path, name: str) -> Path:
        """Write the views of several results as one PNG, a row each, and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(folder / f"{name}.png") as partial:
            contact_sheet([_pictures(item) for item in items]).save(partial, format="PNG")
        return folder / f"{name}.png"

    def _inputs(self, request: ViewsRequest) -> ViewInputs:
        from lumina_3d.views.conditioner import ViewInputs

        size, channels = self.config.image_size, self.config.channels
        pictures = tuple(picture.data(size)[:channels] for picture in request.image or ())
        return ViewInputs(tuple(request.view_cameras()), pictures, tuple(request.picture_cameras()))


def _pictures_folder(transforms: Path) -> Path:
    """Return the folder of the pictures of a transforms.json."""
    return transforms.with_name(f"{transforms.stem}-views")


def contact_sheet(rows: Sequence[np.ndarray[Any, np.dtype[np.uint8]]], per_row: int = 8) -> Image.Image:
    """Return views (V, H, W, 4) of several objects as one RGBA picture, at most `per_row` views side by side."""
    side = rows[0].shape[1] + GAP
    lines = [views[k : k + per_row] for views in rows for k in range(0, len(views), per_row)]
    width = max(len(line) for line in lines)
    sheet = np.zeros((len(lines) * side - GAP, width * side - GAP, 4), dtype=np.uint8)
    for row, line in enumerate(lines):
        for column, view in enumerate(line):
            top, left = row * side, column * side
            sheet[top : top + view.shape[0], left : left + view.shape[1]] = view
    return Image.fromarray(sheet)


def _pictures(item: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return RGBA pictures (V, H, W, 4) of views with 4 channels, or with 3 (opaque)."""
    if item.shape[0] == 4:
        return from_views(item)
    rgb = ((item.float().clamp(-1, 1) + 1) * 127.5).round().byte().movedim(0, -1).numpy()
    return np.concatenate([rgb, np.full_like(rgb[..., :1], 255)], axis=-1)


def _on_white(picture: np.ndarray[Any, np.dtype[np.uint8]]) -> Image.Image:
    image = Image.fromarray(picture)
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
