"""Tokenizer of images of any size: native patches, or larger patches within a budget of tokens."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ShapeError
from lumina_core.protocols import Tokenizer
from lumina_core.types import Size, Tokens

MAX_PATCH_FACTOR = 4
"""Largest patch within a budget, over the trained patch; images that still have too many patches are shrunk."""


class Patchify(Tokenizer):
    """Cut images (B, C, H, W) of any size into square patches; each patch is one token.

    A side that is no multiple of the patch is padded by repeating its last pixels, so that no pixel is lost. Numbers of
    a patch are in the order (channel, row, column).

    With a budget (`max_tokens`), an image with more patches is cut into larger ones (up to 4 times the side), which
    are mapped to the trained size by the pseudo-inverse of bilinear enlargement: the same as resized patch weights
    (FlexiViT, arXiv 2212.08013, section 3.4). Only an image that still has more patches is shrunk first.
    """

    class Config(Settings):
        """Size of the patches, and the budget."""

        patch_size: int = Field(16, ge=1, le=64, description="side of a patch in pixels, as trained")
        max_tokens: int | None = Field(
            None, ge=1, description="most tokens of an image, by larger patches; None: no limit"
        )
        channels: int = Field(0, ge=0, description="channels of the image; filled in")

    def __init__(self, config: Config) -> None:
        if not config.channels:
            raise ShapeError("recog.patchify channels: got 0, expected those of the autoencoder.")
        self.config = config
        self.patch_size = (config.patch_size, config.patch_size)
        self.width = config.channels * config.patch_size**2

    def patchify(self, latent: Tensor) -> Tokens:
        """Cut images (B, C, H, W), each side at least one pixel, into tokens (B, N, C patch_size^2).

        Positions are the patch's row and column; `sizes` keeps (H, W).

        Raises:
            ShapeError: the images have another shape.
        """
        tokens = tokenize(latent, self.config.patch_size, self.config.max_tokens, self.config.channels)
        return replace(tokens, sizes=((latent.shape[2], latent.shape[3]),) * latent.shape[0])

    def unpatchify(self, tokens: Tokens) -> Tensor:
        """Put tokens of one size together again; padding is cut off.

        Raises:
            ShapeError: the tokens are of several sizes, or of a size that the budget cuts into larger patches.
        """
        height, width = tokens.sizes[0]
        if len(set(tokens.sizes)) > 1 or tokens.mask is not None:
            raise ShapeError("tokens: got several sizes, expected one. Call it once per size.")
        patch, shrunk = choose_patch((height, width), self.config.patch_size, self.config.max_tokens)
        if (patch, shrunk) != (self.config.patch_size, (height, width)):
            raise ShapeError(
                f"tokens: got the size {height}x{width}, cut into patches of {patch} pixels, expected patches of "
                f"{self.config.patch_size}. Larger patches are averaged and cannot be put together again."
            )
        rows, columns = -(-height // patch), -(-width // patch)
        grid = tokens.values.transpose(1, 2).unflatten(2, (rows, columns))
        return F.pixel_shuffle(grid, patch)[..., :height, :width]

    def empty(self, batch: int, size: Size) -> Tokens:
        """Make tokens of zeros for images of a size (H, W)."""
        return self.patchify(torch.zeros(batch, self.config.channels, *size))


def tokenize(images: Tensor, patch_size: int, max_tokens: int | None, channels: int) -> Tokens:
    """Cut images (B, C, H, W) into tokens, see `Patchify`; a plain function, which torch.fx keeps as one node.

    The tokens are without `sizes`, one per image, which would make the batch a constant in graphs.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != channels or 0 in images.shape:
        found = f"the shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise ShapeError(f"image: got {found}, expected (B, {channels}, H, W) with at least one pixel")
    size = (images.shape[2], images.shape[3])
    patch, shrunk = choose_patch(size, patch_size, max_tokens)
    if shrunk != size:
        # torch has no antialiasing in half precision
        images = F.interpolate(images.float(), shrunk, mode="bicubic", antialias=True).to(images.dtype)
    values, rows, columns = cut_patches(images, patch, patch_size)
    positions = grid_positions(rows, columns, images.device).expand(images.shape[0], -1, -1)
    return Tokens(values, positions, ())


def choose_patch(size: tuple[int, int], patch_size: int, max_tokens: int | None) -> tuple[int, tuple[int, int]]:
    """Choose the smallest patch, from the trained one on, with which an image fits a budget.

    Args:
        size: (H, W) of the image.
        patch_size: side of the trained patch.
        max_tokens: budget; None: no limit.

    Returns:
        The side of the patch, and the size (H, W) to which the image is shrunk first, usually its own.
    """
    height, width = size
    if max_tokens is None:
        return patch_size, size
    largest = patch_size * MAX_PATCH_FACTOR
    for patch in range(patch_size, largest + 1):
        if -(-height // patch) * -(-width // patch) <= max_tokens:
            return patch, size
    # rows and columns of the same shape that fit the budget; a strip keeps one row or column
    scale = math.sqrt(max_tokens / (height * width))
    rows = max(1, int(height * scale))
    columns = max(1, min(int(width * scale), max_tokens // rows))
    rows = min(rows, max_tokens // columns)
    return largest, (min(height, rows * largest), min(width, columns * largest))


def cut_patches(image: Tensor, patch: int, patch_size: int) -> tuple[Tensor, int, int]:
    """Cut an image (B, C, H, W) into patches and map them to the trained size.

    Returns:
        (B, N, C patch_size^2), and the numbers of rows and columns.
    """
    batch, channels, height, width = image.shape
    rows, columns = -(-height // patch), -(-width // patch)
    padded = F.pad(image, (0, columns * patch - width, 0, rows * patch - height), mode="replicate")
    grid = padded.reshape(batch, channels, rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5)
    values = grid.reshape(batch, rows * columns, channels * patch * patch)
    if patch != patch_size:
        matrix = resize_matrix(patch_size, patch).to(values)
        values = (values.unflatten(2, (channels, patch * patch)) @ matrix.T).flatten(2)
    return values, rows, columns


def grid_positions(rows: int, columns: int, device: torch.device) -> Tensor:
    """Return positions (1, rows columns, 3): time 0, row, column."""
    row = torch.arange(rows, dtype=torch.float32, device=device)[:, None].expand(rows, columns)
    column = torch.arange(columns, dtype=torch.float32, device=device)[None].expand(rows, columns)
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).flatten(0, 1)[None]


@functools.lru_cache(maxsize=256)
def resize_matrix(patch_size: int, patch: int) -> Tensor:
    """Return the pseudo-inverse (patch_size^2, patch^2) of bilinear resizing from `patch_size` to `patch`.

    With it, a patch of another side is read by the trained weights: w . (B^+ x) is FlexiViT's resized weight
    (B^T)^+ w applied to x, where B is the matrix of the bilinear resizing (arXiv 2212.08013, equation 4).
    """
    basis = torch.eye(patch_size**2).view(-1, 1, patch_size, patch_size)
    resized = F.interpolate(basis, (patch, patch), mode="bilinear", align_corners=False)
    inverse: Tensor = torch.linalg.pinv(resized.flatten(1).T.double())
    return inverse.float()


def resize_patch_weights(weight: Tensor, channels: int, patch: int) -> Tensor:
    """Resize the weights of a patch embedding (C, channels p^2) to patches of another side, (C, channels patch^2)."""
    patch_size = math.isqrt(weight.shape[1] // channels)
    matrix = resize_matrix(patch_size, patch).to(weight)
    resized: Tensor = weight.unflatten(1, (channels, -1)) @ matrix
    return resized.flatten(1)
