"""Next-DiT and Flag-DiT as plain modules over latents (B, C, H, W): patchify, backbone, head, unpatchify."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumina_core.errors import ConfigError, ShapeError
from lumina_core.flow.loss import FlowMatching
from lumina_core.flow.path import PredictionType
from lumina_core.model_dir import load_model
from lumina_core.models.dit import DiTBackbone
from lumina_core.models.flag_dit import FlagDiTBackbone
from lumina_core.models.heads import VelocityHead
from lumina_core.models.next_dit import NextDiTBackbone
from lumina_core.protocols import PositionEncoding
from lumina_core.types import Condition, Tokens

DiTT = TypeVar("DiTT", bound="DiT2D")


class DiT2D(nn.Module):
    """Base of `NextDiT` and `FlagDiT`: a diffusion transformer over latents or images.

    Args:
        in_channels: C of the latent.
        patch_size: side of a token, in latent pixels.
        hidden_size: width of the tokens.
        num_layers: blocks.
        num_heads: query heads; hidden_size / num_heads must be a multiple of 4 for Next-DiT, of 2 for Flag-DiT.
        num_kv_heads: key and value heads; None: as many as query heads.
        context_dim: width of `context`; 0: no cross-attention.
        pooled_dim: width of `pooled`; 0: none.
        control_channels: channels of `control`; 0: none.
        position_encoding: for example a `MixedRope`; None: rotary embedding.
        options: further options of the backbone, such as `qk_norm` or `gradient_checkpointing`.

    Raises:
        ConfigError: an option is unknown (the nearest name is offered) or out of range.
    """

    backbone_type: type[DiTBackbone]
    has_shift = False
    """Whether the head shifts as well as scales, as that of Flag-DiT does."""

    def __init__(
        self,
        in_channels: int = 4,
        patch_size: int = 2,
        hidden_size: int = 384,
        num_layers: int = 12,
        num_heads: int = 6,
        num_kv_heads: int | None = None,
        context_dim: int = 0,
        pooled_dim: int = 0,
        control_channels: int = 0,
        position_encoding: PositionEncoding | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if in_channels < 1 or patch_size < 1:
            raise ConfigError(f"in_channels and patch_size: got {in_channels} and {patch_size}, expected at least 1")
        name, pixels = type(self).__name__, patch_size**2
        sizes = {"hidden_size": hidden_size, "num_layers": num_layers, "num_heads": num_heads}
        dims = {"token_dim": in_channels * pixels, "cross_attention_dim": context_dim, "pooled_dim": pooled_dim}
        values = {**sizes, "num_kv_heads": num_kv_heads, **dims, "token_condition_dim": control_channels * pixels}
        config = self.backbone_type.Config.read({**options, **values}, name)
        backbone = self.backbone_type(config, position_encoding)
        head_sizes = {"hidden_size": hidden_size, "token_dim": dims["token_dim"]}
        head = VelocityHead.Config(**head_sizes, modulation_dim=backbone.modulation_dim, shift=self.has_shift)
        self._assemble(backbone, VelocityHead(head), in_channels, patch_size)

    def _assemble(self, backbone: DiTBackbone, head: nn.Module, in_channels: int, patch_size: int) -> None:
        self.backbone, self.head = backbone, head
        self.in_channels, self.patch_size = in_channels, patch_size
        self.prediction: PredictionType = "velocity"
        """What the output is: velocity, data, noise or score."""

    @classmethod
    def from_pretrained(
        cls: type[DiTT], model: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
    ) -> DiTT:
        """Load the backbone and the head of a trained model.

        `prediction` of the result is the type of the output. The context comes from the model's conditioners, see
        `load_model(...).encode_condition`.

        Args:
            model: name of an installed model, or a folder (of a model or of a training run).
            device: where the weights go.
            dtype: of the weights; None: as stored.

        Raises:
            CheckpointError: the model does not exist, or cannot be loaded.
            ConfigError: the model has another backbone, or does not cut latents into square patches.
        """
        loaded = load_model(model, device=device, dtype=dtype)
        backbone, tokenizer = loaded.backbone, loaded.tokenizer
        if not isinstance(backbone, cls.backbone_type):
            raise ConfigError(
                f"{cls.__name__}.from_pretrained: got a model with the backbone {type(backbone).__name__}, expected "
                f"{cls.backbone_type.__name__}"
            )
        channels = loaded.autoencoder.channels
        patch_size = round((backbone.config.token_dim / channels) ** 0.5)
        net = cls.__new__(cls)
        nn.Module.__init__(net)
        assert isinstance(loaded.head, nn.Module)
        net._assemble(backbone, loaded.head, channels, patch_size)
        if isinstance(loaded.objective, FlowMatching):
            net.prediction = loaded.objective.config.prediction
        latent = torch.arange(float(channels * 4 * patch_size**2)).view(1, channels, 2 * patch_size, 2 * patch_size)
        try:
            same_patches = torch.equal(tokenizer.patchify(latent).values, net._patchify(latent).values)
        except ShapeError:
            same_patches = False
        if not same_patches:
            raise ConfigError(
                f"{cls.__name__}.from_pretrained: got a model with the tokenizer {type(tokenizer).__name__}, expected "
                "one that cuts (B, C, H, W) into square patches"
            )
        return net.eval()

    def forward(
        self,
        x: Tensor,
        t: Tensor | float | None,
        *,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        pooled: Tensor | None = None,
        control: Tensor | None = None,
        reference: Tensor | None = None,
    ) -> Tensor:
        """Predict the velocity (or what `prediction` says) of noisy latents.

        Args:
            x: (B, in_channels, H, W), H and W multiples of patch_size.
            t: (B,) in 0 (noise) to 1 (data); a number or one value for all items is expanded.
            context: (B, M, context_dim), read by cross-attention.
            context_mask: (B, M) bool, True for real entries; None: all.
            pooled: (B, pooled_dim).
            control: (B, control_channels, H, W), a control signal for every pixel of x.
            reference: (B, in_channels, H', W'), a clean latent that x attends to; or (B, R, in_channels, H', W') for R.
                Axis 0 of the positions counts them from 1; give it channels by `rope_axes_dim`.

        Returns:
            (B, in_channels, H, W).

        Raises:
            ShapeError: H or W cannot be cut into patches (the nearest sizes are named), or another shape is wrong.
        """
        tokens, condition = self._inputs(x, context, context_mask, pooled, control, reference)
        output: Tensor = self.head(self.backbone(tokens, self._time(t, x), condition), tokens)
        return self._unpatchify(output, x.shape)

    def forward_intermediates(
        self,
        x: Tensor,
        t: Tensor | float | None,
        *,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        **conditions: Tensor | None,
    ) -> list[Tensor]:
        """Return feature maps (B, hidden_size, H / patch_size, W / patch_size) after some blocks.

        Args:
            x, t: as in `forward`.
            indices: blocks from 0, negative from the end; a number n: the last n blocks; None: all.
            norm: apply the LayerNorm without weights with which the head begins.
            conditions: context, context_mask, pooled, control and reference as in `forward`.
        """
        tokens, condition = self._inputs(x, **conditions)
        features = self.backbone.forward_intermediates(tokens, self._time(t, x), condition, indices=indices, norm=norm)
        rows, columns = (side // self.patch_size for side in x.shape[2:])
        return [hidden.transpose(1, 2).unflatten(2, (rows, columns)) for hidden in features]

    def compile_blocks(self, **kwargs: Any) -> None:
        """Compile every block with torch.compile, in place; arguments go to torch.compile."""
        self.backbone.compile_blocks(**kwargs)

    def _inputs(
        self,
        x: Tensor,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        pooled: Tensor | None = None,
        control: Tensor | None = None,
        reference: Tensor | None = None,
    ) -> tuple[Tokens, Condition]:
        self._check_latent(x, "x")
        tokens = self._patchify(x)
        token_condition = None
        if control is not None:
            if control.ndim != 4 or control.shape[2:] != x.shape[2:]:
                raise ShapeError(
                    f"control: got {tuple(control.shape)}, expected rows and columns as x {tuple(x.shape)}"
                )
            token_condition = self._patchify(control).values
        reference_tokens = None if reference is None else self._reference_tokens(reference)
        condition = Condition(context, context_mask, pooled, reference_tokens, token_condition=token_condition)
        return tokens, condition

    def _reference_tokens(self, reference: Tensor) -> Tokens:
        """Return the tokens of one or several references, in which axis 0 of the positions counts from 1."""
        stacked = reference[:, None] if reference.ndim == 4 else reference
        if stacked.ndim != 5:
            raise ShapeError(f"reference: got {tuple(reference.shape)}, expected (B, C, H, W) or (B, R, C, H, W)")
        parts = []
        for number, latent in enumerate(stacked.unbind(1), start=1):
            self._check_latent(latent, "reference")
            part = self._patchify(latent)
            parts.append((part.values, part.positions + part.positions.new_tensor([number, 0.0, 0.0])))
        values, positions = (torch.cat(list(column), dim=1) for column in zip(*parts, strict=True))
        return Tokens(values, positions, ((values.shape[1],),) * len(values))

    def _time(self, t: Tensor | float | None, x: Tensor) -> Tensor | None:
        if t is None:
            return None
        time = torch.as_tensor(t, dtype=torch.float32, device=x.device)
        if time.ndim > 1 or time.numel() not in (1, len(x)):
            raise ShapeError(f"t: got the shape {tuple(time.shape)}, expected ({len(x)},), one time per item")
        return time.expand(len(x))

    def _check_latent(self, latent: Tensor, name: str) -> None:
        if latent.ndim != 4 or latent.shape[1] != self.in_channels:
            raise ShapeError(f"{name}: got the shape {tuple(latent.shape)}, expected (B, {self.in_channels}, H, W)")
        for side, size in zip(("height", "width"), latent.shape[2:], strict=True):
            if size % self.patch_size or not size:
                lower = size // self.patch_size * self.patch_size
                nearest = f"{lower} or {lower + self.patch_size}" if lower else f"{self.patch_size}"
                raise ShapeError(
                    f"{name} {side}: got {size}, expected a multiple of patch_size {self.patch_size}. "
                    f"Pad or crop it to {nearest}."
                )

    def _patchify(self, latent: Tensor) -> Tokens:
        """Cut (B, C, H, W) into tokens, numbers in the order (channel, row, column) as published."""
        patches = F.pixel_unshuffle(latent, self.patch_size)
        batch, _, rows, columns = patches.shape
        grid = torch.meshgrid(
            torch.zeros(1, device=latent.device),
            torch.arange(rows, dtype=torch.float32, device=latent.device),
            torch.arange(columns, dtype=torch.float32, device=latent.device),
            indexing="ij",
        )
        positions = torch.stack(grid, dim=-1).view(1, rows * columns, 3).expand(batch, -1, -1)
        return Tokens(patches.flatten(2).transpose(1, 2), positions, (tuple(latent.shape[2:]),) * batch)

    def _unpatchify(self, values: Tensor, shape: Sequence[int]) -> Tensor:
        rows, columns = shape[2] // self.patch_size, shape[3] // self.patch_size
        return F.pixel_shuffle(values.transpose(1, 2).unflatten(2, (rows, columns)), self.patch_size)


class NextDiT(DiT2D):
    """Next-DiT over latents (B, C, H, W); see `DiT2D` for the arguments.

    Example:
        net = NextDiT(in_channels=4, patch_size=2, hidden_size=256, num_layers=6, num_heads=4, context_dim=64)
        velocity = net(x, t, context=text, context_mask=mask)
    """

    backbone_type = NextDiTBackbone


class FlagDiT(DiT2D):
    """Flag-DiT over latents (B, C, H, W), tokens numbered row by row; see `DiT2D` for the arguments."""

    backbone_type = FlagDiTBackbone
    has_shift = True
