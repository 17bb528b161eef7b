"""Files of one model that was trained in parallel parts (fairscale): put side by side again where that is exact."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lumina_core.errors import CheckpointError
from lumina_core.weights.pieces import Joined, Piece, Weights, read
from lumina_image.published.names import split

_COLUMNS = (
    "x_embedder.", "t_embedder.mlp.0.", "cap_embedder.1.", "final_layer.linear.", "final_layer.adaLN_modulation.1.",
    "adaLN_modulation.1.", "attention.wq.", "attention.wk.", "attention.wv.", "attention.wk_y.", "attention.wv_y.",
    "attention.gate", "feed_forward.w1.", "feed_forward.w3.",
)  # fmt: skip
"""Cut along their outputs (ColumnParallelLinear of lumina_next_t2i/models/model.py), their biases too."""
_ROWS = (
    "t_embedder.mlp.2.weight",
    "attention.wo.weight",
    "feed_forward.w2.weight",
    "y_embedder.embedding_table.weight",
)
"""Cut along their inputs (RowParallelLinear, ParallelEmbedding); their biases are whole in every file."""


def joined(parts: Sequence[Weights], where: str) -> Weights:
    """The tensors of all parts as those of one model.

    Raises:
        CheckpointError: the parts have not the same names; or queries are normalised, which every part did over its own
            heads alone, so that no single model gives the same numbers.
    """
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    if any(part.keys() != first.keys() for part in parts):
        raise CheckpointError(f"{where}: the parts do not hold the same tensors; fetch them again")
    if any(".q_norm." in name for name in first):
        raise CheckpointError(
            f"{where} was trained in {len(parts)} parts, each of which normalises queries over its own heads alone; "
            "no single model gives the same numbers, so it cannot be put together"
        )
    return {name: _one(name, [part[name] for part in parts], where) for name in first}


def _one(name: str, pieces: Sequence[Piece], where: str) -> Piece:
    _, rest = split(name)
    if rest.startswith(_COLUMNS):
        return Joined(pieces)
    if rest in _ROWS:
        return Joined(pieces, dim=1)
    held = read(pieces[0])  # small: norms and biases
    if any(piece.shape != pieces[0].shape or not torch.equal(read(piece), held) for piece in pieces[1:]):
        raise CheckpointError(f"{where}: {name} is whole in every part, and differs from part to part; fetch it again")
    return pieces[0]
