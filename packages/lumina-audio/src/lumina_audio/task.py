"""Text to sound or music: what is asked (a prompt, a duration), and the sound file that is handed back."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from lumina_audio.asked import SoundRequest, TimedRequest
from lumina_audio.sounds_out import FORMATS, level, write_sound
from lumina_audio.span import drawn_softer, known_of, length_of, samples
from lumina_audio.spectrogram import draw, save_picture, sheet
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.types import Extent, Known


class TextToAudio:
    """The task of every text-to-audio and text-to-music recipe."""

    Request = SoundRequest
    data_field = "sound"
    suffixes = tuple(FORMATS)
    fills_up = True
    besides: ClassVar[Mapping[str, tuple[str, str]]] = {
        "spectrogram": (
            ".png",
            "A picture of the sound: pitch over time, the louder the lighter; auto: beside it, under its name.",
        )
    }
    examples = (
        '"a trumpet plays a high note" --seconds 2 --out trumpet.wav',
        '"a rising scale on a violin" --seconds 4 --count 3 --out scale.flac --spectrogram auto',
        '"a cello" --sound trumpet.wav --strength 0.6 --out cello.wav',
        '"a drum" --sound trumpet.wav --span 0.5-0.8 --span 1.1-1.4 --out mixed.wav',
        '"a trumpet" --sound trumpet.wav --continue 2 --out longer.wav',
        "--prompts prompts.txt --out sounds --spectrogram auto",
    )

    class Config(Settings):
        """The samples that the model makes, and how many it learnt from."""

        rate: int = Field(16000, ge=1000, le=192000, description="samples a second")
        seconds: float = Field(
            2.048, gt=0, allow_inf_nan=False,
            description="of the sounds that the model learnt from, and where the request names none",
        )  # fmt: skip
        numbers: tuple[str, ...] = Field(
            (), description="conditioners of numbers (core.number) beside the caption; `seconds` hears the duration"
        )

    def __init__(self, config: Config) -> None:
        self.config = config

    def extent(self, request: TimedRequest) -> Extent:
        """(samples,): exactly the seconds that are asked for.

        Raises:
            ConfigError: more of a sound is asked for than there is.
        """
        return (length_of(request, self.config.rate, self.config.seconds),)

    def known(self, request: TimedRequest) -> Known | None:
        """The sound that the request begins from, and what of it stays.

        Raises:
            ConfigError: the span does not lie within it.
        """
        return known_of(request, self.config.rate, *self.extent(request))

    def trained(self) -> Extent:
        """(samples,) that the model learnt from."""
        return (samples(self.config.seconds, self.config.rate),)

    def told(self, extent: Extent) -> str:
        """A length in seconds."""
        return f"{extent[0] / self.config.rate:.6g} seconds"

    def conditions(self, request: SoundRequest) -> Mapping[str, Sequence[Any]]:
        """The prompt for the conditioner called `caption`, and the numbers that the model hears.

        Raises:
            ConfigError: a number is named that it does not hear.
        """
        return {"caption": [request.prompt], **{name: [value] for name, value in self._numbers(request).items()}}

    def silences(self, request: SoundRequest) -> Mapping[str, Sequence[Any]]:
        """The negative prompt, or nothing."""
        return {} if request.negative is None else {"caption": [request.negative]}

    def asked(self, said: Mapping[str, Any]) -> Mapping[str, Any]:
        """The request for an example again: its caption is the prompt.

        Raises:
            ConfigError: it has no caption.
        """
        if not isinstance(said.get("caption"), str):
            raise ConfigError(
                f"an example without caption cannot be asked for; it says only: {', '.join(said) or 'nothing'}"
            )
        numbers = {name: said[name] for name in self.config.numbers if isinstance(said.get(name), int | float)}
        return {"prompt": said["caption"], **({"number": numbers} if numbers else {})}

    def notes(self, request: TimedRequest) -> list[str]:
        """What the user should know of the sound to begin from: it is silent, or clipped."""
        sound = request.sound
        return [] if sound is None else [f"{sound.name or 'the sound to begin from'} is {note}" for note in sound.notes]

    def save(self, item: Tensor, path: Path, record: Mapping[str, Any]) -> None:
        """(1, S) in about [-1, 1] as WAV, FLAC or OGG by the suffix, `record` as JSON in its comment.

        A sound that is louder than a file can hold is made softer: as a whole, or where another sound stays in it, what
        was drawn; a warning says so, and the record has the factor (`softer`).
        """
        sound, factor = level(item)
        if factor is not None:
            what, partly = "all of it", record.get("span", record.get("continuation")) is not None
            if partly:
                what, (sound, factor) = "what was drawn", drawn_softer(item, self.config.rate, record)
            said = f"{path.name}: louder than a file can hold; {what} is made softer, by {factor:.3f}"
            warnings.warn(said, stacklevel=1)
            record = {**record, "softer": round(factor, 4)}
        write_sound(path, sound, self.config.rate, record)

    def beside(self, kind: str, item: Tensor, path: Path, record: Mapping[str, Any]) -> None:
        """The picture beside a sound: its `spectrogram`, with the prompt above it, as PNG."""
        save_picture(draw(item, self.config.rate, str(record.get("prompt", ""))), path)

    def _numbers(self, request: SoundRequest) -> dict[str, float | None]:
        """For each number that the model hears what is said of it."""
        said = {number.name: number.value for number in request.number or ()}
        unknown = sorted(set(said) - set(self.config.numbers))
        if unknown:
            known = ", ".join(self.config.numbers) or "no numbers"
            raise ConfigError(f"this model does not hear a number called '{unknown[0]}'; it hears: {known}")
        duration = {"seconds": self.extent(request)[0] / self.config.rate}
        return {name: said.get(name, duration.get(name)) for name in self.config.numbers}

    def save_grid(self, items: Sequence[Tensor], folder: Path, name: str) -> Path:
        """A PNG of the sounds' spectrograms, four a row."""
        folder.mkdir(parents=True, exist_ok=True)
        save_picture(sheet(items, self.config.rate), folder / f"{name}.png")
        return folder / f"{name}.png"
