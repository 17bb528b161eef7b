"""lumina buckets: what sizes the pictures of a recipe are cut to, before a training is begun."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from lumina_image.datasets.bucket_report import Report

SHOWN = 12
"""So many of the pictures that are left out are named; --json names all."""


@click.command(epilog="Example:  lumina buckets my-recipe.yaml --plot buckets.png --set dataset.buckets.best=1")
@click.argument("recipe")
@click.option(
    "--set", "settings", multiple=True, metavar="A.B=C", help="Change one key of the recipe; can be repeated."
)
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw them as well.")
@click.option("--all", "everything", is_flag=True, help="Show also the sizes that no picture is cut to.")
@click.option("--json", "as_json", is_flag=True, help="One object on one line instead.")
@click.pass_obj
def buckets(
    dataset_of: Callable[[str, tuple[str, ...]], Any],
    recipe: str,
    settings: tuple[str, ...],
    plot: Path | None,
    everything: bool,
    as_json: bool,
) -> None:
    """Show what sizes the pictures of RECIPE are cut to; nothing is trained.

    For each size: the pictures that it fits best, its share of the draws of an epoch, the whole batches of it, and how
    much of its pictures is cut away. Then the pictures that are left out, and why.
    """
    from lumina_core.errors import ConfigError
    from lumina_image.datasets.bucket_report import draw_report, report

    if plot is not None and (plot.suffix.lower() != ".png" or not plot.parent.is_dir()):
        raise ConfigError(f"--plot {plot}: wanted a .png file in a folder that exists")
    asked, dataset = dataset_of(recipe, settings)
    found = report(dataset, asked.training.batch)
    if plot is not None:
        try:
            draw_report(found, plot)
        except OSError as error:
            raise ConfigError(f"--plot: cannot write {plot}: {error.strerror}") from error
    if as_json:
        said = {**found.record(), **({"plot": str(plot)} if plot else {})}
        click.echo(json.dumps(said, ensure_ascii=False))
    else:
        _show(found, everything)
        click.echo(f"the drawing is in {plot}") if plot else None


def _show(found: Report, everything: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in ("size", "ratio", "pictures", "share", "batches", "cut away", "enlarged"):
        table.add_column(column, justify="right")
    table.add_column("")
    most = max(row.drawn for row in found.rows)
    for row in found.rows:
        if row.drawn or everything:
            share = row.drawn / found.draws
            table.add_row(
                f"{row.size[0]} x {row.size[1]}", f"{row.size[0] / row.size[1]:.2f}", str(row.best_for), f"{share:.1%}",
                str(int(row.drawn / found.batch)), f"{row.cut:.1%}", f"{row.enlarged:.0%}",
                "█" * round(10 * row.drawn / most),
            )  # fmt: skip
    Console().print(table)
    used = sum(bool(row.drawn) for row in found.rows)
    mixed = f", about {found.mixed} an epoch of several sizes" if used > 1 else ""
    click.echo(
        f"{found.pictures} pictures in {used} size{'s' * (used > 1)}, {len(found.rows) - used} sizes unused; "
        f"{found.cut:.1%} of them is cut away; batches of {found.batch}{mixed}"
    )
    if found.left_out:
        click.echo(f"left out: {len(found.left_out)}")
        for one in found.left_out[:SHOWN]:
            click.echo(f"  {one.name}: {one.reason}")
        click.echo(f"  and {len(found.left_out) - SHOWN} more") if len(found.left_out) > SHOWN else None
