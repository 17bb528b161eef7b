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
from typing import Any, NoReturn

import pluggy

from lumina_core import __version__
from lumina_core.errors import PluginError, near
from lumina_core.plugins import hookspecs
from lumina_core.plugins.offers import Commands, Entry, Kinds, Models, Offer, Parts, Recipes, command_word
from lumina_core.plugins.registry import Failure, Registry, Source

GROUP = "lumina"
BUILT_IN_COMMANDS = ("train", "check", "evaluate", "convert", "grid", "models", "plugins")


@dataclass(frozen=True)
class Candidate:
    """A plugin that may be loaded: where it comes from, what it requires of us, and how its module is imported."""

    source: Source
    requirements: tuple[str, ...]
    load: Callable[[], object]


@functools.lru_cache(maxsize=1)
def load() -> Registry:
    """All installed plugins, once a process. LUMINA_PLUGINS=a,b: only these (core always); LUMINA_STRICT=1: raise."""
    found, chosen = candidates(), os.environ.get("LUMINA_PLUGINS")
    installed = {candidate.source.plugin: candidate.source for candidate in found}
    only = set(installed) if chosen is None else {"core", *filter(None, map(str.strip, chosen.split(",")))}
    strict = os.environ.get("LUMINA_STRICT") == "1"
    registry = load_from([candidate for candidate in found if candidate.source.plugin in only], strict)
    registry.unchosen.update({name: source for name, source in installed.items() if name not in only})
    for name in sorted(only - set(installed)):
        reason = f"LUMINA_PLUGINS names it, and no such plugin is installed{near(name, installed)}"
        registry.failures[name] = Failure(Source(name, f"lumina-{name}", "not installed"), reason, installed=False)
    return registry


def candidates() -> list[Candidate]:
    """What is installed, the core first, then by name, so that the order of installation decides nothing.

    Where two distributions claim one name, the one called `lumina-<name>` comes first.
    """
    found: dict[str, list[Candidate]] = {}
    for distribution in distributions():
        several = _candidates(distribution)
        if several:  # a distribution that is twice on the path counts where Python would import it from
            found.setdefault(_plain(several[0].source.distribution), several)
    return sorted((candidate for several in found.values() for candidate in several), key=_rank)


def load_from(found: Iterable[Candidate], strict: bool = False) -> Registry:
    """A registry of these plugins alone; of several with one name the first counts.

    Raises:
        PluginError: `strict`, and one of them is broken.
    """
    everyone, registry = list(found), Registry()
    owners = {candidate.source.plugin: candidate for candidate in reversed(everyone)}
    errors: dict[int, BaseException] = {}
    waiting = list(range(len(everyone)))
    known: tuple[str, ...] = ()
    while waiting and known != registry.kinds():  # whoever was refused may have needed a kind that a later one brings
        known = registry.kinds()
        tried = {index: _attempt(everyone[index], registry, owners) for index in waiting}
        errors |= {index: error for index, error in tried.items() if error is not None}
        for index in (index for index, error in tried.items() if error is None):
            errors.pop(index, None)
        waiting = [index for index in waiting if isinstance(errors.get(index), PluginError)]
    for index, broken in sorted(errors.items()):
        _leave_out(registry, everyone[index].source, broken, strict)
    return registry


def _attempt(candidate: Candidate, registry: Registry, owners: Mapping[str, Candidate]) -> BaseException | None:
    try:
        _load_one(candidate, registry, owners)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit, and what compiled modules throw past Exception
        return error
    return None


def _candidates(distribution: Distribution) -> list[Candidate]:
    """The plugins of one distribution; one that cannot be read stands there as a candidate that fails to load."""
    try:
        if f"[{GROUP}]" not in "".join((distribution.read_text("entry_points.txt") or "").split()):
            return []
        points = list(distribution.entry_points.select(group=GROUP))
        requirements = tuple(distribution.requires or ())
    except Exception as error:
        reason = f"what it says of itself cannot be read ({type(error).__name__}: {error})"
        name = _metadata(distribution, "Name")
        return [Candidate(_source(name, distribution), (), functools.partial(_refuse, reason))]
    return [Candidate(_source(p.name, distribution), requirements, functools.partial(_module, p)) for p in points]


def _rank(candidate: Candidate) -> tuple[bool, str, bool, str]:
    plugin, owner = candidate.source.plugin, _plain(candidate.source.distribution)
    return plugin != "core", plugin, owner != f"lumina-{_plain(plugin)}", owner


def _source(plugin: str, distribution: Distribution) -> Source:
    return Source(plugin, _metadata(distribution, "Name"), _metadata(distribution, "Version"))


def _metadata(distribution: Distribution, key: str) -> str:
    try:
        return str(distribution.metadata[key] or "unknown")
    except Exception:  # a half-installed distribution has no metadata; that is its own misfortune
        return "unknown"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _module(point: EntryPoint) -> object:
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", point.value):
        _refuse(f"its entry point says '{point.name} = {point.value}'; wanted {point.name} = package.module")
    return point.load()


def _refuse(reason: str) -> NoReturn:
    raise PluginError(reason)


def _load_one(candidate: Candidate, registry: Registry, owners: Mapping[str, Candidate]) -> None:
    plugin = candidate.source.plugin
    if owners[plugin] is not candidate:
        owner = owners[plugin].source
        raise PluginError(f"the name '{plugin}' is already taken by {owner.distribution} {owner.version}")
    _check_versions(candidate)
    # what a plugin prints while it is imported must not mix with what a command prints for other programs,
    # and a filter that it sets for its warnings must not turn another plugin's warning into an error
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        module = candidate.load()
        _check_hooks(module)
        entries = _asked(module, plugin, registry)
    for word in filter(None, map(command_word, entries)):
        if word in BUILT_IN_COMMANDS:
            raise PluginError(f"the command '{word}' belongs to lumina itself")
        if word != plugin and word in owners:  # else the first in the alphabet could take `image` from its plugin
            raise PluginError(f"the command '{word}' belongs to the plugin of that name")
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
        marked = isinstance(getattr(function, "lumina_impl", None), dict)
        own = inspect.isfunction(function) and function.__module__ == module.__name__
        if not (marked or name.startswith("lumina_register") or (own and name.startswith("lumina_"))):
            continue
        if name not in known:
            raise PluginError(f"no hook is called '{name}'{near(name, known)}")
        if not marked:
            raise PluginError(f"'{name}' is not marked with @hookimpl (from lumina_core import hookimpl)")
        _check_arguments(name, function, known[name])


def _check_arguments(name: str, function: Any, spec: Any) -> None:
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(is_kind(function) for is_kind in kinds):
        raise PluginError(f"hook '{name}' must be a plain function, without async and yield: nothing would run it")
    given, wanted = list(inspect.signature(function).parameters), list(inspect.signature(spec).parameters)
    wrong = [argument for argument in given if argument not in wanted]
    if wrong:
        raise PluginError(f"hook '{name}' has no argument '{wrong[0]}'; it has: {', '.join(wanted)}")


def _check_versions(candidate: Candidate) -> None:
    """Whether a plugin was made for another lumina-core, told before anything of it is imported."""
    from packaging.requirements import InvalidRequirement, Requirement  # only needed for plugins that state something

    for text in candidate.requirements:
        if not _plain(text).startswith("lumina-core"):
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise PluginError(f"its requirement '{text}' cannot be read: {error}") from error
        if _plain(requirement.name) != "lumina-core" or (
            requirement.marker and not requirement.marker.evaluate({"extra": ""})
        ):
            continue
        if not requirement.specifier.contains(__version__, prereleases=True):
            raise PluginError(f"it was made for lumina-core{requirement.specifier}, and this is {__version__}")


def _leave_out(registry: Registry, source: Source, error: BaseException, strict: bool) -> None:
    if strict:
        owner = f"{source.distribution} {source.version}"
        raise PluginError(f"the plugin '{source.plugin}' ({owner}) is broken: {_reason(error)}") from error
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
