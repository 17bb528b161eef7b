"""What a tensor of a published Next-DiT is called: in the original files, in diffusers, in older files, and here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lumina_core.checkpoint.key_mapping import (
    BLOCK_PREFIXES,
    NATIVE_BLOCKS,
    OUTER_PREFIXES,
    fuse_weights,
    replace_prefix,
    split_block_name,
    split_fused_weights,
)
from lumina_core.checkpoint.lazy_tensors import LazyTensor, TransformedTensor, Weights, num_bytes, read_tensor
from lumina_core.errors import CheckpointError

PAD_TOKEN = "pad_token"
"""Published, without any influence on a result (its gradient is zero); kept for the way back."""

BLOCKS_PREFIX = "layers"
"""What the list of blocks is called in published files."""
_OUTER = {
    "x_embedder.": "backbone.embed.",
    "y_embedder.embedding_table.": "conditioners.label.table.",
    **OUTER_PREFIXES,
}
_INNER = {
    "attention_norm1.": "attention_norm1.",
    "attention_norm2.": "attention_norm2.",
    "ffn_norm1.": "ffn_norm1.",
    "ffn_norm2.": "ffn_norm2.",
    "attention_norm.": "attention_norm2.",  # the ImageNet models' only norms stand behind the branches
    "ffn_norm.": "ffn_norm2.",
    **BLOCK_PREFIXES,
}
_IMAGENET_KEYS = {"attention_norm.", "ffn_norm."}

_DIFFUSERS_KEYS = {
    "x_embedder.": ("patch_embedder.proj.",),
    "t_embedder.mlp.0.": ("time_caption_embed.timestep_embedder.linear_1.",),
    "t_embedder.mlp.2.": ("time_caption_embed.timestep_embedder.linear_2.",),
    "cap_embedder.": ("time_caption_embed.caption_embedder.",),
    "final_layer.adaLN_modulation.1.": ("norm_out.linear_1.",),
    "final_layer.linear.": ("norm_out.linear_2.",),
    "adaLN_modulation.1.": ("norm1.linear.",),
    "attention_norm1.": ("norm1.norm.",),
    "attention_norm2.": ("norm2.",),
    "attention_y_norm.": ("norm1_context.",),
    "attention.gate": ("gate",),
    "attention.wq.": ("attn1.to_q.", "attn2.to_q."),
    "attention.wk_y.": ("attn2.to_k.",),
    "attention.wv_y.": ("attn2.to_v.",),
    "attention.wk.": ("attn1.to_k.",),
    "attention.wv.": ("attn1.to_v.",),
    "attention.wo.": ("attn2.to_out.0.",),
    "attention.q_norm.": ("attn1.norm_q.", "attn2.norm_q."),
    "attention.k_norm.": ("attn1.norm_k.",),
    "attention.ky_norm.": ("attn2.norm_k.",),
    "feed_forward.w1.": ("feed_forward.linear_1.",),
    "feed_forward.w2.": ("feed_forward.linear_2.",),
    "feed_forward.w3.": ("feed_forward.linear_3.",),
}
"""Beginnings of names, those of a block without `layers.N.`; the query stands twice. Others keep their names."""

_LEGACY_DIFFUSERS_KEYS = {
    "patch_embedder.": "patch_embedder.proj.",
    "adaLN_modulation.1.": "norm1.linear.",
    "attn_norm1.": "norm1.norm.",
    "attn_norm2.": "norm2.",
    "final_layer.adaLN_modulation.1.": "norm_out.linear_1.",
    "final_layer.linear.": "norm_out.linear_2.",
}
"""What the converter in diffusers' repository still writes, and what the model there is called by now."""


def original_key_to_ours(key: str) -> str:
    """Our name for a tensor of the original layout that is not joined with others.

    Raises:
        CheckpointError: no published Next-DiT has such a tensor.
    """
    if key == PAD_TOKEN:
        return key
    block, rest = split_key(key)
    replaced = replace_prefix(rest, _INNER if block else _OUTER)
    if replaced is not None:
        return (f"{NATIVE_BLOCKS}.{block}." if block else "") + replaced
    raise CheckpointError(f"no tensor of a published Next-DiT is called '{key}'")


def our_key_to_original(key: str, imagenet: bool = False) -> str:
    """The original name of a tensor of ours that is not joined.

    Raises:
        CheckpointError: the layout has no place for it.
    """
    if key == PAD_TOKEN:
        return key
    block, rest = split_block_name(key, NATIVE_BLOCKS)
    for original_prefix, our_prefix in (_INNER if block else _OUTER).items():
        is_imagenet_key = imagenet and our_prefix in ("attention_norm2.", "ffn_norm2.")
        if rest.startswith(our_prefix) and (original_prefix in _IMAGENET_KEYS) == is_imagenet_key:
            return (f"{BLOCKS_PREFIX}.{block}." if block else "") + original_prefix + rest[len(our_prefix) :]
    raise CheckpointError(f"'{key}' has no name in the published layout")


def original_key_to_diffusers(key: str) -> tuple[str, ...]:
    """The names that a tensor of the original layout has in diffusers: two for the query and its norm."""
    block, rest = split_key(key)
    prefix = f"{BLOCKS_PREFIX}.{block}." if block else ""
    for original_prefix, diffusers_prefixes in _DIFFUSERS_KEYS.items():
        if rest.startswith(original_prefix):
            return tuple(
                prefix + diffusers_prefix + rest[len(original_prefix) :] for diffusers_prefix in diffusers_prefixes
            )
    return (key,)


def modernize_key(key: str) -> str:
    """What diffusers calls a tensor by now that its older converter has named."""
    block, rest = split_key(key)
    rest = next(
        (new + rest[len(old) :] for old, new in _LEGACY_DIFFUSERS_KEYS.items() if _has_legacy_prefix(rest, old, new)),
        rest,
    )
    return f"{BLOCKS_PREFIX}.{block}.{rest}" if block else rest


def diffusers_key_to_original(key: str) -> str:
    """The original name of a tensor that diffusers calls so; unknown names stay."""
    block, rest = split_key(key)
    prefix = f"{BLOCKS_PREFIX}.{block}." if block else ""
    for original_prefix, diffusers_prefixes in _DIFFUSERS_KEYS.items():
        for diffusers_prefix in diffusers_prefixes:
            if rest.startswith(diffusers_prefix):
                return prefix + original_prefix + rest[len(diffusers_prefix) :]
    return prefix + rest


def _has_legacy_prefix(key: str, old: str, new: str) -> bool:
    # `patch_embedder.` begins the new name too
    return key.startswith(old) and not key.startswith(new)


def split_key(key: str) -> tuple[str, str]:
    """The number of a block and the rest of a published name; an empty number outside the blocks."""
    return split_block_name(key, BLOCKS_PREFIX)


Shapes = Mapping[str, tuple[int, ...]]
MAX_LISTED = 3
"""Names of a kind that a message repeats, for each part."""


def check_tensors(actual: Shapes, expected: Shapes, where: str, to_original_key: Callable[[str], str]) -> None:
    """Raise CheckpointError with every part's missing, surplus and misshapen tensors, in the names of the folder.

    Args:
        original: the original name of a name in the folder.
    """
    problems = {
        "missing": [name for name in expected if name not in actual and name != PAD_TOKEN],
        "surplus": [name for name in actual if name not in expected],
        "of another shape": [name for name in expected if name in actual and actual[name] != expected[name]],
    }
    by_component: dict[str, list[str]] = {}
    for problem, names in problems.items():
        for component in dict.fromkeys(_component(to_original_key(name)) for name in names):
            descriptions = [
                _describe_tensor(name, actual, expected, problem)
                for name in names
                if _component(to_original_key(name)) == component
            ]
            more = f" and {len(descriptions) - MAX_LISTED} more" if len(descriptions) > MAX_LISTED else ""
            by_component.setdefault(component, []).append(f"{problem}: {', '.join(descriptions[:MAX_LISTED])}{more}")
    if by_component:
        details = "; ".join(f"{component}: {'; '.join(lines)}" for component, lines in by_component.items())
        raise CheckpointError(f"{where} does not hold the tensors that its sizes ask for. {details}")


def _component(key: str) -> str:
    if key.startswith("final_layer."):
        return "head"
    return "conditioner" if key.startswith("y_embedder.") else "backbone"


def _describe_tensor(name: str, actual: Shapes, expected: Shapes, problem: str) -> str:
    return f"{name} ({actual[name]}, wanted {expected[name]})" if problem == "of another shape" else name


def from_original(weights: Weights, channels: int, patch_size: int) -> dict[str, LazyTensor]:
    """Published tensors under our names, `backbone.*` and `head.*`; `pad_token` stays as it is called.

    Args:
        channels: of the latent (4).
        patch: side of a patch (2).

    Raises:
        CheckpointError: a name is unknown, or a part of a joined matrix is missing.
    """
    ours, rest = fuse_weights(weights, BLOCKS_PREFIX)
    ours |= {original_key_to_ours(name): tensor for name, tensor in rest.items()}
    return {
        name: _permute_final_rows_lazily(tensor, channels, patch_size, inverse=False)
        if name.startswith("head.linear.")
        else tensor
        for name, tensor in ours.items()
    }


def to_original(weights: Weights, channels: int, patch_size: int, *, imagenet: bool = False) -> dict[str, LazyTensor]:
    """The exact inverse of `from_original`.

    Args:
        imagenet: name the norms as the ImageNet models do.

    Raises:
        CheckpointError: a tensor has no published name.
    """
    original, rest = split_fused_weights(weights, BLOCKS_PREFIX)
    for name, tensor in rest.items():
        permuted = (
            _permute_final_rows_lazily(tensor, channels, patch_size, inverse=True)
            if name.startswith("head.linear.")
            else tensor
        )
        original[our_key_to_original(name, imagenet)] = permuted
    return original


def to_diffusers(weights: Weights) -> dict[str, LazyTensor]:
    """The original layout -> diffusers' names; the query and its norm stand twice there."""
    return {
        diffusers_key: tensor for name, tensor in weights.items() for diffusers_key in original_key_to_diffusers(name)
    }


def from_diffusers(weights: Weights) -> dict[str, LazyTensor]:
    """Diffusers' names (of today) -> the original layout.

    What stands there twice is compared when it is read: a model of this family has it once.
    """
    by_original_key: dict[str, dict[str, LazyTensor]] = {}
    for name, tensor in weights.items():
        by_original_key.setdefault(diffusers_key_to_original(name), {})[name] = tensor
    return {name: _merge_duplicates(tensors) for name, tensors in by_original_key.items()}


def _merge_duplicates(tensors: dict[str, LazyTensor]) -> LazyTensor:
    first, *duplicates = tensors.values()
    return DuplicatedTensor(tuple(tensors), first, duplicates[0]) if duplicates else first


COMPARE_BYTES = 1 << 20
"""Bytes of two tensors that are compared at once."""


@dataclass(frozen=True)
class DuplicatedTensor:
    """A tensor that is stored twice and must be the same both times."""

    keys: tuple[str, ...]
    first: LazyTensor
    second: LazyTensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.first.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.first.dtype

    def copy_to(self, target: Tensor) -> None:
        self.first.copy_to(target)
        rows = self.shape[0]
        step = max(1, COMPARE_BYTES * rows // max(1, num_bytes(self)))
        for start in range(0, rows, step):  # in parts, so that the second is never there as a whole
            stop = min(start + step, rows)
            first_rows = (
                target[start:stop] if target.dtype == self.dtype else read_tensor(self.first.slice_rows(start, stop))
            )
            if not torch.equal(first_rows, read_tensor(self.second.slice_rows(start, stop))):
                raise CheckpointError(
                    f"{self.keys[0]} and {self.keys[1]} differ; models of this family have one tensor for both, "
                    "so this one was changed by something that does not know it"
                )

    def load(self) -> Tensor:
        return read_tensor(self)

    def slice_rows(self, start: int, stop: int) -> LazyTensor:
        return TransformedTensor(self, (stop - start, *self.shape[1:]), lambda full: full[start:stop])


def permute_final_rows(tensor: Tensor, channels: int, patch_size: int, inverse: bool = False) -> Tensor:
    """Rows of the final layer: (row, column, half and channel), as published <-> (half, channel, row, column)."""
    halves = tensor.shape[0] // (channels * patch_size * patch_size)
    published_shape, token_shape = (
        (patch_size, patch_size, halves * channels),
        (halves * channels, patch_size, patch_size),
    )
    if inverse:
        return tensor.reshape(*token_shape, *tensor.shape[1:]).movedim(0, 2).flatten(0, 2).contiguous()
    return tensor.reshape(*published_shape, *tensor.shape[1:]).movedim(2, 0).flatten(0, 2).contiguous()


def _permute_final_rows_lazily(lazy_tensor: LazyTensor, channels: int, patch_size: int, inverse: bool) -> LazyTensor:
    return TransformedTensor(
        lazy_tensor, lazy_tensor.shape, lambda tensor: permute_final_rows(tensor, channels, patch_size, inverse)
    )
