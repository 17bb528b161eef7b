"""Tensors in a folder by name, each file written atomically; in memory without a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.io import atomic_file, new_dir, read_json, remove_partial


class StoredTensors(NamedTuple):
    """Tensors by name, and metadata as JSON takes it."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any]


class TensorStore:
    """Named sets of tensors: generated batches of an evaluation, features of real examples.

    Args:
        folder: folder of the files; None: in memory, for as long as the store lives.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._entries: dict[str, StoredTensors] = {}

    @staticmethod
    def make_name(*key: str) -> str:
        """Return a file name for a key of several strings."""
        return hashlib.sha256("\n".join(key).encode()).hexdigest()[:32]

    def entries(self) -> list[StoredTensors]:
        """Return all entries, sorted by name; remove incomplete files of killed processes.

        Raises:
            CheckpointError: a file is damaged.
        """
        names = set(self._entries)
        if self.folder is not None and self.folder.is_dir():
            remove_partial(self.folder)
            names |= {path.stem for path in self.folder.glob("*.safetensors") if not path.name.startswith(".")}
        return [entry for name in sorted(names) if (entry := self.get(name)) is not None]

    def get(self, name: str) -> StoredTensors | None:
        """Return an entry; None if there is none.

        Raises:
            CheckpointError: its file is damaged.
        """
        if name not in self._entries and self.folder is not None and self._path(name).is_file():
            path = self._path(name)
            try:
                with safe_open(path, framework="pt") as file:
                    tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
                    self._entries[name] = StoredTensors(tensors, json.loads(file.metadata()["metadata"]))
            except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
                raise CheckpointError(f"{path} cannot be read ({error}). Delete it; it is made again.") from error
        return self._entries.get(name)

    def put(self, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
        """Write an entry.

        Raises:
            ConfigError: the folder cannot be written to.
        """
        entry = StoredTensors({key: tensor.contiguous() for key, tensor in tensors.items()}, metadata or {})
        self._entries[name] = entry
        if self.folder is None:
            return
        try:
            with new_dir(self.folder), atomic_file(self._path(name)) as partial:
                save_file(dict(entry.tensors), partial, metadata={"metadata": json.dumps(entry.metadata)})
        except (OSError, SafetensorError) as error:
            raise ConfigError(
                f"cannot write {self._path(name)}: {error}. Choose another folder, or free disk space and resume."
            ) from error

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.safetensors"


def open_run(folder: Path, config: Mapping[str, Any], config_file: str, resume: bool) -> None:
    """Create the folder of an evaluation, or check that it holds this one.

    Args:
        folder: the folder.
        config: settings that determine the results, as plain JSON data.
        config_file: name of the file with it.
        resume: whether the folder may hold the evaluation already.

    Raises:
        ConfigError: the folder holds another evaluation, or this one without `resume`, or cannot be written to.
        CheckpointError: the configuration in it cannot be read.
    """
    path = folder / config_file
    try:
        remove_partial(folder)
        if not path.exists():
            with new_dir(folder), atomic_file(path) as partial:
                partial.write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            return
        previous: Mapping[str, Any] = read_json(path)
    except OSError as error:
        raise ConfigError(
            f"out: cannot write to {folder}: {error.strerror or error}. Choose another folder."
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Choose another folder.") from error
    if not resume:
        raise ConfigError(f"out: got {folder}, which has an evaluation. Set resume, or choose another folder.")
    changed = [key for key in config if previous.get(key) != config[key]]
    if changed:
        raise ConfigError(f"out: got {folder}, an evaluation with another {', '.join(changed)}. Choose another folder.")
