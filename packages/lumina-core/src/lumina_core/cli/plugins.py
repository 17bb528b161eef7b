"""lumina plugins: what is there, from which distribution and version, and why something was left out."""

from __future__ import annotations

import json
from typing import Any

import click

from lumina_core.errors import PluginError, suggest
from lumina_core.plugins.loader import load_plugins
from lumina_core.plugins.registry import NON_COMPONENT_TYPES, Registration, Registry


@click.command(epilog="Example:  lumina plugins image")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plugins(name: str | None, as_json: bool) -> None:
    """List plugins and what they bring; with NAME, one plugin and, where it failed, its traceback."""
    registry = load_plugins()
    names = [*registry.sources, *registry.failures]
    if name is not None and name not in names:
        if registry.missing_reason(name):
            raise PluginError(registry.missing_reason(name))
        raise PluginError(f"no plugin is called '{name}'{suggest(name, names) or '.'} Installed: {', '.join(names)}")
    if as_json:
        click.echo(json.dumps(_as_json(registry, name), ensure_ascii=False))
        return
    for plugin, source in registry.sources.items():
        if name in (None, plugin):
            click.echo(f"{plugin}  ({source.distribution} {source.version})")
            for entry in _plugin_components(registry, plugin):
                click.echo(f"  {entry.component_type:12} {entry.name:24} {entry.summary}")
    for plugin, failure in registry.failures.items():
        if name in (None, plugin):
            click.echo(
                f"{plugin}  ({failure.source.distribution} {failure.source.version})  LEFT OUT: {failure.reason}"
            )
            if name is not None:
                click.echo(failure.traceback)


def _plugin_components(registry: Registry, plugin: str) -> list[Registration]:
    component_types = dict.fromkeys((*registry.component_types(), *NON_COMPONENT_TYPES))
    return [
        entry
        for component_type in component_types
        for entry in registry.registrations(component_type).values()
        if entry.plugin == plugin
    ]


def _as_json(registry: Registry, name: str | None) -> dict[str, Any]:
    installed = {
        plugin: {
            "distribution": source.distribution,
            "version": source.version,
            "components": [
                {"type": e.component_type, "name": e.name, "summary": e.summary}
                for e in _plugin_components(registry, plugin)
            ],
        }
        for plugin, source in registry.sources.items()
        if name in (None, plugin)
    }
    left_out = {
        plugin: {
            "distribution": failure.source.distribution,
            "version": failure.source.version,
            "reason": failure.reason,
        }
        for plugin, failure in registry.failures.items()
        if name in (None, plugin)
    }
    return {"plugins": installed, "left_out": left_out}
