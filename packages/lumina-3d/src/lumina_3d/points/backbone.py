"""Next-DiT over the points of a cloud: features of coordinates, reference points, and anchors for any count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from lumina_3d.points.coordinates import CoordinateFeatures, FourierFeatures
from lumina_core.config import ComponentSpec
from lumina_core.errors import ConfigError
from lumina_core.models.attention import Attention, CrossAttentionKV, Segments
from lumina_core.models.dit import BlockInputs
from lumina_core.models.layers import Linear, split_linear
from lumina_core.models.next_dit import NextDiTBackbone, NextDiTBlock
from lumina_core.protocols import AttentionTransform, BlockCache, PositionEncoding
from lumina_core.types import BackboneOutput, Condition, Tokens


class NoPositions:
    """Position encoding of sets: queries, keys and values stay as they are."""

    theta = 10000.0

    def frequencies(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """Return three axes without frequencies."""
        return (torch.zeros(0, dtype=torch.float64, device=device),) * 3

    def __call__(self, positions: Tensor, freqs: Sequence[Tensor]) -> Sequence[AttentionTransform]:
        """Return the identity."""
        return (AttentionTransform(),)


class KeyValueRecorder(AttentionTransform):
    """Identity that stores the keys and values (B, K, M, d) of a self-attention."""

    keys: Tensor
    values: Tensor

    def key(self, k: Tensor) -> Tensor:
        """Store and return keys."""
        self.keys = k.transpose(1, 2)
        return k

    def value(self, v: Tensor) -> Tensor:
        """Store and return values."""
        self.values = v.transpose(1, 2)
        return v


@dataclass(frozen=True)
class AnchorKeys(AttentionTransform):
    """Keys and values of the anchors, to which other points attend.

    Attributes:
        keys, values: (B, K, A, d).
        mask: (B, 1, 1, A) bool, True for real anchors; None: all.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class PointInputs(BlockInputs):
    """Inputs of the blocks for clouds with more points than anchors.

    Attributes:
        anchors: (B, A) indices of the anchors; None: all points attend to all points.
        others: (B, N - A) indices of all other tokens.
        ratio: (B,) real points over points in training; None: the trained count.
    """

    anchors: Tensor | None = None
    others: Tensor | None = None
    ratio: Tensor | None = None


class AnchorAttention(Attention):
    """Attention of a block; with `AnchorKeys`, each point attends to the anchors and to itself."""

    def forward(
        self,
        x: Tensor,
        encoding: AttentionTransform,
        mask: Tensor | Segments | None,
        cross_kv: CrossAttentionKV | None,
        scale: float | Tensor | None = None,
        pooled_attention: Any = None,
    ) -> Tensor:
        """Map x (B, N, C) to (B, N, C); see `Attention`."""
        if not isinstance(encoding, AnchorKeys):
            return super().forward(x, encoding, mask, cross_kv, scale, pooled_attention)
        factor = self.head_dim**-0.5
        q, k, v = split_linear(self.qkv, x, self.qkv_dims)
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (self.q_norm(q), self.k_norm(k), v)
        )
        scores = (q * factor) @ encoding.keys.transpose(-1, -2)
        if encoding.mask is not None:
            scores = scores.masked_fill(~encoding.mask, float("-inf"))
        own = (q * factor * k).sum(dim=-1, keepdim=True)
        weights = torch.cat([scores, own], dim=-1).softmax(dim=-1, dtype=torch.float32).to(v.dtype)
        attn_out = weights[..., :-1] @ encoding.values + weights[..., -1:] * v
        if cross_kv is not None:
            gate = self.gate.tanh()[:, None, None].to(attn_out.dtype)
            attn_out = attn_out + self._cross_attention(q, cross_kv, factor) * gate
        output: Tensor = self.out(attn_out.transpose(1, 2).flatten(2))
        return output


class PointBlock(NextDiTBlock):
    """Block of Next-DiT whose attention supports anchors."""

    def __init__(self, config: PointNextDiT.Config, modulation_dim: int) -> None:
        super().__init__(config, modulation_dim)
        self.attention = AnchorAttention(
            config.hidden_size,
            config.num_heads,
            config.num_heads,
            config.cross_attention_dim,
            config.qk_norm,
            config.attn_backend,
        )


class PointNextDiT(NextDiTBackbone):
    """Next-DiT over sets of points: no positions, features of the noisy coordinates, any number of points.

    With anchors, the marked points of a cloud (`PointSet`) attend to each other as in training, and every other point
    attends to them and to itself. So every point sees as many keys as in training, whatever the count, the cost is
    linear in it, and the other points are processed in chunks with the same result. Without anchors, all points attend
    to all points.

    Reference tokens (given points of a partial cloud) share the attention of the anchors; a learned vector marks them.
    """

    class Config(NextDiTBackbone.Config):
        """Sizes, features of coordinates, and the treatment of counts beyond training."""

        coordinate_features: ComponentSpec | None = Field(
            None, description="features of the coordinates, {type: 3d.time_aware_fourier}; None: 3d.fourier"
        )
        train_count: int = Field(256, ge=2, description="points per cloud in training")
        anchors: bool = Field(True, description="False: all points attend to all points, whatever the count")
        chunk_size: int = Field(4096, ge=1, description="points besides the anchors that are processed at a time")

        @field_validator("position_encoding")
        @classmethod
        def _check_position_encoding(cls, value: ComponentSpec | None) -> ComponentSpec | None:
            if value is not None:
                raise ValueError(f"got {value.type}, expected none: the points of a set have no positions")
            return value

    config: Config

    def __init__(self, config: Config, coordinate_features: CoordinateFeatures | None = None) -> None:
        if coordinate_features is None and config.coordinate_features is not None:
            raise ConfigError(
                f"coordinate_features: got the name {config.coordinate_features.type} alone, expected the component "
                "too. Give it as the second argument of the backbone, or build the backbone from a recipe."
            )
        if (config.num_kv_heads or config.num_heads) != config.num_heads:
            raise ConfigError(
                f"num_kv_heads: got {config.num_kv_heads}, expected none or num_heads {config.num_heads}: anchors do "
                "not support shared key heads"
            )
        super().__init__(config)
        self.features = coordinate_features or FourierFeatures(FourierFeatures.Config())
        self.embed = Linear(self.features.width(config.token_dim), config.hidden_size)
        nn.init.zeros_(self.embed.bias)
        self.reference_embed = nn.Parameter(torch.zeros(config.hidden_size))

    def _default_encoding(self) -> PositionEncoding:
        return NoPositions()

    def _make_block(self) -> NextDiTBlock:
        return PointBlock(self.config, self.modulation_dim)

    def _encoded_positions(self, positions: Tensor, mask: Tensor | None) -> Tensor:
        return torch.zeros_like(positions)

    def precompute(
        self,
        tokens: Tokens,
        condition: Condition,
        freqs: Sequence[Tensor] | None = None,
        scale: float | Tensor | None = None,
        project_context: bool = True,
    ) -> PointInputs:
        """Compute all inputs of the blocks that stay the same in every evaluation of a request; see `DiTBackbone`.

        Raises:
            ConfigError: a scale of attention is set together with anchors, which keep the number of keys of training.
        """
        reference = condition.reference
        if reference is not None and not reference.values.shape[1]:
            reference = None
        base = super().precompute(tokens, replace(condition, reference=None), freqs, scale, project_context)
        mask = base.mask
        if reference is not None:
            self._check_shapes(tokens, condition)
            if mask is not None or reference.mask is not None:
                mask = torch.cat([tokens.mask_or_ones(), reference.mask_or_ones()], dim=1)[:, None, None]
        inputs = PointInputs(
            encoding=base.encoding,
            mask=mask,
            cross_kvs=base.cross_kvs,
            pooled=base.pooled,
            token_condition=base.token_condition,
            scale=base.scale,
        )
        if reference is not None:
            inputs = replace(inputs, reference=self._embed_reference(reference.values))
        length = tokens.values.shape[1]
        if length <= self.config.train_count:
            return inputs
        if not self.config.anchors:
            counts = tokens.mask_or_ones().sum(dim=1).float()
            return replace(inputs, ratio=counts / self.config.train_count)
        if scale is not None:
            raise ConfigError(
                "base_sequence_length: got a value, expected none. With anchors, every point attends to as many "
                "points as in training."
            )
        is_anchor = (tokens.positions[..., 0] == 0) & tokens.mask_or_ones()
        num_anchors = max(1, int(is_anchor.sum(dim=1).max()))
        order = (~is_anchor).to(torch.uint8).argsort(dim=1, stable=True)
        return replace(inputs, anchors=order[:, :num_anchors], others=order[:, num_anchors:])

    def forward(
        self, tokens: Tokens, t: Tensor | None, condition: Condition, *, precomputed: BlockInputs | None = None
    ) -> BackboneOutput:
        """Compute hidden states (B, N, C) of noisy points (B, N, 3) at time t (B,); see `DiTBackbone`."""
        inputs = precomputed
        if inputs is None:
            inputs = self.precompute(tokens, condition, project_context=not torch.is_grad_enabled())
        if not isinstance(inputs, PointInputs) or inputs.anchors is None or inputs.others is None:
            return super().forward(tokens, t, condition, precomputed=inputs)
        return self._forward_anchors(tokens, t, inputs, inputs.anchors, inputs.others)

    def with_block_cache(self, precomputed: BlockInputs, policy: BlockCache) -> BlockInputs:
        """Return `precomputed` with a new block cache; see `DiTBackbone`.

        Raises:
            ConfigError: the cloud has more points than anchors.
        """
        if isinstance(precomputed, PointInputs) and precomputed.anchors is not None:
            raise ConfigError(
                f"block_cache: got one for more than {self.config.train_count} points, expected none with anchors. "
                "Leave it out, or request fewer points."
            )
        return super().with_block_cache(precomputed, policy)

    def make_token_pool(self, tokens: Tokens, condition: Condition, window: tuple[int, int, int]) -> Any:
        """Raise ConfigError: the points of a set have no neighbors to average."""
        raise ConfigError("context_drop: got one, expected none: the points of a set have no positions to average over")

    def _embed_reference(self, values: Tensor) -> Tensor:
        features = self.features(values, None, None).to(self.embed.weight.dtype)
        embedded: Tensor = self.embed(features) + self.reference_embed
        return embedded

    def _embed(self, tokens: Tokens, t: Tensor | None, inputs: BlockInputs) -> tuple[Tensor, Tensor | None]:
        ratio = inputs.ratio if isinstance(inputs, PointInputs) else None
        features = self.features(tokens.values, t, ratio).to(self.embed.weight.dtype)
        return super()._embed(tokens.with_values(features), t, inputs)

    def _forward_anchors(
        self, tokens: Tokens, t: Tensor | None, inputs: PointInputs, anchors: Tensor, others: Tensor
    ) -> BackboneOutput:
        """Compute the hidden states of the anchors, then of all other points in chunks."""
        anchor_mask = None if tokens.mask is None else tokens.mask.gather(1, anchors)
        anchor_inputs = replace(self._select(inputs, anchors), reference=inputs.reference, mask=inputs.mask)
        if inputs.mask is not None:
            assert isinstance(inputs.mask, Tensor)  # packed sequences have no anchors: `precompute` makes no segments
            reference_mask = inputs.mask[:, 0, 0, tokens.values.shape[1] :]
            own = torch.ones_like(anchors, dtype=torch.bool) if anchor_mask is None else anchor_mask
            anchor_inputs = replace(anchor_inputs, mask=torch.cat([own, reference_mask], dim=1)[:, None, None])
        key_mask = anchor_inputs.mask if isinstance(anchor_inputs.mask, Tensor) else None
        x, modulation = self._embed(_take_tokens(tokens, anchors), t, anchor_inputs)
        modulation_act = None if modulation is None else F.silu(modulation)
        keys: list[AnchorKeys] = []
        for index in range(self.num_layers):
            recorder = KeyValueRecorder()
            x = self._run_block(index, x, modulation_act, replace(anchor_inputs, encoding=(recorder,)))
            keys.append(AnchorKeys(recorder.keys, recorder.values, key_mask))
        hidden = x.new_zeros(*tokens.values.shape[:2], x.shape[-1])
        _put(hidden, anchors, x[:, : anchors.shape[1]])
        for chunk in others.split(self.config.chunk_size, dim=1):
            chunk_inputs = replace(self._select(inputs, chunk), reference=None, mask=None, encoding=tuple(keys))
            x, _ = self._embed(_take_tokens(tokens, chunk), t, chunk_inputs)
            for index in range(self.num_layers):
                x = self._run_block(index, x, modulation_act, chunk_inputs)
            _put(hidden, chunk, x)
        return BackboneOutput(hidden, modulation)

    def _select(self, inputs: PointInputs, index: Tensor) -> PointInputs:
        """Return the inputs of some tokens: their token condition."""
        token_condition = inputs.token_condition
        if token_condition is not None:
            token_condition = _take(token_condition, index)
        return replace(inputs, token_condition=token_condition)


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Return the rows `index` (B, M) of (B, N, D)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def _put(values: Tensor, index: Tensor, rows: Tensor) -> None:
    """Write rows (B, M, D) to the rows `index` (B, M) of (B, N, D)."""
    values.scatter_(1, index[..., None].expand(-1, -1, values.shape[-1]), rows.to(values.dtype))


def _take_tokens(tokens: Tokens, index: Tensor) -> Tokens:
    mask = None if tokens.mask is None else tokens.mask.gather(1, index)
    return Tokens(_take(tokens.values, index), _take(tokens.positions, index), tokens.sizes, mask)
