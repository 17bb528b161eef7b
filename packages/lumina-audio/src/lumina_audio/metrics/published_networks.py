"""Features of published audio networks, VGGish and PANNs, with weights from a `.pth` file."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lumina_audio.metrics.features import AudioFeatureConfig, pad_to_multiple, prepare
from lumina_core.checkpoint.lazy_tensors import read_tensor
from lumina_core.checkpoint.torch_pickle import open_torch_pickle
from lumina_core.errors import CheckpointError
from lumina_core.metrics import batch_by_shape
from lumina_core.protocols import FeatureExtractor

BATCH_SIZE = 16


class WeightsFileConfig(AudioFeatureConfig):
    """Options of a network with published weights."""

    weights: str = Field(description="file of the published weights")
    device: str = Field("cpu", description="device of the network")


@dataclass(frozen=True)
class WeightsFile:
    """Tensors of a weights file by their published names.

    Attributes:
        title: name of the network, for messages.
        path: the file.
        digest: sha256 of the file.
        tensors: float32, on the device of the network.
    """

    title: str
    path: Path
    digest: str
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, config: WeightsFileConfig, title: str) -> WeightsFile:
        """Read the tensors of a file; code in it is never run.

        Raises:
            CheckpointError: the file is missing, truncated, or holds other objects than tensors.
        """
        path = Path(config.weights).expanduser()
        tensors = {name: read_tensor(lazy) for name, lazy in open_torch_pickle(path, key="model").items()}
        floats = {name: tensor.float() for name, tensor in tensors.items() if tensor.is_floating_point()}
        on_device = {name: tensor.to(config.device) for name, tensor in floats.items()}
        return cls(title, path, hashlib.sha256(path.read_bytes()).hexdigest(), on_device)

    def get(self, name: str, ndim: int) -> Tensor:
        """Return a tensor of a number of dimensions.

        Raises:
            CheckpointError: there is none.
        """
        tensor = self.tensors.get(name)
        if tensor is None or tensor.ndim != ndim:
            actual = "no such tensor" if tensor is None else f"shape {tuple(tensor.shape)}"
            raise CheckpointError(
                f"{self.path} is no file of {self.title}: got {actual}, expected {name} with {ndim} dimensions"
            )
        return tensor

    def layer(self, name: str, ndim: int) -> tuple[Tensor, Tensor]:
        """Return `name.weight` and `name.bias`."""
        return self.get(f"{name}.weight", ndim), self.get(f"{name}.bias", 1)


class VGGishFeatures(FeatureExtractor):
    """The 128 outputs of VGGish for each patch of 0.96 s, before the last ReLU (Hershey et al., arXiv 1609.09430).

    As in the evaluation of AudioLDM, without the PCA of the published embeddings. The weights are those of
    harritaylor/torchvggish (vggish-10086976.pth), which were converted from TensorFlow. A row holds its patches one after
    another; the Frechet audio distance takes each patch as a sample.
    """

    name, frechet_name = "VGGish", "FAD"
    sample_rate, window_length, hop_length, n_fft, patch_frames = 16000, 400, 160, 512, 96
    conv_layers, pooled_layers, linear_layers = (0, 3, 6, 8, 11, 13), (0, 3, 8, 13), (0, 2, 4)
    """Indices in the published file; max pooling follows `pooled_layers`."""

    class Config(WeightsFileConfig):
        """Weights file, and number of patches."""

        num_patches: int = Field(
            2, ge=1, le=64, description="patches of 0.96 s; a longer clip is cut, a shorter one is padded with silence"
        )

    def __init__(self, config: Config) -> None:
        self.config, self.samples_per_row = config, config.num_patches
        self._weights = WeightsFile.read(config, "VGGish (torchvggish)")
        self._convs = [self._weights.layer(f"features.{index}", 4) for index in self.conv_layers]
        self._linears = [self._weights.layer(f"embeddings.{index}", 2) for index in self.linear_layers]
        self.key = f"vggish {self._weights.digest} {config.num_patches}"

    @torch.inference_mode()
    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """Map waveforms (1, S) of any lengths to (B, num_patches * 128) float32."""
        length = self.window_length + self.hop_length * (self.patch_frames * self.config.num_patches - 1)
        prepared = prepare(items, self.config.sample_rate, self.sample_rate)
        waveforms = [F.pad(item, (0, max(0, length - item.shape[-1])))[:, :length] for item in prepared]
        rows = [
            self._embed(batch[:, 0].to(self.config.device)).cpu() for batch in batch_by_shape(waveforms, BATCH_SIZE)
        ]
        return torch.cat(rows).clone()

    def _embed(self, waveforms: Tensor) -> Tensor:
        """Map (B, S) to (B, num_patches * 128)."""
        frames = waveforms.unfold(1, self.window_length, self.hop_length)
        spectrum = torch.fft.rfft(frames * torch.hann_window(self.window_length, device=waveforms.device), self.n_fft)
        log_mel = (spectrum.abs() @ vggish_filterbank().to(waveforms.device) + 0.01).log()
        x = log_mel.reshape(-1, 1, self.patch_frames, log_mel.shape[-1])
        for index, conv in zip(self.conv_layers, self._convs, strict=True):
            x = F.conv2d(x, *conv, padding=1).relu()
            x = F.max_pool2d(x, 2) if index in self.pooled_layers else x
        x = x.permute(0, 2, 3, 1).flatten(1)  # order of TensorFlow: time, band, channel
        for linear in self._linears[:-1]:
            x = F.linear(x, *linear).relu()
        return F.linear(x, *self._linears[-1]).reshape(len(waveforms), -1)


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


class PannsFeatures(FeatureExtractor):
    """Cnn14 of PANNs (Kong et al., arXiv 1912.10211): 2048 features, or logits of the 527 classes of AudioSet.

    The weights are those published as Cnn14_16k_mAP=0.438.pth, Cnn14_mAP=0.431.pth (32 kHz) and variants; the sample
    rate follows from the size of their mel filterbank. AudioLDM's evaluation uses the first file for FD and KL.
    """

    num_blocks, min_frames = 6, 32

    class Config(WeightsFileConfig):
        """Weights file, and which output is used."""

        output: Literal["embedding", "classes"] = Field(
            "embedding", description="embedding: 2048 features; classes: logits of every class, for audio.class_kl"
        )

    def __init__(self, config: Config) -> None:
        self.config = config
        self._weights = WeightsFile.read(config, "PANNs' Cnn14")
        filterbank = self._weights.get("logmel_extractor.melW", 2)
        # a first run names missing tensors
        self._embed(torch.zeros(1, 1, self.min_frames, filterbank.shape[1], device=config.device))
        num_classes = len(self._weights.get("fc_audioset.bias", 1))
        self.classes = tuple(map(str, range(num_classes))) if config.output == "classes" else ()
        self._window_length = 2 * (filterbank.shape[0] - 1)
        self._sample_rate = self._window_length * 125 // 4  # windows of 32 ms and hops of 10 ms at every rate
        self.name = f"PANNs Cnn14 at {self._sample_rate / 1000:g} kHz"
        self.key = f"panns {self._weights.digest} {config.output}"

    @torch.inference_mode()
    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """Map waveforms (1, S) of any lengths to (B, 2048) or (B, 527) float32."""
        min_length = self._sample_rate // 100 * self.min_frames
        batches = batch_by_shape(prepare(items, self.config.sample_rate, self._sample_rate), BATCH_SIZE)
        rows = [
            self._row(pad_to_multiple(batch, 1, min_length)[:, 0].to(self.config.device)).cpu() for batch in batches
        ]
        return torch.cat(rows).clone()

    def _row(self, waveforms: Tensor) -> Tensor:
        window = torch.hann_window(self._window_length, device=waveforms.device)
        spectrum = torch.stft(
            waveforms, self._window_length, self._sample_rate // 100, window=window, return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()
        mel = power.transpose(1, 2) @ self._weights.get("logmel_extractor.melW", 2)
        embedding = self._embed(10 * mel.clamp(min=1e-10).log10()[:, None])
        if self.config.output == "embedding":
            return embedding
        return F.linear(embedding, *self._weights.layer("fc_audioset", 2))

    def _embed(self, mel: Tensor) -> Tensor:
        """Map a log-mel spectrogram (B, 1, T, bands) in decibels to (B, D)."""
        x = self._batch_norm("bn0", mel.transpose(1, 3)).transpose(1, 3)
        for number in range(1, self.num_blocks + 1):
            for layer in (1, 2):
                x = F.conv2d(x, self._weights.get(f"conv_block{number}.conv{layer}.weight", 4), padding=1)
                x = self._batch_norm(f"conv_block{number}.bn{layer}", x).relu()
            x = F.avg_pool2d(x, 2) if number < self.num_blocks else x
        x = x.mean(3)
        return F.linear(x.amax(2) + x.mean(2), *self._weights.layer("fc1", 2)).relu()

    def _batch_norm(self, name: str, x: Tensor) -> Tensor:
        mean, variance = self._weights.get(f"{name}.running_mean", 1), self._weights.get(f"{name}.running_var", 1)
        return F.batch_norm(x, mean, variance, *self._weights.layer(name, 1))
