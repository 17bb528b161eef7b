"""Task text-to-audio: request -> conditions, size and initial data; result -> audio file and spectrogram plot."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from lumina_audio.audio_io import WRITE_FORMATS, encode_audio
from lumina_audio.inpaint_input import init_data, limit_generated_part, num_samples, target_length
from lumina_audio.plot import check_matplotlib, plot_spectrogram, save_grid
from lumina_audio.request import AudioLengthRequest, TextToAudioRequest
from lumina_audio.text.note_names import normalize_note_names
from lumina_core.config import Config as Settings
from lumina_core.config import suggest_or_list
from lumina_core.errors import ConfigError
from lumina_core.protocols import GenerationTask
from lumina_core.types import GenerationOutput, InitData, Size

if TYPE_CHECKING:
    from torch import Tensor


class AudioOutput(GenerationOutput):
    """Generated audio: a sequence of results, `audios` and their `sampling_rate`."""

    @property
    def audios(self) -> Sequence[Any]:
        """Clips in the requested output type: by default float32 arrays, (samples,) or (channels, samples)."""
        return self.values

    @property
    def sampling_rate(self) -> int:
        """Samples per second."""
        rate: int = self.results[0].task.config.sample_rate  # type: ignore[attr-defined]
        return rate


class TextToAudio(GenerationTask):
    """Task of text-to-audio and text-to-music models."""

    Request = TextToAudioRequest
    data_field = "audio"
    suffixes = tuple(WRITE_FORMATS)
    Output = AudioOutput
    output_types = ("np", "tensor")
    editing_fields = ("init_audio", "strength", "inpaint", "extend", "crossfade")
    pads_to_valid_size = True
    size_field = "duration"
    sidecars: ClassVar[Mapping[str, tuple[str, str]]] = {
        "spectrogram": (".png", "PNG file with a plot of waveform and spectrogram; auto: the name of the result.")
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
        """Sample rate, duration and scalar conditioners of the model."""

        sample_rate: int = Field(16000, ge=1000, le=192000, description="samples per second")
        duration: float = Field(
            2.048,
            gt=0,
            allow_inf_nan=False,
            description="seconds of a training clip, and of a result without requested duration",
        )
        note_names: bool = Field(
            False, description="replace the names of notes in prompts by those of the training captions: middle C by C4"
        )
        scalars: tuple[str, ...] = Field(
            (), description="fields of scalar conditioners (core.scalar); `duration` gets the seconds of the result"
        )

    def __init__(self, config: Config) -> None:
        self.config = config

    def size(self, request: AudioLengthRequest) -> Size:
        """Compute (samples,) of the result.

        Raises:
            ConfigError: the duration is longer than `init_audio`.
        """
        return (target_length(request, self.config.sample_rate, self.config.duration),)

    def init_data(self, request: AudioLengthRequest) -> InitData | None:
        """Create the initial data of audio-to-audio, inpainting and extension.

        Raises:
            ConfigError: a span of `inpaint` does not lie within the audio.
        """
        return init_data(request, self.config.sample_rate, *self.size(request))

    def train_size(self) -> Size:
        """Return (samples,) of a training clip."""
        return (num_samples(self.config.duration, self.config.sample_rate),)

    def format_size(self, size: Size) -> str:
        """Format a length in seconds."""
        return f"{size[0] / self.config.sample_rate:.6g} seconds"

    def conditions(self, request: TextToAudioRequest) -> Mapping[str, Sequence[Any]]:
        """Return the prompt as `caption`, and the values of the scalar conditioners.

        Raises:
            ConfigError: the model has no scalar conditioner of a requested name.
        """
        requested = {scalar.name: scalar.value for scalar in request.scalar or ()}
        for name in requested:
            if name not in self.config.scalars:
                expected = suggest_or_list(name, self.config.scalars) or ", but this model has none"
                raise ConfigError(f"scalar: got {name!r}, expected a scalar conditioner of the model{expected}")
        defaults = {"duration": self.size(request)[0] / self.config.sample_rate}
        values = {name: [requested.get(name, defaults.get(name))] for name in self.config.scalars}
        return {"caption": [self._caption(request.prompt)], **values}

    def negative_conditions(self, request: TextToAudioRequest) -> Mapping[str, Sequence[Any]]:
        """Return the negative prompt as `caption`; empty if there is none."""
        return {} if request.negative_prompt is None else {"caption": [self._caption(request.negative_prompt)]}

    def _caption(self, prompt: str) -> str:
        return normalize_note_names(prompt, keep_known=True) if self.config.note_names else prompt

    def request_for(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a request whose prompt is the caption of an example.

        Raises:
            ConfigError: the example has no caption.
        """
        if not isinstance(fields.get("caption"), str):
            raise ConfigError(f"example: got the fields {', '.join(fields) or 'none'}, expected a caption")
        scalars = {name: fields[name] for name in self.config.scalars if isinstance(fields.get(name), int | float)}
        return {"prompt": fields["caption"], **({"scalar": scalars} if scalars else {})}

    def notes(self, request: AudioLengthRequest) -> list[str]:
        """Return the notes of `init_audio`: silent, or clipped."""
        audio = request.init_audio
        return [] if audio is None else [f"{audio.name or 'init_audio'} is {note}" for note in audio.notes]

    def to_output(self, item: Tensor, output_type: str) -> Any:
        """Convert (channels, samples) in about [-1, 1] to "np" (mono: (samples,)) or "tensor" (unchanged).

        Raises:
            ConfigError: another output type.
        """
        return item.squeeze(0).numpy() if output_type == "np" else super().to_output(item, output_type)

    def encode(self, item: Tensor, format: str, metadata: Mapping[str, Any]) -> bytes:
        """Encode (channels, samples) in about [-1, 1] as WAV, FLAC, OGG or MP3, with the metadata in its comment tag.

        If the peak is beyond full scale, the clip is divided by it; after inpainting or extension, only the generated
        part is scaled. A warning tells the factor, and the metadata have it as `gain`.

        Raises:
            ConfigError: another format.
        """
        suffix = f".{format.lower().removeprefix('.')}" if format else self.suffixes[0]
        if suffix not in self.suffixes:
            raise ConfigError(f"format: got {format!r}, expected {' or '.join(self.suffixes)}.")
        waveform, peak = item, float(item.abs().max()) if item.numel() else 0.0
        if peak > 1:
            scope, waveform, factor = "audio", item / peak, 1 / peak
            if metadata.get("inpaint", metadata.get("extend")) is not None:
                scope = "generated part of the audio"
                waveform, factor = limit_generated_part(item, self.config.sample_rate, metadata)
            warnings.warn(f"{scope} beyond full scale, multiplied by {factor:.3f}", stacklevel=2)
            metadata = {**metadata, "gain": round(factor, 4)}
        return encode_audio(waveform, self.config.sample_rate, metadata, suffix)

    @classmethod
    def check_sidecar(cls, sidecar: str, paths: Sequence[Path], overwrite: bool) -> None:
        """Raise PluginError if matplotlib is not installed."""
        check_matplotlib()

    def write_sidecar(self, sidecar: str, item: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
        """Plot waveform and spectrogram as a PNG file, the prompt above them."""
        plot_spectrogram(item, self.config.sample_rate, path, str(metadata.get("prompt", "")))

    def save_grid(self, items: Sequence[Tensor], folder: Path, name: str) -> Path:
        """Save the spectrograms of several clips as one PNG image, four per row."""
        save_grid(items, self.config.sample_rate, folder / f"{name}.png")
        return folder / f"{name}.png"
