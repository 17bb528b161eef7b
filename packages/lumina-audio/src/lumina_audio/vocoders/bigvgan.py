"""Vocoder BigVGAN (arXiv 2206.04658): generator, and published folders of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lumina_core.checkpoint.lazy_tensors import (
    LazyTensor,
    TransformedTensor,
    Weights,
    check_tensors,
    init_empty_weights,
    read_tensor,
)
from lumina_core.checkpoint.safetensors_io import open_safetensors
from lumina_core.checkpoint.torch_pickle import open_torch_pickle
from lumina_core.config import Config as Settings
from lumina_core.config import read_file
from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.pretrained import FrozenModule
from lumina_core.types import check_shape

CONFIG_FILES = ("args.yml", "args.yaml", "config.json")
WEIGHT_FILES = ("best_netG.pt", "bigvgan_generator.pt", "g_*", "*.pt", "*.pth", "*.safetensors")
"""File names of lumina_music, of NVIDIA's releases and of its training, in the order of preference."""
STATE_KEY = "generator"
DEFAULT_SAMPLE_RATE = 16000
"""Samples per second if the config has none, as that of the released audio models."""
_PUBLISHED_TO_OURS = {
    "num_mels": "n_mels", **{name: name for name in (
        "upsample_initial_channel", "upsample_rates", "upsample_kernel_sizes", "resblock", "resblock_kernel_sizes",
        "resblock_dilation_sizes", "activation", "snake_logscale", "use_tanh_at_final", "use_bias_at_final",
    )},
}  # fmt: skip
FILTER_TAPS, RESAMPLE_RATIO = 12, 2
"""Filter of the activations in every published generator."""
EPS = 1e-9


def kaiser_sinc_filter(cutoff: float, half_width: float, taps: int) -> Tensor:
    """Compute a low-pass filter (taps,) with sum 1: a sinc with a Kaiser window.

    Args:
        cutoff: cutoff frequency in cycles per sample, at most 0.5.
        half_width: half width of the transition band, in cycles per sample.
        taps: number of taps, even.
    """
    # Kaiser's formulas: attenuation of a number of taps, and beta of the window for it
    attenuation = 2.285 * (taps // 2 - 1) * math.pi * 4 * half_width + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    else:
        excess = max(attenuation - 21, 0.0)
        beta = 0.5842 * excess**0.4 + 0.07886 * excess
    window = torch.kaiser_window(taps, periodic=False, beta=beta, dtype=torch.float64, device="cpu")
    time = torch.arange(taps, dtype=torch.float64, device="cpu") - taps / 2 + 0.5
    taps_window = 2 * cutoff * window * torch.sinc(2 * cutoff * time)
    return (taps_window / taps_window.sum()).float()


def half_band_filter() -> Tensor:
    """Compute the filter (12,) of up- and downsampling by 2."""
    return kaiser_sinc_filter(0.5 / RESAMPLE_RATIO, 0.6 / RESAMPLE_RATIO, FILTER_TAPS)


class Snake(nn.Module):
    """Activation x + sin^2(alpha x) / beta with parameters per channel.

    Args:
        channels: C.
        learn_beta: `snakebeta`: beta is a parameter; `snake`: beta = alpha.
        logscale: parameters are stored as logarithms.
    """

    def __init__(self, channels: int, learn_beta: bool, logscale: bool) -> None:
        super().__init__()
        self.logscale = logscale
        start = torch.zeros if logscale else torch.ones
        self.alpha = nn.Parameter(start(channels))
        self.beta = nn.Parameter(start(channels)) if learn_beta else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C, T)."""
        alpha = self._per_channel(self.alpha)
        beta = alpha if self.beta is None else self._per_channel(self.beta)
        return x + (x * alpha).sin().square() / (beta + EPS)

    def _per_channel(self, stored: Tensor) -> Tensor:
        return (stored.exp() if self.logscale else stored)[None, :, None]


class Activation1d(nn.Module):
    """Activation at twice the sample rate, which filters its overtones instead of aliasing them."""

    filter: Tensor

    def __init__(self, act: Snake) -> None:
        super().__init__()
        self.act = act
        # a constant: on the CPU even if the model is built on the meta device, and not in the state dict
        self.register_buffer("filter", half_band_filter().view(1, 1, -1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C, T)."""
        return self._downsample(self.act(self._upsample(x)))

    def _upsample(self, x: Tensor) -> Tensor:
        channels, padding = x.shape[1], FILTER_TAPS // RESAMPLE_RATIO - 1
        padded = F.pad(x, (padding, padding), mode="replicate")
        upsampled = F.conv_transpose1d(padded, self._expand_filter(channels, x), stride=RESAMPLE_RATIO, groups=channels)
        trim = padding * RESAMPLE_RATIO + (FILTER_TAPS - RESAMPLE_RATIO) // 2
        return RESAMPLE_RATIO * upsampled[..., trim:-trim]

    def _downsample(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        padded = F.pad(x, (FILTER_TAPS // 2 - 1, FILTER_TAPS // 2), mode="replicate")
        return F.conv1d(padded, self._expand_filter(channels, x), stride=RESAMPLE_RATIO, groups=channels)

    def _expand_filter(self, channels: int, like: Tensor) -> Tensor:
        return self.filter.to(like).expand(channels, -1, -1)


ActivationFactory = Callable[[int], Activation1d]
"""Function from a number of channels to their activation."""


class GeneratorConfig(Settings):
    """Sizes of a generator; the defaults are those of the released audio models (bigvgan_args.yaml)."""

    n_mels: int = Field(80, ge=1, description="number of mel bands")
    upsample_initial_channel: int = Field(
        1536, ge=2, description="channels of the first layer; each upsampling layer halves them"
    )
    upsample_rates: tuple[int, ...] = Field(
        (4, 4, 2, 2, 2, 2), min_length=1, description="factors of the upsampling layers"
    )
    upsample_kernel_sizes: tuple[int, ...] = Field(
        (8, 8, 4, 4, 4, 4), description="kernel sizes of the upsampling layers"
    )
    resblock: Literal["1", "2"] = Field("1", description="residual block: AMPBlock1 or AMPBlock2")
    resblock_kernel_sizes: tuple[int, ...] = Field(
        (3, 7, 11), min_length=1, description="kernel sizes of the parallel blocks"
    )
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = Field(
        ((1, 3, 5),) * 3, description="dilations of the parallel blocks"
    )
    activation: Literal["snake", "snakebeta"] = Field(
        "snakebeta", description="snakebeta has two parameters per channel, snake one"
    )
    snake_logscale: bool = Field(True, description="store parameters of activations as logarithms")
    use_tanh_at_final: bool = Field(True, description="end with tanh; false: clamp, as in later releases")
    use_bias_at_final: bool = Field(True, description="bias of the last layer; false in later releases")


class Generator(nn.Module):
    """Log-mel spectrogram (B, n_mels, T) -> waveform (B, 1, T * hop_length) in [-1, 1].

    Architecture and tensor names are those of NVIDIA/BigVGAN (arXiv 2206.04658) and
    lumina_music/models/vocoder/bigvgan/models.py, except for weight norm, which `remove_weight_norm` removes.

    Raises:
        ConfigError: lists of sizes differ in length, or the channels cannot be halved often enough.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        _check_config(config)
        self.hop_length, self.use_tanh_at_final = math.prod(config.upsample_rates), config.use_tanh_at_final
        level_channels = [config.upsample_initial_channel >> step for step in range(len(config.upsample_rates) + 1)]
        activation: ActivationFactory = lambda channels: Activation1d(  # noqa: E731
            Snake(channels, config.activation == "snakebeta", config.snake_logscale)
        )
        self.conv_pre = nn.Conv1d(config.n_mels, level_channels[0], 7, padding=3)
        steps = zip(
            level_channels[:-1], level_channels[1:], config.upsample_rates, config.upsample_kernel_sizes, strict=True
        )
        self.ups = nn.ModuleList(
            nn.ModuleList(
                [nn.ConvTranspose1d(in_channels, out_channels, kernel_size, rate, padding=(kernel_size - rate) // 2)]
            )
            for in_channels, out_channels, rate, kernel_size in steps
        )
        block = AMPBlock1 if config.resblock == "1" else AMPBlock2
        self.resblocks = nn.ModuleList(
            block(num_channels, kernel_size, dilations, activation)
            for num_channels in level_channels[1:]
            for kernel_size, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
        )
        self.activation_post = activation(level_channels[-1])
        self.conv_post = nn.Conv1d(level_channels[-1], 1, 7, padding=3, bias=config.use_bias_at_final)

    def forward(self, mel: Tensor) -> Tensor:
        """Map (B, n_mels, T) to (B, 1, T * hop_length)."""
        x: Tensor = self.conv_pre(mel)
        blocks_per_stage = len(self.resblocks) // len(self.ups)
        for step, up in enumerate(self.ups):
            x = up[0](x)  # type: ignore[index]
            blocks = self.resblocks[step * blocks_per_stage : (step + 1) * blocks_per_stage]
            x = sum(block(x) for block in blocks) / blocks_per_stage
        x = self.conv_post(self.activation_post(x))
        return x.tanh() if self.use_tanh_at_final else x.clamp(-1, 1)


class AMPBlock1(nn.Module):
    """Residual steps of a dilated and a plain convolution, an activation before each (AMPBlock1)."""

    def __init__(
        self, channels: int, kernel_size: int, dilations: Sequence[int], activation: ActivationFactory
    ) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(_dilated_conv(channels, kernel_size, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(_dilated_conv(channels, kernel_size, 1) for _ in dilations)
        self.activations = nn.ModuleList(activation(channels) for _ in range(2 * len(dilations)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C, T)."""
        acts = iter(self.activations)  # alternating: one before each of both convolutions
        for first, second in zip(self.convs1, self.convs2, strict=True):
            hidden = first(next(acts)(x))
            x = x + second(next(acts)(hidden))
        return x


class AMPBlock2(nn.Module):
    """Residual steps of a dilated convolution, an activation before each (AMPBlock2)."""

    def __init__(
        self, channels: int, kernel_size: int, dilations: Sequence[int], activation: ActivationFactory
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_dilated_conv(channels, kernel_size, dilation) for dilation in dilations)
        self.activations = nn.ModuleList(activation(channels) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C, T)."""
        for conv, act in zip(self.convs, self.activations, strict=True):
            x = x + conv(act(x))
        return x


def _dilated_conv(channels: int, kernel_size: int, dilation: int) -> nn.Conv1d:
    return nn.Conv1d(channels, channels, kernel_size, dilation=dilation, padding=dilation * (kernel_size - 1) // 2)


def _check_config(config: GeneratorConfig) -> None:
    for first, second in (
        ("upsample_rates", "upsample_kernel_sizes"),
        ("resblock_kernel_sizes", "resblock_dilation_sizes"),
    ):
        lengths = [len(values) for values in config.model_dump(include={first, second}).values()]
        if lengths[0] != lengths[1]:
            raise ConfigError(
                f"audio.bigvgan: got {first} and {second} of different lengths, expected one value for each"
            )
    steps = len(config.upsample_rates)
    if config.upsample_initial_channel % 2**steps:
        raise ConfigError(
            f"audio.bigvgan.upsample_initial_channel: got {config.upsample_initial_channel}, expected a multiple of "
            f"{2**steps}, because {steps} layers halve it"
        )


class BigVGAN(nn.Module):
    """Generator of BigVGAN (arXiv 2206.04658); its weights are part of the model, or those of a `source` folder."""

    class Config(GeneratorConfig):
        """Sizes of the generator; a `source` sets them."""

        sample_rate: int = Field(DEFAULT_SAMPLE_RATE, ge=1, description="samples per second")
        log_base: Literal["natural", "decimal"] = Field(
            "natural", description="logarithm of its training spectrograms; decimal: the released audio models"
        )
        source: str | None = Field(
            None, description="folder of a published generator: args.yml or config.json, and weights"
        )

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config if config.source is None else _config_from_source(config)
        self.sample_rate, self.n_mels = self.config.sample_rate, self.config.n_mels
        self.hop_length = math.prod(self.config.upsample_rates)
        self.generator = Generator(self.config) if config.source is None else FrozenModule(self._load)

    def forward(self, mel: Tensor) -> Tensor:
        """Map natural logarithms (B, n_mels, T) to (B, 1, T * hop_length) in [-1, 1].

        Raises:
            ShapeError: the spectrogram has another number of bands.
            CheckpointError: the weights of the source cannot be read.
        """
        check_shape(mel, (None, self.n_mels, None), "a batch of spectrograms")
        network = self.generator.network() if isinstance(self.generator, FrozenModule) else self.generator
        scaled = mel if self.config.log_base == "natural" else mel / math.log(10)
        waveform: Tensor = network(scaled.to(next(network.parameters()).dtype))
        return waveform.to(mel.dtype)

    def _load(self, device: torch.device) -> nn.Module:
        folder = Path(str(self.config.source)).expanduser()
        weights = open_generator(folder, self.config)
        with init_empty_weights():
            network = Generator(self.config)
        state_dict = {name: tensor.load() for name, tensor in weights.items()}
        network.load_state_dict(state_dict, assign=True)
        return network.to(device)


def _config_from_source(config: BigVGAN.Config) -> BigVGAN.Config:
    folder = Path(str(config.source)).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"source of audio.bigvgan: got {folder}, expected an existing folder of a generator")
    settings = {**read_options(folder), "source": config.source, "log_base": config.log_base}
    return BigVGAN.Config.read(settings, f"audio.bigvgan: {folder}")


def is_bigvgan_dir(folder: Path) -> bool:
    """Whether a folder has a config of a generator and a file of weights."""
    return _find_config(folder) is not None and _find_weights(folder) is not None


def read_options(folder: Path) -> dict[str, Any]:
    """Read the options of `audio.bigvgan` from the config in a folder: sizes, and the sample rate if it has one.

    Raises:
        CheckpointError: there is no config, or it is not that of a generator.
    """
    path = _find_config(folder)
    if path is None:
        raise CheckpointError(f"{folder}: expected {' or '.join(CONFIG_FILES)} of a BigVGAN generator")
    try:
        return options_from_published(read_file(path), str(path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def options_from_published(published: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Convert a published config to the options of `audio.bigvgan`; other entries are ignored.

    Args:
        published: entries of the config.
        where: name of the file, for messages.

    Raises:
        CheckpointError: an entry is missing.
        ConfigError: a size is invalid.
    """
    missing = [name for name in _PUBLISHED_TO_OURS if name not in published and not name.startswith("use_")]
    if missing:
        raise CheckpointError(f"{where}: {missing[0]} is missing, expected the config of a BigVGAN generator")
    renamed = {ours: published[theirs] for theirs, ours in _PUBLISHED_TO_OURS.items() if theirs in published}
    sizes = GeneratorConfig.read({**renamed, "resblock": str(renamed["resblock"])}, where)
    options = sizes.model_dump(mode="json", exclude_defaults=True)
    sample_rate = published.get("sampling_rate") or DEFAULT_SAMPLE_RATE
    return options if sample_rate == DEFAULT_SAMPLE_RATE else {**options, "sample_rate": int(sample_rate)}


def options_to_published(config: GeneratorConfig) -> dict[str, Any]:
    """Convert sizes to a published config, the inverse of `options_from_published`."""
    options = config.model_dump(mode="json", include=set(_PUBLISHED_TO_OURS.values()))
    return {theirs: options[ours] for theirs, ours in _PUBLISHED_TO_OURS.items()}


def open_generator(folder: Path, config: GeneratorConfig) -> Weights:
    """Open the weights of a generator without reading them.

    Raises:
        CheckpointError: there are no weights, the file has code, or tensors are missing or of another shape.
    """
    path = _find_weights(folder)
    if path is None:
        raise CheckpointError(f"{folder}: expected weights of a generator, such as {WEIGHT_FILES[0]}")
    published = open_safetensors(path) if path.suffix == ".safetensors" else open_torch_pickle(path, STATE_KEY)
    return remove_weight_norm(published, config, str(path))


def remove_weight_norm(published: Weights, config: GeneratorConfig, where: str) -> dict[str, LazyTensor]:
    """Combine each pair `weight_g`, `weight_v` of published tensors to one weight, and drop the constant filters.

    Args:
        published: tensors of a checkpoint.
        config: sizes of the generator.
        where: name of the file, for messages.

    Raises:
        CheckpointError: tensors are missing, unexpected or of another shape, or a filter is not `half_band_filter`.
    """
    result: dict[str, LazyTensor] = {}
    for name, lazy in published.items():
        if name.endswith(".filter"):
            _check_filter(lazy, f"{where}: {name}")
        elif name.endswith(".weight_v"):
            stem = name[: -len("weight_v")]
            if f"{stem}weight_g" not in published:
                raise CheckpointError(f"{where}: got {name} without {stem}weight_g. Download it again.")
            result[f"{stem}weight"] = _remove_weight_norm(published[f"{stem}weight_g"], lazy)
        elif not name.endswith(".weight_g"):
            result[name] = lazy
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in Generator(config).state_dict().items()}
    check_tensors(result, expected, "vocoder", where)
    return result


def _remove_weight_norm(weight_g: LazyTensor, weight_v: LazyTensor) -> LazyTensor:
    """Combine magnitudes and directions along the first dimension to a weight, when it is read."""

    def combine(direction: Tensor) -> Tensor:
        # float32 and the kernel of torch: bit-exact with a model that computes its weight norm
        weight: Tensor = torch._weight_norm(direction.float(), read_tensor(weight_g, torch.float32), 0)
        return weight.to(direction.dtype)

    return TransformedTensor(weight_v, weight_v.shape, combine)


def _check_filter(tensor: LazyTensor, where: str) -> None:
    expected = half_band_filter()
    if (
        tensor.shape[-1:] != expected.shape
        or (read_tensor(tensor, torch.float32).flatten().cpu() - expected).abs().max() > 1e-4
    ):
        raise CheckpointError(f"{where}: expected the half-band filter of BigVGAN (12 taps)")


def _find_config(folder: Path) -> Path | None:
    return next((folder / name for name in CONFIG_FILES if (folder / name).is_file()), None)


def _find_weights(folder: Path) -> Path | None:
    return next((path for name in WEIGHT_FILES for path in sorted(folder.glob(name)) if path.is_file()), None)
