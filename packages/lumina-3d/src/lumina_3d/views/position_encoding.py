"""Position encodings that read cameras, on the view's channels of a head: PRoPE and URoPE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lumina_3d.views.camera_encoding import COORDINATES
from lumina_core.errors import ConfigError
from lumina_core.models.rope import PositionEncodingConfig, check_axes_dim, frequencies, rope_from_positions
from lumina_core.protocols import AttentionTransform


@dataclass(frozen=True)
class CameraTransform(AttentionTransform):
    """Rotary embedding, and matrices of the cameras on the first channels of a head.

    Attributes:
        rope: rotary embedding of `rope_start` and all further channels.
        rope_start: first rotated channel: 0, or the number of channels with matrices.
        groups: groups of four channels that have a matrix each.
        of_query, of_key: (B, N, 1 or groups, 4, 4) float32, D^T and D^-1 of each token.
        of_value, of_output: (B, N, 1, 4, 4) float32, D^-1 and D of each token with a camera, else the identity.
    """

    rope: AttentionTransform
    rope_start: int
    groups: int
    of_query: Tensor
    of_key: Tensor
    of_value: Tensor
    of_output: Tensor

    def query(self, q: Tensor, overwrite: bool = False) -> Tensor:
        """Map q to D^T q, after the rotation."""
        return self._apply(self._rotated(q, True), self.of_query)

    def key(self, k: Tensor) -> Tensor:
        """Map k to D^-1 k, after the rotation."""
        return self._apply(self._rotated(k, False), self.of_key)

    def cross_query(self, q: Tensor, encoded: Tensor) -> Tensor:
        """Return rotated queries without a camera: texts have none, and a change of world must not change them."""
        return self._rotated(q, True)

    def value(self, v: Tensor) -> Tensor:
        """Map v to D^-1 v."""
        return self._apply(v, self.of_value)

    def output(self, out: Tensor) -> Tensor:
        """Map the weighted sums of values to D out."""
        return self._apply(out, self.of_output)

    def _rotated(self, x: Tensor, is_query: bool) -> Tensor:
        rest = x[..., self.rope_start :] if self.rope_start else x
        rotated = self.rope.query(rest) if is_query else self.rope.key(rest)
        return torch.cat([x[..., : self.rope_start], rotated], dim=-1) if self.rope_start else rotated

    def _apply(self, x: Tensor, matrices: Tensor) -> Tensor:
        """Multiply each group of four of the first channels of x (B, N, heads, head_dim) by its matrix."""
        vectors = x[..., : 4 * self.groups].float().unflatten(-1, (self.groups, 4))
        columns = matrices[:, :, None].unbind(-1)
        mapped = sum(column * part[..., None] for column, part in zip(columns, vectors.unbind(-1), strict=True))
        assert isinstance(mapped, Tensor)  # there are four columns
        return torch.cat([mapped.flatten(-2).to(x.dtype), x[..., 4 * self.groups :]], dim=-1)


class Prope(nn.Module):
    """Projective positional encoding (PRoPE, arXiv 2507.10496) on the view's channels; rotary on row and column.

    A token with a known camera has D = P, its world-to-picture matrix K [R t] lifted to 4x4, with focal lengths in half
    pictures and the principal point at 0. Attention sees P_i P_j^-1 alone, so that a change of world coordinates
    changes nothing, and within one view it is the identity. Without a camera, D rotates by the view's position, as
    rotary embedding does. No weights.
    """

    class Config(PositionEncodingConfig):
        """How the axes share a head, and the unit of length."""

        axes_dim: tuple[int, int, int] = Field(
            description="channels of a head for view, row and column; the view's carry the cameras"
        )
        camera_dim: int | None = Field(
            None,
            ge=4,
            description="first channels of a head that carry the cameras, besides their rotation, where the view "
            "has no channels of its own (weights of a picture model); None: a third of the head",
        )
        layout: Literal["interleaved", "blocks"] = Field(
            "blocks", description="interleaved: channel pairs take the axes in turn, as in the published weights"
        )
        theta: float = Field(10000.0, gt=1, description="base of the rotary frequencies")
        unit: float = Field(2.0, gt=0, description="distance in sides of the object that counts as 1")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.theta = config, config.theta
        check_axes_dim(config.axes_dim, config.head_dim, config.layout)
        view_dim = config.axes_dim[0]
        if view_dim % 4 or (view_dim and config.camera_dim is not None) or (view_dim and config.layout != "blocks"):
            raise ConfigError(
                f"3d.prope axes_dim: got {view_dim} channels for the view, expected a multiple of 4 with the layout "
                "`blocks` and no camera_dim; or 0"
            )
        self.camera_dim = view_dim or config.camera_dim or config.head_dim // 12 * 4
        if self.camera_dim % 4 or self.camera_dim > config.head_dim:
            raise ConfigError(
                f"3d.prope camera_dim: got {self.camera_dim}, expected a multiple of 4, at most {config.head_dim}"
            )

    def frequencies(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """Return the frequencies of each axis, (axis_dim / 2,) float64."""
        return frequencies(self.config.axes_dim, self.theta, device)

    def forward(self, positions: Tensor, freqs: Sequence[Tensor]) -> tuple[AttentionTransform, ...]:
        """Return one transform for all blocks; see `protocols.PositionEncoding`.

        Args:
            positions: (B, N, 3), or (B, N, 3 + COORDINATES) with cameras.
            freqs: of each axis.
        """
        if positions.shape[2] not in (3, 3 + COORDINATES):
            raise ConfigError(
                f"3d.prope: got positions of {positions.shape[2]} numbers, expected 3, or {3 + COORDINATES} with "
                "cameras"
            )
        if positions.shape[2] == 3:
            return (rope_from_positions(positions, freqs, self.config.layout),)
        view_dim, groups = self.config.axes_dim[0], self.camera_dim // 4
        rest = (freqs[0][..., :0], *freqs[1:]) if view_dim else freqs
        rope = rope_from_positions(positions, rest, self.config.layout)
        known = positions[..., 3, None, None, None] > 0.5
        matrix, inverse = (one[:, :, None] for one in projection_matrices(positions[..., 3:], self.config.unit))
        identity = torch.eye(4, device=positions.device)
        of_query, of_key = matrix.transpose(-1, -2), inverse
        if view_dim:
            rotation = _view_rotation(positions[..., 0], freqs[0], groups)
            of_query, of_key = (torch.where(known, one, rotation) for one in (of_query, of_key))
        else:
            of_query, of_key = (torch.where(known, one, identity) for one in (of_query, of_key))
        of_value, of_output = (torch.where(known, one, identity) for one in (inverse, matrix))
        return (CameraTransform(rope, view_dim, groups, of_query, of_key, of_value, of_output),)


def projection_matrices(coordinates: Tensor, unit: float) -> tuple[Tensor, Tensor]:
    """Return the world-to-picture matrices (B, N, 4, 4) of tokens and their inverses, in closed form.

    Args:
        coordinates: (B, N, COORDINATES).
        unit: distance that counts as 1.
    """
    pose = coordinates[..., 1:13].unflatten(-1, (3, 4)).float()
    focal = torch.nn.functional.pad(coordinates[..., 13:15].float(), (0, 2), value=1.0)
    rotation, position = pose[..., :3], pose[..., 3:] / unit
    last = pose.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*pose.shape[:-2], 1, 4)
    to_world = torch.cat([torch.cat([rotation, position], dim=-1), last], dim=-2)
    back = rotation.transpose(-1, -2)
    # a sum of products: a matrix product would be half precision under autocast
    origin = -(rotation * position).sum(dim=-2)[..., None]
    to_camera = torch.cat([torch.cat([back, origin], dim=-1), last], dim=-2)
    safe = torch.where(focal == 0, torch.ones_like(focal), focal)
    return focal[..., None] * to_camera, to_world / safe[..., None, :]


@dataclass(frozen=True)
class ReprojectedKeys(AttentionTransform):
    """Rotary embedding in which a key has another position for the queries of each view.

    Attributes:
        rope: rotary embedding of `rope_start` and all further channels.
        rope_start: number of channels with positions in the view of the query.
        of_query: rotary embedding of these channels of the queries, at their own positions.
        of_key: (cos, sin), each (B, views, N, heads, rope_start / 2), of these channels of the keys.
        query_groups: number of views.
    """

    rope: AttentionTransform
    rope_start: int
    of_query: AttentionTransform
    of_key: tuple[Tensor, Tensor]
    query_groups: int = 1

    def query(self, q: Tensor, overwrite: bool = False) -> Tensor:
        """Rotate queries by their own positions."""
        first = self.of_query.query(q[..., : self.rope_start])
        return torch.cat([first, self.rope.query(q[..., self.rope_start :])], dim=-1)

    def key(self, k: Tensor) -> Tensor:
        """Rotate keys by their positions in each view: (B, N, heads, head_dim) -> (B, views, N, heads, head_dim)."""
        cos, sin = self.of_key
        pairs = k[:, None, ..., : self.rope_start].float().unflatten(-1, (-1, 2))
        real, imaginary = pairs[..., 0], pairs[..., 1]
        turned = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)
        rest = self.rope.key(k[..., self.rope_start :])[:, None].expand(-1, self.query_groups, -1, -1, -1)
        keys = torch.cat([turned.flatten(-2).to(k.dtype), rest], dim=-1)
        return keys if self.query_groups > 1 else keys[:, 0]


class Urope(nn.Module):
    """Rotary positions in the view of the query (URoPE, arXiv 2604.18747), on the view's channels of a head.

    The centre of a key's patch is lifted to a depth, and projected into the view of the query; there it has ordinary
    rotary positions of row and column. Each group of heads has one depth. Within a view the position is the key's own.
    Depths are counted from the point that the optical axes of the views pass nearest to, so that a change of world
    coordinates changes nothing. Without cameras the view's channels have the key's own row and column. No weights.
    """

    class Config(PositionEncodingConfig):
        """How the axes share a head, and the depths."""

        axes_dim: tuple[int, int, int] = Field(description="channels of a head for view, row and column; the view's "
                                               "hold row and column in the view of the query")  # fmt: skip
        rows: int = Field(8, ge=1, description="rows of patches of a view")
        columns: int = Field(8, ge=1, description="columns of patches of a view")
        depths: tuple[float, ...] = Field(
            (-0.4, -0.13, 0.13, 0.4), min_length=1, description="depths behind the centre, in sides of the object"
        )
        theta: float = Field(10000.0, gt=1, description="base of the rotary frequencies")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.theta = config, config.theta
        check_axes_dim(config.axes_dim, config.head_dim, "blocks")
        if config.axes_dim[0] % 4 or not config.axes_dim[0]:
            raise ConfigError(f"3d.urope axes_dim: got {config.axes_dim[0]} for the view, expected a multiple of 4")
        if config.num_heads % len(config.depths):
            raise ConfigError(
                f"3d.urope depths: got {len(config.depths)}, expected a number that divides {config.num_heads} heads"
            )

    def frequencies(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """Return the frequencies of each axis, (axis_dim / 2,) float64."""
        return frequencies(self.config.axes_dim, self.theta, device)

    def forward(self, positions: Tensor, freqs: Sequence[Tensor]) -> tuple[AttentionTransform, ...]:
        """Return one transform for all blocks; see `protocols.PositionEncoding`.

        Args:
            positions: (B, N, 3), or (B, N, 3 + COORDINATES) with cameras, the tokens of a view next to each other.
            freqs: of each axis.
        """
        config, view_dim = self.config, self.config.axes_dim[0]
        rope = rope_from_positions(positions, (freqs[0][..., :0], *freqs[1:]), "blocks")
        half = frequencies((0, view_dim // 2, view_dim - view_dim // 2), self.theta, positions.device)
        of_query = rope_from_positions(positions, half, "blocks")
        per_view = config.rows * config.columns
        if positions.shape[1] % per_view:
            raise ConfigError(
                f"3d.urope: got {positions.shape[1]} tokens, expected a multiple of {per_view}, the patches of a view"
            )
        views = positions.shape[1] // per_view
        own = positions[:, None, :, None, 1:3].expand(-1, views, -1, len(config.depths), -1)
        if positions.shape[2] > 3:
            own = self._reprojected(positions, views, own)
        angles = torch.cat([own[..., axis : axis + 1] * half[axis + 1].to(own) for axis in range(2)], dim=-1)
        angles = angles.repeat_interleave(config.num_heads // len(config.depths), dim=3)
        return (ReprojectedKeys(rope, view_dim, of_query, (angles.cos(), angles.sin()), views),)

    def _reprojected(self, positions: Tensor, views: int, own: Tensor) -> Tensor:
        """Return the rows and columns (B, views, N, depths, 2) of patches in each view."""
        config, per_view = self.config, self.config.rows * self.config.columns
        coordinates = positions[..., 3:].float()
        per_camera = coordinates[:, ::per_view]
        pose = per_camera[..., 1:13].unflatten(-1, (3, 4))
        focal, known = per_camera[..., 13:15], per_camera[..., 0] > 0.5
        forward = -pose[..., :3, 2]
        distance = ((_nearest_point(pose[..., 3], forward, known)[:, None] - pose[..., 3]) * forward).sum(dim=-1)
        depth = (distance[..., None] + distance.new_tensor(config.depths)).clamp_min(0.1)
        depth = depth.repeat_interleave(per_view, dim=1)
        safe = torch.where(
            coordinates[..., 13:15] == 0, torch.ones_like(coordinates[..., 13:15]), coordinates[..., 13:15]
        )
        local = torch.nn.functional.pad(coordinates[..., 15:17] / safe, (0, 1), value=-1.0)
        token_pose = coordinates[..., 1:13].unflatten(-1, (3, 4))
        ray = (token_pose[..., :3] * local[..., None, :]).sum(dim=-1)
        points = token_pose[..., None, :, 3] + depth[..., None] * ray[..., None, :]  # (B, N, depths, 3)
        relative = points[:, None] - pose[:, :, None, None, :, 3]
        rotation = pose[:, :, None, None, :, :3]
        seen = torch.stack([(relative * rotation[..., axis]).sum(dim=-1) for axis in range(3)], dim=-1)
        picture = seen[..., :2] / (-seen[..., 2:]).clamp_min(0.1) * focal[:, :, None, None]
        picture = picture.clamp(-4, 4)
        row = (1 - picture[..., 1]) / 2 * config.rows - 0.5
        column = (1 + picture[..., 0]) / 2 * config.columns - 0.5
        both_known = (known[:, :, None] & known.repeat_interleave(per_view, dim=1)[:, None])[..., None, None]
        same = torch.eye(views, dtype=torch.bool, device=positions.device).repeat_interleave(per_view, dim=1)
        keep_own = ~both_known | same[None, :, :, None, None]
        return torch.where(keep_own, own, torch.stack([row, column], dim=-1).to(own))


def _nearest_point(origins: Tensor, directions: Tensor, known: Tensor) -> Tensor:
    """Return the points (B, 3) that known lines (B, V, 3) pass nearest to, in the sense of least squares."""
    weights = known[..., None].to(origins)
    mean = (origins * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True).clamp_min(1)
    identity = torch.eye(3, device=origins.device)
    across = (identity - directions[..., :, None] * directions[..., None, :]) * weights[..., None]
    right = (across * (origins - mean)[..., None, :]).sum(dim=(1, 3))[..., None]
    # the small multiple of the identity keeps the mean of the cameras for parallel axes
    matrix = across.sum(dim=1) + 1e-4 * identity
    with torch.autocast(origins.device.type, enabled=False):
        solution = torch.linalg.solve(matrix.float(), right.float())
    nearest: Tensor = solution[..., 0] + mean[:, 0]
    return nearest


def _view_rotation(view: Tensor, freqs: Tensor, groups: int) -> Tensor:
    """Return (B, N, groups, 4, 4): rotations of channel pairs by the view's position (B, N), as rotary embedding."""
    angles = (view[..., None] * freqs.to(view)).unflatten(-1, (groups, 2))
    cos, sin = angles.cos(), angles.sin()
    zero = torch.zeros_like(cos[..., 0])
    rows = [
        torch.stack([cos[..., 0], -sin[..., 0], zero, zero], dim=-1),
        torch.stack([sin[..., 0], cos[..., 0], zero, zero], dim=-1),
        torch.stack([zero, zero, cos[..., 1], -sin[..., 1]], dim=-1),
        torch.stack([zero, zero, sin[..., 1], cos[..., 1]], dim=-1),
    ]
    return torch.stack(rows, dim=-2)
