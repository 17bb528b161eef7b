"""Golden cases of the data: the lists of sizes that pictures are cut to."""

from __future__ import annotations

from typing import Any

import torch
from goldens_read import Golden, Unsupported, worst
from torch import Tensor

from lumina_image.datasets.buckets import bucket_sizes, num_patches


def sizes(golden: Golden) -> float:
    """Every list of the file, in its order; infinite where one has another length."""
    wanted, asked = golden.group("output"), golden.config["sets"]
    if {one["name"] for one in asked} != wanted.keys():
        raise Unsupported
    return worst([(_list(one), wanted[one["name"]].double()) for one in asked])


def _list(asked: dict[str, Any]) -> Tensor:
    patch = int(asked["patch_size"])
    # a file that names a size alone means its square's patches
    patches = asked["num_patches"] if "num_patches" in asked else num_patches(asked["image_size"], patch)
    found = bucket_sizes(int(patches), patch, float(asked.get("max_ratio", 4.0)))
    return torch.tensor(found, dtype=torch.float64).reshape(-1, 2)
