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

from lumina_3d.views.cameras import Camera
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
        self.cameras = lru_cache(maxsize=4096)(self._cameras)

    def __len__(self) -> int:
        return len(self.objects)

    def num_pictures(self, index: int) -> int:
        """Return the number of pictures of an object."""
        return len(self.cameras(index))

    def picture(self, index: int, number: int) -> Picture:
        """Return one picture of an object."""
        item = self.objects[index]
        content = item.read(self._names(item)[number])
        return parse_picture(Image.open(io.BytesIO(content)))

    def caption(self, index: int) -> str:
        """Return the caption of an object: of caption.txt, of the JSON file, or its name."""
        item = self.objects[index]
        if "caption.txt" in item.files:
            return item.read("caption.txt").decode("utf-8").strip()
        if "transforms.json" in item.files:
            caption = json.loads(item.read("transforms.json")).get("caption")
            if isinstance(caption, str):
                return caption
        return PurePosixPath(item.name).name

    def _names(self, item: StoredObject) -> list[str]:
        if "transforms.json" in item.files:
            frames = json.loads(item.read("transforms.json"))["frames"]
            return [PurePosixPath(frame["file_path"]).name for frame in frames]
        return [name for name in item.picture_names() if f"{PurePosixPath(name).stem}.npy" in item.files]

    def _cameras(self, index: int) -> list[Camera]:
        item = self.objects[index]
        if "transforms.json" in item.files:
            try:
                return read_transforms(json.loads(item.read("transforms.json")))
            except ConfigError as error:
                raise ConfigError(f"{item.name}: {error}") from error
        cameras = []
        for name in self._names(item):
            matrix = np.eye(4)
            matrix[:3] = np.load(io.BytesIO(item.read(f"{PurePosixPath(name).stem}.npy")), allow_pickle=False)[:3]
            cameras.append(Camera(np.asarray(np.linalg.inv(matrix), dtype=np.float64), self.fov))
        if not cameras:
            raise ConfigError(f"{item.name}: got pictures without cameras, expected transforms.json or .npy files")
        return cameras


def _folder_objects(folder: Path) -> list[StoredObject]:
    objects: dict[str, StoredObject] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.parent != folder:
            name = path.parent.relative_to(folder).as_posix()
            objects.setdefault(name, StoredObject(name)).files[path.name] = path
    return list(objects.values())


def _tar_objects(tars: Sequence[Path]) -> list[StoredObject]:
    objects: dict[str, StoredObject] = {}
    for tar in tars:
        try:
            with tarfile.open(tar) as archive:
                members = [(m.name, m.offset_data, m.size) for m in archive if m.isfile()]
        except (tarfile.TarError, OSError) as error:
            raise ConfigError(f"{tar}: got no complete tar file, expected one ({error})") from error
        for member, offset, size in members:
            path = PurePosixPath(member)
            name = path.parent.as_posix()
            objects.setdefault(name, StoredObject(name)).files[path.name] = (tar, offset, size)
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
