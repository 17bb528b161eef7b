"""Text to sound or music: what is asked (a prompt, a duration), and the sound file that is handed back."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from pydantic import Field
from torch import Tensor

from lumina_audio.asked import SoundRequest, TimedRequest
from lumina_audio.sounds_out import FORMATS, level, write_sound
from lumina_audio.spectrogram import draw, sheet
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.files import whole_file
from lumina_core.types import Extent


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
    )

    class Config(Settings):
        """The samples that the model makes, and how many it learnt from."""

        rate: int = Field(16000, ge=1000, le=192000, description="samples a second")
        seconds: float = Field(
            2.048, gt=0, allow_inf_nan=False,
            description="of the sounds that the model learnt from, and where the request names none",
        )  # fmt: skip

    def __init__(self, config: Config) -> None:
        self.config = config

    def extent(self, request: TimedRequest) -> Extent:
        """(samples,): exactly the seconds that are asked for."""
        return (self._samples(self.config.seconds if request.seconds is None else request.seconds),)

    def trained(self) -> Extent:
        """(samples,) that the model learnt from."""
        return (self._samples(self.config.seconds),)

    def told(self, extent: Extent) -> str:
        """A length in seconds."""
        return f"{extent[0] / self.config.rate:.6g} seconds"

    def conditions(self, request: SoundRequest) -> Mapping[str, Sequence[Any]]:
        """The prompt for the conditioner called `caption`."""
        return {"caption": [request.prompt]}

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
        return {"prompt": said["caption"]}

    def save(self, item: Tensor, path: Path, record: Mapping[str, Any]) -> None:
        """(1, S) in about [-1, 1] as WAV, FLAC or OGG by the suffix, `record` as JSON in its comment.

        A sound that is louder than a file can hold is made softer as a whole, which is said in a warning and in the
        record (`softer`).
        """
        sound, factor = level(item)
        if factor is not None:
            said = f"{path.name}: louder than a file can hold; all of it made softer, by {factor:.3f}"
            warnings.warn(said, stacklevel=2)
            record = {**record, "softer": round(factor, 4)}
        write_sound(path, sound, self.config.rate, record)

    def beside(self, kind: str, item: Tensor, path: Path, record: Mapping[str, Any]) -> None:
        """The picture beside a sound: its `spectrogram`, with the prompt above it, as PNG."""
        _save_picture(draw(item, self.config.rate, str(record.get("prompt", ""))), path)

    def save_grid(self, items: Sequence[Tensor], folder: Path, name: str) -> Path:
        """A PNG of the sounds' spectrograms, four a row."""
        folder.mkdir(parents=True, exist_ok=True)
        _save_picture(sheet(items, self.config.rate), folder / f"{name}.png")
        return folder / f"{name}.png"

    def _samples(self, seconds: float) -> int:
        return max(1, round(seconds * self.config.rate))


def _save_picture(picture: Image.Image, path: Path) -> None:
    with whole_file(path) as partial:
        picture.save(partial, format="PNG")
