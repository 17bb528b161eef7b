"""Weights of others in a `.pth` file that the user names: read as tensors, nothing else, and taken by their names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field
from torch import Tensor

from lumina_audio.metrics.heard import Hearing
from lumina_core.errors import CheckpointError
from lumina_core.weights.pickled import open_pickled
from lumina_core.weights.pieces import read


class FromFile(Hearing):
    """What features of a published network are told."""

    weights: str = Field(description="file of the published weights, on this machine")
    device: str = Field("cpu", description="where it runs")


@dataclass(frozen=True)
class Weights:
    """Tensors by their published names.

    Attributes:
        title: of the network, for messages.
        digest: of the file; the same content has the same numbers.
    """

    title: str
    path: Path
    digest: str
    tensors: dict[str, Tensor]

    def get(self, name: str, dimensions: int) -> Tensor:
        """A tensor of so many dimensions.

        Raises:
            CheckpointError: there is none.
        """
        found = self.tensors.get(name)
        if found is None or found.ndim != dimensions:
            told = "no such tensor" if found is None else f"one of shape {tuple(found.shape)}"
            raise CheckpointError(
                f"{self.path} is no file of {self.title}: wanted '{name}' of {dimensions} dimensions, it holds {told}"
            )
        return found

    def layer(self, name: str, dimensions: int) -> tuple[Tensor, Tensor]:
        """`name.weight` and `name.bias`."""
        return self.get(f"{name}.weight", dimensions), self.get(f"{name}.bias", 1)


def weights_of(path: str, title: str, device: str) -> Weights:
    """The tensors of a file, float32 on a device; code in it is never run.

    Raises:
        CheckpointError: it is missing, cut short, or holds more than weights.
    """
    file = Path(path).expanduser()
    pieces = open_pickled(file, within="model")
    tensors = {name: read(piece).to(device) for name, piece in pieces.items()}
    floating = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Weights(title, file, digest, floating)
