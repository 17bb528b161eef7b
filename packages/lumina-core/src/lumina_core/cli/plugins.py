"""lumina plugins: what is there, from which distribution and version, and why something was left out."""

from __future__ import annotations

import json
from typing import Any

import click

from lumina_core.errors import PluginError, near
from lumina_core.plugins.loader import load
from lumina_core.plugins.offers import NOT_PARTS, Entry
from lumina_core.plugins.registry import Registry


@click.command(epilog="Example:  lumina plugins image")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plugins(name: str | None, as_json: bool) -> None:
    """List plugins and what they bring; with NAME, one plugin and, where it failed, its traceback."""
    registry = load()
    known = [*registry.sources, *registry.failures]
    if name is not None and name not in known:
        if registry.absence(name):
            raise PluginError(registry.absence(name))
        raise PluginError(f"no plugin is called '{name}'{near(name, known) or '.'} Installed: {', '.join(known)}")
    if as_json:
        click.echo(json.dumps(_as_data(registry, name), ensure_ascii=False))
        return
    for plugin, source in registry.sources.items():
        if name in (None, plugin):
            click.echo(f"{plugin}  ({source.distribution} {source.version})")
            for entry in _brought(registry, plugin):
                click.echo(f"  {entry.kind:12} {entry.name:24} {entry.summary}")
    for plugin, failure in registry.failures.items():
        if name in (None, plugin):
            click.echo(
                f"{plugin}  ({failure.source.distribution} {failure.source.version})  LEFT OUT: {failure.reason}"
            )
            if name is not None:
                click.echo(failure.trace)


def _brought(registry: Registry, plugin: str) -> list[Entry]:
    kinds = dict.fromkeys((*registry.kinds(), *NOT_PARTS))
    return [entry for kind in kinds for entry in registry.entries(kind).values() if entry.plugin == plugin]


def _as_data(registry: Registry, name: str | None) -> dict[str, Any]:
    there = {
        plugin: {
            "distribution": source.distribution,
            "version": source.version,
            "brings": [{"kind": e.kind, "name": e.name, "summary": e.summary} for e in _brought(registry, plugin)],
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
    return {"plugins": there, "left_out": left_out}
