"""Plain module: images of any size -> class logits, with the methods of timm's models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lumina_core.config import ComponentSpec
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.models.dit import block_indices
from lumina_core.models.next_dit import NextDiTBackbone
from lumina_core.models.rope import AxialRope, MixedRope
from lumina_core.types import Condition, Tokens, stack_tokens
from lumina_recog.heads import ClassificationHead
from lumina_recog.packing import packed_logits
from lumina_recog.patchify import Patchify, resize_matrix, resize_patch_weights, tokenize

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "nextdit_mini_patch8": {
        "patch_size": 8, "embed_dim": 256, "depth": 3, "num_heads": 4, "global_pool": "map", "rope": "axial",
        "rope_layout": "interleaved", "max_tokens": 144,
    },
    "nextdit_tiny_patch8": {"patch_size": 8, "embed_dim": 192, "depth": 12, "num_heads": 3, "global_pool": "map"},
    "nextdit_small_patch8": {"patch_size": 8, "embed_dim": 384, "depth": 12, "num_heads": 6},
    "nextdit_base_patch16": {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12},
}  # fmt: skip
"""Arguments of `NextDiTClassifier` by timm's name of the architecture."""
POOLINGS: dict[str, Literal["mean", "attention"]] = {"avg": "mean", "map": "attention", "": "mean"}
"""timm's names of poolings -> those of the head; without a name the head reads every token by itself."""

_POOLING_NAMES = ", ".join(name or "'' (none)" for name in POOLINGS)

Images = Tensor | dict[str, Tensor] | list[Tensor] | tuple[Tensor, ...]
"""Images (B, C, H, W); patches as NaFlexViT takes them; or images (C, H, W) of any sizes, which are packed."""


class NextDiTClassifier(nn.Module):
    """Next-DiT without time: images of any size -> class logits.

    The names of the weights are those of a model folder of this project (`backbone.`, `head.`).

    Args:
        patch_size: side of a patch in pixels.
        embed_dim: width.
        depth: number of blocks.
        num_heads: heads of the attention.
        num_classes: classes; 0: pooled features instead of logits.
        in_chans: channels of an image.
        global_pool: `avg`, the mean of the tokens; `map`, a learned average; empty: none, one row for each token.
        rope: `mixed`, learned frequencies, or `axial`, fixed ones.
        rope_theta: base of the frequencies; None: 10 for `mixed`, 10000 for `axial`.
        rope_layout: of `axial`: `blocks`, a half of a head for each axis, or `interleaved`, axes in turn.
        multiple_of: the width of the feed-forward layer is rounded up to a multiple of it.
        pool_heads: heads of the `map` pooling; None: 4, or the next smaller number that divides the width.
        max_tokens: budget of tokens, see `Patchify`; None: no limit.
        drop_rate: dropout of the pooled features in training.
        drop_path_rate: stochastic depth of the last block in training; linearly less in earlier ones.

    Example:
        net = NextDiTClassifier(patch_size=8, embed_dim=192, depth=12, num_heads=3, num_classes=10)
        logits = net(images)                                   # (B, 3, H, W) -> (B, 10), any H and W
        logits = net([small, wide, large])                     # three images (3, H, W), packed -> (3, 10)
    """

    def __init__(
        self,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        rope: Literal["mixed", "axial"] = "mixed",
        rope_theta: float | None = None,
        rope_layout: Literal["blocks", "interleaved"] = "blocks",
        multiple_of: int = 64,
        pool_heads: int | None = None,
        max_tokens: int | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if global_pool not in POOLINGS:
            raise ConfigError(f"global_pool: got {global_pool!r}, expected {_POOLING_NAMES}.")
        self.tokenizer = Patchify(Patchify.Config(patch_size=patch_size, max_tokens=max_tokens, channels=in_chans))
        config = NextDiTBackbone.Config(
            hidden_size=embed_dim,
            num_layers=depth,
            num_heads=num_heads,
            time_conditioned=False,
            multiple_of=multiple_of,
            drop_path=drop_path_rate,
            token_dim=self.tokenizer.width,
            position_encoding=ComponentSpec(type=f"core.{rope}_rope"),
        )
        encoding_type: type[MixedRope] | type[AxialRope] = MixedRope if rope == "mixed" else AxialRope
        options: dict[str, Any] = {} if rope_theta is None else {"theta": rope_theta}
        if rope_layout != "blocks":
            options["layout"] = rope_layout
        encoding = encoding_type(encoding_type.Config.read({**config.child_options(), **options}, f"rope={rope!r}"))  # type: ignore[arg-type]
        self.backbone = NextDiTBackbone(config, encoding)
        self.head = ClassificationHead(
            ClassificationHead.Config(
                num_classes=num_classes,
                pooling=POOLINGS[global_pool],
                num_heads=pool_heads or pooling_heads(embed_dim),
                dropout=drop_rate,
                hidden_size=embed_dim,
            )
        )
        self.num_classes, self.embed_dim, self.in_chans = num_classes, embed_dim, in_chans
        self.num_features = self.head_hidden_size = embed_dim
        self.global_pool, self.depth = global_pool, depth
        self.patch_size, self.max_tokens = patch_size, max_tokens
        self.feature_info = [
            {"module": f"backbone.blocks.{index}", "num_chs": embed_dim, "reduction": patch_size}
            for index in range(depth)
        ]

    def forward(self, x: Images) -> Tensor:
        """Map images to class logits (B, num_classes); (B, N, num_classes) without pooling.

        Args:
            x: (B, in_chans, H, W) in [-1, 1]; a dict of `patches` (B, N, P * P * C), `patch_coord` (B, N, 2) and
                optionally `patch_valid` (B, N) as NaFlexViT takes it; or a list of images (in_chans, H, W).

        Raises:
            ShapeError: the images have another shape, or a list has no pooling.
        """
        if isinstance(x, list | tuple):
            if not self.global_pool:
                raise ShapeError("images: got a list, expected a batch, since the model has no pooling.")
            return packed_logits(self.backbone, self.head, [self.tokenizer.patchify(one[None]) for one in x])
        if isinstance(x, dict):
            return self.forward_head(**self.forward_features(x))
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor | dict[str, Tensor]) -> Any:
        """Map images to the hidden states of their tokens (B, N, embed_dim).

        Patches give the arguments of `forward_head`, as with NaFlexViT: the states as `patches`, and `patch_valid`.
        """
        tokens = self._tokens(x)
        states = self.backbone(tokens, None, Condition()).hidden_states
        return {"patches": states, "patch_valid": tokens.mask} if isinstance(x, dict) else states

    def forward_head(self, patches: Tensor, pre_logits: bool = False, patch_valid: Tensor | None = None) -> Tensor:
        """Map hidden states (B, N, embed_dim) to logits.

        Args:
            patches: result of `forward_features`.
            pre_logits: return the pooled, normalized features (B, embed_dim) instead.
            patch_valid: (B, N) bool, True for real tokens; None: all are real.
        """
        pooled = self.head.pool(patches, patch_valid) if self.global_pool else self.head.norm(patches)
        return pooled if pre_logits else self.head.classify(pooled)

    def forward_intermediates(
        self,
        x: Tensor | dict[str, Tensor],
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
    ) -> Any:
        """Return the hidden states after some blocks, as timm's method of this name.

        Args:
            x: images (B, C, H, W), or a dict of patches with `output_fmt="NLC"`.
            indices: blocks, counted from 0, negative from the end; a number n: the last n blocks; None: all.
            norm: apply a LayerNorm without weights to the intermediates.
            stop_early: do not run the blocks behind the last of `indices`, whose states are then the features.
            output_fmt: `NCHW`, feature maps (B, C, rows, columns), or `NLC`, tokens (B, N, C).
            intermediates_only: return the list alone.
            output_dict: return a dict of `image_features` and `image_intermediates`.

        Raises:
            ShapeError: there is no such block, or the format cannot hold the tokens.
        """
        if output_fmt not in ("NCHW", "NLC") or (output_fmt == "NCHW" and isinstance(x, dict)):
            raise ShapeError(f"output_fmt: got {output_fmt!r}, expected NCHW for images or NLC for images and patches")
        wanted = block_indices(indices, self.depth)
        tokens = self._tokens(x)
        end = max(wanted, default=0) if stop_early or intermediates_only else self.depth - 1
        states = self.backbone.forward_intermediates(tokens, None, Condition(), indices=[*wanted, end])
        features, intermediates = states[-1], states[: len(wanted)]
        if norm:
            intermediates = [nn.functional.layer_norm(one, one.shape[-1:], eps=1e-6) for one in intermediates]
        if output_fmt == "NCHW":
            assert isinstance(x, Tensor)
            rows = int(tokens.positions[0, :, 1].max()) + 1
            intermediates = [one.transpose(1, 2).unflatten(2, (rows, -1)) for one in intermediates]
        if output_dict:
            result: dict[str, Any] = {"image_intermediates": intermediates}
            return result if intermediates_only else {**result, "image_features": features}
        return intermediates if intermediates_only else (features, intermediates)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the blocks behind the last of `indices`, as timm's feature extraction does; returns the indices.

        Raises:
            ShapeError: there is no such block.
        """
        kept = block_indices(indices, self.depth)
        self.backbone.blocks = self.backbone.blocks[: max(kept) + 1]
        self.depth = len(self.backbone.blocks)
        if prune_head:
            self.reset_classifier(0)
        return kept

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer."""
        return self.head.linear

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, and the pooling if `global_pool` names another; 0 classes: pooled features.

        Raises:
            ConfigError: there is no such pooling.
        """
        if global_pool is not None and global_pool != self.global_pool:
            if global_pool not in POOLINGS:
                raise ConfigError(f"global_pool: got {global_pool!r}, expected {_POOLING_NAMES}.")
            norm, config = self.head.norm, self.head.config.model_copy(update={"pooling": POOLINGS[global_pool]})
            self.head, self.global_pool = ClassificationHead(config).to(norm.weight).train(self.training), global_pool
            self.head.norm = norm
        self.num_classes = num_classes
        self.head.reset(num_classes)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass to save memory."""
        self.backbone.config = self.backbone.config.model_copy(update={"gradient_checkpointing": enable})

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay."""
        return {name for name, _ in self.named_parameters() if name.endswith("position_encoding.freqs")}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's patterns of layers, for layer-wise learning rates."""
        blocks = r"^backbone\.blocks\.(\d+)"
        return {
            "stem": r"^backbone\.(?:embed|position_encoding)",
            "blocks": blocks if coarse else [(blocks, None), (r"^head\.(?:norm|score)", (99999,))],
        }

    def _tokens(self, x: Tensor | dict[str, Tensor]) -> Tokens:
        if isinstance(x, dict):
            return tokens_of_patches(x, self.patch_size, self.in_chans)
        return tokenize(x, self.patch_size, self.max_tokens, self.in_chans)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        name = f"{prefix}backbone.embed.weight"  # with four dimensions from `adapt_weights`
        if name in state_dict:
            state_dict[name] = state_dict[name].flatten(1)
        super()._load_from_state_dict(state_dict, prefix, *args)


def adapt_weights(weights: dict[str, Tensor], model: NextDiTClassifier) -> dict[str, Tensor]:
    """Fit pretrained weights to a model with other patches; timm calls it before it fits them to other channels.

    The weights of the patches get the shape (embed_dim, C, patch_size, patch_size) for that, and the side of the
    model's patches by FlexiViT's pseudo-inverse.
    """
    name = "backbone.embed.weight"
    embed = weights[name]
    if embed.shape == model.backbone.embed.weight.shape:
        return weights
    channels = int(model.pretrained_cfg["input_size"][0])  # type: ignore[index]  # set by timm
    if embed.shape[1] != channels * model.patch_size**2:
        embed = resize_patch_weights(embed, channels, model.patch_size)
    return {**weights, name: embed.unflatten(1, (channels, model.patch_size, model.patch_size))}


def tokens_of_patches(x: Mapping[str, Tensor], patch_size: int, channels: int) -> Tokens:
    """Convert the input of timm's NaFlexViT to tokens.

    Args:
        x: `patches` (B, N, P * P * C) or (B, N, P, P, C); `patch_coord` (B, N, 2), row and column; `patch_valid` (B, N)
            bool, False for padding, optional. Patches of another side than `patch_size` are mapped to it.
        patch_size: side of the trained patch.
        channels: C.

    Raises:
        ShapeError: a key is missing, or the shapes do not fit.
    """
    missing = {"patches", "patch_coord"} - set(x)
    if missing:
        raise ShapeError(f"patches: got a dict without {', '.join(sorted(missing))}, expected patches and patch_coord")
    patches, coordinates, valid = x["patches"], x["patch_coord"], x.get("patch_valid")
    patches = patches.flatten(2)
    side = math.isqrt(patches.shape[2] // channels)
    if patches.shape[2] != channels * side**2 or coordinates.shape != (*patches.shape[:2], 2):
        raise ShapeError(
            f"patches: got {tuple(patches.shape)} with coordinates {tuple(coordinates.shape)}, expected (B, N, P * P * "
            f"{channels}) and (B, N, 2)"
        )
    # timm's patches end with the channels, ours begin with them
    values = patches.unflatten(2, (-1, channels)).transpose(2, 3)
    if side != patch_size:
        values = values @ resize_matrix(patch_size, side).to(values).T
    values = values.flatten(2)
    positions = torch.cat([torch.zeros_like(coordinates[..., :1]), coordinates], dim=-1).float()
    if valid is None:  # a mask without padding stays: a look at its values would end a graph
        return Tokens(values, positions, ())
    valid = valid.bool()
    return Tokens(values.masked_fill(~valid[..., None], 0), positions, (), valid)


def padded_tokens(tokenizer: Patchify, images: Sequence[Tensor]) -> Tokens:
    """Cut images (C, H, W) of any sizes into one padded and masked batch."""
    return stack_tokens([tokenizer.patchify(image[None]) for image in images])


def pooling_heads(embed_dim: int) -> int:
    """Return the default number of heads of the `map` pooling: the largest up to 4 that divides the width."""
    return next(heads for heads in (4, 3, 2, 1) if embed_dim % heads == 0)
