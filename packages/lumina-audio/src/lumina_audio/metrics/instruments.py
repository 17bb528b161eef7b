"""Instrument classifier, and the metrics that compare instruments: retrieval, and the divergence of class logits."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn

from lumina_audio.datasets.instruments.general_midi import instruments
from lumina_audio.metrics.features import MEL_CONFIG, AudioFeatureConfig, batched_log_mels
from lumina_core.config import ComponentSpec
from lumina_core.errors import ConfigError
from lumina_core.metrics.base import MetricConfig
from lumina_core.metrics.retrieval_precision_recall import family_ranks
from lumina_core.protocols import EvalInputs, FeatureExtractor, Metric

CHANNELS = (24, 48, 96, 160)
EMBEDDING_DIM, NUM_CLASSES = 128, 128
WEIGHTS_FILE = "data/classifier/classifier.safetensors"


class InstrumentCNN(nn.Module):
    """Classifier of log-mel spectrograms (B, 80, T) into the 128 programs of General MIDI.

    Convolutions over frequency and time, then the mean and the maximum over time (as in PANNs, arXiv 1912.10211), so
    that clips may have any length.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _ConvBlock(1, CHANNELS[0], (5, 7), (2, 4))
        pairs = list(itertools.pairwise(CHANNELS))
        self.down = nn.ModuleList(_ConvBlock(before, after, (3, 3), (2, 2)) for before, after in pairs)
        self.keep = nn.ModuleList(_ConvBlock(after, after, (3, 3), (1, 1)) for _, after in pairs)
        self.embedding = nn.Linear(CHANNELS[-1], EMBEDDING_DIM)
        self.classes = nn.Linear(EMBEDDING_DIM, NUM_CLASSES)

    def embed(self, mel: Tensor) -> Tensor:
        """Map a natural log-mel spectrogram (B, 80, T), T at least 4, to (B, 128)."""
        x = self.stem(((mel - MEL_CONFIG.min_value / 2) / 4)[:, None])
        for down, keep in zip(self.down, self.keep, strict=True):
            x = down(x)
            x = x + keep(x)
        frames = x.mean(2)
        embedding: Tensor = self.embedding(frames.mean(2) + frames.amax(2))
        return embedding

    def forward(self, mel: Tensor) -> Tensor:
        """Map a natural log-mel spectrogram (B, 80, T), T at least 4, to logits (B, 128)."""
        logits: Tensor = self.classes(self.embed(mel).relu())
        return logits


class _ConvBlock(nn.Module):
    """Convolution, batch norm and GELU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: tuple[int, int], stride: tuple[int, int]
    ) -> None:
        super().__init__()
        padding = (kernel_size[0] // 2, kernel_size[1] // 2)
        self.convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(self.convolution(x)))


class InstrumentClassifierFeatures(FeatureExtractor):
    """Embedding or logits of the instrument classifier; data/classifier/card.md reports its accuracy."""

    name = "instrument classifier"

    class Config(AudioFeatureConfig):
        """Which output is used."""

        output: Literal["embedding", "classes"] = Field(
            "embedding", description="embedding: 128 features of unit length; classes: logits of the 128 programs"
        )

    def __init__(self, config: Config) -> None:
        self.config = config
        self._network, digest = _load_network()
        self.classes = tuple(program.name for program in instruments()) if config.output == "classes" else ()
        self.key = f"{digest} {config.output}"

    @torch.inference_mode()
    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """Map waveforms (1, S) of any lengths to (B, 128) float32."""
        mels = batched_log_mels(items, self.config.sample_rate)
        if self.config.output == "classes":
            return torch.cat([self._network(mel) for mel in mels]).clone()
        return F.normalize(torch.cat([self._network.embed(mel) for mel in mels]), dim=1).clone()


@functools.lru_cache(maxsize=1)
def _load_network() -> tuple[InstrumentCNN, str]:
    with as_file(files("lumina_audio") / WEIGHTS_FILE) as path:
        weights, digest = load_file(path), hashlib.sha256(path.read_bytes()).hexdigest()
    network = InstrumentCNN()
    network.load_state_dict(
        {name: weight.float() if weight.is_floating_point() else weight for name, weight in weights.items()}
    )
    return network.eval().requires_grad_(False), digest


class InstrumentRetrieval(Metric):
    """Share of generated clips that retrieve a real clip of their instrument, by distance of features. Our own metric.

    `top1`: the nearest real clip is of the same instrument. `top5`: the instrument is among the five instruments with
    the nearest clips. `top1_of_real`, `top5_of_real`: the same for the real clip of each prompt, itself excluded; an
    upper bound for these features.

    With the instrument classifier, held-out clips of the built-in data reach a top1 of 0.88 (top5 1.00); with
    EfficientNet-Lite0 0.52 (0.78), with log-mel segments 0.26 (0.44).

    The families of the evaluation set are the instruments; without families, each real clip is its own.
    """

    name = "instrument"

    class Config(MetricConfig):
        """Feature extractor."""

        feature_extractor: ComponentSpec = ComponentSpec(type="audio.instrument_classifier")

    def __init__(self, config: Config, feature_extractor: FeatureExtractor) -> None:
        self.config, self.feature_extractor = config, feature_extractor

    def compute(self, inputs: EvalInputs) -> Mapping[str, Tensor | float]:
        """Compute (M,) of 0 and 1 for each score."""
        families = inputs.families
        if families is None:
            families = [str(index) for index in range(len(inputs.real))]
        target, real = inputs.target_index, inputs.real
        ranks = {"": family_ranks(inputs.generated, target, real, families)}
        if inputs.families is not None:
            ranks["_of_real"] = family_ranks(real[target], target, real, families, target)
        return {f"top{k}{suffix}": (rank < k).double() for suffix, rank in ranks.items() for k in (1, 5)}


class ClassKL(Metric):
    """Kullback-Leibler divergence between the class probabilities of a real clip and of the clip generated for it.

    `KL`: sum of p_real (log p_real - log p_generated), averaged over pairs, 0 is best; as in the evaluation of AudioLDM
    (arXiv 2301.12503), whose classifier is PANNs (`feature_extractor: {type: audio.panns, weights: FILE, output:
    classes}`). `top1_agreement`: share of pairs with the same most likely class.
    """

    class Config(MetricConfig):
        """Feature extractor whose features are logits."""

        feature_extractor: ComponentSpec = ComponentSpec.model_validate(
            {"type": "audio.instrument_classifier", "output": "classes"}
        )

    def __init__(self, config: Config, feature_extractor: FeatureExtractor) -> None:
        if not feature_extractor.classes:
            raise ConfigError(
                f"audio.class_kl: got the features {config.feature_extractor.type}, expected logits of a classifier, "
                "such as audio.instrument_classifier with output=classes"
            )
        self.config, self.feature_extractor = config, feature_extractor

    def compute(self, inputs: EvalInputs) -> Mapping[str, Tensor | float]:
        """Compute (M,) for each score."""
        generated = torch.log_softmax(inputs.generated.double(), 1)
        real = torch.log_softmax(inputs.real[inputs.target_index].double(), 1)
        return {
            "KL": (real.exp() * (real - generated)).sum(1).clamp(min=0),
            "top1_agreement": (generated.argmax(1) == real.argmax(1)).double(),
        }
