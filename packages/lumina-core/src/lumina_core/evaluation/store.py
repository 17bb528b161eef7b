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
from lumina_core.io import atomic_file, remove_partial

CONFIG_FILE, BATCHES_DIR = "eval_config.json", "batches"


@dataclass(frozen=True)
class EvalBatch:
    """Some of the things that were made: their places among the cases, features, and the data of those to be shown."""

    indices: Sequence[int]
    features: Mapping[str, Tensor]
    data: Mapping[int, Tensor] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


class ResultStore:
    """Parts of one evaluation, in a folder or, without one, only in memory. A part is whole or not there."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.batches: list[EvalBatch] = []

    def start(self, config: Mapping[str, Any], resume: bool) -> None:
        """Open the folder for this evaluation.

        Raises:
            ConfigError: it holds one already and `resume` is not asked for, or holds another one, or cannot be made.
            CheckpointError: a part in it cannot be read.
        """
        if self.folder is None:
            return
        try:
            (self.folder / BATCHES_DIR).mkdir(parents=True, exist_ok=True)
            remove_partial(self.folder)
            remove_partial(self.folder / BATCHES_DIR)
            previous = self._read_config()
            if previous is None:
                _write_json(self.folder / CONFIG_FILE, config)
        except OSError as error:
            raise ConfigError(
                f"cannot write to {self.folder}: {error.strerror or error}; choose another --out"
            ) from error
        if previous is None:
            return
        if not resume:
            raise ConfigError(f"{self.folder} holds an evaluation already; go on with --resume or choose another --out")
        changed = [key for key in config if previous.get(key) != config[key]]
        if changed:
            raise ConfigError(
                f"{self.folder} holds an evaluation with another {', '.join(changed)}; choose another --out"
            )
        self.batches = [_read_batch(path) for path in sorted((self.folder / BATCHES_DIR).glob("*.safetensors"))]

    def completed(self, keys: Sequence[str]) -> set[int]:
        """Places whose features of every key are there."""
        return {index for batch in self.batches if set(keys) <= set(batch.features) for index in batch.indices}

    def add(self, batch: EvalBatch) -> None:
        """Keep a part.

        Raises:
            ConfigError: the disk is full, or the folder gone.
        """
        self.batches.append(batch)
        if self.folder is None:
            return
        tensors = {
            "indices": torch.tensor(batch.indices),
            **{f"features.{k}": v.contiguous() for k, v in batch.features.items()},
        }
        tensors |= {f"data.{index}": data.contiguous() for index, data in batch.data.items()}
        name = hashlib.sha256(json.dumps([sorted(batch.features), list(batch.indices)]).encode()).hexdigest()[:8]
        path = self.folder / BATCHES_DIR / f"{batch.indices[0]:06d}-{name}.safetensors"
        try:
            with atomic_file(path) as partial:
                save_file(tensors, partial, metadata={"metadata": json.dumps(batch.metadata)})
        except (OSError, SafetensorError) as error:
            raise ConfigError(
                f"cannot write {path}: {error}; what was made before is kept, go on with --resume"
            ) from error

    def gather_features(self, key: str, count: int) -> Tensor:
        """(count, D) by place."""
        batches = [batch for batch in self.batches if key in batch.features]
        rows = torch.empty(count, batches[0].features[key].shape[1], dtype=batches[0].features[key].dtype)
        for batch in batches:
            rows[torch.tensor(batch.indices)] = batch.features[key]
        return rows

    def preview_data(self) -> dict[int, Tensor]:
        """Those that are to be shown, by place."""
        return dict(sorted((index, data) for batch in self.batches for index, data in batch.data.items()))

    def _read_config(self) -> dict[str, Any] | None:
        assert self.folder is not None
        path = self.folder / CONFIG_FILE
        if not path.exists():
            return None
        try:
            config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path} cannot be read ({error}); choose another --out") from error
        return config


class FeatureCache:
    """Features of the real examples by what they depend on; in a folder or, without one, nowhere."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, *key_parts: str) -> Tensor | None:
        """What was put there, or None."""
        path = self._path(key_parts)
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                features: Tensor = file.get_tensor("features")
        except (OSError, SafetensorError):
            return None  # made anew and replaced
        return features

    def put(self, features: Tensor, *key_parts: str) -> None:
        """Keep features.

        Raises:
            ConfigError: they cannot be written.
        """
        path = self._path(key_parts)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as partial:
                save_file({"features": features.contiguous()}, partial)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"cannot write {path}: {error}; choose another --cache") from error

    def _path(self, key_parts: Sequence[str]) -> Path | None:
        if self.folder is None:
            return None
        name = hashlib.sha256("\n".join(key_parts).encode()).hexdigest()[:32]
        return self.folder / f"{name}.safetensors"


def _read_batch(path: Path) -> EvalBatch:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = json.loads(file.metadata()["metadata"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); delete it, and --resume makes it again") from error
    return EvalBatch(
        tensors["indices"].tolist(),
        {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith("features.")},
        {int(name.partition(".")[2]): tensor for name, tensor in tensors.items() if name.startswith("data.")},
        metadata,
    )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
