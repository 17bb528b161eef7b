"""What costly frozen parts made, kept on disk by content: the next run need not even load their networks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.files import whole_file
from lumina_core.types import Condition

DOORS = ("memory", "memory_mask", "summary")
"""The doors of a condition that are kept; one with context is not."""


class Shelf:
    """A folder of conditions and latents, one small safetensors file each, whole or not there.

    Files lie under the fingerprint of the part that made them, which covers its weights and options: others never find
    them. When the room is full nothing more is kept; a file that cannot be read counts as not there.

    Args:
        folder: made where it is not there; several runs and processes may share it.
        room: bytes that all files in it may have together.
        device: where what is found is put.

    Raises:
        ConfigError: it cannot be made.
    """

    def __init__(self, folder: Path, room: int, device: torch.device | str = "cpu") -> None:
        self.folder, self.device = folder, device
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.room = room - sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
        except OSError as error:
            raise ConfigError(f"training.cache_folder {folder} cannot be used: {error.strerror or error}") from error

    def find(self, fingerprint: str, text: str | None) -> Condition | None:
        """What was said of a text, or of silence (None); None where it is not kept."""
        kept = self.find_tensors(fingerprint, _name(text))
        return None if kept is None else Condition(kept.get("memory"), kept.get("memory_mask"), kept.get("summary"))

    def keep(self, fingerprint: str, text: str | None, condition: Condition) -> None:
        """Keep what was said, where there is room for it."""
        if condition.context is None:
            tensors = {door: getattr(condition, door) for door in DOORS if getattr(condition, door) is not None}
            self.keep_tensors(fingerprint, _name(text), tensors)

    def find_tensors(self, fingerprint: str, name: str) -> dict[str, Tensor] | None:
        """What is kept under a name; None where nothing is."""
        try:
            return load_file(self._path(fingerprint, name), str(self.device))
        except (OSError, SafetensorError):
            return None

    def keep_tensors(self, fingerprint: str, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors under a name (letters and digits), where there is room for them."""
        size = sum(tensor.nbytes for tensor in tensors.values()) + 1024
        path = self._path(fingerprint, name)
        if size > self.room or path.exists():
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as partial:
                save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, partial)
            self.room -= path.stat().st_size
        except (OSError, SafetensorError):  # a full disk: a run needs the shelf as little as it needs a full one
            self.room = 0

    def _path(self, fingerprint: str, name: str) -> Path:
        return self.folder / fingerprint[:32] / name[:2] / f"{name}.safetensors"


def _name(text: str | None) -> str:
    return "silence" if text is None else hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
