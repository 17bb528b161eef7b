"""Registry of components: (type, name) -> import string, imported on first use."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from lumina_core.errors import PluginError, suggest
from lumina_core.plugins.guard import COMPONENT_NOTE_SECONDS, error_text, is_user_interrupt, plugin_code

COMPONENT_TYPES = (
    "backbone",
    "tokenizer",
    "autoencoder",
    "conditioner",
    "head",
    "objective",
    "path",
    "coupling",
    "time_sampler",
    "schedule",
    "solver",
    "guidance",
    "task",
    "dataset",
    "metric",
    "position_encoding",
    "rope_scaling",
    "context_drop",
    "block_cache",
    "feature_extractor",
    "checkpoint_format",
)
"""Component types of the core."""

NON_COMPONENT_TYPES = ("component_type", "recipe", "model", "command")
"""What plugins register besides components; registered under these types, but found by methods of their own."""

_TARGET_PATTERN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_RESOURCE_PATTERN = re.compile(r"[A-Za-z_][\w.]*:[\w./-]+")
_WORD_PATTERN = re.compile(r"[a-z][a-z0-9_]*")
_COMMAND_PATTERN = re.compile(r"[a-z][a-z0-9-]*")
_COMPONENT_NAME_PATTERN = re.compile(r"[A-Za-z_]\w*\.\w[\w-]*")


@dataclass(frozen=True)
class Registration:
    """One registered object: its type and name, its import string, a summary, its plugin ("" for this process).

    `defaults` are options with other defaults than in the component's Config.
    """

    component_type: str
    name: str
    target: str
    summary: str
    plugin: str
    extra: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """Command of the command line that it adds; empty if none."""
        return self.name if self.component_type == "command" else self.extra.get("command", "")


class Registrations:
    """Base class of the arguments of hooks: collects what one plugin registers."""

    def __init__(self, plugin: str) -> None:
        self.plugin = plugin
        self.entries: list[Registration] = []

    def _register(
        self,
        component_type: str,
        name: str,
        target: str,
        summary: str,
        extra: Mapping[str, str] | None = None,
        defaults: Mapping[str, Any] | None = None,
        pattern: re.Pattern[str] = _TARGET_PATTERN,
        check_prefix: bool = True,
    ) -> None:
        if not all(isinstance(text, str) for text in (name, target, summary)):
            raise PluginError(f"{component_type} {name!r}: name, target and summary must be strings")
        if check_prefix and not re.fullmatch(re.escape(self.plugin) + r"\.\w[\w-]*", name):
            raise PluginError(f"{component_type}: got the name '{name}', expected '{self.plugin}.<name>'")
        if not pattern.fullmatch(target) or ".." in target or ":/" in target:
            raise PluginError(f"{component_type} '{name}': '{target}' is not of the form module:name")
        if defaults is not None and not isinstance(defaults, Mapping):
            raise PluginError(f"{component_type} '{name}': got defaults {defaults!r}, expected a mapping")
        if any((entry.component_type, entry.name) == (component_type, name) for entry in self.entries):
            raise PluginError(f"{component_type} '{name}' is registered twice by the plugin '{self.plugin}'")
        self.entries.append(
            Registration(component_type, name, target, summary, self.plugin, extra or {}, defaults or {})
        )


class ComponentTypeRegistrations(Registrations):
    """Component types of a plugin."""

    def add(self, name: str, contract: str, check: str, summary: str) -> None:
        """Register a component type, a lower-case word.

        Args:
            contract: import string of the base class or protocol of its components.
            check: import string of the function that checks a component in tests.
        """
        if not isinstance(name, str) or not _WORD_PATTERN.fullmatch(name):
            raise PluginError(f"component type: got {name!r}, expected a lower-case word")
        if name in COMPONENT_TYPES or name in NON_COMPONENT_TYPES:
            raise PluginError(f"component type: got '{name}', which exists already")
        if not _TARGET_PATTERN.fullmatch(check):
            raise PluginError(f"component type '{name}': check '{check}' is not of the form module:name")
        self._register("component_type", name, contract, summary, {"check": check}, check_prefix=False)


class ComponentRegistrations(Registrations):
    """Components of a plugin: one method per component type."""

    def __init__(self, plugin: str, component_types: Iterable[str]) -> None:
        super().__init__(plugin)
        self._component_types = tuple(component_types)

    def __getattr__(self, component_type: str) -> Callable[..., None]:
        if component_type.startswith("_") or component_type not in self._component_types:
            raise PluginError(_unknown_type(component_type, self._component_types))

        def add(
            name: str,
            target: str,
            summary: str,
            *,
            command: str | None = None,
            defaults: Mapping[str, Any] | None = None,
        ) -> None:
            if command is not None and (component_type != "task" or not _WORD_PATTERN.fullmatch(command)):
                raise PluginError(f"{component_type} '{name}': only a task has a command, which is a lower-case word")
            extra = {"command": command} if command else {}
            self._register(component_type, name, target, summary, extra, defaults)

        add.__qualname__ = f"components.{component_type}"  # Python's name of it if an argument is missing
        return add


class RecipeRegistrations(Registrations):
    """Recipes in a plugin's package."""

    def add(self, name: str, resource: str, summary: str) -> None:
        """Register a recipe by its resource, `package:path/in/it.yaml`."""
        self._register("recipe", name, resource, summary, pattern=_RESOURCE_PATTERN)


class ModelRegistrations(Registrations):
    """Trained models in a plugin's package."""

    def add(self, name: str, resource: str, summary: str, *, task: str, default: bool = False) -> None:
        """Register a model folder by its resource, `package:path/to/folder`, and the task that it is for.

        Args:
            default: whether it is the model that is loaded without a name or a task.
        """
        extra = {"task": task, **({"default": "yes"} if default else {})}
        self._register("model", name, resource, summary, extra, pattern=_RESOURCE_PATTERN)


class CommandRegistrations(Registrations):
    """Commands that a plugin adds to `lumina`."""

    def add(self, name: str, target: str, summary: str) -> None:
        """Register a click command by its import string."""
        if not _COMMAND_PATTERN.fullmatch(name):
            raise PluginError(f"command: got {name!r}, expected a lower-case word")
        self._register("command", name, target, summary, check_prefix=False)


@dataclass(frozen=True)
class PluginSource:
    """A plugin and its distribution; `is_ours`: it belongs to this project."""

    plugin: str
    distribution: str
    version: str
    is_ours: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class PluginFailure:
    """A plugin without effect, with the reason and the traceback of its error.

    `installed` is False for a plugin that the environment names and that is not installed.
    """

    source: PluginSource
    reason: str
    traceback: str = ""
    installed: bool = True


class Registry:
    """All components, recipes, models and commands of a set of plugins.

    Args:
        load: loads the plugin of a name, or all for None, into this registry, unless that is done. It is called before
            each answer that the plugin could change. None: plugins are added by `add` alone.
    """

    def __init__(self, load: Callable[[str | None], None] | None = None) -> None:
        self._load = load or (lambda plugin: None)
        self.disabled: dict[str, PluginSource] = {}
        self._imported: dict[tuple[str, str], Any] = {}
        self._registrations: dict[tuple[str, str], Registration] = {}
        self.clear()

    def clear(self) -> None:
        """Remove all plugins; components of the running process stay."""
        self._registrations = {key: one for key, one in self._registrations.items() if not one.plugin}
        self._sources: dict[str, PluginSource] = {}
        self._failures: dict[str, PluginFailure] = {}
        self._conflicts: dict[str, list[str]] = {}

    @property
    def sources(self) -> dict[str, PluginSource]:
        """The plugins with an effect, by name."""
        self._load(None)
        return self._sources

    @property
    def failures(self) -> dict[str, PluginFailure]:
        """The plugins without an effect, by name."""
        self._load(None)
        return self._failures

    @property
    def conflicts(self) -> dict[str, list[str]]:
        """By plugin: names that it registered and does not have, because an earlier plugin has them."""
        self._load(None)
        return self._conflicts

    def add(self, source: PluginSource, registrations: list[Registration]) -> None:
        """Add the registrations of one plugin. A name that an earlier plugin has stays with it, see `conflicts`."""
        commands = {one.command: one.plugin for one in self._registrations.values() if one.command}
        accepted: list[Registration] = []
        conflicts: list[str] = []
        for new in registrations:
            existing = self._registrations.get((new.component_type, new.name))
            if existing is not None:
                kind = "the command" if new.component_type == "command" else new.component_type
                conflicts.append(f"{kind} '{new.name}' belongs to the plugin '{existing.plugin}'")
                continue
            if new.command in commands:
                conflicts.append(f"the command '{new.command}' belongs to the plugin '{commands[new.command]}'")
                if new.component_type == "command":
                    continue
                new = replace(new, extra={key: value for key, value in new.extra.items() if key != "command"})
            if new.command:
                commands[new.command] = new.plugin
            accepted.append(new)
        self._sources[source.plugin] = source
        if conflicts:
            self._conflicts[source.plugin] = conflicts
        self._registrations |= {(new.component_type, new.name): new for new in accepted}

    def add_component(self, component_type: str, name: str, component: Any, summary: str = "") -> None:
        """Add one component of the running process. The same class or function may be registered again.

        Args:
            name: `plugin.component`, as in recipes; the plugin need not be installed.

        Raises:
            PluginError: the type is unknown, the name has another form, or another component has this name.
        """
        if component_type not in COMPONENT_TYPES and component_type not in self.component_types():
            raise PluginError(_unknown_type(component_type, self.component_types()))
        if not _COMPONENT_NAME_PATTERN.fullmatch(name):
            raise PluginError(f"{component_type}: got the name {name!r}, expected two words and a dot: 'mine.{name}'")
        target = f"{component.__module__}:{component.__qualname__}"
        existing = self.entry(component_type, name)
        if existing is not None and (existing.plugin, existing.target) != ("", target):
            raise PluginError(f"{component_type}: got '{name}', the name of {existing.target}, expected a new name")
        self._registrations[component_type, name] = Registration(component_type, name, target, summary, "")
        self._imported[component_type, name] = component

    def component_types(self) -> tuple[str, ...]:
        """Return all component types, those of the core first."""
        return (*COMPONENT_TYPES, *self.registrations("component_type"))

    def entry(self, component_type: str, name: str) -> Registration | None:
        """Return what a plugin registered under a whole name such as `core.midpoint`; loads this plugin alone."""
        self._load(name.partition(".")[0])
        return self._registrations.get((component_type, name))

    def registrations(self, component_type: str) -> dict[str, Registration]:
        """Return the registrations of a type by name; `NON_COMPONENT_TYPES` are types here too."""
        self._load(None)
        return {n: registration for (t, n), registration in self._registrations.items() if t == component_type}

    def recipes(self) -> dict[str, Registration]:
        """Return the installed recipes by name."""
        return self.registrations("recipe")

    def models(self) -> dict[str, Registration]:
        """Return the installed models by name."""
        return self.registrations("model")

    def commands(self) -> Mapping[str, Registration]:
        """Return tasks with a command and commands of plugins, by command."""
        registrations = [*self.registrations("task").values(), *self.registrations("command").values()]
        return {registration.command: registration for registration in registrations if registration.command}

    def command(self, name: str) -> Registration | None:
        """Return the task or command of a command of the command line; None if there is none."""
        self._load(name)  # the command of a plugin's name belongs to this plugin
        own = [one for one in self._registrations.values() if (one.command, one.plugin) == (name, name)]
        return own[0] if own else self.commands().get(name)

    def provider(self, component_type: str, name: str) -> tuple[str, str] | None:
        """Return (distribution, version) of a component; None if it was registered in this process."""
        source = self._sources.get(self._resolve(component_type, name).plugin)
        return None if source is None else (source.distribution, source.version)

    def missing_reason(self, plugin: str) -> str:
        """Return why an installed plugin has no effect; empty if it is loaded or not installed."""
        self._load(plugin)
        if plugin in self._failures and self._failures[plugin].installed:
            reason = self._failures[plugin].reason
            return f"the plugin '{plugin}' is installed but could not be loaded: {reason}. See: lumina plugins {plugin}"
        if plugin in self.disabled:
            return f"the plugin '{plugin}' is installed, but LUMINA_PLUGINS does not list it"
        return ""

    def find(self, component_type: str, name: str) -> Any:
        """Return a component, imported on first use; `midpoint` finds `core.midpoint`.

        Raises:
            PluginError: the name is unknown (the nearest is offered) or ambiguous, its plugin is not installed or could
                not be loaded, or the component cannot be imported.
        """
        registration = self._resolve(component_type, name)
        key = (registration.component_type, registration.name)
        if key not in self._imported:
            module, _, attribute = registration.target.partition(":")
            try:
                with self.guarded(registration.plugin):
                    component = getattr(importlib.import_module(module), attribute)
                if registration.defaults:
                    # imported here, since listing components must not import pydantic
                    config = importlib.import_module("lumina_core.config")
                    component = config.with_defaults(component, registration.defaults)
            except BaseException as error:
                if is_user_interrupt(error):
                    raise
                raise PluginError(
                    f"{component_type} '{registration.name}' of the plugin '{registration.plugin}' cannot be imported "
                    f"from {registration.target}: {type(error).__name__}: {error_text(error)}"
                ) from error
            if not callable(component):
                raise PluginError(
                    f"{component_type} '{registration.name}' of the plugin '{registration.plugin}': got "
                    f"{type(component).__name__} {registration.target}, expected a class or a function"
                )
            self._imported[key] = component
        return self._imported[key]

    def guarded(self, plugin: str, is_import: bool = True) -> AbstractContextManager[None]:
        """Return a context for code of a plugin, see `guard.plugin_code`."""
        source = self._sources.get(plugin)
        if source is None or source.is_ours or plugin == "core":
            return nullcontext()
        owner = f"{source.distribution} {source.version}"
        return plugin_code(plugin, owner, False, self._sources, is_import, COMPONENT_NOTE_SECONDS)

    def guarded_component(self, component_type: str, name: str) -> AbstractContextManager[None]:
        """Return a context in which a component is built, see `guard.plugin_code`."""
        return self.guarded(self._resolve(component_type, name).plugin, is_import=False)

    def plugin_of(self, error: BaseException) -> str | None:
        """Return the plugin of another project in whose code an error was raised; None if it was none."""
        packages = {
            entry.target.partition(":")[0].partition(".")[0]: entry.plugin
            for entry in self._registrations.values()
            if entry.plugin in self._sources and not self._sources[entry.plugin].is_ours and entry.plugin != "core"
        }
        packages.pop(__name__.partition(".")[0], None)  # a plugin may register classes of the core
        found = None
        trace = error.__traceback__
        while trace is not None:
            package = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
            found = packages.get(package, found)
            trace = trace.tb_next
        return found

    def default_model(self, task: str | None = None) -> str | None:
        """Return the name of the model that is loaded without a name; None if there is none.

        Args:
            task: component type of the task; the model of the task's own plugin comes first. None: any task.
        """
        if task is not None:
            owner = task.partition(".")[0]
            self._load(owner)
            entries = [one for (kind, _), one in self._registrations.items() if (kind, one.plugin) == ("model", owner)]
            if own := [one for one in entries if one.extra["task"] == task]:
                return min(own, key=lambda one: "default" not in one.extra).name
        models = [one for one in self.models().values() if task is None or one.extra["task"] == task]
        return min(models, key=lambda one: "default" not in one.extra).name if models else None

    def _resolve(self, component_type: str, name: str) -> Registration:
        # the name of a command has no plugin before a dot; a short name is that of the core if the core has it
        full_names = (name,) if "." in name else (f"core.{name}", name)
        found = next((one for full_name in full_names if (one := self.entry(component_type, full_name))), None)
        if found is not None:
            return found
        candidates = self.registrations(component_type)
        if name in candidates:
            return candidates[name]
        if "." not in name:
            matches = [full_name for full_name in candidates if full_name.rpartition(".")[2] == name]
            if len(matches) == 1:
                return candidates[matches[0]]
            if matches:
                raise PluginError(f"{component_type}: got '{name}', expected one of {' or '.join(matches)}")
        raise PluginError(self._not_found(component_type, name, candidates))

    def _not_found(self, component_type: str, name: str, candidates: Mapping[str, Registration]) -> str:
        if component_type not in (*self.component_types(), *NON_COMPONENT_TYPES):
            return _unknown_type(component_type, self.component_types())
        plugin, dot, _ = name.partition(".")
        other_types = [other_type for other_type, other in self._registrations if other == name]
        if other_types:
            return f"got '{name}', a component of the type {other_types[0]}, expected one of the type {component_type}"
        if dot and self.missing_reason(plugin):
            return self.missing_reason(plugin)
        # one letter away from a loaded plugin is a misspelling, not a plugin to install
        if dot and plugin not in self._sources and not suggest(plugin, self._sources, cutoff=0.85):
            return (
                f"this uses {component_type} '{name}', and no plugin called '{plugin}' is installed. "
                f"Install its package (of this project: pip install -e packages/lumina-{plugin} in a clone), or "
                "register it with lumina_core.register"
            )
        names = candidates if dot else {full_name.rpartition(".")[2] for full_name in candidates}
        hint = suggest(name, names) or f"; available: {', '.join(candidates) or 'none'}"
        return f"{component_type}: got '{name}', expected an installed {component_type}{hint}"


def _unknown_type(component_type: str, types: Iterable[str]) -> str:
    hint = suggest(component_type, types) or f"; available: {', '.join(types)}"
    return f"component type: got '{component_type}', expected a type of component{hint}"
