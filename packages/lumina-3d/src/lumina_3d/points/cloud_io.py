"""Files of point clouds: PLY, NPZ and OBJ are written; meshes and clouds that trimesh reads are read."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumina_3d.families.mesh import Y_UP_SUFFIXES, Mesh
from lumina_core.errors import ConfigError

FloatArray = NDArray[np.float64]
WRITE_FORMATS = (".ply", ".npz", ".obj")
"""Suffixes of the files that are written."""
CLOUD_SUFFIXES = (".ply", ".npz", ".npy", ".obj", ".stl", ".off", ".glb", ".gltf", ".xyz")
"""Suffixes of the files that are read."""
MAX_FILE_BYTES = 2**31
NORMAL_NEIGHBORS = 16


@dataclass(frozen=True)
class Cloud:
    """A point cloud.

    Attributes:
        points: (N, 3) coordinates.
        normals: (N, 3) unit vectors, or None.
    """

    points: FloatArray
    normals: FloatArray | None = None


def read_cloud(path: str | Path, count: int | None = None, seed: int = 0) -> Cloud:
    """Read a point cloud, or draw points on a mesh by area.

    Args:
        path: PLY, NPZ (`points`), NPY, XYZ, or a mesh: OBJ, STL, OFF, GLB, PLY. Meshes of `Y_UP_SUFFIXES` are turned.
        count: points drawn on a mesh, default 2048; a cloud with more points is thinned to them by the seed.
        seed: of the draws.

    Raises:
        ConfigError: the file cannot be read, is empty, or has coordinates that are not finite, normals of another
            number, or faces of vertices that it does not have.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"cloud: got {path}, expected a file.")
    if path.suffix.lower() not in CLOUD_SUFFIXES:
        raise ConfigError(f"cloud: got {path.name}, expected one of {', '.join(CLOUD_SUFFIXES)}.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ConfigError(f"cloud: got {path.name} of {path.stat().st_size} bytes, expected at most {MAX_FILE_BYTES}.")
    points, faces, normals = _read_arrays(path)
    if points.ndim != 2 or points.shape[1:] != (3,) or not len(points):
        raise ConfigError(f"{path.name}: got points of shape {points.shape}, expected (N, 3) with at least 1 point.")
    if not np.isfinite(points).all():
        raise ConfigError(f"{path.name}: got coordinates that are not finite, expected finite ones.")
    if normals is not None and (normals.shape != points.shape or not np.isfinite(normals).all()):
        raise ConfigError(f"{path.name}: got normals of shape {normals.shape}, expected finite ones, {points.shape}.")
    rng = np.random.default_rng(seed)
    if faces is not None and len(faces):
        if faces.min() < 0 or faces.max() >= len(points):
            raise ConfigError(f"{path.name}: got faces of vertex {faces.max()}, expected 0 to {len(points) - 1}.")
        if path.suffix.lower() in Y_UP_SUFFIXES:
            points = points[:, [2, 0, 1]]
        scale = float(np.abs(points).max()) or 1.0  # squares of giant coordinates would overflow
        mesh = Mesh(points / scale, faces, np.zeros((len(faces), 3), dtype=np.uint8))
        if float(mesh.face_areas().sum()) <= 0:
            raise ConfigError(f"{path.name}: got a mesh whose faces have no area, expected a surface.")
        return Cloud(scale * mesh.sample(2048 if count is None else count, rng)[0])
    if count is not None and len(points) > count:
        chosen = np.sort(rng.choice(len(points), size=count, replace=False))
        points, normals = points[chosen], None if normals is None else normals[chosen]
    return Cloud(points, normals)


def _read_arrays(path: Path) -> tuple[FloatArray, NDArray[np.int64] | None, FloatArray | None]:
    """Return points, faces (None without), normals (None without) of a file."""
    suffix = path.suffix.lower()
    try:
        if suffix in (".npz", ".npy"):
            loaded = np.load(path, allow_pickle=False)
            if suffix == ".npy":
                return _real(loaded, path.name), None, None
            if "points" not in loaded:
                raise ConfigError(f"{path.name}: got the arrays {', '.join(loaded.files)}, expected `points`.")
            normals = _real(loaded["normals"], path.name) if "normals" in loaded else None
            return _real(loaded["points"], path.name), None, normals
        import trimesh

        loaded = trimesh.load(path, process=False)
        if isinstance(loaded, trimesh.Scene):
            loaded = loaded.to_geometry()
        promised = loaded.metadata.get("_ply_raw", {}).get("vertex", {}).get("length", 0)
        vertices = np.asarray(getattr(loaded, "vertices", np.zeros((0, 3))), dtype=np.float64)
        if len(vertices) < promised:
            raise ConfigError(f"{path.name}: got {len(vertices)} of {promised} points, expected all. It is cut off.")
        faces = loaded.faces if isinstance(loaded, trimesh.Trimesh) else None
        return vertices, None if faces is None else np.asarray(faces, dtype=np.int64), _vertex_normals(loaded, faces)
    except ConfigError:
        raise
    except Exception as error:  # trimesh raises whatever its readers meet in a broken file
        raise ConfigError(f"{path.name}: cannot be read as {suffix} ({error or type(error).__name__}).") from error


def _real(values: NDArray[Any], name: str) -> FloatArray:
    if values.dtype.kind not in "fiu":
        raise ConfigError(f"{name}: got numbers of the type {values.dtype}, expected real ones.")
    return np.asarray(values, dtype=np.float64)


def _vertex_normals(loaded: Any, faces: Any) -> FloatArray | None:
    """Return the normals (N, 3) that a file of points stores, or None."""
    raw = loaded.metadata.get("_ply_raw", {}).get("vertex", {}).get("data") if faces is None else None
    if raw is None:
        return None
    # trimesh keeps a structured array of a binary file, and a dict of columns of a text file
    if not {"nx", "ny", "nz"} <= set(raw if isinstance(raw, dict) else raw.dtype.names or ()):
        return None
    return np.stack([np.asarray(raw[name], dtype=np.float64).reshape(-1) for name in ("nx", "ny", "nz")], axis=1)


def estimate_normals(points: FloatArray, neighbors: int = NORMAL_NEIGHBORS) -> FloatArray:
    """Estimate unit normals (N, 3) by local principal components (Hoppe et al. 1992), pointing away from the centre.

    Args:
        points: (N, 3), at least 3 points.
        neighbors: nearest points that a plane is fitted to.

    Raises:
        ConfigError: there are fewer than 3 points.
    """
    check_normals(len(points))
    _, axes = local_axes(points, neighbors)
    normals = axes[:, :, 0]
    outward = points - (points.min(axis=0) + points.max(axis=0)) / 2
    flipped: FloatArray = np.where((normals * outward).sum(axis=1, keepdims=True) < 0, -normals, normals)
    return flipped


def check_normals(count: int) -> None:
    """Raise ConfigError if a cloud has too few points for normals."""
    if count < 3:
        raise ConfigError(f"normals: got {count} points, expected at least 3 for a plane.")


def local_axes(points: FloatArray, neighbors: int) -> tuple[FloatArray, FloatArray]:
    """Return variances (N, 3), rising, and axes (N, 3, 3) in columns, of each point's nearest points and itself."""
    from scipy.spatial import cKDTree  # takes a second to import

    count = min(neighbors, len(points))
    _, index = cKDTree(points).query(points, k=count)
    local = points[index.reshape(len(points), count)]
    local = local - local.mean(axis=1, keepdims=True)
    values, axes = np.linalg.eigh(local.transpose(0, 2, 1) @ local / count)
    return np.maximum(values, 0), axes


def encode_cloud(cloud: Cloud, suffix: str, metadata: Mapping[str, Any], ascii: bool = False) -> bytes:
    """Encode a cloud as the content of a file, with the metadata as a comment.

    Args:
        cloud: the cloud.
        suffix: .ply, .npz or .obj.
        metadata: stored as JSON.
        ascii: PLY as text instead of binary.
    """
    comment = json.dumps(metadata, ensure_ascii=True, default=str)
    if suffix == ".npz":
        arrays = {"points": cloud.points.astype(np.float32), "metadata": np.array(comment)}
        if cloud.normals is not None:
            arrays["normals"] = cloud.normals.astype(np.float32)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()
    if suffix == ".obj":
        return _encode_obj(cloud, comment)
    return _encode_ply(cloud, comment, ascii)


def _encode_ply(cloud: Cloud, comment: str, ascii: bool) -> bytes:
    columns = ["x", "y", "z"] + (["nx", "ny", "nz"] if cloud.normals is not None else [])
    values = cloud.points if cloud.normals is None else np.concatenate([cloud.points, cloud.normals], axis=1)
    header = ["ply", f"format {'ascii' if ascii else 'binary_little_endian'} 1.0", f"comment lumina {comment}"]
    header += [f"element vertex {len(values)}", *(f"property float {name}" for name in columns), "end_header"]
    head = ("\n".join(header) + "\n").encode("ascii")
    rows = np.ascontiguousarray(values, dtype="<f4")
    if not ascii:
        return head + rows.tobytes()
    # nine digits bring a float32 back bit for bit
    return head + "".join(" ".join(f"{value:.9g}" for value in row) + "\n" for row in rows.tolist()).encode("ascii")


def _encode_obj(cloud: Cloud, comment: str) -> bytes:
    points = np.asarray(cloud.points, dtype=np.float32).tolist()
    lines = [f"# lumina {comment}", *("v " + " ".join(f"{value:.9g}" for value in row) for row in points)]
    if cloud.normals is not None:
        normals = np.asarray(cloud.normals, dtype=np.float32).tolist()
        lines += ["vn " + " ".join(f"{value:.9g}" for value in row) for row in normals]
    return ("\n".join(lines) + "\n").encode("ascii")
