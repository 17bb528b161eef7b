"""Build the pack of furniture clouds: 2048 points, by area, of each model of catalogues of Sweet Home 3D.

    cd packages/lumina-3d
    python scripts/build_furniture.py BlendSwap-CC-0.sh3f --out src/lumina_3d/points/data
    python scripts/build_furniture.py *.sh3f --out runs/furniture

The catalogues are files of the Debian package sweethome3d-furniture (1.8-1), in usr/share/sweethome3d/furniture. The
models of BlendSwap-CC-0 are CC0 and are shipped; those of the other catalogues have other free licences (CC-BY 3.0 for
the most part), and stay a test. Clouds are in the convention of this package: +z up, the front faces +x, the box
centred, its longest side 1. A model has the family of its English name, if it has one. Models that cannot be read are
named and left out.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import trimesh

POINTS = 2048
CATALOG = "PluginFurnitureCatalog.properties"
MAX_BYTES = 2**28
"""Largest file of a model that is unpacked."""
FRONT_Z_UP = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=float)
"""From the axes of Sweet Home 3D (+y up, the front faces +z) to ours."""
FAMILIES = {
    "chair": r"\w*chair", "table": "table|desk", "lamp": "lamp", "sofa": "sofa|couch", "bed": "bed", "mug": "cup|mug",
    "shelf": "shelf|shelves|bookcase", "aeroplane": "plane|biplane", "car": "car|pickup|van", "vase": "vase",
}  # fmt: skip
"""Ends of English names, in small letters and without what follows `with`."""
OTHER = re.compile(
    r"\b(baby|bunk|bedside|ceiling|chandelier|changing|corner|deck|football|hanging|outdoor|pendant|pool|street|toy|wall|"
    r"wheel|wheelchair)\b"
)
"""Names with these words have no family: their models have other shapes."""


def family_of(name: str) -> str:
    """Return the family of an English name; empty if it has none."""
    words = name.casefold().partition(" with ")[0].strip()
    if OTHER.search(words):
        return ""
    return next((family for family, ends in FAMILIES.items() if re.search(rf"\b({ends})$", words)), "")


def entries_of(archive: zipfile.ZipFile) -> Iterator[dict[str, str]]:
    """Yield the properties of each model of a catalogue."""
    entries: dict[int, dict[str, str]] = {}
    for line in archive.read(CATALOG).decode("latin-1").splitlines():
        if match := re.fullmatch(r"(\w+)#(\d+)=(.*)", line):
            entries.setdefault(int(match[2]), {})[match[1]] = match[3].strip()
    yield from (entries[number] for number in sorted(entries) if "model" in entries[number])


def load_mesh(archive: zipfile.ZipFile, model: str, folder: Path) -> Any:
    """Unpack the folder of a model into an empty folder, and return its triangles."""
    path = PurePosixPath(model.lstrip("/"))
    if ".." in path.parts or path.suffix != ".obj":
        raise ValueError(f"got the model {model}, expected an .obj file")
    for info in archive.infolist():
        inside = PurePosixPath(info.filename)
        if inside.parent == path.parent and not info.is_dir() and info.file_size < MAX_BYTES:
            (folder / inside.name).write_bytes(archive.read(info))
    return trimesh.load(folder / path.name, force="mesh", skip_materials=True, process=False)


def cloud_of(mesh: Any, entry: dict[str, str], seed: int) -> np.ndarray:
    """Return points (POINTS, 3): turned and scaled as the catalogue says, in this package's convention."""
    if not len(mesh.faces) or not np.isfinite(mesh.vertices).all():
        raise ValueError(f"got {len(mesh.faces)} faces, expected faces of finite vertices")
    vertices = np.asarray(mesh.vertices, dtype=float)
    if "modelRotation" in entry:
        vertices = vertices @ np.array([float(x) for x in entry["modelRotation"].split()]).reshape(3, 3).T
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    size = np.array([float(entry[name]) for name in ("width", "height", "depth")])
    vertices = (vertices - (low + high) / 2) / np.where(high > low, high - low, 1) * size
    turned = trimesh.Trimesh(vertices @ FRONT_Z_UP.T / size.max(), mesh.faces, process=False)
    points, _ = trimesh.sample.sample_surface(turned, POINTS, seed=seed)
    return np.asarray(points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalogs", nargs="+", type=Path, help=".sh3f files")
    parser.add_argument("--out", type=Path, required=True, help="folder for furniture.npz and furniture.json")
    args = parser.parse_args()
    clouds, models, skipped = [], [], {}
    for catalog in args.catalogs:
        with zipfile.ZipFile(catalog) as archive:
            for entry in entries_of(archive):
                try:
                    with tempfile.TemporaryDirectory() as folder:
                        cloud = cloud_of(load_mesh(archive, entry["model"], Path(folder)), entry, len(clouds))
                except (ValueError, KeyError, IndexError, OSError) as error:
                    skipped[f"{catalog.stem}: {entry.get('name')}"] = f"{type(error).__name__}: {error}"[:200]
                    continue
                clouds.append(cloud.astype(np.float16))
                name, creator = entry.get("name", ""), entry.get("creator", "")
                models.append({"name": name, "family": family_of(name), "creator": creator, "catalog": catalog.stem})
    args.out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.out / "furniture.npz", points=np.stack(clouds))
    sources = {catalog.name: sha256(catalog.read_bytes()).hexdigest() for catalog in args.catalogs}
    card = {"source": "Debian sweethome3d-furniture 1.8-1", "sha256": sources, "skipped": skipped, "models": models}
    (args.out / "furniture.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(clouds)} clouds, {dict(Counter(one['family'] for one in models))}, {len(skipped)} left out: {skipped}")
    for family in FAMILIES:
        print(family, sorted({one["name"] for one in models if one["family"] == family}))


if __name__ == "__main__":
    main()
