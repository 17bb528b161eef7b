"""Text to sound or music: what is asked (a prompt, a duration), and the sound file that is handed back."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from lumina_audio.audio_io import WRITE_FORMATS, write_audio
from lumina_audio.inpaint_input import init_data, limit_generated_part, num_samples, target_length
from lumina_audio.plot import plot_spectrogram, save_grid
from lumina_audio.request import AudioLengthRequest, TextToAudioRequest
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.protocols import GenerationTask
from lumina_core.types import GenerationOutput, InitData, Size


class AudioOutput(GenerationOutput):
    """Generated sounds: a sequence of results, `audios` and their `sampling_rate`."""

    @property
    def audios(self) -> Sequence[Any]:
        """The sounds in the requested output type: float32 arrays (samples,) or (channels, samples) by default."""
        return self.values

    @property
    def sampling_rate(self) -> int:
        """Samples per second."""
        rate: int = self.results[0].task.config.sample_rate  # type: ignore[attr-defined]
        return rate


class TextToAudio(GenerationTask):
    """The task of every text-to-audio and text-to-music recipe."""

    Request = TextToAudioRequest
    data_field = "audio"
    suffixes = tuple(WRITE_FORMATS)
    Output = AudioOutput
    output_types = ("np", "tensor")
    pads_to_valid_size = True
    sidecars: ClassVar[Mapping[str, tuple[str, str]]] = {
        "spectrogram": (
            ".png",
            "A picture of the sound: pitch over time, the louder the lighter; auto: beside it, under its name.",
        )
    }
    examples = (
        '"a trumpet plays a high note" --duration 2 --out trumpet.wav',
        '"a rising scale on a violin" --duration 4 --count 3 --out scale.flac --spectrogram auto',
        '"a cello" --init-audio trumpet.wav --strength 0.6 --out cello.wav',
        '"a drum" --init-audio trumpet.wav --inpaint 0.5-0.8 --inpaint 1.1-1.4 --out mixed.wav',
        '"a trumpet" --init-audio trumpet.wav --extend 2 --out longer.wav',
        "--prompts prompts.txt --out sounds --spectrogram auto",
    )

    class Config(Settings):
        """The samples that the model makes, and how many it learnt from."""

        sample_rate: int = Field(16000, ge=1000, le=192000, description="samples a second")
        duration: float = Field(
            2.048, gt=0, allow_inf_nan=False,
            description="of the sounds that the model learnt from, and where the request names none",
        )  # fmt: skip
        scalars: tuple[str, ...] = Field(
            (), description="conditioners of numbers (core.scalar) beside the caption; `duration` hears how long it is"
        )

    def __init__(self, config: Config) -> None:
        self.config = config

    def size(self, request: AudioLengthRequest) -> Size:
        """(samples,): exactly the seconds that are asked for.

        Raises:
            ConfigError: more of a sound is asked for than there is.
        """
        return (target_length(request, self.config.sample_rate, self.config.duration),)

    def init_data(self, request: AudioLengthRequest) -> InitData | None:
        """The sound that the request begins from, and what of it stays.

        Raises:
            ConfigError: the span does not lie within it.
        """
        return init_data(request, self.config.sample_rate, *self.size(request))

    def train_size(self) -> Size:
        """(samples,) that the model learnt from."""
        return (num_samples(self.config.duration, self.config.sample_rate),)

    def format_size(self, size: Size) -> str:
        """A length in seconds."""
        return f"{size[0] / self.config.sample_rate:.6g} seconds"

    def conditions(self, request: TextToAudioRequest) -> Mapping[str, Sequence[Any]]:
        """The prompt for the conditioner called `caption`, and the numbers that the model hears.

        Raises:
            ConfigError: a number is named that it does not hear.
        """
        return {"caption": [request.prompt], **{name: [value] for name, value in self._scalar_values(request).items()}}

    def negative_conditions(self, request: TextToAudioRequest) -> Mapping[str, Sequence[Any]]:
        """The negative prompt, or nothing."""
        return {} if request.negative_prompt is None else {"caption": [request.negative_prompt]}

    def request_for(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """The request for an example again: its caption is the prompt.

        Raises:
            ConfigError: it has no caption.
        """
        if not isinstance(fields.get("caption"), str):
            raise ConfigError(
                f"an example without caption cannot be asked for; it says only: {', '.join(fields) or 'nothing'}"
            )
        scalars = {name: fields[name] for name in self.config.scalars if isinstance(fields.get(name), int | float)}
        return {"prompt": fields["caption"], **({"scalar": scalars} if scalars else {})}

    def notes(self, request: AudioLengthRequest) -> list[str]:
        """What the user should know of the sound to begin from: it is silent, or clipped."""
        init_audio = request.init_audio
        return (
            []
            if init_audio is None
            else [f"{init_audio.name or 'the sound to begin from'} is {note}" for note in init_audio.notes]
        )

    def to_output(self, item: Tensor, output_type: str) -> Any:
        """Convert (channels, samples) in about [-1, 1] to "np" (mono: (samples,)) or "tensor" (as it is).

        Raises:
            ConfigError: another output type.
        """
        return item.squeeze(0).numpy() if output_type == "np" else super().to_output(item, output_type)

    def encode(self, item: Tensor, format: str, metadata: Mapping[str, Any]) -> bytes:
        """Encode (channels, samples) in about [-1, 1] as WAV, FLAC or OGG, the metadata as JSON in its comment.

        Raises:
            ConfigError: another format.
        """
        suffix = f".{format.lower().removeprefix('.')}" if format else self.suffixes[0]
        if suffix not in self.suffixes:
            raise ConfigError(f"format: got {format!r}, expected {' or '.join(self.suffixes)}.")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"audio{suffix}"
            self.save(item, path, metadata)
            return path.read_bytes()

    def save(self, item: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
        """(1, S) in about [-1, 1] as WAV, FLAC or OGG by the suffix, `record` as JSON in its comment.

        A sound that is louder than a file can hold is made softer: as a whole, or where another sound stays in it, what
        was drawn; a warning says so, and the record has the factor (`gain`).
        """
        waveform, peak = item, float(item.abs().max()) if item.numel() else 0.0
        if peak > 1:
            waveform, factor = item / peak, 1 / peak
            scope = "the clip"
            if metadata.get("inpaint", metadata.get("extend")) is not None:
                scope = "its generated part"
                waveform, factor = limit_generated_part(item, self.config.sample_rate, metadata)
            warnings.warn(f"{path.name}: beyond full scale, {scope} is multiplied by {factor:.3f}", stacklevel=1)
            metadata = {**metadata, "gain": round(factor, 4)}
        write_audio(path, waveform, self.config.sample_rate, metadata)

    def write_sidecar(self, sidecar: str, item: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
        """The picture beside a sound: its `spectrogram`, with the prompt above it, as PNG."""
        plot_spectrogram(item, self.config.sample_rate, path, str(metadata.get("prompt", "")))

    def _scalar_values(self, request: TextToAudioRequest) -> dict[str, float | None]:
        """For each number that the model hears what is said of it."""
        requested = {scalar.name: scalar.value for scalar in request.scalar or ()}
        unknown = sorted(set(requested) - set(self.config.scalars))
        if unknown:
            supported = ", ".join(self.config.scalars) or "no numbers"
            raise ConfigError(f"this model does not hear a number called '{unknown[0]}'; it hears: {supported}")
        defaults = {"duration": self.size(request)[0] / self.config.sample_rate}
        return {name: requested.get(name, defaults.get(name)) for name in self.config.scalars}

    def save_grid(self, items: Sequence[Tensor], folder: Path, name: str) -> Path:
        """A PNG of the sounds' spectrograms, four a row."""
        save_grid(items, self.config.sample_rate, folder / f"{name}.png")
        return folder / f"{name}.png"
