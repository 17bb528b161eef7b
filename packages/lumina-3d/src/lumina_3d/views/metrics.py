"""Measures of views: silhouettes, PSNR, sharpness, consistency of a carved hull, and read-back of poses.

Views are (..., 4, H, W) in [-1, 1], colours over white, then alpha; all functions run on the device of their tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lumina_3d.views.camera_encoding import CameraBatch
from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.errors import ShapeError
from lumina_core.metrics.base import MetricConfig
from lumina_core.protocols import EvalInputs, FeatureExtractor, Metric

HULL_SIDE = 48
"""Voxels along each axis of the carved hull."""
HULL_EXTENT = 0.52
"""Half side of the carved cube, in sides of the object."""


class ViewPixels(FeatureExtractor):
    """The pixels of views as features."""

    data_field = "views"
    name, key = "pixels", "view-pixels"

    class Config(Settings):
        """No options."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """Map views (4, V, H, W) to rows (B, 4 V H W).

        Raises:
            ShapeError: the items have other channels, or different shapes.
        """
        if len({item.shape for item in items}) != 1 or items[0].ndim != 4 or items[0].shape[0] != 4:
            shapes = sorted({tuple(item.shape) for item in items})
            raise ShapeError(f"views: got the shapes {shapes[:3]}, expected one shape (4, V, H, W): RGBA")
        return torch.stack([item.detach().float().flatten().cpu() for item in items])


class ViewScores(Metric):
    """Silhouettes and colours of the views of an item against its true ones, over all pixels of its views."""

    class Config(MetricConfig):
        """Features of the metric."""

        feature_extractor: ComponentSpec = Field(ComponentSpec(type="3d.view_pixels"), description="pixels to compare")

    def __init__(self, config: Config, feature_extractor: FeatureExtractor) -> None:
        self.config, self.feature_extractor = config, feature_extractor

    def compute(self, inputs: EvalInputs) -> Mapping[str, Tensor | float]:
        """Compute `IoU` of silhouettes, and `PSNR` in dB of the colours over white, of every item."""
        # (B, 4, 1, V H W): all views of an item side by side
        ours, real = (rows.unflatten(1, (4, 1, -1)) for rows in (inputs.generated, inputs.real[inputs.target_index]))
        return {"IoU": silhouette_iou(silhouettes(ours), silhouettes(real)), "PSNR": psnr(ours, real)}


def silhouettes(views: Tensor) -> Tensor:
    """Return bool (..., H, W) of views (..., 4, H, W): where alpha is at least one half."""
    return views[..., 3, :, :] >= 0


def silhouette_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the intersection over union (...) of two bool masks (..., H, W); 1 if both are empty."""
    intersection = (first & second).sum(dim=(-1, -2)).float()
    union = (first | second).sum(dim=(-1, -2)).float()
    return torch.where(union == 0, torch.ones_like(union), intersection / union.clamp_min(1))


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Return the PSNR (...) in dB of the colours of two views (..., 4, H, W) over white, for a range of 0 to 1."""
    difference = (first[..., :3, :, :].clamp(-1, 1) - second[..., :3, :, :].clamp(-1, 1)) / 2
    return -10 * difference.square().mean(dim=(-1, -2, -3)).clamp_min(1e-10).log10()


def gradient_energy(views: Tensor) -> Tensor:
    """Return the mean squared difference (...) of neighbouring pixels of the colours of views (..., 4, H, W)."""
    color = (views[..., :3, :, :].clamp(-1, 1) + 1) / 2
    right, down = color.diff(dim=-1).square(), color.diff(dim=-2).square()
    return right.mean(dim=(-1, -2, -3)) + down.mean(dim=(-1, -2, -3))


def carve_hull(masks: Tensor, cameras: CameraBatch, side: int = HULL_SIDE) -> Tensor:
    """Return the visual hull (B, side, side, side) bool of silhouettes, indexed x, y, z.

    A voxel stays if its centre lies within a pixel of every silhouette (Laurentini 1994), or outside of the picture.

    Args:
        masks: (B, V, H, W) bool.
        cameras: of the views.
        side: voxels along each axis.
    """
    axis = _voxel_centers(side, masks.device)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(1, -1, 3)
    kept = torch.ones(len(masks), points.shape[1], dtype=torch.bool, device=masks.device)
    for view in range(masks.shape[1]):
        picture = _project(points, cameras, view)
        grid = torch.stack([picture[..., 0], -picture[..., 1]], dim=-1)[:, None]
        alpha = masks[:, view, None].float()
        inside = F.grid_sample(alpha, grid, mode="nearest", padding_mode="zeros", align_corners=False)[:, 0, 0] > 0.5
        kept &= inside | (picture.abs() > 1).any(dim=-1)
    return kept.view(len(masks), side, side, side)


def project_hull(hull: Tensor, cameras: CameraBatch, size: int, steps: int = 128) -> Tensor:
    """Return the silhouettes (B, V, size, size) bool of hulls (B, side, side, side), by marching along the rays."""
    batch, views = cameras.known.shape
    axis = (torch.arange(size, device=hull.device).float() + 0.5) / size * 2 - 1
    up, right = torch.meshgrid(-axis, axis, indexing="ij")
    local = torch.stack([right, up, -torch.ones_like(up)], dim=-1).view(1, 1, -1, 3)
    scale = F.pad(cameras.focals, (0, 1), value=1.0)[:, :, None]
    directions = F.normalize((local / scale) @ cameras.poses[..., :3].transpose(-1, -2), dim=-1)
    origin = cameras.poses[..., 3][:, :, None]
    middle = origin.norm(dim=-1, keepdim=True)
    reach = HULL_EXTENT * 3**0.5
    volume = hull.float().permute(0, 3, 2, 1)[:, None]
    covered = torch.zeros(batch, views, size * size, dtype=torch.bool, device=hull.device)
    for step in torch.linspace(-1, 1, steps).tolist():
        points = (origin + (middle + step * reach) * directions) / HULL_EXTENT
        grid = points.view(batch, views, -1, 1, 3)
        value = F.grid_sample(volume, grid, mode="nearest", padding_mode="zeros", align_corners=False)
        covered |= value.view(batch, views, -1) > 0.5
    return covered.view(batch, views, size, size)


def hull_consistency(masks: Tensor, cameras: CameraBatch, side: int = HULL_SIDE) -> Tensor:
    """Return the IoU (B, V) of silhouettes (B, V, H, W) with those of the hull carved from all of them."""
    hull = carve_hull(masks, cameras, side)
    return silhouette_iou(project_hull(hull, cameras, masks.shape[-1]), masks)


def nearest_render(views: Tensor, renders: Tensor) -> Tensor:
    """Return the index (B, V) of the true render nearest to each view, by mean squared difference of all channels.

    Args:
        views: (B, V, 4, H, W).
        renders: (B, R, 4, H, W), true pictures of the same object.
    """
    first, second = views.clamp(-1, 1).flatten(2), renders.flatten(2)
    return torch.cdist(first.float(), second.float()).argmin(dim=-1)


def _voxel_centers(side: int, device: torch.device) -> Tensor:
    return ((torch.arange(side, device=device).float() + 0.5) / side * 2 - 1) * HULL_EXTENT


def _project(points: Tensor, cameras: CameraBatch, view: int) -> Tensor:
    """Return the picture coordinates (B, N, 2) of points (1, N, 3): right and up, -1 to 1 inside the picture."""
    pose = cameras.poses[:, view]
    local = (points - pose[:, None, :, 3]) @ pose[..., :3]
    depth = (-local[..., 2:]).clamp_min(1e-6)
    return local[..., :2] / depth * cameras.focals[:, view, None]
