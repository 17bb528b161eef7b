"""`lumina plugins`: plugins, their components, and the errors of plugins that could not be loaded."""

from __future__ import annotations

from typing import Any

import click

from lumina_core.cli.console import echo_json
from lumina_core.errors import PluginError, printable, suggest
from lumina_core.plugins.loader import load_plugins
from lumina_core.plugins.registry import NON_COMPONENT_TYPES, Registration, Registry


@click.command(epilog="Example:  lumina plugins image")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plugins(name: str | None, as_json: bool) -> None:
    """List plugins and their components; with NAME, one plugin, with its traceback if it is broken.

    A name that two plugins register belongs to the first one: those of this project, then by name.
    """
    registry = load_plugins()
    names = [*registry.sources, *registry.failures]
    if name is not None and name not in names:
        if registry.missing_reason(name):
            raise PluginError(registry.missing_reason(name))
        raise PluginError(
            f"plugin: got '{name}', expected an installed plugin{suggest(name, names) or '.'} "
            f"Installed: {', '.join(names)}"
        )
    selected = names if name is None else [name]
    if as_json:
        echo_json(_to_json(registry, selected))
        return
    for plugin in selected:
        if plugin in registry.sources:
            source = registry.sources[plugin]
            click.echo(printable(f"{plugin}  ({source.distribution} {source.version})"))
            for conflict in registry.conflicts.get(plugin, ()):
                click.echo(printable(f"  NOT REGISTERED: {conflict}"))
            for entry in _registrations_of(registry, plugin):
                click.echo(printable(f"  {entry.component_type:12} {entry.name:24} {one_line(entry.summary)}"))
        else:
            failure = registry.failures[plugin]
            source = failure.source
            header = f"{plugin}  ({source.distribution} {source.version})  NOT LOADED: {one_line(failure.reason)}"
            click.echo(printable(header))
            if name is not None:
                click.echo("\n".join(map(printable, failure.traceback.splitlines())))


def one_line(text: str) -> str:
    """Return text without line ends."""
    return " ".join(text.split())


def _registrations_of(registry: Registry, plugin: str) -> list[Registration]:
    types = dict.fromkeys((*registry.component_types(), *NON_COMPONENT_TYPES))
    return [entry for t in types for entry in registry.registrations(t).values() if entry.plugin == plugin]


def _to_json(registry: Registry, selected: list[str]) -> dict[str, Any]:
    installed = {
        plugin: {
            "distribution": source.distribution,
            "version": source.version,
            "not_registered": registry.conflicts.get(plugin, []),
            "components": [
                {"type": entry.component_type, "name": entry.name, "summary": entry.summary}
                for entry in _registrations_of(registry, plugin)
            ],
        }
        for plugin, source in registry.sources.items()
        if plugin in selected
    }
    left_out = {
        plugin: {
            "distribution": failure.source.distribution,
            "version": failure.source.version,
            "reason": failure.reason,
        }
        for plugin, failure in registry.failures.items()
        if plugin in selected
    }
    return {"plugins": installed, "left_out": left_out}
