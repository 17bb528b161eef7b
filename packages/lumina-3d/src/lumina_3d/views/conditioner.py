"""Conditioner of views: cameras, and given pictures as reference tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lumina_3d.views.camera_encoding import COORDINATES, CameraBatch, CameraEncoding, coordinates
from lumina_3d.views.cameras import Camera
from lumina_3d.views.tokenizer import PerViewAutoencoder
from lumina_core.conditioning.ops import select, stack
from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.protocols import Autoencoder, Conditioner, Tokenizer
from lumina_core.tokenizers import StackPatchify
from lumina_core.types import Condition, Tokens

FLAGS = 2
"""Numbers of a token before those of the camera encoding: 1 for a given picture, 1 for a known camera."""
MAX_POSITIONS = 16
"""View positions that are drawn in training: 0 to 15."""


@dataclass(frozen=True, eq=False)
class ViewInputs:
    """Cameras of one object, and its given pictures.

    Attributes:
        cameras: of the V generated views.
        pictures: given pictures, each (C, H, W) in [-1, 1].
        picture_cameras: their cameras.
        positions: positions of the generated and then of the given views on the view axis; None: 0, 1, 2 and so on.
    """

    cameras: tuple[Camera, ...]
    pictures: tuple[Tensor, ...] = ()
    picture_cameras: tuple[Camera, ...] = ()
    positions: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.cameras:
            raise ConfigError("views: got no cameras, expected at least one")
        if len(self.pictures) != len(self.picture_cameras):
            raise ConfigError(
                f"views: got {len(self.pictures)} pictures and {len(self.picture_cameras)} cameras of them, expected "
                "as many"
            )
        count = len(self.cameras) + len(self.pictures)
        if self.positions is not None and len(self.positions) != count:
            raise ConfigError(f"views: got {len(self.positions)} positions, expected {count}, one per view")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ViewInputs) or len(self.pictures) != len(other.pictures):
            return False
        plain = ("cameras", "picture_cameras", "positions")
        same = all(getattr(self, name) == getattr(other, name) for name in plain)
        return same and all(map(torch.equal, self.pictures, other.pictures))

    __hash__ = None  # type: ignore[assignment]

    def without_pictures(self) -> ViewInputs:
        """Return the generated views alone."""
        positions = None if self.positions is None else self.positions[: len(self.cameras)]
        return ViewInputs(self.cameras, (), (), positions)


class ViewConditioner(Conditioner):
    """Cameras of the views, as token conditions and positions; given pictures as reference tokens at their cameras.

    The condition has `token_condition` and `reference_condition` (flags, then the features of the camera encoding) and
    `token_positions` (offsets of the view position, then the coordinates of the camera). The network sees cameras
    relative to each other alone if the encoding does.
    """

    class Config(Settings):
        """The camera encoding, and the size of the views."""

        camera: ComponentSpec = Field(ComponentSpec(type="3d.coordinates"), description="camera encoding")
        image_size: int = Field(64, ge=8, description="side of the pictures in pixels")

    def __init__(self, config: Config, camera: CameraEncoding) -> None:
        self.config, self.camera = config, camera
        self.token_condition_dim = FLAGS + camera.dim
        # of a conditioner without a model: the pixels themselves
        pixels = PerViewAutoencoder(PerViewAutoencoder.Config())
        self._codec: tuple[Autoencoder, Tokenizer] = (pixels, StackPatchify(StackPatchify.Config(patch_size=8)))

    def set_codec(self, autoencoder: Autoencoder, tokenizer: Tokenizer) -> None:
        """Store the model's autoencoder and tokenizer, which make tokens of the given pictures."""
        self._codec = (autoencoder, tokenizer)

    def encode(self, values: Sequence[Any]) -> Condition:
        """Encode one `ViewInputs` per item.

        Raises:
            ConfigError: a value is of another type, or a picture has another size.
        """
        for value in values:
            if not isinstance(value, ViewInputs):
                raise ConfigError(f"views: got {type(value).__name__}, expected ViewInputs: cameras and given pictures")
        groups: dict[tuple[int, int], list[int]] = {}
        for index, value in enumerate(values):
            groups.setdefault((len(value.cameras), len(value.pictures)), []).append(index)
        order = [index for rows in groups.values() for index in rows]
        encoded = stack([self._encode_group([values[index] for index in rows]) for rows in groups.values()])
        if order == list(range(len(values))):
            return encoded
        return select(encoded, torch.tensor(order).argsort())

    def null_condition(self, batch: int) -> Condition:
        """Return the condition without cameras and pictures: reference tokens of which there are none."""
        width = self._codec[1].width
        empty = Tokens(torch.zeros(batch, 0, width), torch.zeros(batch, 0, 3 + COORDINATES), ((0,),) * batch)
        return Condition(reference=empty)

    def _encode_group(self, values: Sequence[ViewInputs]) -> Condition:
        """Encode items with as many generated and as many given views."""
        targets = CameraBatch.of([value.cameras for value in values])
        given = CameraBatch.of([value.picture_cameras for value in values]) if values[0].pictures else None
        defaults = range(targets.known.shape[1] + (0 if given is None else given.known.shape[1]))
        positions = torch.tensor([value.positions or tuple(defaults) for value in values], dtype=torch.float32)
        pictures = torch.stack([torch.stack(value.pictures, dim=1) for value in values]) if given else None
        return self.encode_tensors(targets, given, positions, pictures)

    def encode_tensors(
        self, targets: CameraBatch, given: CameraBatch | None, positions: Tensor, pictures: Tensor | None
    ) -> Condition:
        """Encode a batch whose items have equally many views.

        Args:
            targets: cameras of the V generated views.
            given: cameras of the G given pictures; None: none are given.
            positions: (B, V + G) positions on the view axis.
            pictures: (B, C, G, H, W) in [-1, 1], or None.

        Raises:
            ConfigError: the pictures do not have the size of the views.
        """
        rows, columns = self._grid()
        cameras = (targets if given is None else targets.cat(given)).with_common_knowledge()
        count = cameras.known.shape[1]
        num_targets, per_view = targets.known.shape[1], rows * columns
        with torch.autocast(cameras.known.device.type, enabled=False):  # geometry needs float32
            features = self.camera.features(cameras, num_targets if given is not None else 0, rows, columns)
        flags = torch.stack([torch.zeros_like(cameras.known), cameras.known], dim=-1)
        flags[:, num_targets:, 0] = 1
        per_token = flags[:, :, None].expand(-1, -1, per_view, -1).flatten(1, 2)
        # a single view has nothing to compare its camera with: it looks as to a picture model
        condition = torch.cat([per_token, features], dim=-1) * float(count > 1)
        offsets = positions.to(cameras.known) - torch.cat(
            [torch.arange(num_targets), torch.zeros(count - num_targets)]
        ).to(cameras.known)
        offset = torch.nn.functional.pad(offsets[..., None], (0, 2))[:, :, None].expand(-1, -1, per_view, -1)
        located = torch.cat([offset.flatten(1, 2), coordinates(cameras, rows, columns)], dim=-1)
        split = num_targets * per_view
        reference = None
        if pictures is not None:
            reference = self._reference_tokens(pictures, located[:, split:])
        return Condition(
            token_condition=condition[:, :split],
            reference_condition=condition[:, split:] if pictures is not None else None,
            token_positions=located[:, :split],
            reference=reference,
        )

    def _reference_tokens(self, pictures: Tensor, located: Tensor) -> Tokens:
        """Return the tokens of pictures (B, C, G, H, W), with positions of 3 + COORDINATES numbers."""
        autoencoder, tokenizer = self._codec
        if pictures.shape[-1] != self.config.image_size or pictures.shape[-2] != self.config.image_size:
            raise ConfigError(
                f"given picture: got {pictures.shape[-1]}x{pictures.shape[-2]}, expected {self.config.image_size}x"
                f"{self.config.image_size}. Resize it."
            )
        weight = next(autoencoder.parameters(), None) if isinstance(autoencoder, nn.Module) else None
        with torch.no_grad():
            latent = autoencoder.encode(pictures if weight is None else pictures.to(weight))
        tokens = tokenizer.patchify(latent)
        # rows and columns of the patches; the first view's position is 0 in every given picture
        grid = tokens.positions[:, : tokens.values.shape[1] // pictures.shape[2], 1:].to(located)
        grid = grid.repeat(1, pictures.shape[2], 1).expand(len(located), -1, -1)
        positions = torch.cat([located[..., :1], grid, located[..., 3:]], dim=-1)
        return Tokens(tokens.values, positions, tokens.sizes)

    def _grid(self) -> tuple[int, int]:
        """Return rows and columns of the patches of a view."""
        autoencoder, tokenizer = self._codec
        side = self.config.image_size
        if tokenizer.patch_size is None:
            raise ShapeError("views: got a tokenizer without even patches, expected 3d.view_patchify")
        patch = autoencoder.downsample_factor[-1] * tokenizer.patch_size[-1]
        if side % patch:
            raise ConfigError(f"3d.views image_size: got {side}, expected a multiple of {patch}")
        return side // patch, side // patch
