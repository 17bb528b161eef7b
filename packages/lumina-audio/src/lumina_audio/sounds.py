"""Reads sound files that may be hostile: bounds before decoding, any rate and channels to one channel at one rate."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchaudio.transforms import Resample

from lumina_core.sources.source import Held
from lumina_core.sources.unusable import UnusableError

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64", ".caf")
FORMATS = frozenset(("WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF"))
"""As libsndfile calls them; it must know them too (MP3 from 1.1 on)."""
MOST_BYTES = 2**31
"""Of a file."""
MOST_NUMBERS = 2**28
"""Samples of all channels together that are decoded at once: 1 GiB."""
MOST_SECONDS = 3600.0
RATES = (1000, 768_000)
MOST_CHANNELS = 64
FULL = 0.9995
"""What counts as full scale: 16 bits end at 0.99997."""
RUN = 3
"""So many samples in a row at full scale of one channel are a peak cut off, not one that just reaches it."""
LOUDEST = 2.0**32
"""Samples beyond it are refused; up to it they may be integers that were written as floats."""
SILENT = 1e-4
"""A peak below it, 80 dB under full scale, is silence."""
PEAK, LEVEL = 0.95, 10 ** (-20 / 20)
"""What `loudness` brings a sound to: its peak, or the level of the parts of it that sound (20 dB under full scale)."""

_CANCELLED = "silent once its channels are mixed to one: they cancel each other"
_PROMISED = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)
"""libsndfile's words on a WAV that holds other bytes than its header says."""
_UNKNOWN = 2**31 - 2**16
"""Bytes from which on a header means that nobody knew how many would come."""

Loudness = Literal["keep", "peak", "level"]
Wave = NDArray[np.float32]


class SoundError(UnusableError):
    """A file cannot be used as a sound; the message says why, in a few words."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself: samples a second, channels, samples of each channel."""

    rate: int
    channels: int
    frames: int

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.frames / self.rate


@dataclass(frozen=True)
class Sound:
    """What was read.

    Attributes:
        waveform: (1, S) float32 in [-1, 1].
        rate: samples a second.
        notes: what one should know of it, in words: silence, clipping, levels beyond full scale.
    """

    waveform: Tensor
    rate: int
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.waveform.shape[-1] / self.rate

    @property
    def silent(self) -> bool:
        """Whether nothing is heard in it."""
        return self.waveform.numel() == 0 or float(self.waveform.abs().max()) < SILENT


def check_header(held: Held, most_seconds: float = MOST_SECONDS) -> Header:
    """The header; nothing is decoded.

    Raises:
        SoundError: it is no sound in one of FORMATS, is empty, or larger or longer than may be.
    """
    with _opened(held, most_seconds) as (_, header):
        return header


def read_sound(
    held: Held,
    rate: int,
    *,
    loudness: Loudness = "keep",
    start: float = 0.0,
    seconds: float | None = None,
    most_seconds: float = MOST_SECONDS,
) -> Sound:
    """A sound, or a part of it, at `rate`; all channels mixed to one in equal shares.

    Loudness: `keep` leaves a sound as it is, and only divides one that goes beyond full scale by its peak; `peak` makes
    the peak 0.95; `level` makes the root mean square of what sounds -20 dB of full scale (blocks of 0.4 s, gated at
    -70 dB and then at 10 dB under their mean, as ITU-R BS.1770-4 does, without its weighting of frequencies), or as
    near to that as the peak allows. Silence stays silence.

    Args:
        rate: samples a second that are wanted.
        start, seconds: which part, counted in the file; None: up to its end.
        most_seconds: a longer file is refused by its header, unless only a part is asked for.

    Raises:
        SoundError: as for `check_header`, it is damaged or cut off, or holds samples that are no numbers.
    """
    with _opened(held, most_seconds if seconds is None else float("inf")) as (file, header):
        wave = _decoded(file, header, start, seconds)
        notes = (*_shorter(file), *_clipped(wave))
    mono = torch.from_numpy(wave.mean(1, dtype=np.float32) if wave.shape[1] > 1 else wave[:, 0])
    moved = resampled(mono, header.rate, rate)
    peak = float(moved.abs().max())
    if peak < SILENT:
        cancelled = float(np.abs(wave).max()) > 10 * SILENT
        return Sound(moved[None], rate, (_CANCELLED if cancelled else "silent",))
    if float(np.abs(wave).max()) > 1.001:
        notes = (*notes, f"louder than full scale ({20 * np.log10(np.abs(wave).max()):.1f} dB)")
    return Sound((moved * _gain(moved, peak, rate, loudness))[None].clamp(-1, 1), rate, notes)


def resampled(wave: Tensor, source: int, target: int) -> Tensor:
    """(..., S) at `source` samples a second -> (..., about S * target / source), by torchaudio's windowed sinc.

    Rates without a common divisor of any use, as a broken header may state them, are taken as the nearest ratio of
    numbers up to 1000, which is at most a millionth off and keeps the filters few.
    """
    if source == target:
        return wave
    ratio = Fraction(source, target).limit_denominator(1000)
    if ratio > 1000:
        ratio = Fraction(1000)
    moved: Tensor = _resampler(ratio.numerator, ratio.denominator)(wave)
    return moved


@functools.lru_cache(maxsize=32)
def _resampler(source: int, target: int) -> Resample:
    return Resample(source, target, lowpass_filter_width=16)


@contextmanager
def _opened(held: Held, most_seconds: float) -> Iterator[tuple[soundfile.SoundFile, Header]]:
    size = len(held) if isinstance(held, bytes) else _size(held)
    if not size:
        raise SoundError("an empty file")
    if size > MOST_BYTES:
        raise SoundError(f"too large: {size} bytes, more than {MOST_BYTES}")
    header = None
    try:
        # a stream, so that the library looks at what is in it and not at what it is called
        with (
            BytesIO(held) if isinstance(held, bytes) else held.open("rb") as stream,
            soundfile.SoundFile(_Patient(stream)) as file,
        ):
            header = _checked(file, most_seconds)
            yield file, header
    except SoundError:
        raise
    except OSError as error:
        raise SoundError(f"cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged file raises whatever the decoder stumbled over
        if header is not None:
            raise SoundError(f"damaged or cut off: {_brief(error)}") from error
        raise SoundError(f"not a sound that can be read (wav, flac, ogg, mp3 ...): {_brief(error)}") from error


class _Patient:
    """A stream that stays where it is when a broken header leads before its beginning.

    The library reads it from within C, where an error could not be raised but would be printed.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.read, self.tell, self.readinto = stream.read, stream.tell, stream.readinto  # type: ignore[attr-defined]

    def seek(self, offset: int, whence: int = 0) -> int:
        """As a stream does."""
        with suppress(ValueError, OSError):
            self._stream.seek(offset, whence)
        return self._stream.tell()


def _size(path: Path) -> int:
    try:
        if path.exists() and not path.is_file():
            raise SoundError("not a plain file")
        return path.stat().st_size
    except OSError as error:
        raise SoundError(f"cannot be read: {error.strerror or error}") from error


def _checked(file: soundfile.SoundFile, most_seconds: float) -> Header:
    header = Header(int(file.samplerate), int(file.channels), int(file.frames))
    if file.format not in FORMATS:
        raise SoundError(f"in the format {file.format}; wanted wav, flac, ogg or mp3")
    if not RATES[0] <= header.rate <= RATES[1]:
        raise SoundError(f"its header states {header.rate} samples a second; wanted {RATES[0]} to {RATES[1]}")
    if not 1 <= header.channels <= MOST_CHANNELS:
        raise SoundError(f"its header states {header.channels} channels; wanted 1 to {MOST_CHANNELS}")
    if header.frames < 1:
        raise SoundError("holds no samples")
    if header.seconds > most_seconds:
        raise SoundError(f"too long: {round(header.seconds, 1):g} s by its header, more than {most_seconds:g} s")
    return header


def _decoded(file: soundfile.SoundFile, header: Header, start: float, seconds: float | None) -> Wave:
    """(frames, channels); values that are no numbers are refused, since one of them would spread everywhere."""
    first = min(max(round(start * header.rate), 0), header.frames - 1)
    wanted = header.frames - first
    if seconds is not None:
        wanted = min(wanted, max(round(seconds * header.rate), 1))
    if wanted * header.channels > MOST_NUMBERS:
        raise SoundError(
            f"too long: {wanted} samples of {header.channels} channels would need "
            f"{4 * wanted * header.channels / 2**30:.1f} GiB; read a part of it"
        )
    file.seek(first)
    wave: Wave = file.read(wanted, dtype="float32", always_2d=True)
    if not len(wave) or (len(wave) < wanted and file.format != "MP3"):  # an MP3's header only estimates its length
        raise SoundError(f"cut off: its header states {wanted} samples from there, {len(wave)} can be read")
    wrong = np.flatnonzero(~np.isfinite(wave).all(1))
    if len(wrong):
        raise SoundError(
            f"{len(wrong)} of its samples are no numbers (NaN or infinite), the first at "
            f"{(first + wrong[0]) / header.rate:.3f} s; write it again from its source"
        )
    peak = float(np.abs(wave).max())
    if peak > LOUDEST:
        raise SoundError(f"its samples reach {peak:.0e}, which is no level of a sound; full scale is 1")
    return wave


def _shorter(file: soundfile.SoundFile) -> tuple[str, ...]:
    found = _PROMISED.search(file.extra_info)
    said, there = (int(number) for number in found.groups()) if found else (0, 0)
    return ("cut off: its header promises more",) if there < said < _UNKNOWN else ()


def _clipped(wave: Wave) -> tuple[str, ...]:
    full = np.abs(wave) >= FULL
    if not full.any():
        return ()
    runs = full[2:] & full[1:-1] & full[:-2]  # RUN in a row
    if not runs.any():
        return ()
    return (f"clipped ({100 * float(full.mean()):.3g} % of its samples are at full scale)",)


def _gain(wave: Tensor, peak: float, rate: int, loudness: Loudness) -> float:
    if loudness == "peak":
        return PEAK / peak
    if loudness == "level":
        return min(LEVEL / sounding_level(wave, rate), 1 / peak)
    return 1 / max(peak, 1.0)


def sounding_level(wave: Tensor, rate: int) -> float:
    """The root mean square of the parts of (S,) that sound, by the two gates of ITU-R BS.1770-4 on blocks of 0.4 s."""
    block = min(round(0.4 * rate), len(wave))
    power = wave.double().unfold(0, block, max(block // 4, 1)).square().mean(1)
    loud = power[power > 1e-7]
    if not len(loud):
        return float(power.max().sqrt())
    return float(loud[loud > 0.1 * loud.mean()].mean().sqrt())


def _brief(error: Exception) -> str:
    # libsndfile's own words, without what Python calls the stream
    return (
        " ".join(str(getattr(error, "error_string", error)).removeprefix("Error : ").split())[:120]
        or type(error).__name__
    )
