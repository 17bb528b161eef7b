"""`lumina models`: installed models and recipes, and the components of a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lumina_core.cli.console import echo_json
from lumina_core.errors import printable

if TYPE_CHECKING:
    from lumina_core.plugins.registry import Registry


@click.command(epilog="Example:  lumina models runs/emoji/model")
@click.argument("folder", required=False, metavar="[MODEL]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def models(folder: str | None, as_json: bool) -> None:
    """List installed models and recipes; with MODEL, a folder or a name, the components of that model."""
    from lumina_core.plugins.loader import load_plugins

    if folder is not None:
        from lumina_core.locate import find_model

        with find_model(folder, load_plugins()) as path:
            _describe(path, load_plugins(), as_json)
        return
    registry = load_plugins()
    entries_by_group = {"models": registry.models(), "recipes": registry.recipes()}
    if as_json:
        echo_json({group: {n: e.summary for n, e in entries.items()} for group, entries in entries_by_group.items()})
        return
    for group, entries in entries_by_group.items():
        click.echo(f"{group}:")
        for name, entry in entries.items():
            click.echo(printable(f"  {name:24} {' '.join(entry.summary.split())}"))
        if not entries:
            click.echo("  none")


def _describe(folder: Path, registry: Registry, as_json: bool) -> None:
    from lumina_core.model_dir import detect_format, open_model_dir, read_model_config, resolve_model_dir

    checkpoint_format = detect_format(folder, registry)
    loaded = open_model_dir(folder, registry) if checkpoint_format else None
    recipe, plugins = (loaded.recipe, {}) if loaded else read_model_config(resolve_model_dir(folder))
    notes = loaded.notes if loaded else ()
    if as_json:
        header = (
            {"checkpoint_format": checkpoint_format, "notes": list(notes)}
            if checkpoint_format
            else {"plugins": plugins}
        )
        echo_json({**header, "recipe": recipe.to_dict()})
        return
    plugin_versions = ", ".join(f"{name} {version}" for name, version in plugins.items())
    lines = [f"checkpoint format {checkpoint_format}" if checkpoint_format else f"saved with {plugin_versions}"]
    lines += [f"  {component_type:12} {name}" for component_type, name in recipe.component_names()]
    for line in [*lines, *notes]:
        click.echo(printable(" ".join(line.splitlines())))
