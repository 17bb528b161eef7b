"""Component type `camera`: how cameras reach the network.

All encodings have no effect on a single view, and begin without effect: features pass a zero-initialized projection
(`token_condition`), and position encodings read cameras relative to each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lumina_3d.views.cameras import Camera
from lumina_core.config import Config as Settings

COORDINATES = 17
"""Further coordinates of a token: 1 if its camera is known, the 3x4 camera-to-world matrix, two focal lengths (in half
widths and half heights of the picture), and the picture coordinates right and up of the patch, -1 to 1."""


@dataclass(frozen=True)
class CameraBatch:
    """Cameras of a batch as tensors.

    Attributes:
        poses: (B, V, 3, 4) float32, camera to world.
        focals: (B, V, 2) float32, focal lengths in half widths and half heights.
        known: (B, V) float32, 1 if the camera is known.
    """

    poses: Tensor
    focals: Tensor
    known: Tensor

    @classmethod
    def of(cls, cameras: Sequence[Sequence[Camera]]) -> CameraBatch:
        """Return the tensors of B lists of V cameras, on the CPU."""
        poses = [[torch.as_tensor(c.pose[:3], dtype=torch.float32) for c in row] for row in cameras]
        focals = [[(c.focal / c.aspect, c.focal) for c in row] for row in cameras]
        known = [[float(c.known) for c in row] for row in cameras]
        shape = (len(cameras), len(cameras[0]))
        return cls(
            torch.stack([torch.stack(row) for row in poses]) if shape[1] else torch.zeros(*shape, 3, 4),
            torch.tensor(focals, dtype=torch.float32).view(*shape, 2),
            torch.tensor(known, dtype=torch.float32).view(*shape),
        )

    def to(self, device: torch.device) -> CameraBatch:
        """Move to a device."""
        return CameraBatch(self.poses.to(device), self.focals.to(device), self.known.to(device))

    def cat(self, other: CameraBatch) -> CameraBatch:
        """Append the views of another batch."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return CameraBatch(*(torch.cat(pair, dim=1) for pair in pairs))

    def with_common_knowledge(self) -> CameraBatch:
        """Return the cameras of items that know all of theirs; in other items none is known.

        An encoding compares cameras with each other, which needs all of them in one world.
        """
        known = self.known.amin(dim=1, keepdim=True).expand_as(self.known)
        return CameraBatch(self.poses, self.focals, known.contiguous())


def patch_centers(rows: int, columns: int, device: torch.device | None = None) -> Tensor:
    """Return (rows * columns, 2) picture coordinates of patch centres: right and up, -1 to 1."""
    right = 2 * (torch.arange(columns, dtype=torch.float32, device=device) + 0.5) / columns - 1
    up = 1 - 2 * (torch.arange(rows, dtype=torch.float32, device=device) + 0.5) / rows
    return torch.stack([right.expand(rows, columns), up[:, None].expand(rows, columns)], dim=-1).reshape(-1, 2)


def coordinates(cameras: CameraBatch, rows: int, columns: int) -> Tensor:
    """Return the further coordinates of tokens, (B, V * rows * columns, COORDINATES); see there."""
    batch, views = cameras.known.shape
    per_view = torch.cat([cameras.known[..., None], cameras.poses.flatten(2), cameras.focals], dim=-1)
    centers = patch_centers(rows, columns, cameras.poses.device)
    per_token = torch.cat(
        [
            per_view[:, :, None].expand(-1, -1, len(centers), -1),
            centers[None, None].expand(batch, views, -1, -1),
        ],
        dim=-1,
    )
    return per_token.flatten(1, 2)


class CameraEncoding(ABC):
    """Base class of camera encodings: cameras -> features of tokens.

    Attributes:
        dim: K, numbers per token; 0: none, because the position encoding of the backbone reads the cameras.
    """

    dim: int = 0

    @abstractmethod
    def features(self, cameras: CameraBatch, reference: int, rows: int, columns: int) -> Tensor:
        """Return features (B, V * rows * columns, K); zeros for a camera that is not known.

        Args:
            cameras: of all views of an item, generated and given.
            reference: index of the view that the others are compared with: the first given one, or the first.
            rows, columns: patches of a view.
        """


class NoFeatures(CameraEncoding):
    """Cameras for position encodings alone (`3d.prope`, `3d.urope`): no features."""

    class Config(Settings):
        """No options."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def features(self, cameras: CameraBatch, reference: int, rows: int, columns: int) -> Tensor:
        """Return (B, V * rows * columns, 0)."""
        batch, views = cameras.known.shape
        return cameras.poses.new_zeros(batch, views * rows * columns, 0)


class RelativeAngles(CameraEncoding):
    """Angles relative to the reference view (Lumina-Next, section 4): azimuth, elevation, and radius.

    Sines and cosines of 1, 2 and 4 times the difference of azimuth and of elevation, the difference of radius and of
    the logarithms of the focal length, and sine and cosine of the reference's elevation with a flag that it is known:
    an unknown elevation is a value of its own. The paper does not publish its vector; this one is ours.
    """

    class Config(Settings):
        """Which angles are known."""

        multiples: tuple[int, ...] = Field((1, 2, 4), min_length=1, description="multiples of the angles")
        elevation_known: bool = Field(True, description="False: the reference's elevation is never given")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.dim = 4 * len(config.multiples) + 5

    def features(self, cameras: CameraBatch, reference: int, rows: int, columns: int) -> Tensor:
        """Return (B, V * rows * columns, K)."""
        position = cameras.poses[..., 3]
        azimuth = torch.atan2(position[..., 1], position[..., 0])
        elevation = torch.atan2(position[..., 2], position[..., :2].norm(dim=-1))
        radius, focal = position.norm(dim=-1), cameras.focals[..., 1].log()
        first = slice(reference, reference + 1)
        turns = [(azimuth - azimuth[:, first]) * k for k in self.config.multiples]
        tilts = [(elevation - elevation[:, first]) * k for k in self.config.multiples]
        flag = torch.full_like(radius, float(self.config.elevation_known))
        start = elevation[:, first].expand_as(elevation)
        columns_ = [turn.sin() for turn in turns] + [turn.cos() - 1 for turn in turns]
        columns_ += [tilt.sin() for tilt in tilts] + [tilt.cos() - 1 for tilt in tilts]
        columns_ += [radius - radius[:, first], focal - focal[:, first]]
        columns_ += [flag, flag * start.sin(), flag * start.cos()]
        features = torch.stack(columns_, dim=-1) * cameras.known[..., None]
        return features[:, :, None].expand(-1, -1, rows * columns, -1).flatten(1, 2)


class PluckerRays(CameraEncoding):
    """Pluecker coordinates of the ray of each patch, in the frame of the reference view: direction and moment.

    (Sitzmann et al., arXiv 2106.02634, for light fields.) In the frame of the reference a change of world coordinates
    changes nothing.
    """

    class Config(Settings):
        """Unit of length."""

        unit: float = Field(2.0, gt=0, description="distance in sides of the object that counts as 1")

    def __init__(self, config: Config) -> None:
        self.config, self.dim = config, 6

    def features(self, cameras: CameraBatch, reference: int, rows: int, columns: int) -> Tensor:
        """Return (B, V * rows * columns, 6)."""
        centers = patch_centers(rows, columns, cameras.poses.device)
        local = F.pad(centers[None, None] / cameras.focals[:, :, None], (0, 1), value=-1.0)
        rotation, position = cameras.poses[..., :3], cameras.poses[..., 3]
        first_rotation, first_position = rotation[:, reference, None], position[:, reference, None]
        to_first = first_rotation.transpose(-1, -2) @ rotation
        origin = (first_rotation.transpose(-1, -2) @ (position - first_position)[..., None])[..., 0] / self.config.unit
        direction = F.normalize(local @ to_first.transpose(-1, -2), dim=-1)
        moment = torch.linalg.cross(origin[:, :, None].expand_as(direction), direction, dim=-1)
        rays = torch.cat([direction, moment], dim=-1) * cameras.known[:, :, None, None]
        return rays.flatten(1, 2)
