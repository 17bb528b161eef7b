"""The command `lumina spectrogram`: a picture of any sound file, with what Lumina wrote into it where it made it."""

from __future__ import annotations

from pathlib import Path

import click

from lumina_core.errors import ConfigError, LuminaError


@click.command(epilog="Example:  lumina spectrogram trumpet.wav --out trumpet.png")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE.png", help="[default: beside FILE, as PNG]")
@click.option("--title", metavar="TEXT", help="What stands above it.  [default: its prompt, or its name]")
def spectrogram(file: Path, out: Path | None, title: str | None) -> None:
    """Draw a sound (wav, flac, ogg ...): pitch over time, the louder the lighter, and its waveform above."""
    from lumina_audio.audio_io import AudioError, read_audio, read_header
    from lumina_audio.plot import plot_spectrogram, save_png

    target = file.with_suffix(".png") if out is None else out
    if target.suffix.lower() != ".png":
        raise ConfigError(f"what is written are .png files, and --out says {target.name}; try {target.stem}.png")
    try:
        sample_rate = read_header(file).sample_rate
        clip = read_audio(file, sample_rate)
    except AudioError as error:
        raise ConfigError(f"{file} cannot be used as a sound: {error}") from error
    for note in clip.notes:
        click.echo(f"Note: {file.name} is {note}", err=True)
    try:
        save_png(plot_spectrogram(clip.waveform, sample_rate, _default_title(file) if title is None else title), target)
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror or error}; choose another --out") from error
    click.echo(str(target))


def _default_title(file: Path) -> str:
    from lumina_audio.audio_io import read_metadata

    try:
        return str(read_metadata(file).get("prompt", file.name))
    except LuminaError:  # it was made by something else
        return file.name
