"""lumina buckets: what sizes the pictures of a recipe are cut to, before a training is begun."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from lumina_image.datasets.bucket_stats import BucketStats

MAX_LISTED = 12
"""So many of the pictures that are left out are named; --json names all."""


@click.command(epilog="Example:  lumina buckets my-recipe.yaml --plot buckets.png --set dataset.buckets.top_k=1")
@click.argument("recipe")
@click.option(
    "--set", "settings", multiple=True, metavar="A.B=C", help="Change one key of the recipe; can be repeated."
)
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw them as well.")
@click.option("--all", "show_all", is_flag=True, help="Show also the sizes that no picture is cut to.")
@click.option("--json", "as_json", is_flag=True, help="One object on one line instead.")
@click.pass_obj
def buckets(
    load_dataset: Callable[[str, tuple[str, ...]], Any],
    recipe: str,
    settings: tuple[str, ...],
    plot: Path | None,
    show_all: bool,
    as_json: bool,
) -> None:
    """Show what sizes the pictures of RECIPE are cut to; nothing is trained.

    For each size: the pictures that it fits best, its share of the draws of an epoch, the whole batches of it, and how
    much of its pictures is cut away. Then the pictures that are left out, and why.
    """
    from lumina_core.errors import ConfigError
    from lumina_image.datasets.bucket_stats import compute_bucket_stats, plot_bucket_stats

    if plot is not None and (plot.suffix.lower() != ".png" or not plot.parent.is_dir()):
        raise ConfigError(f"--plot {plot}: wanted a .png file in a folder that exists")
    config, dataset = load_dataset(recipe, settings)
    stats = compute_bucket_stats(dataset, config.training.global_batch_size)
    if plot is not None:
        try:
            plot_bucket_stats(stats, plot)
        except OSError as error:
            raise ConfigError(f"--plot: cannot write {plot}: {error.strerror}") from error
    if as_json:
        output = {**stats.to_dict(), **({"plot": str(plot)} if plot else {})}
        click.echo(json.dumps(output, ensure_ascii=False))
    else:
        _print_stats(stats, show_all)
        click.echo(f"the drawing is in {plot}") if plot else None


def _print_stats(stats: BucketStats, show_all: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in ("size", "ratio", "pictures", "share", "batches", "cut away", "enlarged"):
        table.add_column(column, justify="right")
    table.add_column("")
    max_draws = max(row.expected_draws for row in stats.rows)
    for row in stats.rows:
        if row.expected_draws or show_all:
            fraction = row.expected_draws / stats.total_draws
            table.add_row(
                f"{row.size[0]} x {row.size[1]}", f"{row.size[0] / row.size[1]:.2f}", str(row.num_best), f"{fraction:.1%}",
                str(int(row.expected_draws / stats.batch_size)), f"{row.cropped_fraction:.1%}", f"{row.upscaled_fraction:.0%}",
                "█" * round(10 * row.expected_draws / max_draws),
            )  # fmt: skip
    Console().print(table)
    num_used = sum(bool(row.expected_draws) for row in stats.rows)
    mixed = f", about {stats.num_mixed_batches} an epoch of several sizes" if num_used > 1 else ""
    click.echo(
        f"{stats.num_images} pictures in {num_used} size{'s' * (num_used > 1)}, {len(stats.rows) - num_used} sizes unused; "
        f"{stats.cropped_fraction:.1%} of them is cut away; batches of {stats.batch_size}{mixed}"
    )
    if stats.skipped:
        click.echo(f"left out: {len(stats.skipped)}")
        for item in stats.skipped[:MAX_LISTED]:
            click.echo(f"  {item.name}: {item.reason}")
        click.echo(f"  and {len(stats.skipped) - MAX_LISTED} more") if len(stats.skipped) > MAX_LISTED else None
