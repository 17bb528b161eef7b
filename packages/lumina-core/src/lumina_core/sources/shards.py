"""Which files of a folder are a data set's shards, and where the index of them is kept."""

from __future__ import annotations

from pathlib import Path

from lumina_core.errors import ConfigError
from lumina_core.sources.listing import existing, refused
from lumina_core.sources.source import Skipped

INDEX = ".lumina-index"
"""Folder beside the shards, unless another is named."""


class Shards:
    """The shards of one folder in the order of their names; links that lead out of it are left aside.

    Raises:
        ConfigError: there is no such folder, or the pattern leads out of it.
    """

    def __init__(self, folder: str, pattern: str, part: str) -> None:
        self.root = existing(folder, part)
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise ConfigError(f"{part}: the pattern '{pattern}' leads outside the folder '{folder}'")
        named = sorted(file.relative_to(self.root).as_posix() for file in self.root.glob(pattern))
        reasons = {name: refused(self.root, name) for name in named}
        self.names = [name for name in named if not reasons[name]]
        self.skipped = [Skipped(name, reason) for name, reason in reasons.items() if reason]

    def path(self, shard: int) -> Path:
        """The file of a shard by its number."""
        return self.root / self.names[shard]

    def state(self) -> list[list[str | int]]:
        """Name, bytes and time of change of each, for the index to be made anew when one of them changes."""
        stats = [(name, (self.root / name).stat()) for name in self.names]
        return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]

    def kept_in(self, index: str | None) -> Path:
        """The folder for the index."""
        return Path(index) if index else self.root / INDEX
