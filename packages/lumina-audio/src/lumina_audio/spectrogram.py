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

from lumina_core.files import whole_file

SPAN = 80.0
"""Decibels from the brightest to the darkest colour."""
QUIET = -60.0
"""Decibels of full scale: a sound that is softer still is not lit up to full brightness."""
ANCHORS = ("#07071a", "#17123f", "#3b1a6e", "#7a1f83", "#bb2f76", "#ee5a52", "#fb9a47", "#fdd772", "#fffbe6")
"""From silence to the loudest: ever lighter, so that it reads in grey as well."""
PAPER, INK, FAINT = "#101024", "#e9e7f5", "#8a88a8"
SIZE = (960, 440)
LEFT, RIGHT, TOP, BOTTOM, WAVE = 64, 86, 48, 46, 56
"""Room around the spectrogram, and the height of the waveform above it."""
BANDS = 160


def draw(waveform: Tensor, rate: int, title: str = "") -> Image.Image:
    """One sound, (1, S) in about [-1, 1], as a picture of 960 x 440 pixels.

    Args:
        rate: samples a second.
        title: what stands above it; what does not fit on a line is left out.
    """
    image = Image.new("RGB", SIZE, PAPER)
    pen = ImageDraw.Draw(image)
    width, top = SIZE[0] - LEFT - RIGHT, TOP + WAVE
    height = SIZE[1] - top - BOTTOM
    decibels = spectrum(waveform, rate, width)
    loudest = max(QUIET, float(decibels.max()))
    image.paste(_coloured(decibels, loudest, (width, height)), (LEFT, top))
    _wave(pen, waveform, (LEFT, TOP, width, WAVE - 8))
    _seconds(pen, waveform.shape[-1] / rate, (LEFT, top, width, height))
    _frequencies(pen, rate, (LEFT, top, width, height))
    _scale(image, pen, loudest, (SIZE[0] - RIGHT + 16, top, 10, height))
    pen.text((LEFT, TOP - 14), _shortened(pen, title, width), INK, _font(17), anchor="ls")
    return image


def sheet(sounds: Sequence[Tensor], rate: int, columns: int = 4) -> Image.Image:
    """Several sounds at a glance: their spectrograms beside one another, on one scale of seconds and of loudness."""
    cell, gap = (300, 150), 6
    columns = min(columns, len(sounds))
    rows = -(-len(sounds) // columns)
    image = Image.new("RGB", (columns * (cell[0] + gap) + gap, rows * (cell[1] + gap) + gap), PAPER)
    pen, longest = ImageDraw.Draw(image), max(sound.shape[-1] for sound in sounds)
    spectra = [spectrum(sound, rate, cell[0]) for sound in sounds]
    loudest = max(QUIET, *(float(decibels.max()) for decibels in spectra))
    for place, (sound, decibels) in enumerate(zip(sounds, spectra, strict=True)):
        corner = (gap + place % columns * (cell[0] + gap), gap + place // columns * (cell[1] + gap))
        width = max(1, round(cell[0] * sound.shape[-1] / longest))
        image.paste(_coloured(decibels, loudest, (width, cell[1])), corner)
        for x, said, anchor in ((6, f"{place}", "la"), (width - 6, _said(sound.shape[-1] / rate, " s"), "ra")):
            where = (corner[0] + x, corner[1] + 4)
            pen.text(where, said, INK, _font(12), anchor, stroke_width=2, stroke_fill=PAPER)
    return image


def save_picture(picture: Image.Image, path: Path) -> None:
    """As PNG, whole or not there."""
    with whole_file(path) as partial:
        picture.save(partial, format="PNG")


def spectrum(waveform: Tensor, rate: int, columns: int) -> Tensor:
    """(1, S) -> (BANDS, frames) decibels of full scale in mel bands up to half the rate, about `columns` frames.

    Windows of 64 ms, with zeros behind them: low bands are narrower than a window can tell apart, and would be empty.
    """
    sound = torch.nan_to_num(waveform.detach().float().cpu()).mean(dim=0)
    window = 2 ** round(math.log2(0.064 * rate))
    hop = max(1, len(sound) // max(1, columns))
    sound = torch.nn.functional.pad(sound, (0, max(0, window - len(sound))))
    seen = torch.hann_window(window)
    # mirrored, for an end that is cut off would be heard as a click
    mode = "reflect" if len(sound) > 2 * window else "constant"
    lines = torch.stft(sound, 4 * window, hop, window, seen, pad_mode=mode, return_complex=True).abs()
    lines = lines / (seen.sum() / 2)
    bank = _bank(2 * window + 1, rate)
    return 20 * (bank @ lines).clamp_min(1e-7).log10()


def colours() -> NDArray[np.uint8]:
    """(256, 3) from silence to the loudest: straight lines between the anchors in Oklab (B. Ottosson, 2020)."""
    return _colours()


@functools.lru_cache(maxsize=1)
def _colours() -> NDArray[np.uint8]:
    anchors = np.array([_to_oklab(anchor) for anchor in ANCHORS])
    places = np.linspace(0, len(anchors) - 1, 256)
    return _from_oklab(np.stack([np.interp(places, range(len(anchors)), part) for part in anchors.T], axis=1))


_LMS = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
_LAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip


def _to_oklab(colour: str) -> NDArray[np.float64]:
    level = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    return np.asarray(_LAB @ np.cbrt(_LMS @ linear))


def _from_oklab(colours: NDArray[np.float64]) -> NDArray[np.uint8]:
    linear = ((colours @ np.linalg.inv(_LAB).T) ** 3 @ np.linalg.inv(_LMS).T).clip(0, 1)
    level = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (level * 255).round().clip(0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=4)
def _bank(lines: int, rate: int) -> Tensor:
    """(BANDS, lines), each row's weights together 1."""
    bank: Tensor = melscale_fbanks(lines, 0.0, rate / 2, BANDS, rate, None, "slaney").T
    return bank / bank.sum(dim=1, keepdim=True).clamp_min(1e-9)


def _coloured(decibels: Tensor, loudest: float, size: tuple[int, int]) -> Image.Image:
    """(bands, frames) as a picture, low bands below."""
    share = ((decibels - loudest) / SPAN + 1).clamp(0, 1).flip(0).numpy()
    smooth = Image.fromarray(share.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    return Image.fromarray(colours()[(np.asarray(smooth) * 255).round().clip(0, 255).astype(np.uint8)])


def _wave(pen: ImageDraw.ImageDraw, waveform: Tensor, box: tuple[int, int, int, int]) -> None:
    """Highest and lowest sample of each column; a soft sound is drawn as high as a loud one."""
    (left, top, width, height), sound = box, torch.nan_to_num(waveform.detach().float().cpu()).mean(dim=0)
    sound = sound / sound.abs().max().clamp_min(0.02) if len(sound) else sound
    edges = torch.linspace(0, len(sound), width + 1).long()
    middle, reach = top + height / 2, height / 2
    pen.line((left, middle, left + width - 1, middle), FAINT)
    for column in range(width):
        part = sound[edges[column] : max(int(edges[column + 1]), int(edges[column]) + 1)]
        if len(part):
            high, low = float(part.max()), float(part.min())
            pen.line((left + column, middle - high * reach, left + column, middle - low * reach), "#b8a7ff")


def _seconds(pen: ImageDraw.ImageDraw, seconds: float, box: tuple[int, int, int, int]) -> None:
    left, top, width, height = box
    step = _step(seconds)
    for tick in range(int(seconds / step + 1e-6) + 1):
        x = left + round(tick * step / seconds * (width - 1))
        pen.line((x, top + height, x, top + height + 5), FAINT)
        pen.text((x, top + height + 9), _said(tick * step, " s" if tick == 0 else ""), INK, _font(12), anchor="ma")


def _frequencies(pen: ImageDraw.ImageDraw, rate: int, box: tuple[int, int, int, int]) -> None:
    left, top, _, height = box
    last = top + height + 16
    for frequency in (100, 200, 500, 1000, 2000, 4000, 8000, 16000, 32000):
        share = _mel(frequency) / _mel(rate / 2)
        if share > 1.0001:
            return
        y = top + height - round(share * (height - 1)) - 1
        if last - y < 15:
            continue
        last = y
        pen.line((left - 5, y, left, y), FAINT)
        said = f"{frequency // 1000} kHz" if frequency >= 1000 else f"{frequency} Hz"
        pen.text((left - 9, y), said, INK, _font(12), anchor="rm")


def _scale(image: Image.Image, pen: ImageDraw.ImageDraw, loudest: float, box: tuple[int, int, int, int]) -> None:
    """What the colours mean."""
    left, top, width, height = box
    ramp = colours()[np.linspace(255, 0, height).round().astype(int)]
    image.paste(Image.fromarray(np.repeat(ramp[:, None], width, axis=1)), (left, top))
    for share in (0.0, 0.5, 1.0):
        decibels = round(loudest - share * SPAN)
        anchor = "la" if share == 0 else "ls" if share == 1 else "lm"
        pen.text((left + width + 6, top + round(share * height)), f"{decibels} dB", INK, _font(12), anchor=anchor)


def _mel(frequency: float) -> float:
    """Slaney's scale: linear up to 1 kHz, a logarithm above."""
    return frequency * 3 / 200 if frequency < 1000 else 15 + 27 * math.log(frequency / 1000) / math.log(6.4)


def _step(seconds: float) -> float:
    """A round number of seconds of which five to ten and a few fit."""
    rough = seconds / 8
    unit = 10.0 ** math.floor(math.log10(rough))
    return next(unit * part for part in (1, 2, 5, 10) if unit * part >= rough * 0.999)


def _said(seconds: float, unit: str) -> str:
    return f"{seconds:.4g}{unit}"


def _shortened(pen: ImageDraw.ImageDraw, text: str, width: int) -> str:
    line = " ".join(text.split())[:400]
    if pen.textlength(line, _font(17)) <= width:
        return line
    while line and pen.textlength(line + "…", _font(17)) > width:
        line = line[:-1]
    return line.rstrip() + "…"


@functools.lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
