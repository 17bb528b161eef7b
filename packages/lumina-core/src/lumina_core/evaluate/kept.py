"""What an evaluation keeps in its folder: what was asked, what was made part by part, features of the real examples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.files import sweep, whole_file

ASKED, PARTS = "asked.json", "parts"


@dataclass(frozen=True)
class Part:
    """Some of the things that were made: their places among the cases, features, and the data of those to be shown."""

    places: Sequence[int]
    features: Mapping[str, Tensor]
    data: Mapping[int, Tensor] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)


class Kept:
    """Parts of one evaluation, in a folder or, without one, only in memory. A part is whole or not there."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.parts: list[Part] = []

    def begin(self, asked: Mapping[str, Any], resume: bool) -> None:
        """Open the folder for this evaluation.

        Raises:
            ConfigError: it holds one already and `resume` is not asked for, or holds another one, or cannot be made.
            CheckpointError: a part in it cannot be read.
        """
        if self.folder is None:
            return
        try:
            (self.folder / PARTS).mkdir(parents=True, exist_ok=True)
            sweep(self.folder)
            sweep(self.folder / PARTS)
            before = self._asked_before()
            if before is None:
                _write(self.folder / ASKED, asked)
        except OSError as error:
            raise ConfigError(
                f"cannot write to {self.folder}: {error.strerror or error}; choose another --out"
            ) from error
        if before is None:
            return
        if not resume:
            raise ConfigError(f"{self.folder} holds an evaluation already; go on with --resume or choose another --out")
        differing = [key for key in asked if before.get(key) != asked[key]]
        if differing:
            raise ConfigError(
                f"{self.folder} holds an evaluation with another {', '.join(differing)}; choose another --out"
            )
        self.parts = [_read(path) for path in sorted((self.folder / PARTS).glob("*.safetensors"))]

    def done(self, keys: Sequence[str]) -> set[int]:
        """Places whose features of every key are there."""
        return {place for part in self.parts if set(keys) <= set(part.features) for place in part.places}

    def add(self, part: Part) -> None:
        """Keep a part.

        Raises:
            ConfigError: the disk is full, or the folder gone.
        """
        self.parts.append(part)
        if self.folder is None:
            return
        tensors = {
            "places": torch.tensor(part.places),
            **{f"features.{k}": v.contiguous() for k, v in part.features.items()},
        }
        tensors |= {f"data.{place}": data.contiguous() for place, data in part.data.items()}
        name = hashlib.sha256(json.dumps([sorted(part.features), list(part.places)]).encode()).hexdigest()[:8]
        path = self.folder / PARTS / f"{part.places[0]:06d}-{name}.safetensors"
        try:
            with whole_file(path) as partial:
                save_file(tensors, partial, metadata={"record": json.dumps(part.record)})
        except (OSError, SafetensorError) as error:
            raise ConfigError(
                f"cannot write {path}: {error}; what was made before is kept, go on with --resume"
            ) from error

    def features(self, key: str, count: int) -> Tensor:
        """(count, D) by place."""
        parts = [part for part in self.parts if key in part.features]
        rows = torch.empty(count, parts[0].features[key].shape[1], dtype=parts[0].features[key].dtype)
        for part in parts:
            rows[torch.tensor(part.places)] = part.features[key]
        return rows

    def data(self) -> dict[int, Tensor]:
        """Those that are to be shown, by place."""
        return dict(sorted((place, data) for part in self.parts for place, data in part.data.items()))

    def _asked_before(self) -> dict[str, Any] | None:
        assert self.folder is not None
        path = self.folder / ASKED
        if not path.exists():
            return None
        try:
            before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path} cannot be read ({error}); choose another --out") from error
        return before


class Cache:
    """Features of the real examples by what they depend on; in a folder or, without one, nowhere."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, *depends: str) -> Tensor | None:
        """What was put there, or None."""
        path = self._path(depends)
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                found: Tensor = file.get_tensor("features")
        except (OSError, SafetensorError):
            return None  # made anew and replaced
        return found

    def put(self, features: Tensor, *depends: str) -> None:
        """Keep features.

        Raises:
            ConfigError: they cannot be written.
        """
        path = self._path(depends)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as partial:
                save_file({"features": features.contiguous()}, partial)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"cannot write {path}: {error}; choose another --cache") from error

    def _path(self, depends: Sequence[str]) -> Path | None:
        if self.folder is None:
            return None
        name = hashlib.sha256("\n".join(depends).encode()).hexdigest()[:32]
        return self.folder / f"{name}.safetensors"


def _read(path: Path) -> Part:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            record = json.loads(file.metadata()["record"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); delete it, and --resume makes it again") from error
    return Part(
        tensors["places"].tolist(),
        {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith("features.")},
        {int(name.partition(".")[2]): tensor for name, tensor in tensors.items() if name.startswith("data.")},
        record,
    )


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
