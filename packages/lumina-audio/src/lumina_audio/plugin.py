"""What lumina-audio brings. Imported at every start: keep it light."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina_core import hookimpl

if TYPE_CHECKING:
    from lumina_core.plugins.offers import Parts


@hookimpl
def lumina_register_parts(parts: Parts) -> None:
    """The parts for sound."""
    parts.tokenizer("audio.frames", "lumina_audio.frames:Frames", "frames of a spectrogram, at (time, 0, 0)")
