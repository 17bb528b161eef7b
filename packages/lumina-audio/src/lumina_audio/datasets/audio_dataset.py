"""What every data set of sounds does alike: lengths that batches share, crops, padding, loudness, what is skipped."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from lumina_audio.audio_io import AudioError, Loudness, read_audio, read_header
from lumina_core.config import Config as Settings
from lumina_core.data.dataset import IndexedDataset
from lumina_core.data.index import load_or_build_index
from lumina_core.data.source import FileOrBytes, SkippedItem, Source
from lumina_core.protocols import Example
from lumina_core.types import Size

MAX_DECODE_DURATION = 120.0
"""Seconds: of a longer file only the header is looked at before a run."""
MIN_FILL_FRACTION = 0.75
"""A sound that fills so much of a length is padded to it rather than cut to the next shorter one."""


class AudioCropConfig(Settings):
    """How sounds are cut and chosen, wherever they come from."""

    sample_rate: int = Field(16000, ge=1000, le=192_000, description="samples a second; what has others is resampled")
    duration: float = Field(2.048, gt=0, le=600, description="length that every sound is cut or padded to")
    durations: tuple[float, ...] = Field(
        (), description="several lengths in seconds instead of one: each sound gets the one that suits it"
    )
    length_multiple: int = Field(
        512, ge=1, le=65536, description="lengths are rounded up to a multiple of so many samples: the model's"
    )
    crop: Literal["random", "start"] = Field("random", description="where a longer sound is cut")
    short_clips: Literal["pad", "repeat", "skip"] = Field(
        "pad", description="a shorter one is followed by silence, repeated, or left out"
    )
    loudness: Loudness = Field(
        "keep", description="keep; peak: brought to 0.95; level: what sounds of it to -20 dB of full scale"
    )
    silent_clips: Literal["skip", "keep"] = Field(
        "skip", description="what to do with a sound in which nothing is heard"
    )
    clipped_clips: Literal["skip", "keep"] = Field("keep", description="what to do with one whose peaks are cut off")
    max_duration: float = Field(3600.0, gt=0, description="longer files are skipped, by their header")
    validate_first: int = Field(
        500, ge=0, description="up to so many sounds are decoded once at the start; of more only the headers are"
    )
    caption_weights: dict[str, float] = Field(
        {}, description="how often each source of captions is heard: {human: 2, tagger: 1}; one not named: 1"
    )

    @model_validator(mode="after")
    def _check_durations(self) -> AudioCropConfig:
        if any(not 0 < duration <= 600 for duration in self.durations):
            raise ValueError(f"lengths {list(self.durations)}: wanted seconds above 0 up to 600")
        return self

    def lengths_in_samples(self) -> list[int]:
        """The lengths in samples, rising, each once."""
        durations = self.durations or (self.duration,)
        return sorted(
            {
                -(-round(duration * self.sample_rate) // self.length_multiple) * self.length_multiple
                for duration in durations
            }
        )


class AudioDataset(IndexedDataset):
    """Sounds of a source by index. The parts below build the source, and are this.

    Args:
        part: name of the part, for messages.
        kept_in: folder for the index of what was found; None: none is kept.
    """

    variable_size = True

    def __init__(
        self, component: str, crop_config: AudioCropConfig, source: Source, index_dir: Path | None = None
    ) -> None:
        self._crop_config, self.lengths = crop_config, crop_config.lengths_in_samples()
        bounds = {
            "max_duration": crop_config.max_duration,
            "silent_clips": crop_config.silent_clips,
            "clipped_clips": crop_config.clipped_clips,
        }
        super().__init__(
            component,
            "sounds",
            source,
            load_or_build_index(source, self._measure, bounds, crop_config.validate_first, index_dir),
        )

    def get(self, index: int, rng: random.Random) -> Example:
        """`audio` (1, samples) in [-1, 1], `duration` (its length in seconds), `caption`, `file` (its name there), further fields.

        A sound that turns out to be damaged is skipped for good: the next whole one stands in, at the same length.

        Raises:
            ConfigError: no sound can be read any more.
        """
        samples = self._target_length(int(self._item_numbers[index]))
        example = self._get_item(index, "audio", rng, lambda source, item: self._load_crop(source, item, samples, rng))
        return {**example, "duration": samples / self._crop_config.sample_rate}

    def size(self, index: int, rng: random.Random) -> Size:
        """(samples,) of the example's sound; nothing is read."""
        return (self._target_length(int(self._item_numbers[index])),)

    def sizes(self) -> list[Size]:
        """Every length."""
        return [(samples,) for samples in self.lengths]

    def _span(self, item: int) -> tuple[float, float]:
        """Where in its file a sound begins and how long it lasts, in seconds."""
        return 0.0, self._index.size(item)[0] / 1000

    def _target_length(self, item: int) -> int:
        """The length that suits a sound: the next longer one if it fills that well, else the next shorter one."""
        available = self._span(item)[1] * self._crop_config.sample_rate
        longer = [samples for samples in self.lengths if samples >= available]
        shorter = [samples for samples in self.lengths if samples < available]
        if longer and (not shorter or available >= MIN_FILL_FRACTION * longer[0]):
            return longer[0]
        return shorter[-1]

    def _select_items(self) -> np.ndarray:
        usable = []
        for item in range(len(self._index)):
            reason = self._skip_reason(item)
            if reason:
                self.skipped.append(SkippedItem(self._index.name(item), reason))
            else:
                usable.append(item)
        return np.array(usable, dtype=np.int64)

    def _skip_reason(self, item: int) -> str:
        start, duration = self._span(item)
        if duration <= 0:
            return f"its part begins at {start:g} s, where the file has ended"
        if self._crop_config.short_clips == "skip" and duration * self._crop_config.sample_rate < self.lengths[0] - 1:
            return f"{duration:.2f} s, shorter than {self.lengths[0] / self._crop_config.sample_rate:.2f} s"
        return ""

    def _measure(self, source: FileOrBytes, decode: bool) -> tuple[int, int]:
        """Milliseconds, and samples a second."""
        header = read_header(source, self._crop_config.max_duration)
        if decode and header.duration <= MAX_DECODE_DURATION:
            self._check_notes(read_audio(source, header.sample_rate, max_duration=self._crop_config.max_duration).notes)
        return max(int(1000 * header.duration), 1), header.sample_rate

    def _check_notes(self, notes: tuple[str, ...]) -> None:
        for note in notes:
            if (note.startswith("silent") and self._crop_config.silent_clips == "skip") or (
                note.startswith("clipped") and self._crop_config.clipped_clips == "skip"
            ):
                raise AudioError(note)

    def _load_crop(self, source: FileOrBytes, item: int, samples: int, rng: random.Random) -> Tensor:
        config, target_duration = self._crop_config, samples / self._crop_config.sample_rate
        start, duration = self._span(item)
        spare = max(duration - target_duration, 0.0)
        offset = spare * rng.random() if config.crop == "random" else 0.0
        clip = read_audio(
            source,
            config.sample_rate,
            loudness=config.loudness,
            start=start + offset,
            duration=min(duration, target_duration) + 0.001,
        )
        if not spare:  # a silent part of a longer sound is a part of it all the same
            self._check_notes(clip.notes)
        return fit_length(clip.waveform, samples, config.short_clips == "repeat")


def fit_length(wave: Tensor, samples: int, repeat: bool = False) -> Tensor:
    """(1, S) cut to a length, or followed by silence (or by itself again) up to it."""
    if repeat and wave.shape[-1] < samples:
        wave = wave.repeat(1, -(-samples // wave.shape[-1]))
    return torch.nn.functional.pad(wave[:, :samples], (0, max(samples - wave.shape[-1], 0)))
