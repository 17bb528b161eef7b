"""Folders of published BigVGAN generators: options from their config, and weights without weight norm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina_audio.vocoders.bigvgan_model import Generator, GeneratorConfig, half_band_filter
from lumina_core.checkpoint.compare import check_tensors
from lumina_core.checkpoint.lazy_tensors import LazyTensor, TransformedTensor, Weights, read_tensor
from lumina_core.checkpoint.safetensors_io import open_safetensors
from lumina_core.checkpoint.torch_pickle import open_torch_pickle
from lumina_core.config import read_file
from lumina_core.errors import CheckpointError, ConfigError

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
_MAX_CONFIG_BYTES = 1 << 20


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
    return options_from_published(_read_config(path), str(path))


def options_from_published(published: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Convert a published config to the options of `audio.bigvgan`; other entries are ignored.

    Args:
        published: entries of the config.
        where: name of the file, for messages.

    Raises:
        CheckpointError: it is not the config of a generator.
    """
    missing = [name for name in _PUBLISHED_TO_OURS if name not in published and not name.startswith("use_")]
    if missing:
        raise CheckpointError(f"{where}: {missing[0]} is missing, expected the config of a BigVGAN generator")
    renamed = {ours: published[theirs] for theirs, ours in _PUBLISHED_TO_OURS.items() if theirs in published}
    renamed["resblock"] = str(renamed["resblock"])
    try:
        sizes = GeneratorConfig.read(renamed, where).model_dump(mode="json", exclude_defaults=True)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    sample_rate = published.get("sampling_rate")
    return sizes if sample_rate in (None, DEFAULT_SAMPLE_RATE) else {**sizes, "sample_rate": int(sample_rate)}


def options_to_published(config: GeneratorConfig) -> dict[str, Any]:
    """Convert sizes to a published config, the inverse of `options_from_published`."""
    options = config.model_dump(mode="json", include=set(_PUBLISHED_TO_OURS.values()))
    return {theirs: options[ours] for theirs, ours in _PUBLISHED_TO_OURS.items()}


def open_generator(folder: Path, config: GeneratorConfig) -> Weights:
    """Open the weights of a generator without reading them.

    Raises:
        CheckpointError: there are no weights, the file has code, or tensors are missing, unexpected or of another shape.
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
            result[f"{stem}weight"] = WeightNormTensor(published[f"{stem}weight_g"], lazy)
        elif not name.endswith(".weight_g"):
            result[name] = lazy
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in Generator(config).state_dict().items()}
    check_tensors(result, expected, "vocoder", where)
    return result


@dataclass(frozen=True)
class WeightNormTensor:
    """Weight stored as directions and magnitudes along its first dimension (weight norm)."""

    weight_g: LazyTensor
    weight_v: LazyTensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight_v.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.weight_v.dtype

    def copy_to(self, target: Tensor) -> None:
        target.copy_(self.load())

    def load(self) -> Tensor:
        # float32 and the kernel of torch: bit-exact with a model that computes its weight norm
        direction, magnitude = read_tensor(self.weight_v, torch.float32), read_tensor(self.weight_g, torch.float32)
        weight: Tensor = torch._weight_norm(direction, magnitude, 0)
        return weight.to(self.dtype)

    def slice_rows(self, start: int, stop: int) -> LazyTensor:
        return TransformedTensor(self, (stop - start, *self.shape[1:]), lambda whole: whole[start:stop])


def _check_filter(tensor: LazyTensor, where: str) -> None:
    expected = half_band_filter()
    if (
        tensor.shape[-1:] != expected.shape
        or (read_tensor(tensor, torch.float32).flatten() - expected).abs().max() > 1e-4
    ):
        raise CheckpointError(f"{where}: expected the half-band filter of BigVGAN (12 taps)")


def _find_config(folder: Path) -> Path | None:
    return next((folder / name for name in CONFIG_FILES if (folder / name).is_file()), None)


def _find_weights(folder: Path) -> Path | None:
    return next((path for name in WEIGHT_FILES for path in sorted(folder.glob(name)) if path.is_file()), None)


def _read_config(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise CheckpointError(f"{path}: expected a config of at most {_MAX_CONFIG_BYTES} bytes")
    try:
        return read_file(path)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
