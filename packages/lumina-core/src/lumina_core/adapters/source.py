"""Where the files of a LoRA lie: a folder of peft, that of a training, or one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lumina_core.errors import CheckpointError
from lumina_core.io import read_json

ADAPTER_DIR = "lora"
"""Folder of the adapter within that of a training."""
WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
"""Names of peft's files."""


def is_lora(path: Path) -> bool:
    """Return whether a path is that of a LoRA: a .safetensors file, or a folder with the files of peft."""
    if path.is_dir():
        return any((folder / WEIGHTS_FILE).is_file() for folder in (path, path / ADAPTER_DIR))
    return path.suffix == ".safetensors"


def find_file(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return the file of the weights, and the content of peft's config if it lies next to it.

    Raises:
        CheckpointError: there is no such file, or the adapter is of another kind.
    """
    if path.is_dir():
        folder = next((one for one in (path, path / ADAPTER_DIR) if (one / WEIGHTS_FILE).is_file()), None)
        if folder is None:
            files = sorted(path.glob("*.safetensors"))
            if len(files) != 1 or (path / "config.json").is_file():
                raise CheckpointError(
                    f"lora: got {path} without {WEIGHTS_FILE}, expected a folder of peft or of a training of an "
                    "adapter, or a .safetensors file."
                )
            return files[0], {}
        path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise CheckpointError(f"lora: got {path}, expected an existing file or folder.")
    config_path = path.with_name(CONFIG_FILE)
    if path.name != WEIGHTS_FILE or not config_path.is_file():
        return path, {}
    try:
        config = dict(read_json(config_path))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{config_path}: cannot read it as the config of an adapter ({error}).") from error
    unsupported = {"peft_type": "LORA", "fan_in_fan_out": False, "lora_bias": False}
    for key, expected in unsupported.items():
        if config.get(key, expected) != expected:
            raise CheckpointError(f"{config_path}: {key}: got {config[key]}, expected {expected}.")
    return path, config
