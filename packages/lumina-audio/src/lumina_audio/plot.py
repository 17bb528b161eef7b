"""Pictures of sounds: the log-mel spectrogram with seconds and Hz, the waveform above it, in colours of our own."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchaudio.functional import melscale_fbanks

from lumina_core.io import atomic_file

DYNAMIC_RANGE_DB = 80.0
"""Decibels from the brightest to the darkest colour."""
MIN_REFERENCE_DB = -60.0
"""Decibels of full scale: a sound that is softer still is not lit up to full brightness."""
COLORMAP_ANCHORS = ("#07071a", "#17123f", "#3b1a6e", "#7a1f83", "#bb2f76", "#ee5a52", "#fb9a47", "#fdd772", "#fffbe6")
"""From silence to the loudest: ever lighter, so that it reads in grey as well."""
BACKGROUND, FOREGROUND, AXIS_COLOR = "#101024", "#e9e7f5", "#8a88a8"
IMAGE_SIZE = (960, 440)
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM, WAVEFORM_HEIGHT = 64, 86, 48, 46, 56
"""Room around the spectrogram, and the height of the waveform above it."""
N_MELS = 160


def plot_spectrogram(waveform: Tensor, sample_rate: int, title: str = "") -> Image.Image:
    """One sound, (1, S) in about [-1, 1], as a picture of 960 x 440 pixels.

    Args:
        rate: samples a second.
        title: what stands above it; what does not fit on a line is left out.
    """
    image = Image.new("RGB", IMAGE_SIZE, BACKGROUND)
    canvas = ImageDraw.Draw(image)
    width, top = IMAGE_SIZE[0] - MARGIN_LEFT - MARGIN_RIGHT, MARGIN_TOP + WAVEFORM_HEIGHT
    height = IMAGE_SIZE[1] - top - MARGIN_BOTTOM
    decibels = mel_decibels(waveform, sample_rate, width)
    max_db = max(MIN_REFERENCE_DB, float(decibels.max()))
    image.paste(_spectrogram_image(decibels, max_db, (width, height)), (MARGIN_LEFT, top))
    _draw_waveform(canvas, waveform, (MARGIN_LEFT, MARGIN_TOP, width, WAVEFORM_HEIGHT - 8))
    _draw_time_axis(canvas, waveform.shape[-1] / sample_rate, (MARGIN_LEFT, top, width, height))
    _draw_frequency_axis(canvas, sample_rate, (MARGIN_LEFT, top, width, height))
    _draw_colorbar(image, canvas, max_db, (IMAGE_SIZE[0] - MARGIN_RIGHT + 16, top, 10, height))
    canvas.text((MARGIN_LEFT, MARGIN_TOP - 14), _truncate(canvas, title, width), FOREGROUND, _font(17), anchor="ls")
    return image


def plot_grid(waveforms: Sequence[Tensor], sample_rate: int, columns: int = 4) -> Image.Image:
    """Several sounds at a glance: their spectrograms beside one another, on one scale of seconds and of loudness."""
    cell, gap = (300, 150), 6
    columns = min(columns, len(waveforms))
    rows = -(-len(waveforms) // columns)
    image = Image.new("RGB", (columns * (cell[0] + gap) + gap, rows * (cell[1] + gap) + gap), BACKGROUND)
    canvas, max_length = ImageDraw.Draw(image), max(waveform.shape[-1] for waveform in waveforms)
    spectra = [mel_decibels(waveform, sample_rate, cell[0]) for waveform in waveforms]
    max_db = max(MIN_REFERENCE_DB, *(float(decibels.max()) for decibels in spectra))
    for index, (waveform, decibels) in enumerate(zip(waveforms, spectra, strict=True)):
        corner = (gap + index % columns * (cell[0] + gap), gap + index // columns * (cell[1] + gap))
        width = max(1, round(cell[0] * waveform.shape[-1] / max_length))
        image.paste(_spectrogram_image(decibels, max_db, (width, cell[1])), corner)
        for x, label, anchor in (
            (6, f"{index}", "la"),
            (width - 6, _format_seconds(waveform.shape[-1] / sample_rate, " s"), "ra"),
        ):
            position = (corner[0] + x, corner[1] + 4)
            canvas.text(position, label, FOREGROUND, _font(12), anchor, stroke_width=2, stroke_fill=BACKGROUND)
    return image


def save_png(image: Image.Image, path: Path) -> None:
    """As PNG, whole or not there."""
    with atomic_file(path) as partial:
        image.save(partial, format="PNG")


def mel_decibels(waveform: Tensor, sample_rate: int, columns: int) -> Tensor:
    """(1, S) -> (BANDS, frames) decibels of full scale in mel bands up to half the rate, about `columns` frames.

    Windows of 64 ms, with zeros behind them: low bands are narrower than a window can tell apart, and would be empty.
    """
    mono = torch.nan_to_num(waveform.detach().float().cpu()).mean(dim=0)
    window = 2 ** round(math.log2(0.064 * sample_rate))
    hop_length = max(1, len(mono) // max(1, columns))
    mono = torch.nn.functional.pad(mono, (0, max(0, window - len(mono))))
    hann = torch.hann_window(window)
    # mirrored, for an end that is cut off would be heard as a click
    mode = "reflect" if len(mono) > 2 * window else "constant"
    magnitudes = torch.stft(mono, 4 * window, hop_length, window, hann, pad_mode=mode, return_complex=True).abs()
    magnitudes = magnitudes / (hann.sum() / 2)
    filterbank = _filterbank(2 * window + 1, sample_rate)
    return 20 * (filterbank @ magnitudes).clamp_min(1e-7).log10()


def colormap() -> NDArray[np.uint8]:
    """(256, 3) from silence to the loudest: straight lines between the anchors in Oklab (B. Ottosson, 2020)."""
    return _colormap()


@functools.lru_cache(maxsize=1)
def _colormap() -> NDArray[np.uint8]:
    anchors = np.array([_to_oklab(anchor) for anchor in COLORMAP_ANCHORS])
    positions = np.linspace(0, len(anchors) - 1, 256)
    return _from_oklab(np.stack([np.interp(positions, range(len(anchors)), channel) for channel in anchors.T], axis=1))


_RGB_TO_LMS = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
_LMS_TO_OKLAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip


def _to_oklab(color: str) -> NDArray[np.float64]:
    level = np.array([int(color[offset : offset + 2], 16) for offset in (1, 3, 5)]) / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    return np.asarray(_LMS_TO_OKLAB @ np.cbrt(_RGB_TO_LMS @ linear))


def _from_oklab(colors: NDArray[np.float64]) -> NDArray[np.uint8]:
    linear = ((colors @ np.linalg.inv(_LMS_TO_OKLAB).T) ** 3 @ np.linalg.inv(_RGB_TO_LMS).T).clip(0, 1)
    level = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (level * 255).round().clip(0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=4)
def _filterbank(n_freqs: int, sample_rate: int) -> Tensor:
    """(BANDS, lines), each row's weights together 1."""
    filterbank: Tensor = melscale_fbanks(n_freqs, 0.0, sample_rate / 2, N_MELS, sample_rate, None, "slaney").T
    return filterbank / filterbank.sum(dim=1, keepdim=True).clamp_min(1e-9)


def _spectrogram_image(decibels: Tensor, max_db: float, size: tuple[int, int]) -> Image.Image:
    """(bands, frames) as a picture, low bands below."""
    level = ((decibels - max_db) / DYNAMIC_RANGE_DB + 1).clamp(0, 1).flip(0).numpy()
    smooth = Image.fromarray(level.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    return Image.fromarray(colormap()[(np.asarray(smooth) * 255).round().clip(0, 255).astype(np.uint8)])


def _draw_waveform(canvas: ImageDraw.ImageDraw, waveform: Tensor, box: tuple[int, int, int, int]) -> None:
    """Highest and lowest sample of each column; a soft sound is drawn as high as a loud one."""
    (left, top, width, height), mono = box, torch.nan_to_num(waveform.detach().float().cpu()).mean(dim=0)
    mono = mono / mono.abs().max().clamp_min(0.02) if len(mono) else mono
    edges = torch.linspace(0, len(mono), width + 1).long()
    middle, half_height = top + height / 2, height / 2
    canvas.line((left, middle, left + width - 1, middle), AXIS_COLOR)
    for column in range(width):
        segment = mono[edges[column] : max(int(edges[column + 1]), int(edges[column]) + 1)]
        if len(segment):
            high, low = float(segment.max()), float(segment.min())
            canvas.line(
                (left + column, middle - high * half_height, left + column, middle - low * half_height), "#b8a7ff"
            )


def _draw_time_axis(canvas: ImageDraw.ImageDraw, duration: float, box: tuple[int, int, int, int]) -> None:
    left, top, width, height = box
    step = _tick_step(duration)
    for tick in range(int(duration / step + 1e-6) + 1):
        x = left + round(tick * step / duration * (width - 1))
        canvas.line((x, top + height, x, top + height + 5), AXIS_COLOR)
        canvas.text(
            (x, top + height + 9),
            _format_seconds(tick * step, " s" if tick == 0 else ""),
            FOREGROUND,
            _font(12),
            anchor="ma",
        )


def _draw_frequency_axis(canvas: ImageDraw.ImageDraw, sample_rate: int, box: tuple[int, int, int, int]) -> None:
    left, top, _, height = box
    last = top + height + 16
    for frequency in (100, 200, 500, 1000, 2000, 4000, 8000, 16000, 32000):
        fraction = _hz_to_mel(frequency) / _hz_to_mel(sample_rate / 2)
        if fraction > 1.0001:
            return
        y = top + height - round(fraction * (height - 1)) - 1
        if last - y < 15:
            continue
        last = y
        canvas.line((left - 5, y, left, y), AXIS_COLOR)
        label = f"{frequency // 1000} kHz" if frequency >= 1000 else f"{frequency} Hz"
        canvas.text((left - 9, y), label, FOREGROUND, _font(12), anchor="rm")


def _draw_colorbar(
    image: Image.Image, canvas: ImageDraw.ImageDraw, max_db: float, box: tuple[int, int, int, int]
) -> None:
    """What the colours mean."""
    left, top, width, height = box
    ramp = colormap()[np.linspace(255, 0, height).round().astype(int)]
    image.paste(Image.fromarray(np.repeat(ramp[:, None], width, axis=1)), (left, top))
    for fraction in (0.0, 0.5, 1.0):
        decibels = round(max_db - fraction * DYNAMIC_RANGE_DB)
        anchor = "la" if fraction == 0 else "ls" if fraction == 1 else "lm"
        canvas.text(
            (left + width + 6, top + round(fraction * height)), f"{decibels} dB", FOREGROUND, _font(12), anchor=anchor
        )


def _hz_to_mel(frequency: float) -> float:
    """Slaney's scale: linear up to 1 kHz, a logarithm above."""
    return frequency * 3 / 200 if frequency < 1000 else 15 + 27 * math.log(frequency / 1000) / math.log(6.4)


def _tick_step(duration: float) -> float:
    """A round number of seconds of which five to ten and a few fit."""
    rough = duration / 8
    unit = 10.0 ** math.floor(math.log10(rough))
    return next(unit * part for part in (1, 2, 5, 10) if unit * part >= rough * 0.999)


def _format_seconds(seconds: float, unit: str) -> str:
    return f"{seconds:.4g}{unit}"


def _truncate(canvas: ImageDraw.ImageDraw, text: str, width: int) -> str:
    line = " ".join(text.split())[:400]
    if canvas.textlength(line, _font(17)) <= width:
        return line
    while line and canvas.textlength(line + "…", _font(17)) > width:
        line = line[:-1]
    return line.rstrip() + "…"


@functools.lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
