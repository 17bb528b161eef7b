"""Finds plugins one by one. A broken one is recorded with its reason and left out; it never stops another."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, entry_points
from types import ModuleType
from typing import Any

import pluggy

from lumina_core import __version__
from lumina_core.errors import PluginError
from lumina_core.plugins import hookspecs
from lumina_core.plugins.offers import Commands, Entry, Kinds, Models, Offer, Parts, Recipes, near
from lumina_core.plugins.registry import Failure, Registry, Source

GROUP = "lumina"
BUILT_IN_COMMANDS = ("train", "check", "models", "plugins")


@dataclass(frozen=True)
class Candidate:
    """A plugin that may be loaded: where it comes from, what it requires of us, and how its module is imported."""

    source: Source
    requirements: tuple[str, ...]
    load: Callable[[], object]


@functools.lru_cache(maxsize=1)
def load() -> Registry:
    """All installed plugins, once a process. LUMINA_PLUGINS=a,b loads only these (core always), LUMINA_STRICT=1 raises."""
    chosen = os.environ.get("LUMINA_PLUGINS")
    only = None if chosen is None else {"core", *filter(None, chosen.split(","))}
    found = [c for c in candidates() if only is None or c.source.plugin in only]
    return load_from(found, strict=os.environ.get("LUMINA_STRICT") == "1")


def candidates() -> list[Candidate]:
    """What is installed, the core first, then by name, so that the order of installation decides nothing."""
    points = sorted(entry_points(group=GROUP), key=lambda point: (point.name != "core", point.name, point.value))
    return [_candidate(point) for point in points]


def load_from(found: Iterable[Candidate], strict: bool = False) -> Registry:
    """A registry of these plugins alone."""
    registry = Registry()
    for candidate in found:
        try:
            _load_one(candidate, registry)
        except (Exception, SystemExit) as error:
            if strict:
                raise
            _leave_out(registry, candidate, error)
    return registry


def _candidate(point: EntryPoint) -> Candidate:
    distribution: Distribution | None = point.dist
    name = distribution.metadata["Name"] if distribution is not None else "unknown"
    version = distribution.version if distribution is not None else "unknown"
    requirements = tuple(distribution.requires or ()) if distribution is not None else ()
    return Candidate(Source(point.name, name, version), requirements, point.load)


def _load_one(candidate: Candidate, registry: Registry) -> None:
    plugin = candidate.source.plugin
    if plugin in registry.sources or plugin in registry.failures:
        owner = registry.sources.get(plugin) or registry.failures[plugin].source
        raise PluginError(f"the name '{plugin}' is already taken by {owner.distribution} {owner.version}")
    _check_versions(candidate)
    # what a plugin prints while it is imported must not mix with what a command prints for other programs
    with redirect_stdout(sys.stderr):
        module = candidate.load()
        _check_hooks(module)
        entries = _asked(module, plugin, registry)
    for entry in entries:
        if entry.kind == "command" and entry.name in BUILT_IN_COMMANDS:
            raise PluginError(f"the command '{entry.name}' belongs to lumina itself")
    registry.join(candidate.source, entries)


def _asked(module: object, plugin: str, registry: Registry) -> list[Entry]:
    """What one plugin says it brings; pluggy calls its hooks, and no other's."""
    door = pluggy.PluginManager(GROUP)
    door.add_hookspecs(hookspecs)
    door.register(module, name=plugin)
    door.check_pending()
    kinds = Kinds(plugin)
    door.hook.lumina_register_kinds(kinds=kinds)
    known = (*registry.kinds(), *(entry.name for entry in kinds.entries))
    others: dict[str, Offer] = {"parts": Parts(plugin, known), "recipes": Recipes(plugin), "models": Models(plugin)}
    others["commands"] = Commands(plugin)
    for word, offer in others.items():
        getattr(door.hook, f"lumina_register_{word}")(**{word: offer})
    return [*kinds.entries, *(entry for offer in others.values() for entry in offer.entries)]


def _check_hooks(module: object) -> None:
    """Misspelt hooks and wrong arguments, told before pluggy meets them, in words that name the right ones."""
    if not isinstance(module, ModuleType):
        raise PluginError(f"the entry point names a {type(module).__name__}; wanted a module")
    known = {name: spec for name, spec in vars(hookspecs).items() if name.startswith("lumina_")}
    for name, function in vars(module).items():
        marked = hasattr(function, "lumina_impl")
        if not (marked or name.startswith("lumina_register")):
            continue
        if name not in known:
            raise PluginError(f"no hook is called '{name}'{near(name, known)}")
        if not marked:
            raise PluginError(f"'{name}' is not marked with @hookimpl (from lumina_core import hookimpl)")
        _check_arguments(name, function, known[name])


def _check_arguments(name: str, function: Any, spec: Any) -> None:
    given, wanted = list(inspect.signature(function).parameters), list(inspect.signature(spec).parameters)
    wrong = [argument for argument in given if argument not in wanted]
    if wrong:
        raise PluginError(f"hook '{name}' has no argument '{wrong[0]}'; it has: {', '.join(wanted)}")


def _check_versions(candidate: Candidate) -> None:
    """Whether a plugin was made for another lumina-core, told before anything of it is imported."""
    from packaging.requirements import InvalidRequirement, Requirement  # only needed for plugins that state something

    for text in candidate.requirements:
        if not text.replace("_", "-").lower().startswith("lumina-core"):
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise PluginError(f"its requirement '{text}' cannot be read: {error}") from error
        if requirement.name.replace("_", "-").lower() == "lumina-core" and not requirement.specifier.contains(
            __version__, prereleases=True
        ):
            raise PluginError(f"it was made for lumina-core{requirement.specifier}, and this is {__version__}")


def _leave_out(registry: Registry, candidate: Candidate, error: BaseException) -> None:
    source = candidate.source
    key = source.plugin
    while key in registry.sources or key in registry.failures:
        key = f"{key} ({source.distribution})"
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    registry.failures[key] = Failure(source, _reason(error), trace)


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it tried to end the program (SystemExit {error.code})"
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"
