"""Command `lumina classify`: names what images show."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

BATCH_SIZE = 32


@click.command(epilog="Example:  lumina classify photo.png --explain maps")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model", default="recog.emoji", show_default=True, metavar="MODEL", help="Model folder or installed model."
)
@click.option("--top", default=5, show_default=True, type=click.IntRange(1, 1000), help="Classes to name per image.")
@click.option(
    "--explain", type=click.Path(path_type=Path), metavar="FOLDER",
    help="Write for each image an overlay of the patches that speak for its group or class.  [default: off]",
)  # fmt: skip
@click.option("--device", default="cpu", show_default=True, metavar="NAME", help="cpu, cuda, mps ...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on the last line.")
def classify(images: tuple[Path, ...], model: str, top: int, explain: Path | None, device: str, as_json: bool) -> None:
    """Name what IMAGES show: files, or folders with images. Each is read at its own size and shape."""
    from lumina_core.errors import ConfigError
    from lumina_recog.image_io import parse_image

    paths = _check_arguments(images, model, explain)  # before torch is imported, which takes seconds
    import lumina_core
    from lumina_recog.task import Classify

    loaded: Any = lumina_core.load_model(model, device=device)
    if not isinstance(loaded.task, Classify):
        raise ConfigError(f"--model: got {model}, a model that does not classify images, expected one that does.")
    rows: list[dict[str, Any]] = []
    for start in range(0, len(paths), BATCH_SIZE):
        requests, readable = [], []
        for path in paths[start : start + BATCH_SIZE]:
            try:
                requests.append({"image": parse_image(path), "top": top})
                readable.append(path)
            except ValueError as error:
                rows.append({"file": str(path), "error": str(error)})
        for path, request, answer in zip(readable, requests, lumina_core.predict(loaded, requests), strict=True):
            row = {"file": str(path), **answer}
            if explain is not None:
                row["explanation"] = str(write_explanation(loaded, request["image"], explain, path))
            rows.append(row)
    if as_json:
        click.echo(json.dumps({"model": model, "images": rows}, ensure_ascii=False))
    else:
        for row in rows:
            click.echo(describe(row))
    if rows and all("error" in row for row in rows):
        raise ConfigError(f"images: got {len(rows)} files, none of which is a usable image. Give PNG or JPEG files.")


def _check_arguments(images: Sequence[Path], model: str, explain: Path | None) -> list[Path]:
    """Return the files of the images, after a check of them, the model's name and the folder to write."""
    from lumina_core.errors import ConfigError
    from lumina_core.locate import check_model, check_new_dir
    from lumina_recog.image_io import ImageError, read_image

    paths = list(list_images(images))
    if len(paths) == 1:
        try:
            read_image(paths[0])
        except ImageError as error:
            raise ConfigError(f"image: got {paths[0]}, expected a usable image ({error}).") from error
    check_model(model)
    if explain is not None:
        check_new_dir(explain, "--explain")
    return paths


def list_images(paths: Sequence[Path]) -> Iterator[Path]:
    """Iterate over files, and over the images in folders, without hidden ones.

    Raises:
        ConfigError: a path does not exist, or a folder has no images.
    """
    from lumina_core.data.source import FolderListing
    from lumina_core.errors import ConfigError
    from lumina_recog.image_io import SUFFIXES

    for path in paths:
        if path.is_dir():
            visible = [file for file in FolderListing(path).files if file.lower().endswith(SUFFIXES)]
            if not visible:
                raise ConfigError(
                    f"image: got the folder {path} without images, expected some ({', '.join(SUFFIXES)})."
                )
            yield from (path / file for file in visible)
        elif path.is_file():
            yield path
        else:
            raise ConfigError(f"image: got {path}, which does not exist or is no file, expected a file or a folder.")


def describe(row: dict[str, Any]) -> str:
    """Return the line of an image: group with probability, then the most probable classes."""
    if "error" in row:
        return f"{row['file']}: not read, {row['error']}"
    classes = ", ".join(f"{one['label'].rpartition('/')[2]} {one['probability']:.0%}" for one in row["top"])
    group = f"{row['group']} {row['group_probability']:.0%}: " if "group" in row else ""
    return f"{row['file']}: {group}{classes}"


def write_explanation(model: Any, image: Any, folder: Path, path: Path) -> Path:
    """Write the overlay of an image's map of relevance, as `<name>-explained.png`; returns its path."""
    from lumina_core.errors import ConfigError
    from lumina_core.io import atomic_file, new_dir
    from lumina_recog.explain import explain_image, overlay
    from lumina_recog.image_io import to_pil

    relevance = explain_image(model, image)
    target = folder / f"{path.stem}-explained.png"
    try:
        with new_dir(folder), atomic_file(target) as partial:
            to_pil(overlay(image, relevance)).save(partial, "PNG")
    except OSError as error:
        raise ConfigError(
            f"--explain: cannot write {target} ({error.strerror or error}). Choose another folder."
        ) from error
    return target
