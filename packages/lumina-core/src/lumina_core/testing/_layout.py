"""Check of a layout: a foreign model folder is recognised, opened without being read, and comes back bit for bit."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from lumina_core.errors import LuminaError
from lumina_core.folders import write_draft
from lumina_core.parts import Layout
from lumina_core.recipe import read_recipe
from lumina_core.testing._contract import BrokenError, Contract, want, want_same
from lumina_core.weights.pieces import Unbuilt, Weights, read


def check_layout(layout: Layout, folder: Path) -> None:
    """Try every line of the contract `Layout`.

    Args:
        folder: a small model of this layout; it is only read.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("Layout", layout)
    before = _files(folder)
    with tempfile.TemporaryDirectory() as place:
        empty, back, cut = (Path(place) / name for name in ("empty", "back", "cut"))
        empty.mkdir()
        with contract.line("knows(folder): True for one of its own, False for any other"):
            want(layout.knows(folder) is True, "not True for the sample")
            want(layout.knows(empty) is False, "not False for an empty folder")
        with contract.line("open(folder) gives a recipe, and weights that are not read yet"):
            opened = layout.open(folder)
            want(isinstance(opened, Unbuilt), f"{type(opened).__name__} instead of Unbuilt")
            read_recipe(dict(opened.recipe), "the layout's")
            want(opened.weights, "no weights")
        with contract.line("draft(model) is the exact inverse: what is written opens with the same recipe and weights"):
            back.mkdir()
            write_draft(layout.draft(opened), back)
            want(layout.knows(back), "a folder that it does not know")
            _want_same(layout.open(back), opened)
        with contract.line("an incomplete folder is refused in words (a CheckpointError)"):
            _want_refusal(layout, back, cut)
        with contract.line("a folder that is read stays as it was"):
            want(_files(folder) == before, "other files than before")


def _files(folder: Path) -> dict[str, int]:
    return {str(file.relative_to(folder)): file.stat().st_size for file in folder.rglob("*") if file.is_file()}


def _want_same(came: Unbuilt, wanted: Unbuilt) -> None:
    _want_weights(came.weights, wanted.weights)
    _want_weights(came.kept, wanted.kept)
    for key in set(came.recipe) | set(wanted.recipe):
        one, other = came.recipe.get(key), wanted.recipe.get(key)
        # what lies outside has another place in another folder
        named = (isinstance(other, dict) and "source" in other) or isinstance(other, list | tuple)
        want(named or one == other, f"the recipe's {key} is {one!r:.80} instead of {other!r:.80}")


def _want_weights(came: Weights, wanted: Weights) -> None:
    want(set(came) == set(wanted), f"other tensors: {sorted(set(came) ^ set(wanted))[:3]}")
    for name, piece in wanted.items():
        want_same(read(came[name]), read(piece), name)


def _want_refusal(layout: Layout, whole: Path, cut: Path) -> None:
    shutil.copytree(whole, cut)
    largest = max((file for file in cut.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    try:
        layout.open(cut)
    except LuminaError:
        return
    raise BrokenError(f"nothing, with half of {largest.name}")
