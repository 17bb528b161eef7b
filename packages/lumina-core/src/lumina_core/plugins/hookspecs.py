"""Every hook that a plugin can answer. This is the page that a plugin author reads.

A plugin is a module named by an entry point of the group `lumina`. It marks functions of these names with
`lumina_core.hookimpl`, and in them names what it brings by import strings, so that nothing heavy is imported at start.
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
    """Bring a kind of part of your own: `component_types.add(name, contract, check, summary)`.

    `contract` is the import string of its protocol, `check` that of the function of your test kit that tries a part.
    """


@hookspec
def lumina_register_components(components: ComponentRegistrations) -> None:
    """Name parts: `components.tokenizer("motion.joints", "lumina_motion.joints:Joints", "joints over time")`.

    There is one method a kind (`parts.solver`, `parts.head` ...), also for kinds that plugins bring. A name begins with
    the name of your entry point and a dot. `parts.task` also takes `command`, the word of its command line (`lumina
    motion`).
    """


@hookspec
def lumina_register_recipes(recipes: RecipeRegistrations) -> None:
    """Name recipes shipped in your package: `recipes.add("motion.tiny", "lumina_motion:recipes/tiny.yaml", "...")`."""


@hookspec
def lumina_register_models(models: ModelRegistrations) -> None:
    """Name trained models: `models.add("motion.walk", "lumina_motion:models/walk", "...", task=...)`."""


@hookspec
def lumina_register_commands(commands: CommandRegistrations) -> None:
    """Add a click command: `commands.add("retarget", "lumina_motion.retarget:command", "...")`."""
