"""Weights of others in a `.pth` file that the user names: read as tensors, nothing else, and taken by their names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field
from torch import Tensor

from lumina_audio.metrics.preprocess import AudioFeatureConfig
from lumina_core.checkpoint.lazy_tensors import read_tensor
from lumina_core.checkpoint.torch_pickle import open_torch_pickle
from lumina_core.errors import CheckpointError


class WeightsFileConfig(AudioFeatureConfig):
    """What features of a published network are told."""

    weights: str = Field(description="file of the published weights, on this machine")
    device: str = Field("cpu", description="where it runs")


@dataclass(frozen=True)
class WeightsFile:
    """Tensors by their published names.

    Attributes:
        title: of the network, for messages.
        digest: of the file; the same content has the same numbers.
    """

    title: str
    path: Path
    digest: str
    tensors: dict[str, Tensor]

    def get(self, name: str, ndim: int) -> Tensor:
        """A tensor of so many dimensions.

        Raises:
            CheckpointError: there is none.
        """
        tensor = self.tensors.get(name)
        if tensor is None or tensor.ndim != ndim:
            actual = "no such tensor" if tensor is None else f"one of shape {tuple(tensor.shape)}"
            raise CheckpointError(
                f"{self.path} is no file of {self.title}: wanted '{name}' of {ndim} dimensions, it holds {actual}"
            )
        return tensor

    def layer(self, name: str, ndim: int) -> tuple[Tensor, Tensor]:
        """`name.weight` and `name.bias`."""
        return self.get(f"{name}.weight", ndim), self.get(f"{name}.bias", 1)


def load_weights(path: str, title: str, device: str) -> WeightsFile:
    """The tensors of a file, float32 on a device; code in it is never run.

    Raises:
        CheckpointError: it is missing, cut short, or holds more than weights.
    """
    file = Path(path).expanduser()
    lazy_tensors = open_torch_pickle(file, key="model")
    tensors = {name: read_tensor(lazy).to(device) for name, lazy in lazy_tensors.items()}
    floats = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return WeightsFile(title, file, digest, floats)
