"""What every data set of sounds does alike: lengths that batches share, crops, padding, loudness, what is skipped."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from lumina_audio.sounds import Loudness, SoundError, check_header, read_sound
from lumina_core.config import Config as Settings
from lumina_core.parts import Example
from lumina_core.sources.index import index_of
from lumina_core.sources.source import Held, Skipped, Source
from lumina_core.sources.source_set import SourceSet
from lumina_core.types import Extent

DECODED = 120.0
"""Seconds: of a longer file only the header is looked at before a run."""
FILLED = 0.75
"""A sound that fills so much of a length is padded to it rather than cut to the next shorter one."""


class Cutting(Settings):
    """How sounds are cut and chosen, wherever they come from."""

    rate: int = Field(16000, ge=1000, le=192_000, description="samples a second; what has others is resampled")
    seconds: float = Field(2.048, gt=0, le=600, description="length that every sound is cut or padded to")
    lengths: tuple[float, ...] = Field(
        (), description="several lengths in seconds instead of one: each sound gets the one that suits it"
    )
    multiple: int = Field(
        512, ge=1, le=65536, description="lengths are rounded up to a multiple of so many samples: the model's"
    )
    crop: Literal["random", "start"] = Field("random", description="where a longer sound is cut")
    short: Literal["pad", "repeat", "skip"] = Field(
        "pad", description="a shorter one is followed by silence, repeated, or left out"
    )
    loudness: Loudness = Field(
        "keep", description="keep; peak: brought to 0.95; level: what sounds of it to -20 dB of full scale"
    )
    silent: Literal["skip", "keep"] = Field("skip", description="what to do with a sound in which nothing is heard")
    clipped: Literal["skip", "keep"] = Field("keep", description="what to do with one whose peaks are cut off")
    most_seconds: float = Field(3600.0, gt=0, description="longer files are skipped, by their header")
    decode_first: int = Field(
        500, ge=0, description="up to so many sounds are decoded once at the start; of more only the headers are"
    )
    caption_weights: dict[str, float] = Field(
        {}, description="how often each source of captions is heard: {human: 2, tagger: 1}; one not named: 1"
    )

    @model_validator(mode="after")
    def _plain_lengths(self) -> Cutting:
        if any(not 0 < one <= 600 for one in self.lengths):
            raise ValueError(f"lengths {list(self.lengths)}: wanted seconds above 0 up to 600")
        return self

    def samples(self) -> list[int]:
        """The lengths in samples, rising, each once."""
        asked = self.lengths or (self.seconds,)
        return sorted({-(-round(one * self.rate) // self.multiple) * self.multiple for one in asked})


class SoundSet(SourceSet):
    """Sounds of a source by index. The parts below build the source, and are this.

    Args:
        part: name of the part, for messages.
        kept_in: folder for the index of what was found; None: none is kept.
    """

    def __init__(self, part: str, cutting: Cutting, source: Source, kept_in: Path | None = None) -> None:
        self._cutting, self.lengths = cutting, cutting.samples()
        bounds = {"most_seconds": cutting.most_seconds, "silent": cutting.silent, "clipped": cutting.clipped}
        super().__init__(
            part, "sounds", source, index_of(source, self._measured, bounds, cutting.decode_first, kept_in)
        )

    def example(self, index: int, draw: random.Random) -> Example:
        """`sound` (1, samples) in [-1, 1], `seconds` (its length), `caption`, `file` (its name there), further fields.

        A sound that turns out to be damaged is skipped for good: the next whole one stands in, at the same length.

        Raises:
            ConfigError: no sound can be read any more.
        """
        samples = self._samples(int(self._numbers[index]))
        found = self._example(index, "sound", draw, lambda held, number: self._made(held, number, samples, draw))
        return {**found, "seconds": samples / self._cutting.rate}

    def extent(self, index: int, draw: random.Random) -> Extent:
        """(samples,) of the example's sound; nothing is read."""
        return (self._samples(int(self._numbers[index])),)

    def extents(self) -> list[Extent]:
        """Every length."""
        return [(samples,) for samples in self.lengths]

    def _span(self, number: int) -> tuple[float, float]:
        """Where in its file a sound begins and how long it lasts, in seconds."""
        return 0.0, self._index.size(number)[0] / 1000

    def _samples(self, number: int) -> int:
        """The length that suits a sound: the next longer one if it fills that well, else the next shorter one."""
        own = self._span(number)[1] * self._cutting.rate
        longer = [samples for samples in self.lengths if samples >= own]
        shorter = [samples for samples in self.lengths if samples < own]
        if longer and (not shorter or own >= FILLED * longer[0]):
            return longer[0]
        return shorter[-1]

    def _kept(self) -> np.ndarray:
        kept = []
        for number in range(len(self._index)):
            reason = self._left_out(number)
            if reason:
                self.skipped.append(Skipped(self._index.name(number), reason))
            else:
                kept.append(number)
        return np.array(kept, dtype=np.int64)

    def _left_out(self, number: int) -> str:
        start, seconds = self._span(number)
        if seconds <= 0:
            return f"its part begins at {start:g} s, where the file has ended"
        if self._cutting.short == "skip" and seconds * self._cutting.rate < self.lengths[0] - 1:
            return f"{seconds:.2f} s, shorter than {self.lengths[0] / self._cutting.rate:.2f} s"
        return ""

    def _measured(self, held: Held, thorough: bool) -> tuple[int, int]:
        """Milliseconds, and samples a second."""
        header = check_header(held, self._cutting.most_seconds)
        if thorough and header.seconds <= DECODED:
            self._check(read_sound(held, header.rate, most_seconds=self._cutting.most_seconds).notes)
        return max(int(1000 * header.seconds), 1), header.rate

    def _check(self, notes: tuple[str, ...]) -> None:
        for note in notes:
            if (note.startswith("silent") and self._cutting.silent == "skip") or (
                note.startswith("clipped") and self._cutting.clipped == "skip"
            ):
                raise SoundError(note)

    def _made(self, held: Held, number: int, samples: int, draw: random.Random) -> Tensor:
        cutting, wanted = self._cutting, samples / self._cutting.rate
        start, seconds = self._span(number)
        spare = max(seconds - wanted, 0.0)
        offset = spare * draw.random() if cutting.crop == "random" else 0.0
        read = read_sound(
            held, cutting.rate, loudness=cutting.loudness, start=start + offset, seconds=min(seconds, wanted) + 0.001
        )
        if not spare:  # a silent part of a longer sound is a part of it all the same
            self._check(read.notes)
        return fitted(read.waveform, samples, cutting.short == "repeat")


def fitted(wave: Tensor, samples: int, repeat: bool = False) -> Tensor:
    """(1, S) cut to a length, or followed by silence (or by itself again) up to it."""
    if repeat and wave.shape[-1] < samples:
        wave = wave.repeat(1, -(-samples // wave.shape[-1]))
    return torch.nn.functional.pad(wave[:, :samples], (0, max(samples - wave.shape[-1], 0)))
