"""Command `lumina buckets`: the sizes to which the images of a recipe are cropped."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from lumina_core.protocols import Dataset
    from lumina_image.datasets.buckets import ImageSize

MAX_LISTED = 12
"""Skipped images that the table names; JSON contains all."""


@click.command(epilog="Example:  lumina buckets my-recipe.yaml --set dataset.buckets.top_k=1")
@click.argument("recipe")
@click.option("--set", "settings", multiple=True, metavar="A.B=C", help="Change a key of the recipe; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def buckets(
    load_dataset: Callable[[str, tuple[str, ...]], Any], recipe: str, settings: tuple[str, ...], as_json: bool
) -> None:
    """Show the sizes to which the images of RECIPE are cropped.

    For each size: its share of the draws of an epoch, the full batches, and the share of pixels that is cropped. Then
    the skipped images with the reason.
    """
    config, dataset = load_dataset(recipe, settings)
    report = bucket_report(dataset, config.training.global_batch_size)
    if as_json:
        click.echo(json.dumps(report))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("size", "ratio", "draws", "share", "batches", "cropped", box=None, header_style="bold")
    for row in report["buckets"]:
        width, height, draws = row["width"], row["height"], row["expected_draws"]
        share, cropped = f"{row['fraction']:.1%}", f"{row['cropped_fraction']:.1%}"
        table.add_row(
            f"{width}x{height}", f"{width / height:.2f}", f"{draws:g}", share, str(row["num_batches"]), cropped
        )
    Console().print(table)
    click.echo(f"{report['num_images']} images, {len(report['buckets'])} sizes, batches of {report['batch_size']}")
    skipped = report["skipped"]
    if skipped:
        more = f", the first {MAX_LISTED} of them" if len(skipped) > MAX_LISTED else ""
        click.echo(f"skipped: {len(skipped)}{more}")
        click.echo("\n".join(f"  {item['name']}: {item['reason']}" for item in skipped[:MAX_LISTED]))


def bucket_report(dataset: Dataset, batch_size: int) -> dict[str, Any]:
    """Count the draws of each size in an epoch of an image data set, or of a mixture of several.

    Returns:
        `num_images`, `batch_size`, `buckets` (a row per size, the widest first) and `skipped` images with the reason.

    Raises:
        ConfigError: the examples have no images.
    """
    from lumina_core.data.dataset import MixtureDataset
    from lumina_image.datasets.buckets import kept_fraction
    from lumina_image.datasets.image_dataset import ImageDataset

    draws: dict[ImageSize, float] = defaultdict(float)
    cropped: dict[ImageSize, float] = defaultdict(float)
    skipped: list[dict[str, str]] = []
    index = 0
    for member in dataset.datasets if isinstance(dataset, MixtureDataset) else [dataset]:
        for image_size, sizes in member.size_choices() if isinstance(member, ImageDataset) else _fixed_size(member):
            weight = dataset.weight(index) / len(sizes)
            index += 1
            for size in sizes:
                draws[size] += weight
                cropped[size] += weight * (1 - kept_fraction(image_size, size))
        if isinstance(member, ImageDataset):
            skipped += [{"name": item.name, "reason": item.reason} for item in member.skipped]
    total_weight = sum(draws.values())
    rows = []
    for size in sorted(draws, key=lambda size: (size[0] / size[1], size), reverse=True):
        expected_draws = draws[size] / total_weight * len(dataset)
        rows.append(
            {
                "width": size[0],
                "height": size[1],
                "expected_draws": round(expected_draws, 1),
                "fraction": round(draws[size] / total_weight, 4),
                "num_batches": int(expected_draws / batch_size),
                "cropped_fraction": round(cropped[size] / draws[size], 4),
            }
        )
    return {"num_images": len(dataset), "batch_size": batch_size, "buckets": rows, "skipped": skipped}


def _fixed_size(dataset: Dataset) -> Sequence[tuple[ImageSize, Sequence[ImageSize]]]:
    """Return the choices of a data set whose images all have the size of the first one."""
    from torch import Tensor

    from lumina_core.errors import ConfigError

    image = dataset.get(0, random.Random(0)).get("image")
    if not isinstance(image, Tensor):
        raise ConfigError("dataset: got examples without image, expected an image data set.")
    size = (image.shape[-1], image.shape[-2])
    return [(size, (size,))] * len(dataset)
