"""lumina convert: a model folder from one layout into another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lumina_core.cli.console import progress_bar

if TYPE_CHECKING:
    from lumina_core.convert import ConvertPlan

DTYPES = ("float32", "bfloat16", "float16")


@click.command(epilog="Example:  lumina convert downloads/Lumina-Next-SFT models/next --dtype bfloat16")
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("destination", metavar="DST", type=click.Path(path_type=Path))
@click.option("--format", metavar="LAYOUT", help="Layout to write.  [default: ours, for a folder of another layout]")
@click.option("--dtype", type=click.Choice(DTYPES), help="Format of the weights.  [default: as they are]")
@click.option("--bundle", is_flag=True, help="Take what lies outside along (text encoder, autoencoder).")
@click.option("--set", "settings", multiple=True, metavar="A.B=C", help="Change one key of the recipe on the way.")
@click.option(
    "--max-shard-size", type=click.IntRange(min=1), default=5000, metavar="MB", help="Largest file.  [default: 5000]"
)
@click.option("--overwrite", is_flag=True, help="Replace DST if it is there.")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on one line, last.")
def convert(source: Path, destination: Path, **options: Any) -> None:
    """Convert the model in SRC: a published one into a folder of ours, or one of ours into --format LAYOUT.

    Which layouts there are: lumina plugins. Nothing is written unless all of it can be.
    """
    import torch

    from lumina_core.convert import ConvertOptions, check_destination, execute, plan_conversion
    from lumina_core.plugins.loader import load_plugins

    check_destination(source, destination, options["overwrite"])
    dtype = None if options["dtype"] is None else getattr(torch, options["dtype"])
    conversion = plan_conversion(
        source, load_plugins(), ConvertOptions(options["format"], dtype, options["settings"], options["bundle"])
    )
    for note in conversion.export_plan.notes:
        click.echo(f"Note: {note}", err=True)
    if not options["dry_run"]:
        with progress_bar("converting", conversion.num_bytes, in_bytes=True) as advance:
            execute(conversion, destination, options["max_shard_size"] * 10**6, advance)
    _print_plan(conversion, destination, options["dry_run"], options["as_json"])


def _print_plan(conversion: ConvertPlan, destination: Path, dry_run: bool, as_json: bool) -> None:
    files = sorted([*conversion.export_plan.files, *(f"{name}.safetensors" for name in conversion.export_plan.weights)])
    if as_json:
        content = {
            "from": conversion.source_format, "to": conversion.target_format, "tensors": conversion.num_tensors, "bytes": conversion.num_bytes, "files": files,
            "folders": {name: str(folder) for name, folder in conversion.export_plan.folders.items()},
            "written": None if dry_run else str(destination), "notes": list(conversion.export_plan.notes),
        }  # fmt: skip
        click.echo(json.dumps(content, ensure_ascii=False))
        return
    click.echo(
        f"{conversion.source_format} -> {conversion.target_format}: {conversion.num_tensors} tensors, {conversion.num_bytes / 1e6:,.1f} MB"
    )
    for name in [*files, *(f"{name}/" for name in conversion.export_plan.folders)]:
        click.echo(f"  {name}")
    click.echo("nothing was written (--dry-run)" if dry_run else f"the model is in {destination}")
