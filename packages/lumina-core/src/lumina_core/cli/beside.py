"""Files beside each result that a task can write: a picture of a sound, say. Each kind is an option of its command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lumina_core.cli.places import make_folder, places
from lumina_core.errors import ConfigError

if TYPE_CHECKING:
    from lumina_core.session import Answer

AUTO = "auto"


@dataclass(frozen=True)
class Beside:
    """Where files of the wanted kinds go: for each kind one path a result."""

    paths: Mapping[str, Sequence[Path]]

    def write(self, place: int, answer: Answer) -> None:
        """All files beside one result.

        Raises:
            ConfigError: one cannot be written.
        """
        task: Any = answer.model.task
        for kind, paths in self.paths.items():
            make_folder(paths[place].parent)
            try:
                task.beside(kind, answer.data, paths[place], answer.record)
            except OSError as error:
                raise ConfigError(f"cannot write {paths[place]}: {error.strerror or error}") from error

    def told(self) -> dict[str, list[str]]:
        """For the JSON object, the paths of each kind."""
        return {f"{kind}s": [str(path) for path in paths] for kind, paths in self.paths.items()}


def beside_options(task: Any) -> list[click.Parameter]:
    """An option for every kind of file that the task writes beside a result (`task.besides`)."""
    return [
        click.Option([f"--{kind}", f"beside_{kind}"], metavar=f"FILE|{AUTO}", help=text)
        for kind, (_, text) in _kinds(task).items()
    ]


def beside(task: Any, asked: dict[str, Any], results: Sequence[Path], folder: bool) -> Beside:
    """Takes what the options said out of `asked`: a file (or folder for several), or `auto`: the result's own name.

    Raises:
        ConfigError: it cannot be written there, or would take the place of a result.
    """
    found: dict[str, Sequence[Path]] = {}
    for kind, (suffix, _) in _kinds(task).items():
        said = asked.pop(f"beside_{kind}", None)
        if said == AUTO:
            found[kind] = [result.with_suffix(suffix) for result in results]
        elif said is not None:
            found[kind] = places(Path(said), len(results), folder, (suffix,), f"--{kind}")
        if set(found.get(kind, ())) & set(results):
            raise ConfigError(f"--{kind} {said} and --out name the same file; give one of them another name")
    return Beside(found)


def _kinds(task: Any) -> Mapping[str, tuple[str, str]]:
    """For each kind of file its suffix, and what it is."""
    kinds: Mapping[str, tuple[str, str]] = getattr(task, "besides", {})
    return kinds
