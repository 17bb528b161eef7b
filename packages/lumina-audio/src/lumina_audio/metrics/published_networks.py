"""Features of published audio networks, VGGish and PANNs, with weights from a `.pth` file."""

from __future__ import annotations

import functools
import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lumina_audio.metrics.features import AudioFeatureConfig, prepare
from lumina_core.checkpoint.lazy_tensors import read_tensor
from lumina_core.checkpoint.torch_pickle import open_torch_pickle
from lumina_core.errors import CheckpointError
from lumina_core.metrics.base import batch_by_shape
from lumina_core.protocols import FeatureExtractor

BATCH_SIZE = 16


class WeightsFileConfig(AudioFeatureConfig):
    """Options of a network with published weights."""

    weights: str = Field(description="file of the published weights")
    device: str = Field("cpu", description="device of the network")


class PublishedNetwork(FeatureExtractor):
    """Feature extractor whose weights are the tensors of a file: base class. Code in the file is never run.

    Attributes:
        title: name of the network, for messages.
        network_rate: sample rate of the network.

    Raises:
        CheckpointError: the file is missing, damaged, or has other tensors than the network.
    """

    title: str
    network_rate: int

    def __init__(self, config: WeightsFileConfig) -> None:
        self.audio_rate, self.device = config.sample_rate, config.device
        path = Path(config.weights).expanduser()
        tensors = {name: read_tensor(lazy) for name, lazy in open_torch_pickle(path, key="model").items()}
        self.weights = {name: t.float().to(self.device) for name, t in tensors.items() if t.is_floating_point()}
        self.key = f"{self.title} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        try:
            self.configure()
            self([torch.zeros(1, 16000)])
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"{path}: expected weights of {self.title}, got other tensors ({error})") from error

    @torch.inference_mode()
    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """Map waveforms (1, S) of any lengths to features (B, D) float32."""
        waveforms = [self.fit_length(item[0]) for item in prepare(items, self.audio_rate, self.network_rate)]
        return torch.cat([self.embed(x.to(self.device)).cpu() for x in batch_by_shape(waveforms, BATCH_SIZE)]).clone()

    def configure(self) -> None:
        """Read sizes from the shapes of `weights`; the default does nothing."""

    @abstractmethod
    def fit_length(self, waveform: Tensor) -> Tensor:
        """Pad or crop a waveform (S,) to a length that the network accepts."""

    @abstractmethod
    def embed(self, waveforms: Tensor) -> Tensor:
        """Map waveforms (B, S) at `network_rate` to (B, D)."""

    def layer(self, name: str) -> tuple[Tensor, Tensor]:
        """Return weight and bias of a layer."""
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]


class VGGishFeatures(PublishedNetwork):
    """The 128 outputs of VGGish for each patch of 0.96 s, before the last ReLU (Hershey et al., arXiv 1609.09430).

    As in the evaluation of AudioLDM, without the PCA of the published embeddings. The weights are those of
    harritaylor/torchvggish (vggish-10086976.pth), which were converted from TensorFlow. A row holds its patches one
    after another; the Frechet audio distance takes each patch as a sample.
    """

    title, name, frechet_name = "VGGish (torchvggish)", "VGGish", "FAD"
    network_rate = 16000
    window_length, hop_length, n_fft, patch_frames = 400, 160, 512, 96
    conv_layers, pooled_layers, linear_layers = (0, 3, 6, 8, 11, 13), (0, 3, 8, 13), (0, 2, 4)
    """Indices in the published file; max pooling follows `pooled_layers`."""

    class Config(WeightsFileConfig):
        """Weights file, and number of patches."""

        num_patches: int = Field(
            2, ge=1, le=64, description="patches of 0.96 s; a longer clip is cut, a shorter one is padded with zeros"
        )

    def __init__(self, config: Config) -> None:
        self.samples_per_row = config.num_patches
        super().__init__(config)
        self.key += f" {config.num_patches}"

    def fit_length(self, waveform: Tensor) -> Tensor:
        """Pad with zeros or crop to all patches."""
        length = self.window_length + self.hop_length * (self.patch_frames * self.samples_per_row - 1)
        return F.pad(waveform, (0, max(0, length - len(waveform))))[:length]

    def embed(self, waveforms: Tensor) -> Tensor:
        """Map (B, S) to (B, num_patches * 128)."""
        frames = waveforms.unfold(1, self.window_length, self.hop_length)
        spectrum = torch.fft.rfft(frames * torch.hann_window(self.window_length, device=waveforms.device), self.n_fft)
        log_mel = (spectrum.abs() @ vggish_filterbank().to(waveforms.device) + 0.01).log()
        x: Tensor = log_mel.reshape(-1, 1, self.patch_frames, log_mel.shape[-1])
        for index in self.conv_layers:
            x = F.conv2d(x, *self.layer(f"features.{index}"), padding=1).relu()
            x = F.max_pool2d(x, 2) if index in self.pooled_layers else x
        x = x.permute(0, 2, 3, 1).flatten(1)  # order of TensorFlow: time, band, channel
        for index in self.linear_layers:
            x = F.linear(x.relu(), *self.layer(f"embeddings.{index}"))
        return x.reshape(len(waveforms), -1)


@functools.lru_cache(maxsize=1)
def vggish_filterbank() -> Tensor:
    """Compute the 64 mel bands (257, 64) of AudioSet from 125 to 7500 Hz: triangles on the mel scale, not in hertz."""
    bin_mels = hz_to_mel(torch.linspace(0, 8000, 257, dtype=torch.float64))
    lowest, highest = hz_to_mel(torch.tensor([125.0, 7500.0])).tolist()
    edges = torch.linspace(lowest, highest, 66).double()
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (bin_mels[:, None] - low) / (middle - low)
    falling = (high - bin_mels[:, None]) / (high - middle)
    filterbank = torch.minimum(rising, falling).clamp(min=0)
    filterbank[0] = 0  # without the constant component
    return filterbank.float()


def hz_to_mel(hz: Tensor) -> Tensor:
    """Convert hertz to HTK's mel scale."""
    return 1127 * torch.log1p(hz / 700)


class PannsFeatures(PublishedNetwork):
    """Cnn14 of PANNs (Kong et al., arXiv 1912.10211): 2048 features, or logits of the 527 classes of AudioSet.

    The weights are those published as Cnn14_16k_mAP=0.438.pth, Cnn14_mAP=0.431.pth (32 kHz) and variants; the sample
    rate follows from the size of their mel filterbank. AudioLDM's evaluation uses the first file for FD and KL.
    """

    title, num_blocks, min_frames = "PANNs' Cnn14", 6, 32

    class Config(WeightsFileConfig):
        """Weights file, and which output is used."""

        output: Literal["embedding", "classes"] = Field(
            "embedding", description="embedding: 2048 features; classes: logits of every class, for audio.class_kl"
        )

    def __init__(self, config: Config) -> None:
        self.output = config.output
        super().__init__(config)
        self.key += f" {config.output}"

    def configure(self) -> None:
        """Read window length, sample rate and classes; windows have 32 ms and hops 10 ms at every sample rate."""
        self.window_length = 2 * (len(self.weights["logmel_extractor.melW"]) - 1)
        self.network_rate = self.window_length * 125 // 4
        self.name = f"PANNs Cnn14 at {self.network_rate / 1000:g} kHz"
        if self.output == "classes":
            self.classes = tuple(map(str, range(len(self.weights["fc_audioset.bias"]))))

    def fit_length(self, waveform: Tensor) -> Tensor:
        """Pad with zeros to at least 32 frames."""
        return F.pad(waveform, (0, max(0, self.network_rate // 100 * self.min_frames - len(waveform))))

    def embed(self, waveforms: Tensor) -> Tensor:
        """Map (B, S) to (B, 2048) or (B, 527)."""
        window = torch.hann_window(self.window_length, device=waveforms.device)
        hop_length = self.network_rate // 100
        spectrum = torch.stft(waveforms, self.window_length, hop_length, window=window, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        mel = power.transpose(1, 2) @ self.weights["logmel_extractor.melW"]
        x = 10 * mel.clamp(min=1e-10).log10()[:, None]
        x = self._batch_norm("bn0", x.transpose(1, 3)).transpose(1, 3)
        for number in range(1, self.num_blocks + 1):
            for layer in (1, 2):
                x = F.conv2d(x, self.weights[f"conv_block{number}.conv{layer}.weight"], padding=1)
                x = self._batch_norm(f"conv_block{number}.bn{layer}", x).relu()
            x = F.avg_pool2d(x, 2) if number < self.num_blocks else x
        x = x.mean(3)
        embedding = F.linear(x.amax(2) + x.mean(2), *self.layer("fc1")).relu()
        return embedding if self.output == "embedding" else F.linear(embedding, *self.layer("fc_audioset"))

    def _batch_norm(self, name: str, x: Tensor) -> Tensor:
        mean, variance = self.weights[f"{name}.running_mean"], self.weights[f"{name}.running_var"]
        return F.batch_norm(x, mean, variance, *self.layer(name))
