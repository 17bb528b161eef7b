"""What a plugin is handed to say what it brings. Each checks what it is told at once: mistakes name their line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from lumina_core.errors import PluginError, near

KINDS = (
    "backbone", "tokenizer", "autoencoder", "conditioner", "head", "objective", "path", "times", "solver", "guidance",
    "task", "dataset", "metric", "extrapolation", "context_drop", "step_cache", "features", "layout",
)  # fmt: skip
"""The kinds of part that are known without any plugin."""

NOT_PARTS = ("kind", "recipe", "model", "command")
"""What plugins bring besides parts; listed like kinds, but found by other roads."""

_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_RESOURCE = re.compile(r"[A-Za-z_][\w.]*:[\w./-]+")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Entry:
    """One thing that a plugin brings: its name, where it is, what it is in a few words, and whose it is."""

    kind: str
    name: str
    target: str
    summary: str
    plugin: str
    extra: dict[str, str] = field(default_factory=dict)


def command_word(entry: Entry) -> str:
    """The word of the command line that an entry brings, or nothing."""
    return entry.name if entry.kind == "command" else entry.extra.get("command", "")


class Offer:
    """Collects the entries of one plugin; nothing is shared until the plugin's hooks have all gone well."""

    def __init__(self, plugin: str) -> None:
        self.plugin = plugin
        self.entries: list[Entry] = []

    def take(self, entry: Entry, pattern: re.Pattern[str] = _TARGET) -> None:
        """Keep an entry once its strings have the right form and its name is new.

        Raises:
            PluginError: they have not, or it is not.
        """
        if not all(isinstance(text, str) for text in (entry.name, entry.target, entry.summary)):
            raise PluginError(f"{entry.kind} {entry.name!r}: name, target and summary must be strings")
        if not pattern.fullmatch(entry.target):
            raise PluginError(f"{entry.kind} '{entry.name}': '{entry.target}' is not of the form module:name")
        if any((e.kind, e.name) == (entry.kind, entry.name) for e in self.entries):
            raise PluginError(f"{entry.kind} '{entry.name}' is registered twice by the plugin '{self.plugin}'")
        self.entries.append(entry)

    def own(self, kind: str, name: str) -> None:
        """Raise PluginError unless the name begins with this plugin's."""
        if not isinstance(name, str) or not re.fullmatch(re.escape(self.plugin) + r"\.\w[\w-]*", name):
            raise PluginError(f"{kind} {name!r} must be called '{self.plugin}.<name>', after the plugin that brings it")


class Kinds(Offer):
    """Kinds of part that a plugin brings."""

    def add(self, name: str, contract: str, check: str, summary: str) -> None:
        """A kind called `name` (a plain word), its protocol and the check of its parts by import strings."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise PluginError(f"a kind is a plain lower-case word, got {name!r}")
        if name in KINDS or name in NOT_PARTS:
            raise PluginError(f"there is a kind called '{name}' already")
        if not _TARGET.fullmatch(check):
            raise PluginError(f"kind '{name}': check '{check}' is not of the form module:name")
        self.take(Entry("kind", name, contract, summary, self.plugin, {"check": check}))


class Parts(Offer):
    """Parts that a plugin brings: one method a kind."""

    def __init__(self, plugin: str, kinds: Iterable[str]) -> None:
        super().__init__(plugin)
        self._kinds = tuple(kinds)

    def __getattr__(self, kind: str) -> Callable[..., None]:
        if kind.startswith("_") or kind not in self._kinds:
            raise PluginError(f"there is no kind of part called '{kind}'{near(kind, self._kinds)}")

        def add(name: str, target: str, summary: str, *, command: str | None = None) -> None:
            self.own(kind, name)
            if command is not None and (kind != "task" or not _NAME.fullmatch(command)):
                raise PluginError(f"{kind} '{name}': only a task has a command, and it is a plain lower-case word")
            self.take(Entry(kind, name, target, summary, self.plugin, {"command": command} if command else {}))

        add.__qualname__ = f"parts.{kind}"  # what Python calls it where an argument is missing
        return add


class Recipes(Offer):
    """Recipes shipped in a plugin's package."""

    def add(self, name: str, resource: str, summary: str) -> None:
        """A recipe by its resource, `package:path/in/it.yaml`."""
        self.own("recipe", name)
        self.take(Entry("recipe", name, resource, summary, self.plugin), _RESOURCE)


class Models(Offer):
    """Trained models shipped in a plugin's package."""

    def add(self, name: str, resource: str, summary: str, *, task: str, usual: bool = False) -> None:
        """A model folder by its resource, `package:path/to/folder`, and the task it is for.

        Args:
            usual: it is the one that opens where nobody says which, nor for which task.
        """
        self.own("model", name)
        extra = {"task": task, **({"usual": "yes"} if usual else {})}
        self.take(Entry("model", name, resource, summary, self.plugin, extra), _RESOURCE)


class Commands(Offer):
    """Commands that a plugin adds to `lumina`."""

    def add(self, name: str, target: str, summary: str) -> None:
        """A click command by its import string."""
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            raise PluginError(f"a command is a plain lower-case word, got {name!r}")
        self.take(Entry("command", name, target, summary, self.plugin))
