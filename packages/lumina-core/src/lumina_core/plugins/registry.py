"""(kind, name) -> import string, resolved on first use; knows who brought what, and why something is not there."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lumina_core.errors import PluginError, near
from lumina_core.plugins.offers import KINDS, NOT_PARTS, Entry, command_word


@dataclass(frozen=True)
class Source:
    """A plugin and the distribution that it came with."""

    plugin: str
    distribution: str
    version: str


@dataclass(frozen=True)
class Failure:
    """A plugin that was left out, and why; `trace` is its traceback, for `lumina plugins NAME`.

    `installed` is False for one that was asked for by name and is not there at all.
    """

    source: Source
    reason: str
    trace: str = ""
    installed: bool = True


class Registry:
    """What all plugins together bring."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}
        self.failures: dict[str, Failure] = {}
        self.unchosen: dict[str, Source] = {}
        self._entries: dict[tuple[str, str], Entry] = {}
        self._found: dict[tuple[str, str], Any] = {}

    def join(self, source: Source, entries: list[Entry]) -> None:
        """Take in all that one plugin brings, or nothing.

        Raises:
            PluginError: one of its names is taken.
        """
        for entry in entries:
            taken = self._entries.get((entry.kind, entry.name))
            if taken is not None:
                raise PluginError(f"{entry.kind} '{entry.name}' is already brought by the plugin '{taken.plugin}'")
        self._check_commands(entries)
        self.sources[source.plugin] = source
        self._entries |= {(entry.kind, entry.name): entry for entry in entries}

    def _check_commands(self, entries: list[Entry]) -> None:
        words = {word: entry.plugin for word, entry in self.commands().items()}
        for entry in entries:
            word = command_word(entry)
            if word in words:
                raise PluginError(f"the command '{word}' is already brought by the plugin '{words[word]}'")
            if word:
                words[word] = entry.plugin

    def kinds(self) -> tuple[str, ...]:
        """Every kind of part, the known ones first."""
        return (*KINDS, *(name for kind, name in self._entries if kind == "kind"))

    def entries(self, kind: str) -> dict[str, Entry]:
        """What there is of a kind, by name. `recipe`, `model`, `command` and `kind` are kinds here too."""
        return {name: entry for (of, name), entry in self._entries.items() if of == kind}

    def recipes(self) -> dict[str, Entry]:
        """Installed recipes by name."""
        return self.entries("recipe")

    def models(self) -> dict[str, Entry]:
        """Installed models by name."""
        return self.entries("model")

    def commands(self) -> Mapping[str, Entry]:
        """Commands by name: those of plugins, and one for each task that has one."""
        every = [*self.entries("task").values(), *self.entries("command").values()]
        return {command_word(entry): entry for entry in every if command_word(entry)}

    def owner(self, kind: str, name: str) -> tuple[str, str]:
        """(distribution, version) that a part comes from."""
        source = self.sources[self._entry(kind, name).plugin]
        return source.distribution, source.version

    def absence(self, plugin: str) -> str:
        """Why an installed plugin of this name brings nothing, in words; empty where there is none, or it is well."""
        if plugin in self.failures and self.failures[plugin].installed:
            reason = self.failures[plugin].reason
            return f"the plugin '{plugin}' is installed but was left out: {reason}. See: lumina plugins {plugin}"
        if plugin in self.unchosen:
            return f"the plugin '{plugin}' is installed, but LUMINA_PLUGINS leaves it out"
        return ""

    def find(self, kind: str, name: str) -> Any:
        """The part itself, imported now if it was not before. `midpoint` finds `core.midpoint`.

        Raises:
            PluginError: nothing is called so (the nearest name is offered), several are and none of them is the
                core's, its plugin is not installed or was left out, or the part cannot be imported.
        """
        entry = self._entry(kind, name)
        key = (entry.kind, entry.name)
        if key not in self._found:
            self._found[key] = _imported(entry)
        return self._found[key]

    def _entry(self, kind: str, name: str) -> Entry:
        named = self.entries(kind)
        if name in named:
            return named[name]
        if "." not in name:
            ends = [n for n in named if n.rpartition(".")[2] == name]
            if f"core.{name}" in ends or len(ends) == 1:
                return named[f"core.{name}" if f"core.{name}" in ends else ends[0]]
            if ends:
                raise PluginError(f"several parts of the kind {kind} are called '{name}': say {' or '.join(ends)}")
        raise PluginError(self._why_not(kind, name, named))

    def _why_not(self, kind: str, name: str, named: Mapping[str, Entry]) -> str:
        if kind not in (*self.kinds(), *NOT_PARTS):
            return f"there is no kind of part called '{kind}'{near(kind, self.kinds())}"
        plugin, dot, _ = name.partition(".")
        others = [of for of, other in self._entries if other == name]
        if others:
            return f"'{name}' is of the kind {others[0]}, and this asks for the kind {kind}"
        if dot and self.absence(plugin):
            return self.absence(plugin)
        # nobody is sent to install a slip of the pen: one letter away from a plugin that is there is a misspelling
        slip = near(plugin, self.sources, cutoff=0.85)
        if dot and plugin not in self.sources and not slip:
            return (
                f"this uses {kind} '{name}', and no plugin called '{plugin}' is installed. "
                f"Install it with: pip install lumina-{plugin}"
            )
        short = {n.rpartition(".")[2] for n in named}
        hint = near(name, named) if dot else near(name, short)
        return f"no {kind} is called '{name}'{hint or '; known: ' + (', '.join(named) or 'none')}"


def _imported(entry: Entry) -> Any:
    module, _, attribute = entry.target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{entry.kind} '{entry.name}' of the plugin '{entry.plugin}' cannot be imported from {entry.target}: "
            f"{type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
