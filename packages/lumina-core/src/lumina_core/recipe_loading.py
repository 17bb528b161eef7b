"""Finds the recipe that a command names: an installed one or a file, with --set carried out."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lumina_core.plugins.registry import Registry
    from lumina_core.protocols import Dataset
    from lumina_core.recipe import Recipe


def load_recipe(registry: Registry, name: str, overrides: tuple[str, ...]) -> Recipe:
    """The recipe called `name`, or in the file `name`.

    Raises:
        ConfigError: there is neither; a setting does not fit.
        PluginError: the plugin that should bring it was left out.
    """
    from lumina_core.config import apply_override, read_file, read_text, suggest_or_list
    from lumina_core.errors import ConfigError, PluginError
    from lumina_core.recipe import read_recipe

    installed = registry.recipes()
    if name in installed:
        package, _, path = installed[name].target.partition(":")
        try:
            text = (files(package) / path).read_text(encoding="utf-8")
        except (OSError, ImportError, TypeError, UnicodeDecodeError) as error:
            raise PluginError(f"the recipe {name} cannot be read from {installed[name].target}: {error}") from error
        values = read_text(text, f"recipe {name}")
    elif Path(name).suffix in {".yaml", ".yml", ".json"}:
        values = read_file(Path(name))
    elif registry.missing_reason(name.partition(".")[0]):
        raise PluginError(registry.missing_reason(name.partition(".")[0]))
    else:
        raise ConfigError(f"no recipe is called '{name}', and it is no .yaml file{suggest_or_list(name, installed)}")
    for override in overrides:
        values = apply_override(values, override)
    return read_recipe(values, name)


def load_recipe_dataset(name: str, overrides: tuple[str, ...]) -> tuple[Recipe, Dataset]:
    """The recipe that a command names, and its data set, built. Commands of plugins find this function as `ctx.obj`.

    Raises:
        LuminaError: there is no such recipe, it names no data set, or that cannot be read.
    """
    from lumina_core.model import build_dataset
    from lumina_core.plugins.loader import load_plugins

    registry = load_plugins()
    recipe = load_recipe(registry, name, overrides)
    return recipe, build_dataset(recipe, registry)
