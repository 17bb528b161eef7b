"""Plays clips with a SoundFont, and listens to what came out: how long it sounds, and whether its pitch is heard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tinysoundfont
import torch
import torchaudio.functional as audio
from instrument_plan import PEAKS, VELOCITIES, Clip
from numpy.typing import NDArray

RATE, PLAYED_AT = 16000, 48000
SAMPLES = 32768
"""Of a clip: 2.048 s."""
FADE = 800
"""The last 50 ms fade to silence, since some instruments sound on for ever."""
SILENT = 1e-3
"""Peak before it is made louder, below which nothing was played: some registers end early."""
QUIET = 10 ** (-30 / 20)
"""Beside the loudest moment: what is softer no longer counts as sounding."""

Wave = NDArray[np.float32]


class Player:
    """A synthesiser with one SoundFont."""

    def __init__(self, soundfont: Path) -> None:
        self._synth = tinysoundfont.Synth(gain=-6, samplerate=PLAYED_AT)
        self._font = self._synth.sfload(str(soundfont))

    def play(self, program: int, clip: Clip) -> Wave | None:
        """(32768,) at 16 kHz with the peak that its loudness has; None where nothing sounds."""
        self._synth.sounds_off(0)
        self._synth.generate(4800)  # what still rings from before ends here
        self._synth.program_select(0, self._font, 0, program)
        wave = audio.resample(torch.from_numpy(self._keys(clip)), PLAYED_AT, RATE, lowpass_filter_width=32).numpy()
        wave = wave[:SAMPLES].copy()
        if float(np.abs(wave).max()) < SILENT:
            return None
        wave[-FADE:] *= np.linspace(1, 0, FADE, dtype=np.float32)
        return np.asarray(wave * (PEAKS[clip.loudness] / np.abs(wave).max()), dtype=np.float32)

    def _keys(self, clip: Clip) -> Wave:
        on = [(start, 1, key) for key, start, _ in clip.keys]
        off = [(start + held, 0, key) for key, start, held in clip.keys]
        parts, now = [], 0
        for when, down, key in sorted(on + off):
            parts.append(self._sound(round(when * PLAYED_AT) - now))
            now = round(when * PLAYED_AT)
            if down:
                self._synth.noteon(0, key, VELOCITIES[clip.loudness])
            else:
                self._synth.noteoff(0, key)
        parts.append(self._sound(SAMPLES * PLAYED_AT // RATE + 960 - now))
        return np.concatenate(parts)

    def _sound(self, samples: int) -> Wave:
        if not samples:
            return np.zeros(0, np.float32)
        stereo = np.frombuffer(self._synth.generate(samples), dtype=np.float32).reshape(-1, 2)
        mono: Wave = stereo.mean(1, dtype=np.float32)
        return mono


def sounding(wave: Wave) -> float:
    """Seconds up to the last moment within 30 dB of the loudest."""
    level = np.sqrt((wave.reshape(-1, 256) ** 2).mean(1))
    return float((np.flatnonzero(level > QUIET * level.max())[-1] + 1) * 256 / RATE)


def heard_pitch(wave: Wave) -> float | None:
    """The MIDI number of what is heard in the loudest part, by YIN (de Cheveigne and Kawahara 2002); None: unclear."""
    found = [pitch for start in _loudest(wave) if (pitch := _yin(wave[start : start + 2048])) is not None]
    return float(np.median(found)) if len(found) >= 3 else None


def _loudest(wave: Wave) -> list[int]:
    starts = range(0, len(wave) - 2048, 512)
    energy = {start: float((wave[start : start + 2048] ** 2).sum()) for start in starts}
    return sorted(starts, key=lambda start: -energy[start])[:9]


def _yin(frame: Wave, threshold: float = 0.2) -> float | None:
    half = len(frame) // 2
    fixed, padded = frame[:half].astype(np.float64), np.fft.rfft(frame, 2 * len(frame))
    products = np.fft.irfft(padded * np.conj(np.fft.rfft(fixed, 2 * len(frame))))[:half]
    squares = np.concatenate([[0.0], np.cumsum(frame.astype(np.float64) ** 2)])
    difference = squares[half] + (squares[half : 2 * half] - squares[:half]) - 2 * products
    normed = difference[1:] * np.arange(1, half) / np.maximum(np.cumsum(difference[1:]), 1e-12)
    below = np.flatnonzero(normed < threshold)
    below = below[below >= 2]
    if not len(below):
        return None
    lag = int(below[0])
    while lag + 1 < len(normed) and normed[lag + 1] < normed[lag]:
        lag += 1
    if lag + 1 >= len(normed):
        return None
    left, here, right = normed[lag - 1 : lag + 2]
    bend = left - 2 * here + right
    exact = lag + 1 + (0.5 * (left - right) / bend if bend > 0 else 0.0)
    return float(69 + 12 * np.log2(RATE / exact / 440))
