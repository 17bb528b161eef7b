"""What lies where in a folder of a released sound model. Paths that its settings name are never followed.

Layout of the releases (lumina_music/README.md and lumina_audio/README.md of Alpha-VLLM/Lumina-T2X):
`music_generation` or `audio_generation` (a file, or a folder with a checkpoint), `maa2/maa2.ckpt`,
`bigvnat/args.yml` and `bigvnat/best_netG.pt`, `CLAP/CLAP_weights_2022.pth`; perhaps the YAML of the repository beside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from lumina_audio.vocoders.bigvgan_files import is_vocoder
from lumina_core.config import read_file
from lumina_core.errors import CheckpointError, ConfigError

GENERATORS = ("music_generation", "audio_generation")
VAE, CLAP = "maa2", "CLAP_weights_2022"
SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt")
_LARGEST = 1 << 20


@dataclass(frozen=True)
class Found:
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
    said: Mapping[str, Any] = field(default_factory=dict)
    settings: Path | None = None
    generator: Path | None = None
    vae: Path | None = None
    clap: Path | None = None
    vocoder: Path | None = None
    readers: Mapping[str, Path] = field(default_factory=dict)


def look(folder: Path) -> Found:
    """What there is in a folder, by names alone; only its YAML is read.

    Raises:
        CheckpointError: the YAML cannot be read.
    """
    settings, said = _settings(folder)
    first, conditioner = (dict(said.get(key) or {}) for key in ("first_stage_config", "cond_stage_config"))
    vae, clap = (_named(part, key) for part, key in ((first, "ckpt_path"), (conditioner, "weights_path")))
    return Found(
        folder=folder,
        said=said,
        settings=settings,
        generator=_generator(folder),
        vae=_anywhere(folder, [*([vae] if vae else []), *(VAE + suffix for suffix in SUFFIXES)]),
        clap=_anywhere(folder, [*([clap] if clap else []), *(CLAP + suffix for suffix in SUFFIXES)]),
        vocoder=next((place for place in _folders(folder) if is_vocoder(place)), None),
        readers=_readers(folder),
    )


def knows(folder: Path) -> bool:
    """Whether a folder looks like a released sound model: by its generator's name, or by its YAML."""
    if any((folder / name).exists() for name in GENERATORS) and _generator(folder) is not None:
        return True
    try:
        return "unet_config" in _settings(folder)[1]
    except CheckpointError:
        return False


def _settings(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    for place in (folder, folder / "configs"):
        for path in sorted([*place.glob("*.yaml"), *place.glob("*.yml")]):
            said = _params(path)
            if said:
                return path, said
    return None, {}


def _params(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST:
        raise CheckpointError(f"{path} is larger than {_LARGEST} bytes; it is no model's settings")
    try:
        content = read_file(path)
        model = dict(content.get("model") or {})
        return dict(model.get("params") or {})
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as a model's settings ({error})") from error


def _named(part: Mapping[str, Any], key: str) -> str | None:
    """The name of the file that settings speak of; where they say it lies does not matter."""
    params = part.get("params")
    place = params.get(key) if isinstance(params, Mapping) else None
    name = PurePosixPath(str(place).replace("\\", "/")).name if place else ""
    return name if re.fullmatch(r"[\w.-]+", name) and name.strip(".") else None


def _generator(folder: Path) -> Path | None:
    for name in GENERATORS:
        place = folder / name
        if place.is_file():
            return place
        held = [path for path in _files(place) if path.suffix in SUFFIXES]
        if held:
            return max(held, key=_number)
    known = {VAE, CLAP}
    loose = [path for path in _files(folder) if path.suffix in SUFFIXES and path.stem not in known]
    return max(loose, key=_number) if loose else None


def _number(path: Path) -> tuple[int, str]:
    """Of the epoch that a checkpoint's name ends with: the last one is taken."""
    digits = re.findall(r"\d+", path.stem)
    return (int(digits[-1]) if digits else -1, path.name)


def _files(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else []


def _folders(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.iterdir() if path.is_dir())


def _anywhere(folder: Path, names: list[str]) -> Path | None:
    """A file of one of these names, in the folder or one below it."""
    places = [folder, *_folders(folder)]
    return next((place / name for name in names for place in places if (place / name).is_file()), None)


def _readers(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for place in _folders(folder):
        path = place / "config.json"
        if not path.is_file() or path.stat().st_size > _LARGEST:
            continue
        try:
            kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(kind, str):
            found.setdefault(kind, place)
    return found
