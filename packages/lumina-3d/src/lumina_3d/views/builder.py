"""Builder of data sets of views: meshes and parametric shapes -> tar files of pictures with cameras."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from lumina_3d.families.captions import full_caption, read_caption
from lumina_3d.families.mesh import Y_UP_SUFFIXES, Mesh
from lumina_3d.families.shapes import FAMILIES, make_shape
from lumina_3d.views.cameras import Camera, orbit
from lumina_3d.views.rendering import Renderer, Surface, check_memory, normalized, surface_of
from lumina_3d.views.scenes import DEFAULT_FOV, radius_for, random_cameras, random_rig
from lumina_3d.views.store import object_files, write_shard
from lumina_core.config import suggest_or_list
from lumina_core.errors import ConfigError
from lumina_core.locate import check_new_dir

MESH_SUFFIXES = (".obj", ".glb", ".gltf", ".ply", ".stl", ".off")
Source = tuple[str, Callable[[], tuple[Any, str]], Path | None]
"""Name of an object, a function that returns its mesh and caption, and its file."""


def build_shards(
    meshes: Sequence[Path],
    families: Sequence[str],
    objects: int,
    views: int,
    size: int,
    samples: int,
    is_random: bool,
    elevation: float,
    depth: bool,
    per_shard: int,
    seed: int,
    out: Path,
) -> dict[str, Any]:
    """Render meshes or families to tar files in a folder; see `lumina render` for the arguments.

    Returns:
        Numbers of objects and pictures, the tar files, the skipped files with the reason, and the objects whose
        textures are missing with the names of these.

    Raises:
        ConfigError: there is nothing to render, the folder is not empty, or the memory does not suffice.
    """
    if bool(meshes) == bool(families):
        raise ConfigError("meshes: got neither files nor --family, or both; expected one of them")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out: got {out}, which exists and is not an empty folder, expected a new one")
    check_new_dir(out, "--out")
    sources = list(_shapes(families, objects, seed) if families else _meshes(meshes))
    check_memory(views, size, samples)
    skipped: dict[str, str] = {}
    missing: dict[str, list[str]] = {}
    shard: dict[str, dict[str, bytes]] = {}
    shards: list[Path] = []
    objects_done = pictures = 0
    for name, load, file in sources:
        try:
            mesh, caption = load()
            renderer = Renderer(mesh)
        except Exception as error:  # loaders of foreign files raise many types of errors
            skipped[name] = " ".join(str(error).split())[:200] or type(error).__name__
            continue
        rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
        cameras = _cameras(rng, views, is_random, elevation)
        renders = renderer(cameras, size, samples=samples)
        extra = {"depth.npz": _arrays(depth=renders.depth, normals=renders.normals)} if depth else {}
        if file is not None and (textures := missing_textures(file)):
            missing[name] = textures
        shard[name] = object_files(renders.rgba, cameras, caption, extra)
        objects_done, pictures = objects_done + 1, pictures + len(cameras)
        if len(shard) == per_shard:
            shards.append(_flush(out, len(shards), shard))
    if shard:
        shards.append(_flush(out, len(shards), shard))
    if not objects_done:
        reason = next(iter(skipped.values()), "no mesh was found")
        raise ConfigError(f"meshes: got none that can be rendered, expected {', '.join(MESH_SUFFIXES)} ({reason})")
    return {
        "objects": objects_done,
        "pictures": pictures,
        "shards": [str(path) for path in shards],
        "skipped": skipped,
        "missing_textures": missing,
    }


def load_surface(path: Path) -> Surface:
    """Read a mesh file as a surface, centred, its longest side 1; parts of a scene are joined with their colours.

    Files of `Y_UP_SUFFIXES` are turned.

    Raises:
        ConfigError: the file cannot be read, or has no usable faces.
    """
    import trimesh

    try:
        loaded = trimesh.load(str(path), process=False)
    except Exception as error:  # trimesh raises whatever its readers meet in a broken file
        reason = str(error) or type(error).__name__
        raise ConfigError(f"{path.name}: cannot be read as {path.suffix} ({reason}).") from error
    parts = loaded.dump() if isinstance(loaded, trimesh.Scene) else [loaded]
    surfaces = [surface_of(part) for part in parts if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    if not surfaces:
        raise ConfigError(f"{path.name}: got no faces, expected a mesh")
    surface = normalized(_joined(surfaces))
    if path.suffix.lower() not in Y_UP_SUFFIXES:
        return surface
    return Surface(
        surface.vertices[:, [2, 0, 1]], surface.faces, surface.face_colors, surface.corner_uv, surface.texture
    )


def missing_textures(path: Path) -> list[str]:
    """Return the files of materials and textures that an OBJ file names and that do not exist; [] for others."""
    if path.suffix.lower() != ".obj":
        return []
    libraries = _named_files(path, "mtllib")
    textures = [file for library in libraries if library.is_file() for file in _named_files(library, "map_Kd")]
    return [file.name for file in dict.fromkeys([*libraries, *textures]) if not file.is_file()]


def _named_files(path: Path, keyword: str) -> list[Path]:
    """Return the files that lines of a text file name: the keyword, options, and a path."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        words = [line.split() for line in lines if line.lstrip().lower().startswith(keyword.lower())]
    return [path.parent / parts[-1].replace("\\", "/") for parts in words if len(parts) > 1]


def _joined(surfaces: Sequence[Surface]) -> Surface:
    """Join surfaces; textures become one colour per face, at its middle."""
    if len(surfaces) == 1:
        return surfaces[0]
    vertices, faces, colors, offset = [], [], [], 0
    for surface in surfaces:
        third = np.full(len(surface.faces), 1 / 3)
        colors.append(surface.colors(np.arange(len(surface.faces)), third, third))
        vertices.append(surface.vertices)
        faces.append(surface.faces + offset)
        offset += len(surface.vertices)
    return Surface(np.concatenate(vertices), np.concatenate(faces), np.concatenate(colors))


def _cameras(rng: np.random.Generator, views: int, is_random: bool, elevation: float) -> list[Camera]:
    if is_random:
        return random_cameras(random_rig(rng), views, rng)
    return orbit(views, elevation, radius_for(DEFAULT_FOV), DEFAULT_FOV)


def _shapes(families: Sequence[str], objects: int, seed: int) -> Iterator[Source]:
    names = FAMILIES if "all" in families else families
    for name in names:
        if name not in FAMILIES:
            raise ConfigError(f"--family: got {name!r}, expected all or some{suggest_or_list(name, FAMILIES)}")
    for number in range(objects):
        for name in names:
            yield f"{name}-{number:05d}", partial(_make, name, number, seed), None


def _make(family: str, number: int, seed: int) -> tuple[Mesh, str]:
    shape = make_shape(family, number, seed=seed)
    return shape.mesh, full_caption(shape)


def _meshes(paths: Sequence[Path]) -> Iterator[Source]:
    files: list[tuple[str, Path]] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in MESH_SUFFIXES)
            files += [(file.relative_to(path).with_suffix("").as_posix().replace("/", "-"), file) for file in found]
        elif path.is_file():
            files.append((path.stem, path))
        else:
            raise ConfigError(f"meshes: got {path}, which does not exist, expected a file or a folder")
    used: set[str] = set()
    for name, file in files:
        unique = next(one for number in count(1) if (one := name if number == 1 else f"{name}-{number}") not in used)
        used.add(unique)
        yield unique, partial(_load, file), file


def _load(file: Path) -> tuple[Surface, str]:
    return load_surface(file), read_caption(file, file.stem.replace("_", " "))


def _flush(out: Path, number: int, shard: dict[str, dict[str, bytes]]) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"views-{number:05d}.tar"
    write_shard(path, shard)
    shard.clear()
    return path


def _arrays(**arrays: np.ndarray[Any, np.dtype[Any]]) -> bytes:
    content = io.BytesIO()
    halved: dict[str, Any] = {name: value.astype(np.float16) for name, value in arrays.items()}
    np.savez_compressed(content, **halved)
    return content.getvalue()
