"""lumina convert: a model folder from one layout into another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lumina_core.cli.progress import progress

if TYPE_CHECKING:
    from lumina_core.convert import Plan

FORMATS = ("float32", "bfloat16", "float16")


@click.command(epilog="Example:  lumina convert downloads/Lumina-Next-SFT models/next --dtype bfloat16")
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("destination", metavar="DST", type=click.Path(path_type=Path))
@click.option("--to", metavar="LAYOUT", help="Layout to write.  [default: ours, for a folder of another layout]")
@click.option("--dtype", type=click.Choice(FORMATS), help="Format of the weights.  [default: as they are]")
@click.option("--copy", is_flag=True, help="Take what lies outside along (text encoder, autoencoder).")
@click.option("--set", "settings", multiple=True, metavar="A.B=C", help="Change one key of the recipe on the way.")
@click.option("--shard", type=click.IntRange(min=1), default=5000, metavar="MB", help="Largest file.  [default: 5000]")
@click.option("--overwrite", is_flag=True, help="Replace DST if it is there.")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on one line, last.")
def convert(source: Path, destination: Path, **asked: Any) -> None:
    """Convert the model in SRC: a published one into a folder of ours, or one of ours into --to LAYOUT.

    Which layouts there are: lumina plugins. Nothing is written unless all of it can be.
    """
    import torch

    from lumina_core.convert import Wish, carry_out, check_destination, plan
    from lumina_core.plugins.loader import load

    check_destination(source, destination, asked["overwrite"])
    dtype = None if asked["dtype"] is None else getattr(torch, asked["dtype"])
    found = plan(source, load(), Wish(asked["to"], dtype, asked["settings"], asked["copy"]))
    for note in found.draft.notes:
        click.echo(f"Note: {note}", err=True)
    if not asked["dry_run"]:
        with progress("converting", found.size, of_bytes=True) as advance:
            carry_out(found, destination, asked["shard"] * 10**6, advance)
    _tell(found, destination, asked["dry_run"], asked["as_json"])


def _tell(found: Plan, destination: Path, dry: bool, as_json: bool) -> None:
    files = sorted([*found.draft.files, *(f"{name}.safetensors" for name in found.draft.weights)])
    if as_json:
        content = {
            "from": found.source, "to": found.target, "tensors": found.tensors, "bytes": found.size, "files": files,
            "folders": {name: str(folder) for name, folder in found.draft.folders.items()},
            "written": None if dry else str(destination), "notes": list(found.draft.notes),
        }  # fmt: skip
        click.echo(json.dumps(content, ensure_ascii=False))
        return
    click.echo(f"{found.source} -> {found.target}: {found.tensors} tensors, {found.size / 1e6:,.1f} MB")
    for name in [*files, *(f"{name}/" for name in found.draft.folders)]:
        click.echo(f"  {name}")
    click.echo("nothing was written (--dry-run)" if dry else f"the model is in {destination}")
