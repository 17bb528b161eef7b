"""What lumina-audio brings. Imported at every start: keep it light."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina_core import hookimpl

if TYPE_CHECKING:
    from lumina_core.plugins.offers import Kinds, Parts


@hookimpl
def lumina_register_kinds(kinds: Kinds) -> None:
    """A kind of our own: what turns a spectrogram into sound."""
    kinds.add(
        "vocoder",
        "lumina_audio.vocoders.contract:Vocoder",
        "lumina_audio.vocoders.check:check_vocoder",
        "mel spectrogram -> waveform",
    )


@hookimpl
def lumina_register_parts(parts: Parts) -> None:
    """The parts for sound."""
    parts.tokenizer("audio.frames", "lumina_audio.frames:Frames", "frames of a spectrogram, at (time, 0, 0)")
    parts.autoencoder("audio.mel", "lumina_audio.autoencoder:MelAutoencoder", "spectrograms in 1-D latents, vocoded")
    parts.dataset(
        "audio.instruments", "lumina_audio.instruments:InstrumentsDataset", "built in: General MIDI, with true captions"
    )
    parts.vocoder("audio.griffin_lim", "lumina_audio.vocoders.griffin_lim:GriffinLim", "no weights: phases are sought")
    parts.vocoder("audio.vocos", "lumina_audio.vocoders.vocos:Vocos", "light: one inverse Fourier transform a frame")
