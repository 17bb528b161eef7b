"""What published transformers of this family call alike: names of tensors, and which of theirs are one of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from lumina_core.errors import CheckpointError
from lumina_core.weights.pieces import Joined, Piece, Weights

OUTER = {
    "t_embedder.mlp.0.": "backbone.time.inner.",
    "t_embedder.mlp.2.": "backbone.time.outer.",
    "cap_embedder.0.": "backbone.summary.norm.",
    "cap_embedder.1.": "backbone.summary.linear.",
    "final_layer.adaLN_modulation.1.": "head.modulation.",
    "final_layer.linear.": "head.linear.",
}
"""Beginnings of names outside the blocks: theirs, and ours."""
INNER = {
    "attention_y_norm.": "memory_norm.",
    "adaLN_modulation.1.": "modulation.",
    "attention.wo.": "attention.out.",
    "attention.q_norm.": "attention.q_norm.",
    "attention.k_norm.": "attention.k_norm.",
    "attention.ky_norm.": "attention.memory_k_norm.",
    "attention.gate": "attention.gate",
    "feed_forward.w2.": "feed.out.",
}
"""Beginnings of names within a block."""
TOGETHER = {
    "attention.qkv.weight": ("attention.wq.weight", "attention.wk.weight", "attention.wv.weight"),
    "attention.memory_kv.weight": ("attention.wk_y.weight", "attention.wv_y.weight"),
    "feed.up.weight": ("feed_forward.w1.weight", "feed_forward.w3.weight"),
}
"""Our matrices of a block, and those that they are joined from."""
OURS = "backbone.blocks"


def split(name: str, blocks: str) -> tuple[str, str]:
    """The number of a block and the rest of a name; an empty number outside the blocks.

    Args:
        blocks: what the list of blocks is called, `backbone.blocks` here.
    """
    found = re.fullmatch(rf"{re.escape(blocks)}\.(\d+)\.(.+)", name)
    return (found[1], found[2]) if found else ("", name)


def renamed(rest: str, table: Mapping[str, str]) -> str | None:
    """A name of which a table knows the beginning, with the other beginning; None: it knows none."""
    return next((here + rest[len(theirs) :] for theirs, here in table.items() if rest.startswith(theirs)), None)


def joined(weights: Weights, blocks: str, *, every: bool = False) -> tuple[dict[str, Piece], dict[str, Piece]]:
    """Our matrices that published ones are joined to, under our names, and what is left under its own. Unread.

    Args:
        every: a block without any part of one of them is refused too.

    Raises:
        CheckpointError: a part is missing.
    """
    rest = dict(weights)
    ours: dict[str, Piece] = {}
    for block in sorted({int(number) for name in weights if (number := split(name, blocks)[0])}):
        for name, parts in TOGETHER.items():
            found = [rest.pop(f"{blocks}.{block}.{part}", None) for part in parts]
            present = [piece for piece in found if piece is not None]
            if len(present) < len(parts) and (present or every):
                raise CheckpointError(f"{blocks}.{block} lacks one of {', '.join(parts)}; fetch the weights again")
            if present:
                ours[f"{OURS}.{block}.{name}"] = Joined(present)
    return ours, rest


def taken_apart(weights: Weights, blocks: str) -> tuple[dict[str, Piece], dict[str, Piece]]:
    """The exact inverse of `joined`: published matrices under their names, and what is left under ours."""
    theirs: dict[str, Piece] = {}
    rest: dict[str, Piece] = {}
    for name, piece in weights.items():
        block, inner = split(name, OURS)
        if block and inner in TOGETHER:
            queries = weights[f"{OURS}.{block}.attention.out.weight"].shape[1]
            theirs |= _apart(f"{blocks}.{block}", TOGETHER[inner], piece, queries)
        else:
            rest[name] = piece
    return theirs, rest


def _apart(block: str, parts: tuple[str, ...], piece: Piece, queries: int) -> Iterator[tuple[str, Piece]]:
    rest = piece.shape[0] - queries
    sizes = (queries, rest // 2, rest // 2) if len(parts) == 3 else (piece.shape[0] // 2,) * 2
    start = 0
    for part, count in zip(parts, sizes, strict=True):
        yield f"{block}.{part}", piece.rows(start, start + count)
        start += count
