"""Finds plugins one by one. A broken one is recorded with its reason and left out; it never stops another."""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions
from types import ModuleType
from typing import Any, NoReturn, TypeVar

import pluggy

from lumina_core import __version__
from lumina_core.errors import PluginError, suggest
from lumina_core.plugins import hookspecs
from lumina_core.plugins.registry import (
    CommandRegistrations,
    ComponentRegistrations,
    ComponentTypeRegistrations,
    ModelRegistrations,
    PluginFailure,
    PluginSource,
    RecipeRegistrations,
    Registration,
    Registrations,
    Registry,
    command_name,
)

ENTRY_POINT_GROUP = "lumina"
BUILT_IN_COMMANDS = ("train", "check", "evaluate", "convert", "schedule", "models", "plugins")


@dataclass(frozen=True)
class Candidate:
    """A plugin that may be loaded: where it comes from, what it requires of us, and how its module is imported."""

    source: PluginSource
    requirements: tuple[str, ...]
    load: Callable[[], object]


@functools.lru_cache(maxsize=1)
def load_plugins() -> Registry:
    """All installed plugins, once a process. LUMINA_PLUGINS=a,b: only these (core always); LUMINA_STRICT=1: raise."""
    all_candidates, selection = find_candidates(), os.environ.get("LUMINA_PLUGINS")
    installed = {candidate.source.plugin: candidate.source for candidate in all_candidates}
    enabled = set(installed) if selection is None else {"core", *filter(None, map(str.strip, selection.split(",")))}
    strict = os.environ.get("LUMINA_STRICT") == "1"
    registry = load_from([candidate for candidate in all_candidates if candidate.source.plugin in enabled], strict)
    registry.disabled.update({name: source for name, source in installed.items() if name not in enabled})
    for component_type, name, component, summary in _PROCESS_COMPONENTS.values():
        registry.add_component(component_type, name, component, summary)
    for name in sorted(enabled - set(installed)):
        reason = f"LUMINA_PLUGINS names it, and no such plugin is installed{suggest(name, installed)}"
        registry.failures[name] = PluginFailure(
            PluginSource(name, f"lumina-{name}", "not installed"), reason, installed=False
        )
    return registry


ComponentT = TypeVar("ComponentT", bound=Callable[..., Any])
_PROCESS_COMPONENTS: dict[tuple[str, str], tuple[str, str, Any, str]] = {}
_is_loading = False


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
                f"register('{component_type}', '{name}'): got a call while plugins are loaded, expected it in a script. "
                "In a package, name the component in the hook lumina_register_components"
            )
        load_plugins().add_component(component_type, name, component, summary)
        _PROCESS_COMPONENTS[component_type, name] = (component_type, name, component, summary)
        return component

    return decorate


def find_candidates() -> list[Candidate]:
    """What is installed, the core first, then by name, so that the order of installation decides nothing.

    Where two distributions claim one name, the one called `lumina-<name>` comes first.
    """
    by_distribution: dict[str, list[Candidate]] = {}
    for distribution in distributions():
        of_distribution = _candidates_of(distribution)
        if of_distribution:  # a distribution that is twice on the path counts where Python would import it from
            by_distribution.setdefault(_normalize_name(of_distribution[0].source.distribution), of_distribution)
    return sorted(
        (candidate for of_distribution in by_distribution.values() for candidate in of_distribution), key=_rank
    )


def load_from(plugins: Iterable[Candidate], strict: bool = False) -> Registry:
    """A registry of these plugins alone; of several with one name the first counts.

    Raises:
        PluginError: `strict`, and one of them is broken.
    """
    all_candidates, registry = list(plugins), Registry()
    owners = {candidate.source.plugin: candidate for candidate in reversed(all_candidates)}
    errors: dict[int, BaseException] = {}
    pending = list(range(len(all_candidates)))
    component_types: tuple[str, ...] = ()
    while (
        pending and component_types != registry.component_types()
    ):  # whoever was refused may have needed a kind that a later one brings
        component_types = registry.component_types()
        results = {index: _try_load(all_candidates[index], registry, owners) for index in pending}
        errors |= {index: error for index, error in results.items() if error is not None}
        for index in (index for index, error in results.items() if error is None):
            errors.pop(index, None)
        pending = [index for index in pending if isinstance(errors.get(index), PluginError)]
    for index, failure in sorted(errors.items()):
        _record_failure(registry, all_candidates[index].source, failure, strict)
    return registry


def _try_load(candidate: Candidate, registry: Registry, owners: Mapping[str, Candidate]) -> BaseException | None:
    try:
        _load_one(candidate, registry, owners)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit, and what compiled modules throw past Exception
        return error
    return None


def _candidates_of(distribution: Distribution) -> list[Candidate]:
    """The plugins of one distribution; one that cannot be read stands there as a candidate that fails to load."""
    try:
        if f"[{ENTRY_POINT_GROUP}]" not in "".join((distribution.read_text("entry_points.txt") or "").split()):
            return []
        entry_points = list(distribution.entry_points.select(group=ENTRY_POINT_GROUP))
        requirements = tuple(distribution.requires or ())
    except Exception as error:
        reason = f"what it says of itself cannot be read ({type(error).__name__}: {error})"
        name = _metadata(distribution, "Name")
        return [Candidate(_plugin_source(name, distribution), (), functools.partial(_raise_plugin_error, reason))]
    return [
        Candidate(_plugin_source(p.name, distribution), requirements, functools.partial(_import_entry_point, p))
        for p in entry_points
    ]


def _rank(candidate: Candidate) -> tuple[bool, str, bool, str]:
    plugin, owner = candidate.source.plugin, _normalize_name(candidate.source.distribution)
    return plugin != "core", plugin, owner != f"lumina-{_normalize_name(plugin)}", owner


def _plugin_source(plugin: str, distribution: Distribution) -> PluginSource:
    return PluginSource(plugin, _metadata(distribution, "Name"), _metadata(distribution, "Version"))


def _metadata(distribution: Distribution, key: str) -> str:
    try:
        return str(distribution.metadata[key] or "unknown")
    except Exception:  # a half-installed distribution has no metadata; that is its own misfortune
        return "unknown"


def _normalize_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _import_entry_point(entry_point: EntryPoint) -> object:
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", entry_point.value):
        _raise_plugin_error(
            f"its entry point says '{entry_point.name} = {entry_point.value}'; wanted {entry_point.name} = package.module"
        )
    return entry_point.load()


def _raise_plugin_error(reason: str) -> NoReturn:
    raise PluginError(reason)


def _load_one(candidate: Candidate, registry: Registry, owners: Mapping[str, Candidate]) -> None:
    plugin = candidate.source.plugin
    if owners[plugin] is not candidate:
        owner = owners[plugin].source
        raise PluginError(f"the name '{plugin}' is already taken by {owner.distribution} {owner.version}")
    _check_versions(candidate)
    global _is_loading
    # what a plugin prints while it is imported must not mix with what a command prints for other programs,
    # and a filter that it sets for its warnings must not turn another plugin's warning into an error
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        _is_loading = True
        try:
            module = candidate.load()
            _check_hooks(module)
            registrations = _collect_registrations(module, plugin, registry)
        finally:
            _is_loading = False
    for word in filter(None, map(command_name, registrations)):
        if word in BUILT_IN_COMMANDS:
            raise PluginError(f"the command '{word}' belongs to lumina itself")
        if word != plugin and word in owners:  # else the first in the alphabet could take `image` from its plugin
            raise PluginError(f"the command '{word}' belongs to the plugin of that name")
    registry.add(candidate.source, registrations)


def _collect_registrations(module: object, plugin: str, registry: Registry) -> list[Registration]:
    """What one plugin says it brings; pluggy calls its hooks, and no other's."""
    manager = pluggy.PluginManager(ENTRY_POINT_GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(module, name=plugin)
    manager.check_pending()
    component_types = ComponentTypeRegistrations(plugin)
    manager.hook.lumina_register_component_types(component_types=component_types)
    type_names = (*registry.component_types(), *(registration.name for registration in component_types.entries))
    collectors: dict[str, Registrations] = {
        "components": ComponentRegistrations(plugin, type_names),
        "recipes": RecipeRegistrations(plugin),
        "models": ModelRegistrations(plugin),
    }
    collectors["commands"] = CommandRegistrations(plugin)
    for word, collector in collectors.items():
        getattr(manager.hook, f"lumina_register_{word}")(**{word: collector})
    return [
        *component_types.entries,
        *(registration for collector in collectors.values() for registration in collector.entries),
    ]


def _check_hooks(module: object) -> None:
    """Misspelt hooks and wrong arguments, told before pluggy meets them, in words that name the right ones."""
    if not isinstance(module, ModuleType):
        raise PluginError(f"the entry point names a {type(module).__name__}; wanted a module")
    hooks = {name: spec for name, spec in vars(hookspecs).items() if name.startswith("lumina_")}
    for name, function in vars(module).items():
        is_marked = isinstance(getattr(function, "lumina_impl", None), dict)
        is_local = inspect.isfunction(function) and function.__module__ == module.__name__
        if not (is_marked or name.startswith("lumina_register") or (is_local and name.startswith("lumina_"))):
            continue
        if name not in hooks:
            raise PluginError(f"no hook is called '{name}'{suggest(name, hooks)}")
        if not is_marked:
            raise PluginError(f"'{name}' is not marked with @hookimpl (from lumina_core import hookimpl)")
        _check_arguments(name, function, hooks[name])


def _check_arguments(name: str, function: Any, spec: Any) -> None:
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(is_kind(function) for is_kind in kinds):
        raise PluginError(f"hook '{name}' must be a plain function, without async and yield: nothing would run it")
    arguments, expected = list(inspect.signature(function).parameters), list(inspect.signature(spec).parameters)
    unknown = [argument for argument in arguments if argument not in expected]
    if unknown:
        raise PluginError(f"hook '{name}' has no argument '{unknown[0]}'; it has: {', '.join(expected)}")


def _check_versions(candidate: Candidate) -> None:
    """Whether a plugin was made for another lumina-core, told before anything of it is imported."""
    from packaging.requirements import InvalidRequirement, Requirement  # only needed for plugins that state something

    for text in candidate.requirements:
        if not _normalize_name(text).startswith("lumina-core"):
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise PluginError(f"its requirement '{text}' cannot be read: {error}") from error
        if _normalize_name(requirement.name) != "lumina-core" or (
            requirement.marker and not requirement.marker.evaluate({"extra": ""})
        ):
            continue
        if not requirement.specifier.contains(__version__, prereleases=True):
            raise PluginError(f"it was made for lumina-core{requirement.specifier}, and this is {__version__}")


def _record_failure(registry: Registry, source: PluginSource, error: BaseException, strict: bool) -> None:
    if strict:
        owner = f"{source.distribution} {source.version}"
        raise PluginError(f"the plugin '{source.plugin}' ({owner}) is broken: {_failure_reason(error)}") from error
    key = source.plugin
    while key in registry.sources or key in registry.failures:
        key = f"{key} ({source.distribution})"
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    registry.failures[key] = PluginFailure(source, _failure_reason(error), trace)


def _failure_reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it tried to end the program (SystemExit {error.code})"
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"
