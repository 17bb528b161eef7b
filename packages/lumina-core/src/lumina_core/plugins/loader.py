"""Loading of plugins, each one isolated: a broken plugin is recorded with its reason and never stops another."""

from __future__ import annotations

import functools
import inspect
import os
import re
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, distribution, distributions
from types import ModuleType
from typing import Any, NoReturn, TypeVar

import pluggy

from lumina_core import __version__
from lumina_core.errors import PluginError, suggest
from lumina_core.plugins import hookspecs
from lumina_core.plugins.guard import ProcessExitError, error_text, is_user_interrupt, plugin_code, report_crash
from lumina_core.plugins.registry import (
    CommandRegistrations,
    ComponentRegistrations,
    ComponentTypeRegistrations,
    ModelRegistrations,
    PluginFailure,
    PluginSource,
    RecipeRegistrations,
    Registration,
    Registry,
)

ENTRY_POINT_GROUP = "lumina"
BUILT_IN_COMMANDS = ("train", "check", "evaluate", "convert", "plot", "schedule", "models", "recipe", "plugins")
ComponentT = TypeVar("ComponentT", bound=Callable[..., Any])

_process_components: dict[tuple[str, str], tuple[Any, str]] = {}
_is_loading = False


@dataclass(frozen=True)
class Candidate:
    """A plugin before it is loaded: its source, the requirements of its distribution, the import of its module."""

    source: PluginSource
    requirements: tuple[str, ...]
    load: Callable[[], object]


@functools.lru_cache(maxsize=1)
def load_plugins() -> Registry:
    """Return the default registry, of all installed plugins, which are loaded when something needs them.

    A name such as `image.emoji` loads its plugin alone; a list of names loads all plugins. `LUMINA_PLUGINS=a,b` chooses
    these and the core; with `LUMINA_STRICT=1` all plugins are loaded at once, and a broken one is an error.
    """
    candidates, selection = find_candidates(), os.environ.get("LUMINA_PLUGINS")
    report_crash([candidate.source.plugin for candidate in candidates])
    installed = {candidate.source.plugin: candidate.source for candidate in candidates}
    enabled = set(installed) if selection is None else {"core", *filter(None, map(str.strip, selection.split(",")))}
    absent = {name: suggest(name, installed) for name in sorted(enabled - set(installed))}
    strict = os.environ.get("LUMINA_STRICT") == "1"
    loader = _Loader([one for one in candidates if one.source.plugin in enabled], strict, absent)
    registry = loader.registry
    registry.disabled.update({name: source for name, source in installed.items() if name not in enabled})
    for (component_type, name), (component, summary) in _process_components.items():
        registry.add_component(component_type, name, component, summary)
    if strict:
        loader.load(None)
    return registry


def register(component_type: str, name: str, summary: str = "") -> Callable[[ComponentT], ComponentT]:
    """Register a class or function as a component, for the running process.

    Recipes, `Pipeline` and `Trainer` then find it by its name. A package registers its components by hooks instead,
    see `lumina_core.plugins.hookspecs`.

    Args:
        component_type: as in `lumina plugins`: `solver`, `dataset`, `metric`, ...
        name: `mine.step`, for example; two words and a dot.
        summary: one line, shown by `lumina plugins`.

    Returns:
        A decorator that returns the class or function unchanged.

    Raises:
        PluginError: the type is unknown, the name has another form, or another component has this name.
    """

    def decorate(component: ComponentT) -> ComponentT:
        if _is_loading:
            raise PluginError(
                f"register('{component_type}', '{name}'): got a call while plugins are loaded, expected one in a "
                "script. In a package, name the component in the hook lumina_register_components"
            )
        load_plugins().add_component(component_type, name, component, summary)
        _process_components[component_type, name] = (component, summary)
        return component

    return decorate


def find_candidates() -> list[Candidate]:
    """Return all installed plugins: the core, those of this project, the others by name.

    The order of installation does not matter. Plugins of this project are those with the author of lumina-core in the
    metadata of their distribution, so that no other plugin takes a name from them. If two distributions have a plugin
    of one name, the distribution `lumina-<name>` comes first.
    """
    by_distribution: dict[str, list[Candidate]] = {}
    authors = project_authors()
    for one in distributions():
        candidates = _candidates_of(one, authors)
        if candidates:  # a distribution that is on the path twice counts where Python imports it from
            by_distribution.setdefault(_normalize(candidates[0].source.distribution), candidates)
    return sorted((candidate for candidates in by_distribution.values() for candidate in candidates), key=_rank)


def load_from(candidates: Iterable[Candidate], strict: bool = False) -> Registry:
    """Load these plugins into a new registry; of several with one name, the first counts.

    Raises:
        PluginError: `strict` is true and a plugin is broken.
    """
    loader = _Loader(candidates, strict)
    loader.load(None)
    return loader.registry


class _Loader:
    """Loads plugins into a registry when it needs them: one by its name, or all.

    Args:
        candidates: the plugins, in the order in which a name stays with the first one.
        strict: whether a broken plugin is an error.
        absent: names of plugins that should be there and are not, each with a hint.
    """

    def __init__(self, candidates: Iterable[Candidate], strict: bool, absent: Mapping[str, str] | None = None) -> None:
        self.registry = Registry(self.load)
        self._candidates, self._strict, self._absent = list(candidates), strict, absent or {}
        self._owners = {candidate.source.plugin: candidate for candidate in reversed(self._candidates)}
        self._results: dict[int, list[Registration] | BaseException] = {}
        self._lock, self._is_busy, self._is_complete = threading.RLock(), False, False

    def load(self, plugin: str | None) -> None:
        """Load a plugin if there is one of this name, or all for None; nothing twice, and nothing by a plugin itself.

        Raises:
            PluginError: a plugin is broken, with `strict`.
        """
        if self._is_complete:
            return
        with self._lock:
            if self._is_complete or self._is_busy:
                return
            self._is_busy = True
            try:
                if plugin is None or not self._load_alone(plugin):
                    self._load_all()
            finally:
                self._is_busy = False

    def _load_alone(self, plugin: str) -> bool:
        """Load one plugin; returns whether it has all that it needs."""
        candidate = self._owners.get(plugin)
        if candidate is None or id(candidate) in self._results:
            return True
        return self._try_load(candidate) is None

    def _load_all(self) -> None:
        pending, registry = list(self._candidates), self.registry
        order = {id(candidate): number for number, candidate in enumerate(pending)}
        registry.clear()  # a name stays with the first plugin, whatever was loaded before
        failed: list[tuple[Candidate, BaseException]] = []
        # a plugin may need a component type of a later one: try again as long as types are added
        component_types: tuple[str, ...] = ()
        while pending and component_types != registry.component_types():
            component_types = registry.component_types()
            errors = [(candidate, self._try_load(candidate)) for candidate in pending]
            failed = [(c, e) for c, e in failed if not isinstance(e, PluginError)]
            failed += [(candidate, error) for candidate, error in errors if error is not None]
            pending = [candidate for candidate, error in failed if isinstance(error, PluginError)]
        for candidate, error in sorted(failed, key=lambda item: order[id(item[0])]):
            _record_failure(registry, candidate.source, error, self._strict)
        for name, hint in self._absent.items():
            source = PluginSource(name, f"lumina-{name}", "not installed")
            reason = f"LUMINA_PLUGINS names it, and no such plugin is installed{hint}"
            registry.failures[name] = PluginFailure(source, reason, installed=False)
        self._is_complete = True

    def _try_load(self, candidate: Candidate) -> BaseException | None:
        """Add the registrations of a plugin to the registry, or return its error."""
        result = self._results.get(id(candidate))
        if result is None:
            try:
                result = _registrations_of(candidate, self.registry, self._owners)
            except BaseException as error:  # also SystemExit, and errors of compiled modules that derive from it
                if is_user_interrupt(error):
                    raise
                result = error
            if not isinstance(result, PluginError):
                self._results[id(candidate)] = result
        if isinstance(result, BaseException):
            return result
        self.registry.add(candidate.source, result)
        return None


def _registrations_of(candidate: Candidate, registry: Registry, owners: Mapping[str, Candidate]) -> list[Registration]:
    """Import a plugin and call its hooks."""
    global _is_loading
    plugin = candidate.source.plugin
    if owners[plugin] is not candidate:
        owner = owners[plugin].source
        raise PluginError(f"the name '{plugin}' is already taken by {owner.distribution} {owner.version}")
    _check_requirements(candidate)
    source = candidate.source
    with plugin_code(plugin, f"{source.distribution} {source.version}", source.is_ours, owners):
        _is_loading = True
        try:
            module = candidate.load()
            _check_hooks(module)
            registrations = _collect_registrations(module, plugin, registry)
        finally:
            _is_loading = False
    for registration in registrations:
        if registration.command in BUILT_IN_COMMANDS:
            raise PluginError(f"the command '{registration.command}' belongs to lumina itself")
        if registration.command != plugin and registration.command in owners:
            raise PluginError(f"the command '{registration.command}' belongs to the plugin of that name")
    return registrations


def _collect_registrations(module: object, plugin: str, registry: Registry) -> list[Registration]:
    """Call the hooks of one plugin, by a plugin manager that has no other."""
    manager = pluggy.PluginManager(ENTRY_POINT_GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(module, name=plugin)
    manager.check_pending()
    types = ComponentTypeRegistrations(plugin)
    manager.hook.lumina_register_component_types(component_types=types)
    components = ComponentRegistrations(plugin, (*registry.component_types(), *(entry.name for entry in types.entries)))
    manager.hook.lumina_register_components(components=components)
    recipes, models, commands = RecipeRegistrations(plugin), ModelRegistrations(plugin), CommandRegistrations(plugin)
    manager.hook.lumina_register_recipes(recipes=recipes)
    manager.hook.lumina_register_models(models=models)
    manager.hook.lumina_register_commands(commands=commands)
    return [*types.entries, *components.entries, *recipes.entries, *models.entries, *commands.entries]


def _check_hooks(module: object) -> None:
    """Check names and arguments of hooks before pluggy does, for messages that name the right ones."""
    if not isinstance(module, ModuleType):
        raise PluginError(f"entry point: got a {type(module).__name__}, expected a module")
    hooks = {name: spec for name, spec in vars(hookspecs).items() if name.startswith("lumina_")}
    for name, function in vars(module).items():
        is_marked = isinstance(getattr(function, "lumina_impl", None), dict)
        is_local = inspect.isfunction(function) and function.__module__ == module.__name__
        if not (is_marked or name.startswith("lumina_register") or (is_local and name.startswith("lumina_"))):
            continue
        if name not in hooks:
            raise PluginError(
                f"hook: got '{name}', expected a hook of lumina_core.plugins.hookspecs{suggest(name, hooks)}"
            )
        if not is_marked:
            raise PluginError(f"'{name}' is not marked with @hookimpl (from lumina_core import hookimpl)")
        kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
        if any(is_kind(function) for is_kind in kinds):
            raise PluginError(f"hook '{name}' must be a plain function, without async and yield")
        expected = list(inspect.signature(hooks[name]).parameters)
        unknown = [argument for argument in inspect.signature(function).parameters if argument not in expected]
        if unknown:
            raise PluginError(f"hook '{name}' has no argument '{unknown[0]}'; it has: {', '.join(expected)}")


def _check_requirements(candidate: Candidate) -> None:
    """Raise PluginError if a plugin requires another version of lumina-core, before it is imported."""
    for text in candidate.requirements:
        if not _normalize(text).startswith("lumina-core"):
            continue
        from packaging.requirements import InvalidRequirement, Requirement  # slow to import, and rarely needed

        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise PluginError(f"its requirement '{text}' cannot be read: {error}") from error
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if _normalize(requirement.name) != "lumina-core" or not applies:
            continue
        if not requirement.specifier.contains(__version__, prereleases=True):
            raise PluginError(f"it was made for lumina-core{requirement.specifier}, and this is {__version__}")


def _record_failure(registry: Registry, source: PluginSource, error: BaseException, strict: bool) -> None:
    text = error_text(error)
    if isinstance(error, SystemExit):
        reason = f"it tried to end the program (SystemExit {error.code})"
    elif isinstance(error, ProcessExitError):
        reason = f"it tried to end the program ({text})"
    else:
        reason = text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"
    if strict:
        owner = f"{source.distribution} {source.version}"
        raise PluginError(f"the plugin '{source.plugin}' ({owner}) is broken: {reason}") from error
    key = source.plugin
    while key in registry.sources or key in registry.failures:
        key = f"{key} ({source.distribution})"
    try:
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except BaseException:
        trace = text
    registry.failures[key] = PluginFailure(source, reason, trace)


def _candidates_of(dist: Distribution, authors: frozenset[str]) -> list[Candidate]:
    """Return the plugins of one distribution; one with damaged metadata is a candidate that fails to load."""
    name, version = _metadata(dist, "Name"), _metadata(dist, "Version")
    try:
        if f"[{ENTRY_POINT_GROUP}]" not in "".join((dist.read_text("entry_points.txt") or "").split()):
            return []
        entry_points = list(dist.entry_points.select(group=ENTRY_POINT_GROUP))
        requirements = tuple(dist.requires or ())
    except Exception as error:
        reason = f"its metadata cannot be read ({type(error).__name__}: {error})"
        return [Candidate(PluginSource(name, name, version), (), functools.partial(_raise_plugin_error, reason))]
    is_ours = _normalize(name) == "lumina-core" or _metadata(dist, "Author") in authors
    return [
        Candidate(
            PluginSource(entry.name, name, version, is_ours),
            requirements,
            functools.partial(_import_entry_point, entry),
        )
        for entry in entry_points
    ]


@functools.lru_cache(maxsize=1)
def project_authors() -> frozenset[str]:
    """Return the author of lumina-core according to its metadata; empty if they do not say."""
    with suppress(PackageNotFoundError):
        return frozenset({_metadata(distribution("lumina-core"), "Author")} - {"unknown"})
    return frozenset()


def _rank(candidate: Candidate) -> tuple[bool, bool, str, bool, str]:
    plugin, owner = candidate.source.plugin, _normalize(candidate.source.distribution)
    return plugin != "core", not candidate.source.is_ours, plugin, owner != f"lumina-{_normalize(plugin)}", owner


def _metadata(dist: Distribution, key: str) -> str:
    try:
        return str((dist.metadata.get_all(key) or ["unknown"])[0] or "unknown")
    except Exception:  # a half-installed distribution has no metadata
        return "unknown"


def _normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _import_entry_point(entry_point: EntryPoint) -> object:
    name, value = entry_point.name, entry_point.value
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", value):
        _raise_plugin_error(f"entry point: got '{name} = {value}', expected {name} = package.module")
    return entry_point.load()


def _raise_plugin_error(reason: str) -> NoReturn:
    raise PluginError(reason)
