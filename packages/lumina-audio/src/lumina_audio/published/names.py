"""What a tensor of a released Flag-DiT is called: in lumina_music's checkpoints, and here."""

from __future__ import annotations

from lumina_core.errors import CheckpointError
from lumina_core.weights.pieces import Piece, Weights
from lumina_core.weights.published import INNER, OURS, OUTER, joined, renamed, split, taken_apart

BLOCKS = "blocks"
"""What the list of blocks is called in their files."""
_OUTER = {"proj_in.": "backbone.embed.", **OUTER}
_INNER = {"attention_norm.": "attention_norm.", "ffn_norm.": "feed_norm.", **INNER}


def from_published(weights: Weights) -> dict[str, Piece]:
    """A FlagDiT's tensors under our names, `backbone.*` and `head.*`, unread.

    Raises:
        CheckpointError: a name is unknown, or a part of a joined matrix is missing.
    """
    ours, rest = joined(weights, BLOCKS, every=True)
    return ours | {_ours(name): piece for name, piece in rest.items()}


def to_published(weights: Weights) -> dict[str, Piece]:
    """The exact inverse of `from_published`.

    Raises:
        CheckpointError: a tensor has no published name.
    """
    theirs, rest = taken_apart(weights, BLOCKS)
    return theirs | {_original(name): piece for name, piece in rest.items()}


def _ours(name: str) -> str:
    block, rest = split(name, BLOCKS)
    found = renamed(rest, _INNER if block else _OUTER)
    if found is None:
        raise CheckpointError(f"no tensor of a published Flag-DiT is called '{name}'")
    return f"{OURS}.{block}.{found}" if block else found


def _original(name: str) -> str:
    block, rest = split(name, OURS)
    found = renamed(rest, {here: theirs for theirs, here in (_INNER if block else _OUTER).items()})
    if found is None:
        raise CheckpointError(f"'{name}' has no name in the published layout")
    return f"{BLOCKS}.{block}.{found}" if block else found
