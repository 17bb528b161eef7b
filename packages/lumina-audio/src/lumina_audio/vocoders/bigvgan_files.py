"""Folders of published BigVGAN generators: their settings, and their weights without the old weight norm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina_audio.vocoders.antialias import half_band
from lumina_audio.vocoders.generator import Generator, Shape
from lumina_core.config import read_file
from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.weights.pickled import open_pickled
from lumina_core.weights.pieces import Changed, Piece, Weights, read
from lumina_core.weights.tensorfiles import open_file

SETTINGS = ("args.yml", "args.yaml", "config.json")
WEIGHTS = ("best_netG.pt", "bigvgan_generator.pt", "g_*", "*.pt", "*.pth", "*.safetensors")
"""Of lumina_music, of NVIDIA's later releases and of its training; the first that is there is taken."""
UNDER = "generator"
RATE = 16000
"""Samples a second where settings say none: the released sound models' do not."""
_OURS = {
    "num_mels": "bands", "upsample_initial_channel": "width", "upsample_rates": "rates",
    "upsample_kernel_sizes": "kernels", "resblock": "block", "resblock_kernel_sizes": "block_kernels",
    "resblock_dilation_sizes": "dilations", "activation": "activation", "snake_logscale": "logscale",
    "use_tanh_at_final": "tanh", "use_bias_at_final": "final_bias",
}  # fmt: skip
_LARGEST = 1 << 20


def is_vocoder(folder: Path) -> bool:
    """Whether a folder has settings of a generator and a file that may hold one."""
    return _settings_file(folder) is not None and _weights_file(folder) is not None


def options(folder: Path) -> dict[str, Any]:
    """The options of `audio.bigvgan` for the generator in a folder: its sizes, and its rate where that is said.

    Raises:
        CheckpointError: there are no settings, or they are none of a generator's.
    """
    path = _settings_file(folder)
    if path is None:
        raise CheckpointError(f"{folder} holds none of {', '.join(SETTINGS)}; wanted a folder of BigVGAN's generator")
    return told(_read(path), str(path))


def told(said: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options of `audio.bigvgan` that published settings speak of; others of them do not matter.

    Raises:
        CheckpointError: they are none of a generator's.
    """
    lacking = [name for name in _OURS if name not in said and not name.startswith("use_")]
    if lacking:
        raise CheckpointError(f"{where} says no {lacking[0]}; wanted the settings of BigVGAN's generator")
    found = {ours: said[theirs] for theirs, ours in _OURS.items() if theirs in said}
    found["block"] = str(found["block"])
    try:
        shape = Shape.read(found, where).model_dump(mode="json", exclude_defaults=True)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    rate = said.get("sampling_rate")
    return shape if rate in (None, RATE) else {**shape, "rate": int(rate)}


def published(shape: Shape) -> dict[str, Any]:
    """The settings that a published generator of this shape has: what `told` reads."""
    said = shape.model_dump(mode="json", include=set(_OURS.values()))
    return {theirs: said[ours] for theirs, ours in _OURS.items()}


def open_generator(folder: Path, shape: Shape) -> Weights:
    """The generator's weights under our names, unread; they must be those that its settings ask for.

    Raises:
        CheckpointError: no weights, code in the file, or tensors that are missing, surplus or of another shape.
    """
    path = _weights_file(folder)
    if path is None:
        raise CheckpointError(f"{folder} holds no generator; wanted a file such as {WEIGHTS[0]}")
    theirs = open_file(path) if path.suffix == ".safetensors" else open_pickled(path, UNDER)
    return plain(theirs, shape, str(path))


def plain(theirs: Weights, shape: Shape, where: str) -> dict[str, Piece]:
    """Published tensors under our names: each pair `weight_g`, `weight_v` is one matrix, filters are left out.

    Raises:
        CheckpointError: a tensor is missing, surplus or of another shape; or a filter is not the usual one.
    """
    ours: dict[str, Piece] = {}
    for name, piece in theirs.items():
        if name.endswith(".filter"):
            _check_filter(piece, f"{where}: {name}")
        elif name.endswith(".weight_v"):
            stem = name[: -len("weight_v")]
            if f"{stem}weight_g" not in theirs:
                raise CheckpointError(f"{where} has {name} without {stem}weight_g; fetch it again")
            ours[f"{stem}weight"] = Weighed(theirs[f"{stem}weight_g"], piece)
        elif not name.endswith(".weight_g"):
            ours[name] = piece
    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in Generator(shape).state_dict().items()}
    _compare({name: piece.shape for name, piece in ours.items()}, wanted, where)
    return ours


@dataclass(frozen=True)
class Weighed:
    """A matrix stored as its direction and the length of each part of its first dimension (old-style weight norm)."""

    lengths: Piece
    direction: Piece

    @property
    def shape(self) -> tuple[int, ...]:
        return self.direction.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.direction.dtype

    def into(self, target: Tensor) -> None:
        target.copy_(self.tensor())

    def tensor(self) -> Tensor:
        # float32 and torch's own kernel: the last digits are those of a model whose norm was never taken off
        direction, lengths = read(self.direction, torch.float32), read(self.lengths, torch.float32)
        weight: Tensor = torch._weight_norm(direction, lengths, 0)
        return weight.to(self.dtype)

    def rows(self, start: int, stop: int) -> Piece:
        return Changed(self, (stop - start, *self.shape[1:]), lambda whole: whole[start:stop])


def _compare(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], where: str) -> None:
    wrong = [f"{name} is missing" for name in wanted if name not in found]
    wrong += [f"{name} is none of a generator's" for name in found if name not in wanted]
    wrong += [
        f"{name} is {found[name]}, wanted {wanted[name]}"
        for name in wanted
        if name in found and found[name] != wanted[name]
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(f"{where} does not fit its settings: {'; '.join(wrong[:3])}{more}")


def _check_filter(piece: Piece, where: str) -> None:
    usual = half_band()
    if piece.shape[-1:] != usual.shape or (read(piece, torch.float32).flatten() - usual).abs().max() > 1e-4:
        raise CheckpointError(f"{where} is not the filter of BigVGAN's activations (12 taps, half the band)")


def _settings_file(folder: Path) -> Path | None:
    return next((folder / name for name in SETTINGS if (folder / name).is_file()), None)


def _weights_file(folder: Path) -> Path | None:
    return next((path for name in WEIGHTS for path in sorted(folder.glob(name)) if path.is_file()), None)


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST:
        raise CheckpointError(f"{path} is larger than {_LARGEST} bytes; it is no vocoder's settings")
    try:
        return read_file(path)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
