"""Hooks that a plugin can implement.

A plugin is a module named by an entry point of the group `lumina`. It marks functions of these names with
`lumina_core.hookimpl`. They register components by import strings, so that nothing heavy is imported at start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from lumina_core.plugins.registry import (
        CommandRegistrations,
        ComponentRegistrations,
        ComponentTypeRegistrations,
        ModelRegistrations,
        RecipeRegistrations,
    )

hookspec = pluggy.HookspecMarker("lumina")


@hookspec
def lumina_register_component_types(component_types: ComponentTypeRegistrations) -> None:
    """Register component types: `component_types.add(name, contract, check, summary)`.

    `contract` is the import string of the base class or protocol of its components, `check` that of a function that
    checks a component in tests.
    """


@hookspec
def lumina_register_components(components: ComponentRegistrations) -> None:
    """Register components: `components.tokenizer("motion.joints", "lumina_motion.joints:Joints", "joints over time")`.

    There is one method per component type (`components.solver`, `components.head`, ...), including types of plugins. A
    name begins with the name of the entry point and a dot. `components.task` also takes `command`, the command that
    runs the task (`lumina motion`). `defaults` replaces defaults of the component's Config, so that one class can be
    registered under several names: `defaults={"feature_extractor": {"type": "motion.joint_angles"}}`.
    """


@hookspec
def lumina_register_recipes(recipes: RecipeRegistrations) -> None:
    """Register recipes in the package: `recipes.add("motion.tiny", "lumina_motion:recipes/tiny.yaml", "...")`."""


@hookspec
def lumina_register_models(models: ModelRegistrations) -> None:
    """Register models in the package: `models.add("motion.walk", "lumina_motion:models/walk", "...", task=T)`."""


@hookspec
def lumina_register_commands(commands: CommandRegistrations) -> None:
    """Add a click command: `commands.add("retarget", "lumina_motion.retarget:command", "...")`."""
