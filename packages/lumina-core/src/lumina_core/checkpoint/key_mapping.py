"""What published transformers of this family call alike: names of tensors, and which of theirs are one of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from lumina_core.checkpoint.lazy_tensors import ConcatTensor, LazyTensor, Weights
from lumina_core.errors import CheckpointError

OUTER_PREFIXES = {
    "t_embedder.mlp.0.": "backbone.time_embed.inner.",
    "t_embedder.mlp.2.": "backbone.time_embed.outer.",
    "cap_embedder.0.": "backbone.pooled_embed.norm.",
    "cap_embedder.1.": "backbone.pooled_embed.linear.",
    "final_layer.adaLN_modulation.1.": "head.modulation.",
    "final_layer.linear.": "head.linear.",
}
"""Beginnings of names outside the blocks: theirs, and ours."""
BLOCK_PREFIXES = {
    "attention_y_norm.": "context_norm.",
    "adaLN_modulation.1.": "modulation.",
    "attention.wo.": "attention.out.",
    "attention.q_norm.": "attention.q_norm.",
    "attention.k_norm.": "attention.k_norm.",
    "attention.ky_norm.": "attention.context_k_norm.",
    "attention.gate": "attention.gate",
    "feed_forward.w2.": "feed_forward.out.",
}
"""Beginnings of names within a block."""
FUSED_WEIGHTS = {
    "attention.qkv.weight": ("attention.wq.weight", "attention.wk.weight", "attention.wv.weight"),
    "attention.context_kv.weight": ("attention.wk_y.weight", "attention.wv_y.weight"),
    "feed_forward.up.weight": ("feed_forward.w1.weight", "feed_forward.w3.weight"),
}
"""Our matrices of a block, and those that they are joined from."""
NATIVE_BLOCKS = "backbone.blocks"


def split_block_name(name: str, blocks_prefix: str) -> tuple[str, str]:
    """The number of a block and the rest of a name; an empty number outside the blocks.

    Args:
        blocks: what the list of blocks is called, `backbone.blocks` here.
    """
    match = re.fullmatch(rf"{re.escape(blocks_prefix)}\.(\d+)\.(.+)", name)
    return (match[1], match[2]) if match else ("", name)


def replace_prefix(name: str, prefixes: Mapping[str, str]) -> str | None:
    """A name of which a table knows the beginning, with the other beginning; None: it knows none."""
    return next((target + name[len(source) :] for source, target in prefixes.items() if name.startswith(source)), None)


def fuse_weights(
    weights: Weights, blocks_prefix: str, *, require_all: bool = False
) -> tuple[dict[str, LazyTensor], dict[str, LazyTensor]]:
    """Our matrices that published ones are joined to, under our names, and what is left under its own. Unread.

    Args:
        every: a block without any part of one of them is refused too.

    Raises:
        CheckpointError: a part is missing.
    """
    remaining = dict(weights)
    fused: dict[str, LazyTensor] = {}
    for block in sorted({int(number) for name in weights if (number := split_block_name(name, blocks_prefix)[0])}):
        for name, source_names in FUSED_WEIGHTS.items():
            sources = [remaining.pop(f"{blocks_prefix}.{block}.{source_name}", None) for source_name in source_names]
            present = [tensor for tensor in sources if tensor is not None]
            if len(present) < len(source_names) and (present or require_all):
                raise CheckpointError(
                    f"{blocks_prefix}.{block} lacks one of {', '.join(source_names)}; fetch the weights again"
                )
            if present:
                fused[f"{NATIVE_BLOCKS}.{block}.{name}"] = ConcatTensor(present)
    return fused, remaining


def split_fused_weights(weights: Weights, blocks_prefix: str) -> tuple[dict[str, LazyTensor], dict[str, LazyTensor]]:
    """The exact inverse of `joined`: published matrices under their names, and what is left under ours."""
    split_weights: dict[str, LazyTensor] = {}
    remaining: dict[str, LazyTensor] = {}
    for name, tensor in weights.items():
        block, inner = split_block_name(name, NATIVE_BLOCKS)
        if block and inner in FUSED_WEIGHTS:
            query_dim = weights[f"{NATIVE_BLOCKS}.{block}.attention.out.weight"].shape[1]
            split_weights |= _split_fused(f"{blocks_prefix}.{block}", FUSED_WEIGHTS[inner], tensor, query_dim)
        else:
            remaining[name] = tensor
    return split_weights, remaining


def _split_fused(
    block_prefix: str, target_names: tuple[str, ...], tensor: LazyTensor, query_dim: int
) -> Iterator[tuple[str, LazyTensor]]:
    rest = tensor.shape[0] - query_dim
    sizes = (query_dim, rest // 2, rest // 2) if len(target_names) == 3 else (tensor.shape[0] // 2,) * 2
    start = 0
    for target_name, count in zip(target_names, sizes, strict=True):
        yield f"{block_prefix}.{target_name}", tensor.slice_rows(start, start + count)
        start += count
