"""`lumina recipe`: print an installed recipe, to be changed and trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lumina_core.errors import ConfigError

if TYPE_CHECKING:
    from lumina_core.plugins.registry import Registry


@click.command(epilog="Example:  lumina recipe image.tiny --folder photos > mine.yaml")
@click.argument("name")
@click.option(
    "--folder",
    metavar="DIR",
    help="Folder of your own files with captions, which replaces the data set.  [default: that of the recipe]",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Setting of the recipe; repeatable.")
def recipe(name: str, folder: str | None, settings: tuple[str, ...]) -> None:
    """Print the recipe NAME, an installed one (see `lumina models`) or a YAML file."""
    from lumina_core.plugins.loader import load_plugins
    from lumina_core.recipe import Recipe, read_recipe, recipe_text

    registry = load_plugins()
    loaded = Recipe.load(name, settings, registry)
    if folder is not None:
        values = loaded.to_dict()
        loaded = read_recipe({**values, "dataset": _folder_dataset(values, folder, registry)}, name)
    text = loaded.to_yaml() if settings or folder is not None else recipe_text(name, registry)
    click.echo(text.rstrip("\n"))


def _folder_dataset(values: dict[str, Any], folder: str, registry: Registry) -> dict[str, Any]:
    """Return the data set of a folder for a recipe, with those options of its own data set that both have.

    Raises:
        ConfigError: there is no such folder, or the plugin of the task has no data set of a folder.
    """
    from lumina_core.io import user_path

    if not user_path(folder).is_dir():
        raise ConfigError(f"--folder: got '{folder}', expected an existing folder.")
    plugin = str(values["task"]["type"]).partition(".")[0]
    has_classes = any(spec.get("type") == "core.class_label" for spec in values.get("conditioners", ()))
    names = [f"{plugin}.class_folder", f"{plugin}.folder"] if has_classes else [f"{plugin}.folder"]
    name = next((one for one in names if one in registry.registrations("dataset")), None)
    if name is None:
        raise ConfigError(f"--folder: got '{folder}', and the plugin '{plugin}' has no data set {names[-1]}.")
    fields = registry.find("dataset", name).Config.model_fields
    own = {**values["task"], **(values.get("dataset") or {})}
    options = {key: value for key, value in own.items() if key in fields and key not in ("type", "folder")}
    return {"type": name, "folder": str(Path(folder)), **options}
