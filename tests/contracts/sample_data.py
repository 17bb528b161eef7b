"""Sample datasets for the contract tests, created in an empty folder, and the `Try` class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from lumina_core.testing import Sample

IMAGES = Sample("image")


@dataclass(frozen=True)
class Try:
    """Options as in a recipe and the sample of a check (`Sample` if the check takes several objects)."""

    options: Mapping[str, Any] = field(default_factory=dict)
    sample: Any = None


def picture_folder(folder: Path) -> Try:
    """Two pictures with sidecar captions."""
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (12, 16), colour).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"{colour} square\n", encoding="utf-8")
    return Try({"folder": str(folder), "image_size": 8}, Sample("image", {"fields": ("caption", "file")}))


def class_folder(folder: Path) -> Try:
    """A folder for each of two classes."""
    for name, colour in (("cats", "red"), ("dogs", "blue")):
        (folder / name).mkdir()
        Image.new("RGB", (12, 16), colour).save(folder / name / "a.png")
    return Try({"folder": str(folder), "image_size": 8}, IMAGES)


def tar_shards(folder: Path) -> Try:
    """Three pictures in a tar file."""
    from image.image_files import tar_members, write_tar

    write_tar(folder / "0.tar", tar_members(3))
    return Try({"folder": str(folder), "image_size": 8}, IMAGES)


def sound_folder(folder: Path) -> Try:
    """Two sounds with sidecar captions."""
    from audio.datasets.audio_files import put, ramp

    for name in ("a", "b"):
        put(folder / f"{name}.wav", ramp(1), f"sound {name}")
    return Try({"folder": str(folder), "duration": 0.5}, Sample("audio", {"fields": ("caption", "file")}))


def sound_table(folder: Path) -> Try:
    """A table that names two sounds."""
    base = sound_folder(folder)
    (folder / "table.csv").write_text("file,caption\na.wav,first\nb.wav,second\n", encoding="utf-8")
    return Try({"table": str(folder / "table.csv"), "duration": 0.5}, base.sample)


def sound_shards(folder: Path) -> Try:
    """Two sounds in a tar file."""
    from audio.datasets.audio_files import encode_audio, ramp, write_tar

    members = {"a.flac": encode_audio(ramp(1)), "a.txt": b"first", "b.flac": encode_audio(ramp(1)), "b.txt": b"second"}
    write_tar(folder / "0.tar", members)
    return Try({"folder": str(folder), "duration": 0.5}, Sample("audio", {"fields": ("caption", "file")}))


def parquet_shards(folder: Path) -> Try:
    """Three pictures in a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from image.image_files import encode_image

    columns = {"image": [encode_image((n, 0, 0)) for n in range(3)], "caption": [f"number {n}" for n in range(3)]}
    pq.write_table(pa.table(columns), folder / "0.parquet")
    return Try({"folder": str(folder), "image_size": 8}, IMAGES)


def saved_data_set(folder: Path) -> Try:
    """Three pictures as the library `datasets` saves them."""
    import datasets
    from image.image_files import encode_image

    columns = {"image": [{"bytes": encode_image((n, 0, 0)), "path": None} for n in range(3)], "text": ["a", "b", "c"]}
    data = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    data.save_to_disk(str(folder / "saved"))
    return Try({"source": str(folder / "saved"), "image_size": 8, "index_dir": str(folder)}, IMAGES)


def mixture(folder: Path) -> Try:
    """The emoji and a folder."""
    other = {"type": "image.folder", **picture_folder(folder).options, "weight": 2}
    return Try(
        {"dataset": [{"type": "image.emoji", "image_size": 8, "weight": 1}, other]},
        Sample("image", {"fields": ("caption",)}),
    )
