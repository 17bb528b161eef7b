"""Reads sound files that may be hostile: bounds before decoding, any rate and channels to one channel at one rate."""

from __future__ import annotations

import functools
import json
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchaudio.transforms import Resample

from lumina_core.data.source import FileOrBytes
from lumina_core.errors import LuminaError, UnusableError
from lumina_core.io import atomic_file

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64", ".caf")
READ_FORMATS = frozenset(("WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF"))
"""As libsndfile calls them; it must know them too (MP3 from 1.1 on)."""
MAX_BYTES = 2**31
"""Of a file."""
MAX_TOTAL_SAMPLES = 2**28
"""Samples of all channels together that are decoded at once: 1 GiB."""
MAX_DURATION = 3600.0
SAMPLE_RATE_RANGE = (1000, 768_000)
MAX_CHANNELS = 64
CLIPPING_THRESHOLD = 0.9995
"""What counts as full scale: 16 bits end at 0.99997."""
CLIPPING_RUN_LENGTH = 3
"""So many samples in a row at full scale of one channel are a peak cut off, not one that just reaches it."""
MAX_AMPLITUDE = 2.0**32
"""Samples beyond it are refused; up to it they may be integers that were written as floats."""
SILENCE_THRESHOLD = 1e-4
"""A peak below it, 80 dB under full scale, is silence."""
TARGET_PEAK, TARGET_RMS = 0.95, 10 ** (-20 / 20)
"""What `loudness` brings a sound to: its peak, or the level of the parts of it that sound (20 dB under full scale)."""

_CANCELLED_NOTE = "silent once its channels are mixed to one: they cancel each other"
_TRUNCATED_PATTERN = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)
"""libsndfile's words on a WAV that holds other bytes than its header says."""
_UNKNOWN_SIZE = 2**31 - 2**16
"""Bytes from which on a header means that nobody knew how many would come."""

Loudness = Literal["keep", "peak", "level"]
FloatArray = NDArray[np.float32]


class AudioError(UnusableError):
    """A file cannot be used as a sound; the message says why, in a few words."""


@dataclass(frozen=True)
class AudioHeader:
    """What a file says of itself: samples a second, channels, samples of each channel."""

    sample_rate: int
    channels: int
    num_frames: int

    @property
    def duration(self) -> float:
        """How long it lasts."""
        return self.num_frames / self.sample_rate


@dataclass(frozen=True)
class AudioClip:
    """What was read.

    Attributes:
        waveform: (1, S) float32 in [-1, 1].
        rate: samples a second.
        notes: what one should know of it, in words: silence, clipping, levels beyond full scale.
    """

    waveform: Tensor
    sample_rate: int
    notes: tuple[str, ...] = ()

    @property
    def duration(self) -> float:
        """How long it lasts."""
        return self.waveform.shape[-1] / self.sample_rate

    @property
    def is_silent(self) -> bool:
        """Whether nothing is heard in it."""
        return self.waveform.numel() == 0 or float(self.waveform.abs().max()) < SILENCE_THRESHOLD


def read_header(source: FileOrBytes, max_duration: float = MAX_DURATION) -> AudioHeader:
    """The header; nothing is decoded.

    Raises:
        SoundError: it is no sound in one of FORMATS, is empty, or larger or longer than may be.
    """
    with _open_audio(source, max_duration) as (_, header):
        return header


def read_audio(
    source: FileOrBytes,
    sample_rate: int,
    *,
    loudness: Loudness = "keep",
    start: float = 0.0,
    duration: float | None = None,
    max_duration: float = MAX_DURATION,
) -> AudioClip:
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
    with _open_audio(source, max_duration if duration is None else float("inf")) as (file, header):
        wave = _decode_frames(file, header, start, duration)
        notes = (*_truncation_notes(file), *_clipping_notes(wave))
    mono = torch.from_numpy(wave.mean(1, dtype=np.float32) if wave.shape[1] > 1 else wave[:, 0])
    waveform = resample(mono, header.sample_rate, sample_rate)
    peak = float(waveform.abs().max())
    if peak < SILENCE_THRESHOLD:
        channels_cancel = float(np.abs(wave).max()) > 10 * SILENCE_THRESHOLD
        return AudioClip(waveform[None], sample_rate, (_CANCELLED_NOTE if channels_cancel else "silent",))
    if float(np.abs(wave).max()) > 1.001:
        notes = (*notes, f"louder than full scale ({20 * np.log10(np.abs(wave).max()):.1f} dB)")
    return AudioClip(
        (waveform * _loudness_gain(waveform, peak, sample_rate, loudness))[None].clamp(-1, 1), sample_rate, notes
    )


def resample(wave: Tensor, orig_freq: int, new_freq: int) -> Tensor:
    """(..., S) at `source` samples a second -> (..., about S * target / source), by torchaudio's windowed sinc.

    Rates without a common divisor of any use, as a broken header may state them, are taken as the nearest ratio of
    numbers up to 1000, which is at most a millionth off and keeps the filters few.
    """
    if orig_freq == new_freq:
        return wave
    ratio = Fraction(orig_freq, new_freq).limit_denominator(1000)
    if ratio > 1000:
        ratio = Fraction(1000)
    result: Tensor = _resampler(ratio.numerator, ratio.denominator)(wave)
    return result


@functools.lru_cache(maxsize=32)
def _resampler(orig_freq: int, new_freq: int) -> Resample:
    return Resample(orig_freq, new_freq, lowpass_filter_width=16)


@contextmanager
def _open_audio(source: FileOrBytes, max_duration: float) -> Iterator[tuple[soundfile.SoundFile, AudioHeader]]:
    size = len(source) if isinstance(source, bytes) else _file_size(source)
    if not size:
        raise AudioError("an empty file")
    if size > MAX_BYTES:
        raise AudioError(f"too large: {size} bytes, more than {MAX_BYTES}")
    header = None
    try:
        # a stream, so that the library looks at what is in it and not at what it is called
        with (
            BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream,
            soundfile.SoundFile(_ClampedSeekStream(stream)) as file,
        ):
            header = _validate_header(file, max_duration)
            yield file, header
    except AudioError:
        raise
    except OSError as error:
        raise AudioError(f"cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged file raises whatever the decoder stumbled over
        if header is not None:
            raise AudioError(f"damaged or cut off: {_short_message(error)}") from error
        raise AudioError(f"not a sound that can be read (wav, flac, ogg, mp3 ...): {_short_message(error)}") from error


class _ClampedSeekStream:
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


def _file_size(path: Path) -> int:
    try:
        if path.exists() and not path.is_file():
            raise AudioError("not a plain file")
        return path.stat().st_size
    except OSError as error:
        raise AudioError(f"cannot be read: {error.strerror or error}") from error


def _validate_header(file: soundfile.SoundFile, max_duration: float) -> AudioHeader:
    header = AudioHeader(int(file.samplerate), int(file.channels), int(file.frames))
    if file.format not in READ_FORMATS:
        raise AudioError(f"in the format {file.format}; wanted wav, flac, ogg or mp3")
    if not SAMPLE_RATE_RANGE[0] <= header.sample_rate <= SAMPLE_RATE_RANGE[1]:
        raise AudioError(
            f"its header states {header.sample_rate} samples a second; wanted {SAMPLE_RATE_RANGE[0]} to {SAMPLE_RATE_RANGE[1]}"
        )
    if not 1 <= header.channels <= MAX_CHANNELS:
        raise AudioError(f"its header states {header.channels} channels; wanted 1 to {MAX_CHANNELS}")
    if header.num_frames < 1:
        raise AudioError("holds no samples")
    if header.duration > max_duration:
        raise AudioError(f"too long: {round(header.duration, 1):g} s by its header, more than {max_duration:g} s")
    return header


def _decode_frames(file: soundfile.SoundFile, header: AudioHeader, start: float, duration: float | None) -> FloatArray:
    """(frames, channels); values that are no numbers are refused, since one of them would spread everywhere."""
    first = min(max(round(start * header.sample_rate), 0), header.num_frames - 1)
    num_frames = header.num_frames - first
    if duration is not None:
        num_frames = min(num_frames, max(round(duration * header.sample_rate), 1))
    if num_frames * header.channels > MAX_TOTAL_SAMPLES:
        raise AudioError(
            f"too long: {num_frames} samples of {header.channels} channels would need "
            f"{4 * num_frames * header.channels / 2**30:.1f} GiB; read a part of it"
        )
    file.seek(first)
    wave: FloatArray = file.read(num_frames, dtype="float32", always_2d=True)
    if not len(wave) or (len(wave) < num_frames and file.format != "MP3"):  # an MP3's header only estimates its length
        raise AudioError(f"cut off: its header states {num_frames} samples from there, {len(wave)} can be read")
    nonfinite = np.flatnonzero(~np.isfinite(wave).all(1))
    if len(nonfinite):
        raise AudioError(
            f"{len(nonfinite)} of its samples are no numbers (NaN or infinite), the first at "
            f"{(first + nonfinite[0]) / header.sample_rate:.3f} s; write it again from its source"
        )
    peak = float(np.abs(wave).max())
    if peak > MAX_AMPLITUDE:
        raise AudioError(f"its samples reach {peak:.0e}, which is no level of a sound; full scale is 1")
    return wave


def _truncation_notes(file: soundfile.SoundFile) -> tuple[str, ...]:
    match = _TRUNCATED_PATTERN.search(file.extra_info)
    declared, present = (int(number) for number in match.groups()) if match else (0, 0)
    return ("cut off: its header promises more",) if present < declared < _UNKNOWN_SIZE else ()


def _clipping_notes(wave: FloatArray) -> tuple[str, ...]:
    at_full_scale = np.abs(wave) >= CLIPPING_THRESHOLD
    if not at_full_scale.any():
        return ()
    runs = at_full_scale[2:] & at_full_scale[1:-1] & at_full_scale[:-2]  # RUN in a row
    if not runs.any():
        return ()
    return (f"clipped ({100 * float(at_full_scale.mean()):.3g} % of its samples are at full scale)",)


def _loudness_gain(wave: Tensor, peak: float, sample_rate: int, loudness: Loudness) -> float:
    if loudness == "peak":
        return TARGET_PEAK / peak
    if loudness == "level":
        return min(TARGET_RMS / gated_rms(wave, sample_rate), 1 / peak)
    return 1 / max(peak, 1.0)


def gated_rms(wave: Tensor, sample_rate: int) -> float:
    """The root mean square of the parts of (S,) that sound, by the two gates of ITU-R BS.1770-4 on blocks of 0.4 s."""
    block = min(round(0.4 * sample_rate), len(wave))
    power = wave.double().unfold(0, block, max(block // 4, 1)).square().mean(1)
    gated = power[power > 1e-7]
    if not len(gated):
        return float(power.max().sqrt())
    return float(gated[gated > 0.1 * gated.mean()].mean().sqrt())


def _short_message(error: Exception) -> str:
    # libsndfile's own words, without what Python calls the stream
    return (
        " ".join(str(getattr(error, "error_string", error)).removeprefix("Error : ").split())[:120]
        or type(error).__name__
    )


INFO_TITLE, INFO_COMMENT = b"INAM", b"ICMT"


def append_wav_info(path: Path, title: str, comment: str) -> None:
    """Append both to a WAV file that has none; players that know nothing of them skip the chunk."""
    info = b"".join(
        _encode_chunk(name, text.encode() + b"\0")
        for name, text in ((INFO_TITLE, title), (INFO_COMMENT, comment))
        if text
    )
    with path.open("r+b") as stream:
        stream.seek(0, 2)
        if stream.tell() % 2:
            stream.write(b"\0")
        stream.write(_encode_chunk(b"LIST", b"INFO" + info))
        size = stream.tell() - 8
        stream.seek(4)
        stream.write(struct.pack("<I", size))


def read_wav_comment(path: Path) -> str:
    """The comment of a WAV file; empty where it has none or is none."""
    with path.open("rb") as stream:
        header = stream.read(12)
        if header[:4] != b"RIFF" or header[8:] != b"WAVE":
            return ""
        for name, size in _iter_chunks(stream, 12):
            if name == b"LIST" and stream.read(4) == b"INFO":
                info = dict(_iter_info(stream.read(size - 4)))
                if INFO_COMMENT in info:
                    return info[INFO_COMMENT].rstrip(b"\0").decode(errors="replace")
    return ""


def _encode_chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def _iter_chunks(stream: BinaryIO, start: int) -> Iterator[tuple[bytes, int]]:
    """Name and size of each chunk; when one is yielded the stream stands at its content."""
    while True:
        stream.seek(start)
        header = stream.read(8)
        if len(header) < 8:
            return
        size = struct.unpack("<I", header[4:])[0]
        yield header[:4], size
        start += 8 + size + size % 2


def _iter_info(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    offset = 0
    while offset + 8 <= len(content):
        size = struct.unpack("<I", content[offset + 4 : offset + 8])[0]
        yield content[offset : offset + 4], content[offset + 8 : offset + 8 + size]
        offset += 8 + size + size % 2


WRITE_FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
"""Of each suffix the container and how samples are kept; the first where there is no suffix."""
WRITE_BLOCK_SIZE = 65536
"""Samples that are handed to the encoder at once; Vorbis takes its room from the stack."""
MAX_TITLE_LENGTH = 120
"""Characters of a prompt that become the title."""


def write_audio(path: Path, waveform: Tensor, sample_rate: int, metadata: Mapping[str, Any]) -> None:
    """(channels, samples) in [-1, 1] as a file of 16 bits a sample (OGG: Vorbis), `record` as JSON in its comment.

    Sixteen bits are the ones that `read_sound` gives back: what was read from such a file and is written again has the
    same samples, bit for bit. What lies outside of [-1, 1] is clipped; see `level` for a way without.

    Args:
        rate: samples a second.
        record: anything that JSON can say; its `prompt` is the title too.
    """
    samples = (waveform.detach().float().cpu().numpy().T.astype(np.float64) * 32768).round()
    samples = samples.clip(-32768, 32767).astype(np.int16)
    container, subtype = WRITE_FORMATS.get(path.suffix.lower(), WRITE_FORMATS[".wav"])
    title, comment = (
        str(metadata.get("prompt", ""))[:MAX_TITLE_LENGTH],
        json.dumps({"lumina": metadata}, ensure_ascii=False),
    )
    with atomic_file(path) as partial:
        # a stream, so that a full disk is an OSError, and no name is too strange for the library
        with (
            partial.open("wb") as stream,
            soundfile.SoundFile(stream, "w", sample_rate, samples.shape[1], subtype, format=container) as out,
        ):
            if container != "WAV":
                out.title, out.comment = title or "untitled", comment  # an empty one is refused
            for start in range(0, len(samples), WRITE_BLOCK_SIZE):
                out.write(samples[start : start + WRITE_BLOCK_SIZE])
        if container == "WAV":
            append_wav_info(partial, title, comment)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The record that `write_sound` put into a file: what was asked, and how the sound came to be.

    Raises:
        LuminaError: it is no sound file, or holds no record of ours.
    """
    try:
        with soundfile.SoundFile(str(path)) as audio_file:
            comment = read_wav_comment(Path(path)) if audio_file.format == "WAV" else audio_file.comment
    except (soundfile.LibsndfileError, OSError) as error:
        raise LuminaError(f"{path} cannot be read as a sound: {error}") from error
    try:
        metadata: dict[str, Any] = json.loads(comment)["lumina"]
    except (ValueError, KeyError, TypeError) as error:
        raise LuminaError(f"{path} holds no record of Lumina in its comment; it was made by something else") from error
    return metadata


def limit_peak_with_factor(waveform: Tensor) -> tuple[Tensor, float | None]:
    """A sound that a file can hold, and the factor by which it was made softer; None: it was soft enough."""
    peak = float(waveform.abs().max()) if waveform.numel() else 0.0
    return (waveform, None) if peak <= 1 else (waveform / peak, 1 / peak)


def limit_peak(waveforms: Tensor) -> Tensor:
    """(B, 1, S) -> the same; of each sound that goes beyond full scale the peak just reaches it. Our own proposal.

    Guidance makes sounds louder than any that was learnt from, two of three with the built-in model. Cut off they would
    rasp, and spectrograms that are held to what each band reaches in the data stay too loud: one factor a sound keeps
    what it is like, and with it the built-in model is nearer to real sounds by every figure of `lumina evaluate`.
    """
    return waveforms / waveforms.abs().amax(dim=(1, 2), keepdim=True).clamp_min(1)
