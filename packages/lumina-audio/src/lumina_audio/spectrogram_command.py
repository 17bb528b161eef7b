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
    from lumina_audio.sounds import SoundError, check_header, read_sound
    from lumina_audio.spectrogram import draw, save_picture

    target = file.with_suffix(".png") if out is None else out
    if target.suffix.lower() != ".png":
        raise ConfigError(f"what is written are .png files, and --out says {target.name}; try {target.stem}.png")
    try:
        rate = check_header(file).rate
        sound = read_sound(file, rate)
    except SoundError as error:
        raise ConfigError(f"{file} cannot be used as a sound: {error}") from error
    for note in sound.notes:
        click.echo(f"Note: {file.name} is {note}", err=True)
    try:
        save_picture(draw(sound.waveform, rate, _prompt(file) if title is None else title), target)
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror or error}; choose another --out") from error
    click.echo(str(target))


def _prompt(file: Path) -> str:
    from lumina_audio.sounds_out import record_of

    try:
        return str(record_of(file).get("prompt", file.name))
    except LuminaError:  # it was made by something else
        return file.name
