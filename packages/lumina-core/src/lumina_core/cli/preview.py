"""Results as they form: a file every few steps, in a folder beside each result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lumina_core.cli.places import make_folder
from lumina_core.errors import ConfigError

if TYPE_CHECKING:
    from lumina_core.request import Request
    from lumina_core.sampling.seen import Seen
    from lumina_core.session import Session


def steps_folder(path: Path) -> Path:
    """Where the steps of a result go: heart.png has heart-steps."""
    return path.with_name(f"{path.stem}-steps")


def previewing(
    session: Session, requests: Sequence[Request], paths: Sequence[Path], every: int | None
) -> Callable[[Seen], None] | None:
    """What writes heart-steps/003.png and on for heart.png, each whole or not there; None where nothing is wanted.

    Args:
        requests: of one batch, each with a count of 1.
        paths: where their results go.
        every: steps between two files.
    """
    if every is None:
        return None
    said = [request.model_dump(mode="json", exclude_none=True, exclude={"count"}) for request in requests]

    def write(seen: Seen) -> None:
        if seen.step % every:
            return
        note = {"step": seen.step, "steps": seen.steps, "time": round(seen.time, 6)}
        for item, path, record in zip(seen.items(), paths, said, strict=True):
            make_folder(path.parent)
            folder = steps_folder(path)
            make_folder(folder)
            try:
                session.model.task.save(item, folder / f"{seen.step:03d}{path.suffix}", {**record, "preview": note})
            except OSError as error:
                raise ConfigError(f"cannot write in {folder}: {error.strerror or error}") from error

    return write
