"""Plots of audio: the command `lumina spectrogram`, the option `--spectrogram`, and grids of training samples."""

from __future__ import annotations

import functools
import importlib.util
import math
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from PIL import Image

from lumina_core.errors import ConfigError, LuminaError, PluginError, install_command, printable
from lumina_core.io import atomic_file, check_output_file, new_dir, user_path

if TYPE_CHECKING:
    from torch import Tensor

INSTALL_EXTRA = "lumina-audio[plot]"
DYNAMIC_RANGE_DB = 80.0
"""Decibels between the lightest and the darkest color."""
MIN_REFERENCE_DB = -60.0
"""Lowest level (dB of full scale) of the lightest color: quieter clips are darker."""
N_MELS = 160
GRID_CELL_WIDTH, GRID_GAP = 300, 6
"""Pixels of a grid: width of the longest clip, and distance between clips."""
FREQUENCY_TICKS = (200, 500, 1000, 2000, 4000, 8000, 16000, 32000)


def mel_decibels(waveform: Tensor, sample_rate: int, hop_length: int) -> Tensor:
    """Compute a mel spectrogram in decibels of full scale, with bands from 0 Hz to half the sample rate.

    Windows of 64 ms are zero-padded to four times their length, because the lowest bands are narrower than a bin.

    Args:
        waveform: (channels, S); channels are averaged, NaN counts as 0.
        sample_rate: samples per second.
        hop_length: samples between frames.

    Returns:
        (`N_MELS`, frames), at least -140.
    """
    import torch

    mono = waveform.detach().float().cpu().nan_to_num().mean(dim=0)
    window_length = 2 ** round(math.log2(0.064 * sample_rate))
    mono = torch.nn.functional.pad(mono, (0, max(0, window_length - len(mono))))
    window = torch.hann_window(window_length)
    # mirrored: a cut at the end would look like a click
    pad_mode = "reflect" if len(mono) > 2 * window_length else "constant"
    spectrum = torch.stft(
        mono, 4 * window_length, hop_length, window_length, window, pad_mode=pad_mode, return_complex=True
    )
    magnitudes = spectrum.abs() / (window.sum() / 2)
    return 20 * (_filterbank(2 * window_length + 1, sample_rate) @ magnitudes).clamp_min(1e-7).log10()


def check_matplotlib() -> None:
    """Raise PluginError with the command that installs matplotlib if it is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise PluginError(f"a spectrogram plot needs matplotlib: {install_command(INSTALL_EXTRA)}")


def _matplotlib(module: str) -> Any:
    from lumina_core.pretrained import require

    return require(f"matplotlib.{module}", INSTALL_EXTRA, "a spectrogram plot")


def plot_spectrogram(waveform: Tensor, sample_rate: int, path: Path, title: str = "") -> None:
    """Plot the waveform and the mel spectrogram of a clip as a PNG file of 960 x 440 pixels.

    Args:
        waveform: (channels, S), in about [-1, 1].
        sample_rate: samples per second.
        path: PNG file to write.
        title: text above the plot; a long one is shortened.

    Raises:
        PluginError: matplotlib is not installed.
    """
    figure = _matplotlib("figure").Figure(figsize=(9.6, 4.4), dpi=100)
    axes = figure.subplots(2, 2, height_ratios=(1, 6), width_ratios=(60, 1), sharex="col")
    (wave_axes, unused_axes), (mel_axes, colorbar_axes) = axes
    duration = waveform.shape[-1] / sample_rate
    mono = waveform.detach().float().cpu().nan_to_num().mean(dim=0)
    wave_axes.plot(np.linspace(0, duration, len(mono)), mono.numpy(), linewidth=0.5)
    wave_axes.set_axis_off()
    text, family = _drawable_title(_shorten(title))
    wave_axes.set_title(text, loc="left", parse_math=False, **({"family": family} if family else {}))
    unused_axes.set_axis_off()
    decibels = mel_decibels(waveform, sample_rate, max(1, waveform.shape[-1] // 800))
    max_db = max(MIN_REFERENCE_DB, float(decibels.max()))
    max_mel = _hz_to_mel(sample_rate / 2)
    image = mel_axes.imshow(
        decibels.numpy(), cmap="magma", vmin=max_db - DYNAMIC_RANGE_DB, vmax=max_db, origin="lower", aspect="auto",
        extent=(0, duration, 0, max_mel),
    )  # fmt: skip
    ticks = [hz for hz in FREQUENCY_TICKS if hz <= sample_rate / 2]
    mel_axes.set_yticks(
        [_hz_to_mel(hz) for hz in ticks], [f"{hz} Hz" if hz < 1000 else f"{hz // 1000} kHz" for hz in ticks]
    )
    mel_axes.set_xlabel("seconds")
    figure.colorbar(image, cax=colorbar_axes, format="%.0f dB")
    figure.subplots_adjust(left=0.07, right=0.92, bottom=0.12, top=0.92, wspace=0.03, hspace=0.05)
    with atomic_file(path) as partial, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that the font lacks
        figure.savefig(partial, format="png", metadata={"Software": None})


def save_grid(waveforms: Sequence[Tensor], sample_rate: int, path: Path, columns: int = 4) -> None:
    """Save the spectrograms of several clips as one grayscale PNG image, at one scale of time and of loudness.

    Args:
        waveforms: (1, S) each.
        sample_rate: samples per second.
        path: PNG file to write.
        columns: clips per row.
    """
    import torch

    hop_length = max(1, max(waveform.shape[-1] for waveform in waveforms) // GRID_CELL_WIDTH)
    spectrograms = [mel_decibels(waveform, sample_rate, hop_length).flip(0) for waveform in waveforms]
    max_db = max(MIN_REFERENCE_DB, *(float(decibels.max()) for decibels in spectrograms))
    width = max(decibels.shape[1] for decibels in spectrograms) + GRID_GAP
    height = N_MELS + GRID_GAP
    columns = min(columns, len(spectrograms))
    grid = torch.zeros(-(-len(spectrograms) // columns) * height, columns * width)
    for index, decibels in enumerate(spectrograms):
        top, left = index // columns * height, index % columns * width
        level = ((decibels - max_db) / DYNAMIC_RANGE_DB + 1).clamp(0, 1)
        grid[top : top + N_MELS, left : left + level.shape[1]] = 32 + 223 * level
    with new_dir(path.parent), atomic_file(path) as partial:
        Image.fromarray(grid.byte().numpy()).save(partial, format="PNG")


@click.command(epilog="Example:  lumina spectrogram trumpet.wav --out trumpet.png")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE.png", help="PNG file.  [default: FILE with .png]")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@click.option("--title", metavar="TEXT", help="Text above the plot.  [default: prompt of the file, or its name]")
def spectrogram(file: Path, out: Path | None, overwrite: bool, title: str | None) -> None:
    """Plot the waveform and the mel spectrogram of an audio file (wav, flac, ogg ...)."""
    from lumina_audio.audio_io import AudioError, read_audio, read_header

    file = user_path(file)
    target = file.with_suffix(".png") if out is None else user_path(out)
    check_output_file(target, ".png", "--out", overwrite)
    try:
        sample_rate = read_header(file).sample_rate
        clip = read_audio(file, sample_rate)
    except AudioError as error:
        raise ConfigError(f"{file}: not a readable audio file ({error})") from error
    for note in clip.notes:
        click.echo(f"Note: {file.name} is {note}", err=True)
    try:
        plot_spectrogram(clip.waveform, sample_rate, target, _default_title(file) if title is None else title)
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror or error}. Choose another --out.") from error
    click.echo(str(target))


def _default_title(file: Path) -> str:
    from lumina_audio.audio_io import read_metadata

    try:
        return str(read_metadata(file).get("prompt", file.name))
    except LuminaError:  # another program wrote the file
        return file.name


_FONTS_OF_MANY_LETTERS = (
    "Noto Sans CJK", "Noto Sans", "Source Han", "WenQuanYi", "Droid Sans Fallback", "Arial Unicode", "Hiragino",
    "PingFang", "Microsoft YaHei", "Yu Gothic", "Malgun", "Noto Emoji", "Symbola", "Segoe UI",
)  # fmt: skip
"""Beginnings of the names of fonts that may have letters which the default font lacks."""


def _drawable_title(title: str) -> tuple[str, list[str]]:
    """Return a title that fonts of the system can draw, and these fonts; letters without a font are left out.

    A letter with an accent that no font has loses the accent.
    """
    manager = _matplotlib("font_manager")
    default = manager.findfont(manager.FontProperties(family=["sans-serif"]))
    missing = set(title) - set(map(chr, _letters_of(default)))
    families = ["sans-serif"]
    for font in manager.fontManager.ttflist if missing else ():
        if font.name.startswith(_FONTS_OF_MANY_LETTERS) and font.name not in families:
            found = missing & set(map(chr, _letters_of(font.fname)))
            if found:
                families.append(font.name)
                missing -= found
    plain = {letter: unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode() for letter in missing}
    text = "".join(plain.get(letter, letter) for letter in title)
    return " ".join(text.split()).strip(" ,;"), families if len(families) > 1 else []


@functools.lru_cache(maxsize=64)
def _letters_of(file: str) -> frozenset[int]:
    font = _matplotlib("ft2font").FT2Font(file)
    return frozenset(font.get_charmap())


def _shorten(title: str, max_length: int = 90) -> str:
    line = printable(" ".join(title.split()))
    return line if len(line) <= max_length else line[: max_length - 1].rstrip() + "…"


@functools.lru_cache(maxsize=4)
def _filterbank(n_freqs: int, sample_rate: int) -> Tensor:
    """Compute Slaney mel bands (`N_MELS`, n_freqs), the weights of each band summing to 1."""
    from torchaudio.functional import melscale_fbanks

    filterbank: Tensor = melscale_fbanks(n_freqs, 0.0, sample_rate / 2, N_MELS, sample_rate, None, "slaney").T
    return filterbank / filterbank.sum(dim=1, keepdim=True).clamp_min(1e-9)


def _hz_to_mel(hz: float) -> float:
    """Convert hertz to Slaney's mel scale: linear up to 1 kHz, logarithmic above."""
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)
