"""What is missing, surplus or of another shape among the tensors of a published folder, told by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lumina_core.errors import CheckpointError
from lumina_image.published.names import PAD

Shapes = Mapping[str, tuple[int, ...]]
SHOWN = 3
"""Names of a kind that a message repeats, for each part."""


def check(found: Shapes, wanted: Shapes, where: str, original: Callable[[str], str]) -> None:
    """Raise CheckpointError with every part's missing, surplus and misshapen tensors, in the names of the folder.

    Args:
        original: the original name of a name in the folder.
    """
    said = {
        "missing": [name for name in wanted if name not in found and name != PAD],
        "surplus": [name for name in found if name not in wanted],
        "of another shape": [name for name in wanted if name in found and found[name] != wanted[name]],
    }
    parts: dict[str, list[str]] = {}
    for word, names in said.items():
        for part in dict.fromkeys(_part(original(name)) for name in names):
            own = [_shaped(name, found, wanted, word) for name in names if _part(original(name)) == part]
            more = f" and {len(own) - SHOWN} more" if len(own) > SHOWN else ""
            parts.setdefault(part, []).append(f"{word}: {', '.join(own[:SHOWN])}{more}")
    if parts:
        told = "; ".join(f"{part}: {'; '.join(lines)}" for part, lines in parts.items())
        raise CheckpointError(f"{where} does not hold the tensors that its sizes ask for. {told}")


def _part(original: str) -> str:
    if original.startswith("final_layer."):
        return "head"
    return "conditioner" if original.startswith("y_embedder.") else "backbone"


def _shaped(name: str, found: Shapes, wanted: Shapes, word: str) -> str:
    return f"{name} ({found[name]}, wanted {wanted[name]})" if word == "of another shape" else name
