"""Registration of lumina-3d. Imported at every start, so it imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina_core import hookimpl

if TYPE_CHECKING:
    from lumina_core.plugins.registry import (
        CommandRegistrations,
        ComponentRegistrations,
        ComponentTypeRegistrations,
        ModelRegistrations,
        RecipeRegistrations,
    )


@hookimpl
def lumina_register_component_types(component_types: ComponentTypeRegistrations) -> None:
    """Register the component types of the package."""


@hookimpl
def lumina_register_components(components: ComponentRegistrations) -> None:
    """Register the components of point clouds and of views."""
    _register_points(components)
    _register_views(components)


def _register_points(components: ComponentRegistrations) -> None:
    """Register the components of point clouds."""


def _register_views(components: ComponentRegistrations) -> None:
    """Register the components of views."""


@hookimpl
def lumina_register_recipes(recipes: RecipeRegistrations) -> None:
    """Register the recipes of the package."""
    points: dict[str, str] = {}
    views: dict[str, str] = {}
    for name, summary in {**points, **views}.items():
        recipes.add(f"3d.{name}", f"lumina_3d:recipes/{name}.yaml", summary)


@hookimpl
def lumina_register_commands(commands: CommandRegistrations) -> None:
    """Register the commands of the package besides those of its tasks."""


@hookimpl
def lumina_register_models(models: ModelRegistrations) -> None:
    """Register the built-in models."""
