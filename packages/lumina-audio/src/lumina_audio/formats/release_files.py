"""What lies where in a folder of a released sound model. Paths that its settings name are never followed.

Layout of the releases (lumina_music/README.md and lumina_audio/README.md of Alpha-VLLM/Lumina-T2X):
`music_generation` or `audio_generation` (a file, or a folder with a checkpoint), `maa2/maa2.ckpt`,
`bigvnat/args.yml` and `bigvnat/best_netG.pt`, `CLAP/CLAP_weights_2022.pth`; perhaps the YAML of the repository beside.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from lumina_audio.vocoders.bigvgan_checkpoint import is_bigvgan_dir
from lumina_core.checkpoint.lazy_tensors import LazyTensor, Weights, read_tensor
from lumina_core.checkpoint.safetensors_io import open_safetensors
from lumina_core.checkpoint.torch_pickle import open_torch_pickle
from lumina_core.config import read_file
from lumina_core.errors import CheckpointError, ConfigError

GENERATOR_NAMES = ("music_generation", "audio_generation")
VAE_STEM, CLAP_STEM = "maa2", "CLAP_weights_2022"
CHECKPOINT_SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt")
_MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class ReleaseFiles:
    """The files of a folder that hold parts of a model; None: there is none.

    Attributes:
        said: `model.params` of its YAML, or nothing.
        settings: that YAML file.
        generator: the diffusion checkpoint.
        vae, clap: checkpoints of the autoencoder and of CLAP by themselves.
        vocoder: folder of a BigVGAN.
        readers: folders of transformers by the `model_type` of their config.json.
    """

    folder: Path
    model_params: Mapping[str, Any] = field(default_factory=dict)
    config_file: Path | None = None
    generator: Path | None = None
    vae: Path | None = None
    clap: Path | None = None
    vocoder: Path | None = None
    text_encoders: Mapping[str, Path] = field(default_factory=dict)


def locate_files(folder: Path) -> ReleaseFiles:
    """What there is in a folder, by names alone; only its YAML is read.

    Raises:
        CheckpointError: the YAML cannot be read.
    """
    config_file, model_params = _find_config(folder)
    first_stage, conditioner = (
        dict(model_params.get(key) or {}) for key in ("first_stage_config", "cond_stage_config")
    )
    vae, clap = (
        _file_name_in(stage, key) for stage, key in ((first_stage, "ckpt_path"), (conditioner, "weights_path"))
    )
    return ReleaseFiles(
        folder=folder,
        model_params=model_params,
        config_file=config_file,
        generator=_find_generator(folder),
        vae=_find_file(folder, [*([vae] if vae else []), *(VAE_STEM + suffix for suffix in CHECKPOINT_SUFFIXES)]),
        clap=_find_file(folder, [*([clap] if clap else []), *(CLAP_STEM + suffix for suffix in CHECKPOINT_SUFFIXES)]),
        vocoder=next((path for path in _list_folders(folder) if is_bigvgan_dir(path)), None),
        text_encoders=_find_text_encoders(folder),
    )


def is_release(folder: Path) -> bool:
    """Whether a folder looks like a released sound model: by its generator's name, or by its YAML."""
    if any((folder / name).exists() for name in GENERATOR_NAMES) and _find_generator(folder) is not None:
        return True
    try:
        return "unet_config" in _find_config(folder)[1]
    except CheckpointError:
        return False


def _find_config(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    for directory in (folder, folder / "configs"):
        for path in sorted([*directory.glob("*.yaml"), *directory.glob("*.yml")]):
            params = _read_model_params(path)
            if params:
                return path, params
    return None, {}


def _read_model_params(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise CheckpointError(f"{path} is larger than {_MAX_CONFIG_BYTES} bytes; it is no model's settings")
    try:
        yaml_data = read_file(path)
        model_section = dict(yaml_data.get("model") or {})
        return dict(model_section.get("params") or {})
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as a model's settings ({error})") from error


def _file_name_in(stage: Mapping[str, Any], key: str) -> str | None:
    """The name of the file that settings speak of; where they say it lies does not matter."""
    params = stage.get("params")
    path = params.get(key) if isinstance(params, Mapping) else None
    name = PurePosixPath(str(path).replace("\\", "/")).name if path else ""
    return name if re.fullmatch(r"[\w.-]+", name) and name.strip(".") else None


def _find_generator(folder: Path) -> Path | None:
    for name in GENERATOR_NAMES:
        location = folder / name
        if location.is_file():
            return location
        checkpoints = [path for path in _list_files(location) if path.suffix in CHECKPOINT_SUFFIXES]
        if checkpoints:
            return max(checkpoints, key=_checkpoint_number)
    other_stems = {VAE_STEM, CLAP_STEM}
    candidates = [
        path for path in _list_files(folder) if path.suffix in CHECKPOINT_SUFFIXES and path.stem not in other_stems
    ]
    return max(candidates, key=_checkpoint_number) if candidates else None


def _checkpoint_number(path: Path) -> tuple[int, str]:
    """Of the epoch that a checkpoint's name ends with: the last one is taken."""
    digits = re.findall(r"\d+", path.stem)
    return (int(digits[-1]) if digits else -1, path.name)


def _list_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def _list_folders(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.iterdir() if path.is_dir())


def _find_file(folder: Path, names: list[str]) -> Path | None:
    """A file of one of these names, in the folder or one below it."""
    folders = [folder, *_list_folders(folder)]
    return next((directory / name for name in names for directory in folders if (directory / name).is_file()), None)


def _find_text_encoders(folder: Path) -> dict[str, Path]:
    encoders: dict[str, Path] = {}
    for directory in _list_folders(folder):
        path = directory / "config.json"
        if not path.is_file() or path.stat().st_size > _MAX_CONFIG_BYTES:
            continue
        try:
            model_type = json.loads(path.read_text(encoding="utf-8")).get("model_type")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(model_type, str):
            encoders.setdefault(model_type, directory)
    return encoders


NETWORK_PREFIX, AUTOENCODER_PREFIX, CLAP_PREFIX = (
    "model.diffusion_model.",
    "first_stage_model.",
    "cond_stage_model.caption_encoder.",
)
SCALE_KEY = "scale_factor"
ALLOWED_STUBS = (
    *(f"pytorch_lightning.callbacks.{name}" for name in (
        "model_checkpoint.ModelCheckpoint", "early_stopping.EarlyStopping", "lr_monitor.LearningRateMonitor",
        "progress.TQDMProgressBar", "timer.Timer",
    )),
    "pytorch_lightning.utilities.parsing.AttributeDict",
    *(f"omegaconf.{name}" for name in (
        "dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata", "base.Metadata", "nodes.AnyNode",
        "nodes.StringNode", "nodes.IntegerNode", "nodes.FloatNode", "nodes.BooleanNode",
    )),
    "typing.Any", "collections.defaultdict", "__builtin__.dict", "__builtin__.list", "builtins.dict", "builtins.list",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype",
)  # fmt: skip
"""Classes that trainings leave beside the weights: an empty object stands for each, nothing is imported."""


def open_checkpoint(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a checkpoint, whatever lies beside them.

    Raises:
        CheckpointError: it is cut short, holds code, or no tensors by name.
    """
    return (
        open_safetensors(path)
        if path.suffix == ".safetensors"
        else open_torch_pickle(path, "state_dict", ALLOWED_STUBS)
    )


def sub_state_dict(state: Weights, prefix: str) -> dict[str, LazyTensor]:
    """The tensors of one part, without its prefix."""
    return {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}


def read_scale_factor(state: Weights, where: str) -> float:
    """What a latent is multiplied by; a number above 0.

    Raises:
        CheckpointError: it is missing or out of range.
    """
    tensor = state.get(SCALE_KEY)
    if tensor is None or math.prod(tensor.shape) != 1:
        raise CheckpointError(
            f"{where} has no {SCALE_KEY}, which says how large latents are; fetch the released checkpoint"
        )
    scale = float(read_tensor(tensor, torch.float32))
    if not 0 < scale < 100:
        raise CheckpointError(f"{where}: {SCALE_KEY} is {scale:g}; wanted a number above 0")
    return scale


def check_state_dict(component: str, state: Weights, expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise CheckpointError with what is missing, surplus or of another shape in a part."""
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} is surplus" for name in state if name not in expected]
    problems += [
        f"{name} is {state[name].shape}, wanted {shape}"
        for name, shape in expected.items()
        if name in state and state[name].shape != shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{where} does not hold the {component} that its sizes ask for: {'; '.join(problems[:3])}{more}"
        )
