"""Command `lumina classify`: names what images show."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

BATCH_SIZE, BATCH_PIXELS = 32, 16_000_000
"""Most images that are held at once, and the number of pixels from which on no further one is added."""


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

    files = _check_arguments(images, model, explain)  # before torch is imported, which takes seconds
    import lumina_core
    from lumina_recog.task import Classify

    loaded: Any = lumina_core.load_model(model, device=device)
    if not isinstance(loaded.task, Classify):
        raise ConfigError(f"--model: got {model}, a model that does not classify images, expected one that does.")
    rows = _answer(loaded, files, top, explain)
    if as_json:
        click.echo(json.dumps({"model": model, "images": rows}, ensure_ascii=False))
    else:
        for row in rows:
            click.echo(describe(row))
    if rows and all("error" in row for row in rows):
        raise ConfigError(f"images: got {len(rows)} files, none of which is a usable image. Give PNG or JPEG files.")


def _answer(model: Any, files: Sequence[tuple[Path, str]], top: int, explain: Path | None) -> list[dict[str, Any]]:
    """Return a row for each file, in their order: the answer, or an error."""
    import lumina_core
    from lumina_recog.image_io import ImageError, read_image, to_tensor

    rows: list[dict[str, Any]] = []
    requests: dict[int, dict[str, Any]] = {}

    def answer() -> None:
        answers = lumina_core.predict(model, list(requests.values()))
        for (number, request), found in zip(requests.items(), answers, strict=True):
            rows[number] |= found
            if explain is not None:
                target = explanation_path(explain, Path(rows[number]["file"]), rows)
                rows[number]["explanation"] = str(write_explanation(model, request["image"], target))
        requests.clear()

    for path, reason in files:
        rows.append({"file": str(path)})
        try:
            if reason:
                raise ImageError(reason)
            requests[len(rows) - 1] = {"image": to_tensor(read_image(path)), "top": top}
        except ImageError as error:
            if len(files) == 1:
                raise _unusable(path, error) from error
            rows[-1]["error"] = str(error)
        pixels = sum(request["image"].shape[1:].numel() for request in requests.values())
        if len(requests) >= BATCH_SIZE or pixels >= BATCH_PIXELS:
            answer()
    answer()
    return rows


def _check_arguments(images: Sequence[Path], model: str, explain: Path | None) -> list[tuple[Path, str]]:
    """Return what `list_images` lists, after a check of it, the model's name and the folder to write."""
    from lumina_core.locate import check_model, check_new_dir
    from lumina_recog.image_io import ImageError, read_image_size

    files = list(list_images(images))
    if len(files) == 1 and not files[0][1]:
        try:
            read_image_size(files[0][0])
        except ImageError as error:
            raise _unusable(files[0][0], error) from error
    check_model(model)
    if explain is not None:
        check_new_dir(explain, "--explain")
    return files


def _unusable(path: Path, reason: Exception) -> Exception:
    from lumina_core.errors import ConfigError

    return ConfigError(f"image: got {path}, expected a usable image ({reason}).")


def list_images(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Iterate over files, and over the images in folders without hidden ones, with the reason why one is not read.

    Raises:
        ConfigError: a path does not exist, or a folder has no images.
    """
    from lumina_core.data.image_formats import SUFFIXES, UNREAD_SUFFIXES
    from lumina_core.data.source import FolderListing
    from lumina_core.errors import ConfigError

    for path in paths:
        if path.is_dir():
            listing = FolderListing(path)
            visible = [file for file in listing.files if file.lower().endswith((*SUFFIXES, *UNREAD_SUFFIXES))]
            if not visible and not listing.skipped:
                raise ConfigError(
                    f"image: got the folder {path} without images, expected some ({', '.join(SUFFIXES)})."
                )
            for file in visible:
                is_read = file.lower().endswith(SUFFIXES)
                yield path / file, "" if is_read else "files of this format are not read; convert it"
            yield from ((path / name, reason) for name, reason in listing.skipped)
        elif path.is_file():
            yield path, ""
        else:
            raise ConfigError(f"image: got {path}, which does not exist or is no file, expected a file or a folder.")


def describe(row: dict[str, Any]) -> str:
    """Return the line of an image: group with probability, then the most probable classes."""
    if "error" in row:
        return f"{row['file']}: not read ({row['error']})"
    classes = ", ".join(f"{one['label'].rpartition('/')[2]} {one['probability']:.0%}" for one in row["top"])
    group = f"{row['group']} {row['group_probability']:.0%}: " if "group" in row else ""
    explanation = f" ({row['explanation']})" if "explanation" in row else ""
    return f"{row['file']}: {group}{classes}{explanation}"


def explanation_path(folder: Path, image: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Return `<name>-explained.png` in a folder, or `<name>-2-explained.png` ... if another row has that file."""
    taken = {row.get("explanation") for row in rows}
    names = (f"{image.stem}{number}-explained.png" for number in ("", *(f"-{n}" for n in range(2, len(rows) + 2))))
    return next(folder / name for name in names if str(folder / name) not in taken)


def write_explanation(model: Any, image: Any, target: Path) -> Path:
    """Write the overlay of an image's map of relevance to a PNG file; returns its path."""
    from lumina_core.errors import ConfigError
    from lumina_core.io import atomic_file, new_dir
    from lumina_recog.explain import explain_image, overlay
    from lumina_recog.image_io import to_pil

    relevance = explain_image(model, image)
    try:
        with new_dir(target.parent), atomic_file(target) as partial:
            to_pil(overlay(image, relevance)).save(partial, "PNG")
    except OSError as error:
        raise ConfigError(
            f"--explain: cannot write {target} ({error.strerror or error}). Choose another folder."
        ) from error
    return target
