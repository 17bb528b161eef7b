"""Requests for views: prompt, given pictures, and cameras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, PlainSerializer, field_validator, model_validator

from lumina_3d.views.cameras import MAX_ELEVATION, Camera, look_at, orbit
from lumina_3d.views.picture_input import PictureField
from lumina_3d.views.scenes import DEFAULT_FOV, radius_for
from lumina_3d.views.transforms import read_transforms, transforms_json
from lumina_core.errors import ConfigError
from lumina_core.request import Request

MAX_VIEWS = 64
"""Largest number of views of a request."""
MAX_PICTURES = 8
"""Largest number of given pictures."""
METADATA_SIZE = 64
"""Side in pixels for which the intrinsics of cameras in metadata are written."""


def _serialize_cameras(cameras: Sequence[Camera] | None) -> dict[str, Any] | None:
    return None if cameras is None else transforms_json(cameras, METADATA_SIZE)


CamerasField = Annotated[Any, PlainSerializer(_serialize_cameras)]
"""Type of the request's cameras; serialized as the content of transforms.json."""


class ViewsRequest(Request):
    """Request for views of one object, from a prompt, given pictures, or both."""

    optional_argument: ClassVar[str | None] = "prompt"

    prompt: str | None = Field(None, max_length=20000, description="the object; optional with --image")
    negative_prompt: str | None = Field(
        None, max_length=20000, description="content to avoid, used by classifier-free guidance"
    )
    views: int | None = Field(
        None, ge=1, le=MAX_VIEWS, description="number of views at equal steps around the object; default: 8"
    )
    image: tuple[PictureField, ...] | None = Field(
        None, title="FILE", description="given picture of the object; repeatable, each with its azimuth"
    )
    image_azimuth: tuple[float, ...] | None = Field(
        None, title="A,B,...", description="azimuth of each given picture in degrees; default: 0 for a single one"
    )
    image_elevation: tuple[float, ...] | None = Field(
        None, title="A,B,...", description="elevation of each given picture in degrees; default: elevation"
    )
    elevation: float = Field(20.0, ge=-MAX_ELEVATION, le=MAX_ELEVATION, description="elevation of the views in degrees")
    azimuths: tuple[float, ...] | None = Field(
        None, title="A,B,...", description="azimuth of each view in degrees, counter-clockwise seen from above"
    )
    start: float = Field(0.0, ge=-360, le=360, description="azimuth of the first view in degrees")
    fov: float = Field(
        DEFAULT_FOV,
        gt=1,
        lt=150,
        description="vertical field of view in degrees; with cameras, that of the given pictures",
    )
    radius: float | None = Field(
        None,
        gt=0,
        le=100,
        description="distance to the centre in sides of the object; default: the object fills 3/4 of the view",
    )
    cameras: CamerasField = Field(
        None, title="FILE", description="transforms.json with the cameras of the views, in place of an orbit"
    )

    @field_validator("image", mode="before")
    @classmethod
    def _to_tuple(cls, value: Any) -> Any:
        return value if value is None or isinstance(value, tuple | list) else (value,)

    @field_validator("image_azimuth", "image_elevation", "azimuths", mode="before")
    @classmethod
    def _parse_numbers(cls, value: Any) -> Any:
        if isinstance(value, int | float):
            return (float(value),)
        # an option that may be repeated gives a tuple of texts
        parts = [part for text in ([value] if isinstance(value, str) else value or ()) for part in _split(text)]
        if value is None:
            return None
        try:
            return tuple(float(part) for part in parts)
        except (TypeError, ValueError) as error:
            raise ValueError(f"got {value!r}, expected degrees A,B,..., for example 0,90,180") from error

    @field_validator("cameras", mode="before")
    @classmethod
    def _read_cameras(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], str | Path):
            value = value[0]
        if value is None:
            return None
        if isinstance(value, str | Path | Mapping):
            try:
                return tuple(read_transforms(value))
            except ConfigError as error:
                raise ValueError(str(error)) from error
        is_listed = isinstance(value, list | tuple) and value
        if not is_listed or not all(isinstance(camera, Camera) for camera in value):
            raise ValueError("expected a file transforms.json, its content, or cameras")
        return tuple(value)

    @model_validator(mode="after")
    def _check(self) -> ViewsRequest:
        if not (self.prompt or "").strip() and not self.image:
            raise ValueError("prompt: got none and no image, expected a text, a picture, or both")
        if self.image is not None and len(self.image) > MAX_PICTURES:
            raise ValueError(f"image: got {len(self.image)} pictures, expected at most {MAX_PICTURES}")
        count = len(self.image or ())
        for name in ("image_azimuth", "image_elevation"):
            angles = getattr(self, name)
            one_for_all = name == "image_elevation" and count and len(angles or ()) == 1
            if angles is not None and len(angles) != count and not one_for_all:
                raise ValueError(f"{name}: got {len(angles)} angles for {count} pictures, expected one for each")
        if count > 1 and self.image_azimuth is None:
            raise ValueError(f"image_azimuth: got none for {count} pictures, expected the azimuth of each")
        for angle in self.image_elevation or ():
            if abs(angle) > MAX_ELEVATION:
                raise ValueError(
                    f"image_elevation: got {angle:g}, expected -{MAX_ELEVATION} to {MAX_ELEVATION} degrees"
                )
        if self.azimuths is not None and (self.cameras is not None or self.views not in (None, len(self.azimuths))):
            raise ValueError("azimuths: got cameras, or views of another number, too; expected one of them")
        if self.cameras is not None and self.views not in (None, len(self.cameras)):
            raise ValueError(f"views: got {self.views} with {len(self.cameras)} cameras, expected as many or none")
        self._check_unused()
        if not 1 <= self.num_views <= MAX_VIEWS:
            raise ValueError(f"views: got {self.num_views}, expected 1 to {MAX_VIEWS}")
        _check_distinct(self.view_cameras(), "views")
        _check_distinct(self.picture_cameras(), "image")
        return self

    def _check_unused(self) -> None:
        """Raise ValueError for a setting of the orbit that has no effect, because the cameras are listed."""
        name = "azimuths" if self.cameras is None else "cameras"
        unused: tuple[str, ...] = () if getattr(self, name) is None else ("start",)
        if self.cameras is not None and not self.image:  # of pictures they are the lens and the place
            unused += "elevation", "fov", "radius"
        for setting in unused:
            value = getattr(self, setting)
            if value != type(self).model_fields[setting].default:
                raise ValueError(f"{setting}: got {value:g} with {name}, which say it already; expected one of them")

    @property
    def num_views(self) -> int:
        """Number of generated views."""
        if self.cameras is not None:
            return len(self.cameras)
        return len(self.azimuths) if self.azimuths is not None else self.views or 8

    def view_cameras(self) -> list[Camera]:
        """Return the cameras of the generated views."""
        if self.cameras is not None:
            return list(self.cameras)
        return orbit(self.num_views, self.elevation, self._radius, self.fov, self.start, self.azimuths)

    def picture_cameras(self) -> list[Camera]:
        """Return the cameras of the given pictures."""
        count = len(self.image or ())
        elevations = self.image_elevation or (self.elevation,)
        elevations = elevations * count if len(elevations) == 1 else elevations
        azimuths = self.image_azimuth or (0.0,) * count
        pairs = list(zip(azimuths, elevations, strict=False))[:count]
        return [look_at(azimuth, elevation, self._radius, self.fov) for azimuth, elevation in pairs]

    @property
    def _radius(self) -> float:
        return radius_for(self.fov) if self.radius is None else self.radius


def cameras_of(metadata: Mapping[str, Any]) -> list[Camera]:
    """Return the cameras of a result from its metadata."""
    if metadata.get("cameras") is not None:
        return read_transforms(metadata["cameras"], check_convention=False)
    names = ("views", "elevation", "azimuths", "start", "fov", "radius")
    fields = {name: metadata[name] for name in names if metadata.get(name) is not None}
    return ViewsRequest.read({"prompt": "-", **fields}, "metadata").view_cameras()


def _split(text: Any) -> Sequence[Any]:
    return [part for part in text.split(",") if part.strip()] if isinstance(text, str) else [text]


def _check_distinct(cameras: Sequence[Camera], name: str) -> None:
    seen: dict[bytes, int] = {}
    for index, camera in enumerate(cameras):
        key = (camera.pose.round(6) + 0.0).tobytes() + f"{camera.fov:.4f} {camera.aspect:.4f}".encode()  # -0.0 is 0.0
        if key in seen:
            raise ValueError(
                f"{name}: got the same pose for the {'views' if name == 'views' else 'pictures'} {seen[key]} and "
                f"{index}, expected different ones. Remove one"
            )
        seen[key] = index
