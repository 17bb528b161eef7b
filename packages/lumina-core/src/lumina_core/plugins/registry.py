"""(kind, name) -> import string, resolved on first use; knows who brought what, and why something is not there."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lumina_core.errors import PluginError, suggest

COMPONENT_TYPES = (
    "backbone", "tokenizer", "autoencoder", "conditioner", "head", "objective", "path", "coupling", "time_sampler", "schedule", "solver", "guidance",
    "task", "dataset", "metric", "position_encoding", "rope_scaling", "context_drop", "block_cache", "feature_extractor", "checkpoint_format",
)  # fmt: skip
"""The kinds of part that are known without any plugin."""

NON_COMPONENT_TYPES = ("component_type", "recipe", "model", "command")
"""What plugins bring besides parts; listed like kinds, but found by other roads."""

_TARGET_PATTERN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_RESOURCE_PATTERN = re.compile(r"[A-Za-z_][\w.]*:[\w./-]+")
_NAME_PATTERN = re.compile(r"[a-z][a-z0-9_]*")
_COMPONENT_NAME_PATTERN = re.compile(r"[A-Za-z_]\w*\.\w[\w-]*")


@dataclass(frozen=True)
class Registration:
    """One thing that a plugin brings: its name, where it is, what it is in a few words, and whose it is."""

    component_type: str
    name: str
    target: str
    summary: str
    plugin: str
    extra: dict[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)


def command_name(registration: Registration) -> str:
    """The word of the command line that an entry brings, or nothing."""
    return registration.name if registration.component_type == "command" else registration.extra.get("command", "")


class Registrations:
    """Collects the entries of one plugin; nothing is shared until the plugin's hooks have all gone well."""

    def __init__(self, plugin: str) -> None:
        self.plugin = plugin
        self.entries: list[Registration] = []

    def register(self, registration: Registration, pattern: re.Pattern[str] = _TARGET_PATTERN) -> None:
        """Keep an entry once its strings have the right form and its name is new.

        Raises:
            PluginError: they have not, or it is not.
        """
        if not all(isinstance(text, str) for text in (registration.name, registration.target, registration.summary)):
            raise PluginError(
                f"{registration.component_type} {registration.name!r}: name, target and summary must be strings"
            )
        if not pattern.fullmatch(registration.target):
            raise PluginError(
                f"{registration.component_type} '{registration.name}': '{registration.target}' is not of the form module:name"
            )
        if any((e.component_type, e.name) == (registration.component_type, registration.name) for e in self.entries):
            raise PluginError(
                f"{registration.component_type} '{registration.name}' is registered twice by the plugin '{self.plugin}'"
            )
        self.entries.append(registration)

    def check_prefix(self, component_type: str, name: str) -> None:
        """Raise PluginError unless the name begins with this plugin's."""
        if not isinstance(name, str) or not re.fullmatch(re.escape(self.plugin) + r"\.\w[\w-]*", name):
            raise PluginError(
                f"{component_type} {name!r} must be called '{self.plugin}.<name>', after the plugin that brings it"
            )


class ComponentTypeRegistrations(Registrations):
    """Kinds of part that a plugin brings."""

    def add(self, name: str, contract: str, check: str, summary: str) -> None:
        """A kind called `name` (a plain word), its protocol and the check of its parts by import strings."""
        if not isinstance(name, str) or not _NAME_PATTERN.fullmatch(name):
            raise PluginError(f"a kind is a plain lower-case word, got {name!r}")
        if name in COMPONENT_TYPES or name in NON_COMPONENT_TYPES:
            raise PluginError(f"there is a kind called '{name}' already")
        if not _TARGET_PATTERN.fullmatch(check):
            raise PluginError(f"kind '{name}': check '{check}' is not of the form module:name")
        self.register(Registration("component_type", name, contract, summary, self.plugin, {"check": check}))


class ComponentRegistrations(Registrations):
    """Parts that a plugin brings: one method a kind."""

    def __init__(self, plugin: str, component_types: Iterable[str]) -> None:
        super().__init__(plugin)
        self._component_types = tuple(component_types)

    def __getattr__(self, component_type: str) -> Callable[..., None]:
        if component_type.startswith("_") or component_type not in self._component_types:
            raise PluginError(
                f"there is no kind of part called '{component_type}'{suggest(component_type, self._component_types)}"
            )

        def add(
            name: str,
            target: str,
            summary: str,
            *,
            command: str | None = None,
            defaults: Mapping[str, Any] | None = None,
        ) -> None:
            self.check_prefix(component_type, name)
            if command is not None and (component_type != "task" or not _NAME_PATTERN.fullmatch(command)):
                raise PluginError(
                    f"{component_type} '{name}': only a task has a command, and it is a plain lower-case word"
                )
            self.register(
                Registration(
                    component_type,
                    name,
                    target,
                    summary,
                    self.plugin,
                    {"command": command} if command else {},
                    defaults or {},
                )
            )

        add.__qualname__ = f"components.{component_type}"  # what Python calls it where an argument is missing
        return add


class RecipeRegistrations(Registrations):
    """Recipes shipped in a plugin's package."""

    def add(self, name: str, resource: str, summary: str) -> None:
        """A recipe by its resource, `package:path/in/it.yaml`."""
        self.check_prefix("recipe", name)
        self.register(Registration("recipe", name, resource, summary, self.plugin), _RESOURCE_PATTERN)


class ModelRegistrations(Registrations):
    """Trained models shipped in a plugin's package."""

    def add(self, name: str, resource: str, summary: str, *, task: str, default: bool = False) -> None:
        """A model folder by its resource, `package:path/to/folder`, and the task it is for.

        Args:
            usual: it is the one that opens where nobody says which, nor for which task.
        """
        self.check_prefix("model", name)
        extra = {"task": task, **({"default": "yes"} if default else {})}
        self.register(Registration("model", name, resource, summary, self.plugin, extra), _RESOURCE_PATTERN)


class CommandRegistrations(Registrations):
    """Commands that a plugin adds to `lumina`."""

    def add(self, name: str, target: str, summary: str) -> None:
        """A click command by its import string."""
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            raise PluginError(f"a command is a plain lower-case word, got {name!r}")
        self.register(Registration("command", name, target, summary, self.plugin))


@dataclass(frozen=True)
class PluginSource:
    """A plugin and the distribution that it came with."""

    plugin: str
    distribution: str
    version: str


@dataclass(frozen=True)
class PluginFailure:
    """A plugin that was left out, and why; `trace` is its traceback, for `lumina plugins NAME`.

    `installed` is False for one that was asked for by name and is not there at all.
    """

    source: PluginSource
    reason: str
    traceback: str = ""
    installed: bool = True


class Registry:
    """What all plugins together bring."""

    def __init__(self) -> None:
        self.sources: dict[str, PluginSource] = {}
        self.failures: dict[str, PluginFailure] = {}
        self.disabled: dict[str, PluginSource] = {}
        self._registrations: dict[tuple[str, str], Registration] = {}
        self._imported: dict[tuple[str, str], Any] = {}

    def add_component(self, component_type: str, name: str, component: Any, summary: str = "") -> None:
        """Add one component of the running process. The same class or function may be registered again.

        Args:
            name: `plugin.component`, as in recipes; the plugin need not be installed.

        Raises:
            PluginError: the type is unknown, the name has another form, or another component has this name.
        """
        if component_type not in self.component_types():
            raise PluginError(
                f"component type: got '{component_type}', expected one of {', '.join(self.component_types())}"
                f"{suggest(component_type, self.component_types())}"
            )
        if not _COMPONENT_NAME_PATTERN.fullmatch(name):
            raise PluginError(
                f"{component_type} name: got {name!r}, expected two words and a dot, such as 'mine.{component_type}'"
            )
        target = f"{component.__module__}:{component.__qualname__}"
        existing = self._registrations.get((component_type, name))
        if existing is not None and (existing.plugin, existing.target) != ("", target):
            raise PluginError(
                f"{component_type} name: got '{name}', which is the name of {existing.target}. Choose another name"
            )
        self._registrations[component_type, name] = Registration(component_type, name, target, summary, "")
        self._imported[component_type, name] = component

    def add(self, source: PluginSource, registrations: list[Registration]) -> None:
        """Take in all that one plugin brings, or nothing.

        Raises:
            PluginError: one of its names is taken.
        """
        for registration in registrations:
            existing = self._registrations.get((registration.component_type, registration.name))
            if existing is not None:
                raise PluginError(
                    f"{registration.component_type} '{registration.name}' is already brought by the plugin '{existing.plugin}'"
                )
        self._check_commands(registrations)
        self.sources[source.plugin] = source
        self._registrations |= {
            (registration.component_type, registration.name): registration for registration in registrations
        }

    def _check_commands(self, registrations: list[Registration]) -> None:
        owners = {command: registration.plugin for command, registration in self.commands().items()}
        for registration in registrations:
            command = command_name(registration)
            if command in owners:
                raise PluginError(f"the command '{command}' is already brought by the plugin '{owners[command]}'")
            if command:
                owners[command] = registration.plugin

    def component_types(self) -> tuple[str, ...]:
        """Every kind of part, the known ones first."""
        return (
            *COMPONENT_TYPES,
            *(name for component_type, name in self._registrations if component_type == "component_type"),
        )

    def registrations(self, component_type: str) -> dict[str, Registration]:
        """What there is of a kind, by name. `recipe`, `model`, `command` and `kind` are kinds here too."""
        return {
            name: registration
            for (registered_type, name), registration in self._registrations.items()
            if registered_type == component_type
        }

    def recipes(self) -> dict[str, Registration]:
        """Installed recipes by name."""
        return self.registrations("recipe")

    def models(self) -> dict[str, Registration]:
        """Installed models by name."""
        return self.registrations("model")

    def commands(self) -> Mapping[str, Registration]:
        """Commands by name: those of plugins, and one for each task that has one."""
        registrations = [*self.registrations("task").values(), *self.registrations("command").values()]
        return {
            command_name(registration): registration for registration in registrations if command_name(registration)
        }

    def provider(self, component_type: str, name: str) -> tuple[str, str] | None:
        """Return (distribution, version) of a component; None if it was registered in this process."""
        source = self.sources.get(self._resolve(component_type, name).plugin)
        return None if source is None else (source.distribution, source.version)

    def missing_reason(self, plugin: str) -> str:
        """Why an installed plugin of this name brings nothing, in words; empty where there is none, or it is well."""
        if plugin in self.failures and self.failures[plugin].installed:
            reason = self.failures[plugin].reason
            return f"the plugin '{plugin}' is installed but was left out: {reason}. See: lumina plugins {plugin}"
        if plugin in self.disabled:
            return f"the plugin '{plugin}' is installed, but LUMINA_PLUGINS leaves it out"
        return ""

    def find(self, component_type: str, name: str) -> Any:
        """The part itself, imported now if it was not before. `midpoint` finds `core.midpoint`.

        Raises:
            PluginError: nothing is called so (the nearest name is offered), several are and none of them is the
                core's, its plugin is not installed or was left out, or the part cannot be imported.
        """
        registration = self._resolve(component_type, name)
        key = (registration.component_type, registration.name)
        if key not in self._imported:
            self._imported[key] = _import_target(registration)
        return self._imported[key]

    def _resolve(self, component_type: str, name: str) -> Registration:
        candidates = self.registrations(component_type)
        if name in candidates:
            return candidates[name]
        if "." not in name:
            matches = [n for n in candidates if n.rpartition(".")[2] == name]
            if f"core.{name}" in matches or len(matches) == 1:
                return candidates[f"core.{name}" if f"core.{name}" in matches else matches[0]]
            if matches:
                raise PluginError(
                    f"several parts of the kind {component_type} are called '{name}': say {' or '.join(matches)}"
                )
        raise PluginError(self._not_found_message(component_type, name, candidates))

    def _not_found_message(self, component_type: str, name: str, candidates: Mapping[str, Registration]) -> str:
        if component_type not in (*self.component_types(), *NON_COMPONENT_TYPES):
            return (
                f"there is no kind of part called '{component_type}'{suggest(component_type, self.component_types())}"
            )
        plugin, dot, _ = name.partition(".")
        other_types = [other_type for other_type, other in self._registrations if other == name]
        if other_types:
            return f"'{name}' is of the kind {other_types[0]}, and this asks for the kind {component_type}"
        if dot and self.missing_reason(plugin):
            return self.missing_reason(plugin)
        # nobody is sent to install a slip of the pen: one letter away from a plugin that is there is a misspelling
        suggestion = suggest(plugin, self.sources, cutoff=0.85)
        if dot and plugin not in self.sources and not suggestion:
            return (
                f"this uses {component_type} '{name}', and no plugin called '{plugin}' is installed. "
                f"Install it with: pip install lumina-{plugin}, or register it with lumina_core.register"
            )
        short_names = {n.rpartition(".")[2] for n in candidates}
        hint = suggest(name, candidates) if dot else suggest(name, short_names)
        return f"no {component_type} is called '{name}'{hint or '; known: ' + (', '.join(candidates) or 'none')}"


def _import_target(registration: Registration) -> Any:
    module, _, attribute = registration.target.partition(":")
    try:
        component = getattr(importlib.import_module(module), attribute)
        if registration.defaults:
            # imported here, since listing components must not import pydantic
            component = importlib.import_module("lumina_core.config").with_defaults(component, registration.defaults)
        return component
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{registration.component_type} '{registration.name}' of the plugin '{registration.plugin}' cannot be imported from {registration.target}: "
            f"{type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
