"""Stores of rendered objects: folders, or tar files with one folder per object; reading and writing."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from lumina_3d.views.cameras import FLIP_YZ, Camera, from_opencv
from lumina_3d.views.picture_input import Picture, parse_picture
from lumina_3d.views.transforms import read_transforms, transforms_json
from lumina_core.errors import ConfigError
from lumina_core.io import atomic_file

PICTURE_SUFFIXES = (".png", ".webp")


@dataclass
class StoredObject:
    """Files of one object: by name a path, or (path of the tar file, offset, size)."""

    name: str
    files: dict[str, Path | tuple[Path, int, int]] = field(default_factory=dict)

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        place = self.files[name]
        if isinstance(place, Path):
            return place.read_bytes()
        path, offset, size = place
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def text(self, name: str) -> str:
        """Return the content of a text file.

        Raises:
            ConfigError: it is not UTF-8.
        """
        try:
            return self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self.name}/{name}: got a file that is no UTF-8 text, expected one") from error

    def transforms(self) -> Mapping[str, Any] | None:
        """Return the content of transforms.json; None without the file.

        Raises:
            ConfigError: it is no JSON object with a list of `frames`.
        """
        if "transforms.json" not in self.files:
            return None
        try:
            content = json.loads(self.text("transforms.json"))
        except ValueError as error:
            raise ConfigError(f"{self.name}/transforms.json: got no valid JSON, expected an object") from error
        frames = content.get("frames") if isinstance(content, dict) else None
        if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
            raise ConfigError(f"{self.name}/transforms.json: got no list `frames`, expected nerfstudio's keys")
        return dict(content)

    def picture_names(self) -> list[str]:
        """Return the names of the pictures, in order."""
        return sorted(name for name in self.files if name.lower().endswith(PICTURE_SUFFIXES))


class ViewStore:
    """Rendered objects in a folder.

    Args:
        folder: folder of objects, or of tar files with objects.
        fov: vertical FOV of cameras that have none (.npy).

    Raises:
        ConfigError: there is no object.
    """

    def __init__(self, folder: Path, fov: float) -> None:
        if not folder.is_dir():
            raise ConfigError(f"folder: got {folder}, expected a folder of rendered objects")
        self.folder, self.fov = folder, fov
        tars = sorted(folder.glob("*.tar"))
        objects = _tar_objects(tars) if tars else _folder_objects(folder)
        self.objects = [item for item in objects if item.picture_names()]
        if not self.objects:
            raise ConfigError(f"folder: got {folder} without pictures, expected objects as `lumina render` writes them")
        self._loaded = lru_cache(maxsize=4096)(self._load)

    def __len__(self) -> int:
        return len(self.objects)

    def cameras(self, index: int) -> list[Camera]:
        """Return the cameras of an object.

        Raises:
            ConfigError: they cannot be read, or a picture of one is missing.
        """
        return self._loaded(index)[0]

    def num_pictures(self, index: int) -> int:
        """Return the number of pictures of an object."""
        return len(self.cameras(index))

    def picture(self, index: int, number: int) -> Picture:
        """Return one picture of an object.

        Raises:
            ConfigError: as `cameras`, or the file is no picture of an object.
        """
        item = self.objects[index]
        name = self._loaded(index)[1][number]
        try:
            return parse_picture(Image.open(io.BytesIO(item.read(name))))
        except (OSError, SyntaxError, ValueError) as error:  # as Pillow raises for damaged files
            raise ConfigError(f"{item.name}/{name}: got no usable picture ({error}), expected one") from error

    def caption(self, index: int) -> str:
        """Return the caption of an object: of caption.txt, of the JSON file, or its name."""
        item = self.objects[index]
        if "caption.txt" in item.files:
            return item.text("caption.txt").strip()
        caption = (item.transforms() or {}).get("caption")
        return caption if isinstance(caption, str) else PurePosixPath(item.name).name

    def _load(self, index: int) -> tuple[list[Camera], list[str]]:
        """Return the cameras of an object, and the names of their pictures."""
        item = self.objects[index]
        transforms = item.transforms()
        try:
            if transforms is not None:
                return read_transforms(transforms), _picture_names(item, transforms["frames"])
            names = [name for name in item.picture_names() if _pose_name(name) in item.files]
            poses = [np.load(io.BytesIO(item.read(_pose_name(name))), allow_pickle=False) for name in names]
            # world to camera in Blender's axes, which are OpenGL's
            cameras = [from_opencv(FLIP_YZ[:3, :3] @ pose[:3], self.fov) for pose in poses]
        except (ConfigError, ValueError, EOFError) as error:  # as numpy raises for damaged files
            raise ConfigError(f"{item.name}: {error}") from error
        if not cameras:
            raise ConfigError(f"{item.name}: got pictures without cameras, expected transforms.json or .npy files")
        return cameras, names


def _pose_name(picture: str) -> str:
    return f"{PurePosixPath(picture).stem}.npy"


def _picture_names(item: StoredObject, frames: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the files of the frames of transforms.json; NeRF's Blender scenes leave the suffix out."""
    names = [PurePosixPath(str(frame.get("file_path"))).name for frame in frames]
    names = [name if name in item.files else f"{name}.png" for name in names]
    missing = [name for name in names if name not in item.files]
    if missing:
        raise ConfigError(f"got no file {missing[0]} beside transforms.json, expected the picture of every frame")
    return names


def _folder_objects(folder: Path) -> list[StoredObject]:
    objects: dict[str, StoredObject] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.parent != folder:
            name = path.parent.relative_to(folder).as_posix()
            objects.setdefault(name, StoredObject(name)).files[path.name] = path
    return list(objects.values())


def _tar_objects(tars: Sequence[Path]) -> list[StoredObject]:
    objects: dict[tuple[Path, str], StoredObject] = {}  # two renderings may have objects of one name
    for tar in tars:
        try:
            with tarfile.open(tar) as archive:
                members = [(m.name, m.offset_data, m.size) for m in archive if m.isfile()]
        except (tarfile.TarError, OSError) as error:
            raise ConfigError(f"{tar}: got no complete tar file, expected one ({error})") from error
        for member, offset, size in members:
            path = PurePosixPath(member)
            name = path.parent.as_posix()
            objects.setdefault((tar, name), StoredObject(name)).files[path.name] = (tar, offset, size)
    return list(objects.values())


def object_files(
    rgba: np.ndarray[Any, np.dtype[np.uint8]], cameras: Sequence[Camera], caption: str, extra: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Return the files of one object: pictures, transforms.json with the caption, and further ones."""
    names = [f"{index:03d}.png" for index in range(len(rgba))]
    files = {}
    for name, picture in zip(names, rgba, strict=True):
        content = io.BytesIO()
        Image.fromarray(picture).save(content, format="PNG")
        files[name] = content.getvalue()
    description = {**transforms_json(cameras, rgba.shape[1], names), "caption": caption}
    return {**files, "transforms.json": json.dumps(description).encode(), **extra}


def write_shard(path: Path, objects: Mapping[str, Mapping[str, bytes]]) -> None:
    """Write a tar file with one folder per object, atomically; equal content gives equal bytes."""
    with atomic_file(path) as partial, tarfile.open(partial, "w") as archive:
        for name, files in objects.items():
            for file_name, content in files.items():
                info = tarfile.TarInfo(f"{name}/{file_name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
