"""What a tensor of a released Flag-DiT is called: in lumina_music's checkpoints, and here."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lumina_core.errors import CheckpointError
from lumina_core.weights.pieces import Joined, Piece, Weights

_OUTER = {
    "proj_in.": "backbone.embed.",
    "t_embedder.mlp.0.": "backbone.time.inner.",
    "t_embedder.mlp.2.": "backbone.time.outer.",
    "cap_embedder.0.": "backbone.summary.norm.",
    "cap_embedder.1.": "backbone.summary.linear.",
    "final_layer.adaLN_modulation.1.": "head.modulation.",
    "final_layer.linear.": "head.linear.",
}
_INNER = {
    "attention_norm.": "attention_norm.",
    "ffn_norm.": "feed_norm.",
    "attention_y_norm.": "memory_norm.",
    "adaLN_modulation.1.": "modulation.",
    "attention.wo.": "attention.out.",
    "attention.q_norm.": "attention.q_norm.",
    "attention.k_norm.": "attention.k_norm.",
    "attention.ky_norm.": "attention.memory_k_norm.",
    "attention.gate": "attention.gate",
    "feed_forward.w2.": "feed.out.",
}
_TOGETHER = {
    "attention.qkv.weight": ("attention.wq.weight", "attention.wk.weight", "attention.wv.weight"),
    "attention.memory_kv.weight": ("attention.wk_y.weight", "attention.wv_y.weight"),
    "feed.up.weight": ("feed_forward.w1.weight", "feed_forward.w3.weight"),
}
"""Our matrices of a block, and those that they are joined from."""
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_OUR_BLOCK = re.compile(r"backbone\.blocks\.(\d+)\.(.+)")


def from_published(weights: Weights) -> dict[str, Piece]:
    """A FlagDiT's tensors under our names, `backbone.*` and `head.*`, unread.

    Raises:
        CheckpointError: a name is unknown, or a part of a joined matrix is missing.
    """
    rest, ours = dict(weights), {}
    for block in sorted({int(found[1]) for found in map(_BLOCK.match, weights) if found}):
        for name, parts in _TOGETHER.items():
            found = [rest.pop(f"blocks.{block}.{part}", None) for part in parts]
            present = [piece for piece in found if piece is not None]
            if len(present) < len(parts):
                raise CheckpointError(f"blocks.{block} lacks one of {', '.join(parts)}; fetch the weights again")
            ours[f"backbone.blocks.{block}.{name}"] = Joined(present)
    return ours | {_ours(name): piece for name, piece in rest.items()}


def to_published(weights: Weights) -> dict[str, Piece]:
    """The exact inverse of `from_published`.

    Raises:
        CheckpointError: a tensor has no published name.
    """
    theirs: dict[str, Piece] = {}
    for name, piece in weights.items():
        inner = _OUR_BLOCK.fullmatch(name)
        if inner and inner[2] in _TOGETHER:
            queries = weights[f"backbone.blocks.{inner[1]}.attention.out.weight"].shape[1]
            theirs |= _apart(inner[1], _TOGETHER[inner[2]], piece, queries)
        else:
            theirs[_original(name)] = piece
    return theirs


def _apart(block: str, parts: tuple[str, ...], piece: Piece, queries: int) -> Iterator[tuple[str, Piece]]:
    rest = piece.shape[0] - queries
    sizes = (queries, rest // 2, rest // 2) if len(parts) == 3 else (piece.shape[0] // 2,) * 2
    start = 0
    for part, count in zip(parts, sizes, strict=True):
        yield f"blocks.{block}.{part}", piece.rows(start, start + count)
        start += count


def _ours(name: str) -> str:
    block = _BLOCK.fullmatch(name)
    rest, table = (block[2], _INNER) if block else (name, _OUTER)
    for theirs, here in table.items():
        if rest.startswith(theirs):
            return (f"backbone.blocks.{block[1]}." if block else "") + here + rest[len(theirs) :]
    raise CheckpointError(f"no tensor of a published Flag-DiT is called '{name}'")


def _original(name: str) -> str:
    block = _OUR_BLOCK.fullmatch(name)
    rest, table = (block[2], _INNER) if block else (name, _OUTER)
    for theirs, here in table.items():
        if rest.startswith(here):
            return (f"blocks.{block[1]}." if block else "") + theirs + rest[len(here) :]
    raise CheckpointError(f"'{name}' has no name in the published layout")
