"""lumina models: installed models and recipes, and what a model folder is made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from lumina_core.plugins.registry import Registry


@click.command(epilog="Example:  lumina models runs/emoji/model")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def models(folder: Path | None, as_json: bool) -> None:
    """List installed models and recipes; with FOLDER, say what that model is made of."""
    from lumina_core.plugins.loader import load

    if folder is not None:
        _describe(folder, load(), as_json)
        return
    registry = load()
    found = {"models": registry.models(), "recipes": registry.recipes()}
    if as_json:
        click.echo(json.dumps({kind: {n: e.summary for n, e in entries.items()} for kind, entries in found.items()}))
        return
    for kind, entries in found.items():
        click.echo(f"{kind}:")
        for name, entry in entries.items():
            click.echo(f"  {name:24} {entry.summary}")
        if not entries:
            click.echo("  none")


def _describe(folder: Path, registry: Registry, as_json: bool) -> None:
    from lumina_core.folders import layout_of, model_folder, open_folder, read_config

    layout = layout_of(folder, registry)
    opened = open_folder(folder, registry) if layout else None
    recipe, plugins = (opened.recipe, {}) if opened else read_config(model_folder(folder))
    notes = opened.notes if opened else ()
    if as_json:
        said = {"layout": layout, "notes": list(notes)} if layout else {"plugins": plugins}
        click.echo(json.dumps({**said, "recipe": recipe.model_dump(mode="json", exclude_defaults=True)}))
        return
    made = ", ".join(f"{name} {version}" for name, version in plugins.items())
    click.echo(f"in the layout {layout}" if layout else f"made with {made}")
    for kind, name in recipe.used():
        click.echo(f"  {kind:12} {name}")
    for note in notes:
        click.echo(note)
