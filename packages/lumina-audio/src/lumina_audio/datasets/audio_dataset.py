"""Data sets of audio files with captions, in a folder or in tar files, and how their clips are selected and cropped."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Literal

import numpy as np
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from lumina_audio.audio_io import AUDIO_SUFFIXES, UNREAD_SUFFIXES, AudioError, Loudness, read_audio, read_header
from lumina_core.config import Config as Settings
from lumina_core.data.index import IndexedDataset, load_or_build_index
from lumina_core.data.source import FileOrBytes, FolderSource, Shards, SkippedItem, Source, list_folder, require_dir
from lumina_core.data.tar import TarSource
from lumina_core.protocols import Example
from lumina_core.types import Size

MAX_DECODE_DURATION = 120.0
"""Longest file, in seconds, that is decoded when the index is built; of longer ones only the header is read."""
MIN_FILL_FRACTION = 0.75
"""Smallest share of a length that a clip fills to be padded to it, rather than cropped to the next shorter length."""
MAX_CLIP_DURATION = 600.0
EMPTY_FOLDER_ADVICE = (
    "Add audio files (wav, flac, ogg, mp3 ...), each with a .txt of the same name, or a captions.jsonl with lines "
    'like {"file": "a.wav", "caption": "a dog barks"}'
)


class AudioCropConfig(Settings):
    """Selection and cropping of clips."""

    sample_rate: int = Field(16000, ge=1000, le=192_000, description="samples per second; others are resampled")
    duration: float = Field(2.048, gt=0, le=MAX_CLIP_DURATION, description="seconds of every clip")
    durations: tuple[float, ...] = Field(
        (), description="seconds of several clip lengths instead; each file gets the length that fits it best"
    )
    length_multiple: int = Field(
        512, ge=1, le=65536, description="lengths are rounded up to a multiple of samples: that of the model"
    )
    crop: Literal["random", "start"] = Field("random", description="position of the crop of a longer file")
    short_clips: Literal["pad", "repeat", "skip"] = Field(
        "pad", description="shorter files: padded with zeros, repeated, or skipped"
    )
    loudness: Loudness = Field(
        "keep", description="keep; peak: scaled to a peak of 0.95; level: scaled to -20 dB of full scale"
    )
    silent_clips: Literal["skip", "keep"] = Field("skip", description="silent files: skipped or kept")
    clipped_clips: Literal["skip", "keep"] = Field("keep", description="clipped files: skipped or kept")
    max_duration: float = Field(3600.0, gt=0, description="seconds; longer files are skipped")
    validate_first: int = Field(
        500, ge=0, description="files that are decoded when the index is built; of the others only the header is read"
    )
    caption_weights: dict[str, float] = Field(
        {}, description="sampling weight of each caption source, 1 by default: {human: 2, tagger: 1}"
    )

    @field_validator("durations")
    @classmethod
    def _check_durations(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < duration <= MAX_CLIP_DURATION for duration in value):
            raise ValueError(f"got {list(value)}, expected seconds above 0, at most {MAX_CLIP_DURATION:g}")
        return value

    def lengths_in_samples(self) -> list[int]:
        """Return the clip lengths in samples, ascending, each once."""
        samples = (round(duration * self.sample_rate) for duration in self.durations or (self.duration,))
        return sorted({-(-count // self.length_multiple) * self.length_multiple for count in samples})


class AudioDataset(IndexedDataset):
    """Clips of a source of audio files.

    Args:
        component: name of the component, for messages.
        crop_config: selection and cropping.
        source: files and captions.
        index_dir: folder of the index; None: the index is not stored.
    """

    variable_size = True

    def __init__(
        self, component: str, crop_config: AudioCropConfig, source: Source, index_dir: Path | None = None
    ) -> None:
        self._crop_config, self.lengths = crop_config, crop_config.lengths_in_samples()
        bounds = crop_config.model_dump(include={"max_duration", "silent_clips", "clipped_clips"})
        index = load_or_build_index(source, self._measure, bounds, crop_config.validate_first, index_dir)
        super().__init__(component, "sounds", source, index)

    def get(self, index: int, rng: random.Random) -> Example:
        """Return `audio` (1, samples) in [-1, 1], `duration` (seconds), `caption`, `file` and fields of the source.

        A file that cannot be read any more is skipped from then on, and replaced by the next one at the same length.

        Raises:
            ConfigError: no file can be read any more.
        """
        samples = self._target_length(int(self._item_numbers[index]))
        example = self._get_item(index, "audio", rng, lambda source, item: self._load_crop(source, item, samples, rng))
        return {**example, "duration": samples / self._crop_config.sample_rate}

    def size(self, index: int, rng: random.Random) -> Size:
        """Return (samples,) of an example without reading it."""
        return (self._target_length(int(self._item_numbers[index])),)

    def sizes(self) -> list[Size]:
        """Return every clip length."""
        return [(samples,) for samples in self.lengths]

    def _span(self, item: int) -> tuple[float, float]:
        """Return start and duration, in seconds, of the usable part of a file."""
        return 0.0, self._index.size(item)[0] / 1000

    def _target_length(self, item: int) -> int:
        """Select the next longer length if the file fills it well, else the next shorter one."""
        available = self._span(item)[1] * self._crop_config.sample_rate
        longer = [samples for samples in self.lengths if samples >= available]
        shorter = [samples for samples in self.lengths if samples < available]
        if longer and (not shorter or available >= MIN_FILL_FRACTION * longer[0]):
            return longer[0]
        return shorter[-1]

    def _select_items(self) -> np.ndarray:
        reasons = [self._skip_reason(item) for item in range(len(self._index))]
        self.skipped += [SkippedItem(self._index.name(item), reason) for item, reason in enumerate(reasons) if reason]
        return np.array([item for item, reason in enumerate(reasons) if not reason], dtype=np.int64)

    def _skip_reason(self, item: int) -> str:
        start, duration = self._span(item)
        if duration <= 0:
            return f"begins at {start:g} s, after the end of the file"
        sample_rate, shortest = self._crop_config.sample_rate, self.lengths[0]
        if self._crop_config.short_clips == "skip" and duration * sample_rate < shortest - 1:
            return f"{duration:.2f} s, shorter than {shortest / sample_rate:.2f} s"
        return ""

    def _measure(self, source: FileOrBytes, decode: bool) -> tuple[int, int]:
        """Return milliseconds and sample rate of a file."""
        header = read_header(source, self._crop_config.max_duration)
        if decode and header.duration <= MAX_DECODE_DURATION:
            self._check_notes(read_audio(source, header.sample_rate, max_duration=self._crop_config.max_duration).notes)
        return max(int(1000 * header.duration), 1), header.sample_rate

    def _check_notes(self, notes: tuple[str, ...]) -> None:
        """Raise AudioError if a file with these notes is skipped."""
        policies = {"silent": self._crop_config.silent_clips, "clipped": self._crop_config.clipped_clips}
        for note in notes:
            if any(note.startswith(prefix) and policy == "skip" for prefix, policy in policies.items()):
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
        if not spare:  # a silent crop of a longer file is valid
            self._check_notes(clip.notes)
        return fit_length(clip.waveform, samples, config.short_clips == "repeat")


def fit_length(waveform: Tensor, samples: int, repeat: bool = False) -> Tensor:
    """Crop or pad a waveform (1, S) to a number of samples, with zeros or by repetition."""
    if repeat and waveform.shape[-1] < samples:
        waveform = waveform.repeat(1, -(-samples // waveform.shape[-1]))
    return F.pad(waveform[:, :samples], (0, max(samples - waveform.shape[-1], 0)))


class FolderDataset(AudioDataset):
    """Audio files of a folder and its subfolders, of any sample rates and numbers of channels.

    Captions are read from `captions.jsonl` if present ({"file": ..., "caption": a text, a list, or texts by source}),
    otherwise from a `.txt` with the name of each file (one caption per line), or a `.json` ({"caption": ...}).
    """

    class Config(AudioCropConfig):
        """Folder, selection and cropping."""

        folder: str = Field(min_length=1, description="folder of the audio files")

    def __init__(self, config: Config) -> None:
        self.config = config
        root = require_dir(config.folder, "audio.folder")
        items = list(list_folder(root, AUDIO_SUFFIXES, config.caption_weights, UNREAD_SUFFIXES))
        super().__init__("audio.folder", config, FolderSource(root, items, EMPTY_FOLDER_ADVICE))


class TarDataset(AudioDataset):
    """Audio files in tar files of WebDataset, uncompressed, with captions in a .txt or .json of the same name.

    Examples are read in any order: an index of offsets is built once and stored.
    """

    class Config(AudioCropConfig):
        """Tar files, selection and cropping."""

        folder: str = Field(min_length=1, description="folder of the tar files")
        shards: str = Field("**/*.tar", description="pattern of the tar files in it")
        index: str | None = Field(None, description="folder of the index; null: `.lumina-index` in `folder`")

    def __init__(self, config: Config) -> None:
        self.config = config
        shards = Shards(config.folder, config.shards, "audio.tar")
        source = TarSource(shards, AUDIO_SUFFIXES, config.caption_weights, UNREAD_SUFFIXES)
        super().__init__("audio.tar", config, source, shards.index_dir(config.index))
