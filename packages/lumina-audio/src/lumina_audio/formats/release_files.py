"""Files in the folder of a released audio model. Paths in its config are never followed.

Layout of the releases (lumina_music/README.md and lumina_audio/README.md of Alpha-VLLM/Lumina-T2X):
`music_generation` or `audio_generation` (a file, or a folder with a checkpoint), `maa2/maa2.ckpt`,
`bigvnat/args.yml` and `bigvnat/best_netG.pt`, `CLAP/CLAP_weights_2022.pth`, and possibly the YAML of the repository.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from lumina_audio.vocoders.bigvgan import is_bigvgan_dir
from lumina_core.checkpoint.lazy_tensors import LazyTensor, Weights, read_tensor
from lumina_core.checkpoint.safetensors_io import open_safetensors
from lumina_core.checkpoint.torch_pickle import open_torch_pickle
from lumina_core.config import read_file
from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.io import read_json

GENERATOR_NAMES = ("music_generation", "audio_generation")
VAE_STEM, CLAP_STEM = "maa2", "CLAP_weights_2022"
CHECKPOINT_SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt")
SCALE_KEY = "scale_factor"
_MAX_CONFIG_BYTES = 1 << 20
_LIGHTNING = "pytorch_lightning.callbacks."
_OMEGACONF_NAMES = ("dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata", "base.Metadata")
_OMEGACONF_NODES = ("AnyNode", "StringNode", "IntegerNode", "FloatNode", "BooleanNode")
ALLOWED_STUBS = (
    f"{_LIGHTNING}model_checkpoint.ModelCheckpoint",
    f"{_LIGHTNING}early_stopping.EarlyStopping",
    f"{_LIGHTNING}lr_monitor.LearningRateMonitor",
    f"{_LIGHTNING}progress.TQDMProgressBar",
    f"{_LIGHTNING}timer.Timer",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    *(f"omegaconf.{name}" for name in _OMEGACONF_NAMES),
    *(f"omegaconf.nodes.{name}" for name in _OMEGACONF_NODES),
    "typing.Any",
    "collections.defaultdict",
    *(f"{module}.{name}" for module in ("__builtin__", "builtins") for name in ("dict", "list")),
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
"""Classes that training checkpoints contain; each is replaced by an empty stub and never imported."""


@dataclass(frozen=True)
class ReleaseFiles:
    """Files of a released model; None: the folder has no such file.

    Attributes:
        folder: the folder of the model.
        model_params: `model.params` of its YAML config, {} without one.
        config_file: that YAML config.
        generator: checkpoint of the network.
        vae, clap: separate checkpoints of the autoencoder and of CLAP.
        vocoder: folder of a BigVGAN.
        text_encoders: folders of transformers models by the `model_type` of their config.json.
    """

    folder: Path
    model_params: Mapping[str, Any] = field(default_factory=dict)
    config_file: Path | None = None
    generator: Path | None = None
    vae: Path | None = None
    clap: Path | None = None
    vocoder: Path | None = None
    text_encoders: Mapping[str, Path] = field(default_factory=dict)

    def stage_params(self, stage: str) -> dict[str, Any]:
        """Return the `params` of a stage of the YAML config (`unet_config`), {} without one."""
        config = self.model_params.get(stage)
        params = config.get("params") if isinstance(config, Mapping) else None
        return dict(params) if isinstance(params, Mapping) else {}


def locate_files(folder: Path) -> ReleaseFiles:
    """Find the files of a released model by their names; only the YAML config is read.

    Raises:
        CheckpointError: the YAML config cannot be read.
    """
    config_file, model_params = _find_config(folder)
    files = ReleaseFiles(folder, model_params, config_file)
    return replace(
        files,
        generator=_find_generator(folder),
        vae=_find_checkpoint(folder, files.stage_params("first_stage_config").get("ckpt_path"), VAE_STEM),
        clap=_find_checkpoint(folder, files.stage_params("cond_stage_config").get("weights_path"), CLAP_STEM),
        vocoder=next((path for path in _list_folders(folder) if is_bigvgan_dir(path)), None),
        text_encoders=_find_text_encoders(folder),
    )


def is_release(folder: Path) -> bool:
    """Return whether a folder is that of a released model, by the name of its generator or by its YAML config."""
    if any((folder / name).exists() for name in GENERATOR_NAMES) and _find_generator(folder) is not None:
        return True
    try:
        return "unet_config" in _find_config(folder)[1]
    except CheckpointError:
        return False


def open_checkpoint(path: Path, key: str = "state_dict") -> dict[str, LazyTensor]:
    """Open the tensors of a checkpoint; other content is ignored.

    Args:
        path: a safetensors file or a pickle.
        key: key of the tensors in a pickle.

    Raises:
        CheckpointError: the file is truncated, has code in it, or no tensors by name.
    """
    if path.suffix == ".safetensors":
        return open_safetensors(path)
    return open_torch_pickle(path, key, ALLOWED_STUBS)


def sub_state_dict(state: Weights, prefix: str) -> dict[str, LazyTensor]:
    """Return the tensors of one module, without its prefix."""
    return {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}


def read_scale_factor(state: Weights, where: str) -> float:
    """Read the factor of latents, a number in (0, 100).

    Raises:
        CheckpointError: it is missing or out of range.
    """
    tensor = state.get(SCALE_KEY)
    if tensor is None or math.prod(tensor.shape) != 1:
        raise CheckpointError(f"{where}: got no number {SCALE_KEY}, expected the scale of latents. Get the release.")
    scale = float(read_tensor(tensor, torch.float32))
    if not 0 < scale < 100:
        raise CheckpointError(f"{where}: {SCALE_KEY}: got {scale:g}, expected a number in (0, 100). Get the release.")
    return scale


def _find_config(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    for directory in (folder, folder / "configs"):
        for path in sorted([*directory.glob("*.yaml"), *directory.glob("*.yml")]):
            params = _read_model_params(path)
            if params:
                return path, params
    return None, {}


def _read_model_params(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise CheckpointError(f"{path}: got a file larger than {_MAX_CONFIG_BYTES} bytes, expected a model config.")
    try:
        model_section = dict(read_file(path).get("model") or {})
        return dict(model_section.get("params") or {})
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: got no readable model config ({error}). Get the file again.") from error


def _find_generator(folder: Path) -> Path | None:
    for name in GENERATOR_NAMES:
        location = folder / name
        if location.is_file():
            return location
        checkpoints = [path for path in _list_files(location) if path.suffix in CHECKPOINT_SUFFIXES]
        if checkpoints:
            return max(checkpoints, key=_checkpoint_number)
    candidates = [
        path
        for path in _list_files(folder)
        if path.suffix in CHECKPOINT_SUFFIXES and path.stem not in (VAE_STEM, CLAP_STEM)
    ]
    return max(candidates, key=_checkpoint_number, default=None)


def _checkpoint_number(path: Path) -> tuple[int, str]:
    """Return the number of the epoch at the end of a checkpoint's name."""
    digits = re.findall(r"\d+", path.stem)
    return (int(digits[-1]) if digits else -1, path.name)


def _find_checkpoint(folder: Path, config_path: Any, stem: str) -> Path | None:
    """Find a checkpoint in the folder or one level below, by the file name of a config path or by its usual stem."""
    names = [stem + suffix for suffix in CHECKPOINT_SUFFIXES]
    name = PurePosixPath(str(config_path or "").replace("\\", "/")).name
    if re.fullmatch(r"[\w.-]+", name) and name.strip("."):
        names.insert(0, name)
    folders = [folder, *_list_folders(folder)]
    return next((directory / name for name in names for directory in folders if (directory / name).is_file()), None)


def _find_text_encoders(folder: Path) -> dict[str, Path]:
    encoders: dict[str, Path] = {}
    for directory in _list_folders(folder):
        path = directory / "config.json"
        if not path.is_file() or path.stat().st_size > _MAX_CONFIG_BYTES:
            continue
        try:
            model_type = read_json(path).get("model_type")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(model_type, str):
            encoders.setdefault(model_type, directory)
    return encoders


def _list_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def _list_folders(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.iterdir() if path.is_dir())
