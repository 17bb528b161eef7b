"""Golden cases of the data: the lists of sizes that pictures are cut to."""

from __future__ import annotations

from typing import Any

import torch
from goldens_read import Golden, Unsupported, worst
from torch import Tensor

from lumina_image.datasets.buckets import bucket_sizes, num_patches


def sizes(golden: Golden) -> float:
    """Every list of the file, in its order; infinite where one has another length."""
    expected, request = golden.group("output"), golden.config["sets"]
    if {one["name"] for one in request} != expected.keys():
        raise Unsupported
    return worst([(_list(one), expected[one["name"]].double()) for one in request])


def _list(request: dict[str, Any]) -> Tensor:
    patch = int(request["patch_size"])
    # a file that names a size alone means its square's patches
    patches = request["num_patches"] if "num_patches" in request else num_patches(request["image_size"], patch)
    found = bucket_sizes(int(patches), patch, float(request.get("max_ratio", 4.0)))
    return torch.tensor(found, dtype=torch.float64).reshape(-1, 2)
