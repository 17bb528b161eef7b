"""Weights that belong to somebody else: where they lie, whether they are those meant, and kept out of ours."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lumina_core.config import Config
from lumina_core.device import supported_dtype
from lumina_core.errors import CheckpointError, PluginError

HASHED_PATTERNS = ("*.json", "*.model", "*.safetensors")
"""Files that a digest covers: settings, vocabularies and weights."""
SAFETENSORS_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Floating formats as safetensors calls them."""
_CHUNK_BYTES = 1 << 22
_digest_cache: dict[tuple[str, int, int], str] = {}


class PretrainedConfig(Config):
    """Where frozen weights come from; what every part that borrows some is asked."""

    source: str = Field(description="folder of the weights, or their name on the hub")
    subfolder: str = Field("", description="folder within the source")
    revision: str | None = Field(None, description="branch, tag or commit on the hub")
    sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="of the files; another content is refused. Filled in when saved"
    )
    dtype: Literal["stored", "float32", "bfloat16", "float16"] = Field(
        "stored", description="stored: as in the files, float32 where the device is slow at that"
    )
    device: str | None = Field(None, description="where it always stands, `cpu` for instance; None: where the model is")

    def resolve_dtype(self, folder: Path, device: torch.device) -> torch.dtype:
        """The number format of the weights in `folder` on a device."""
        stored = supported_dtype(stored_dtype(folder), device)
        return stored if self.dtype == "stored" else getattr(torch, self.dtype)


class FrozenModule(nn.Module):
    """Holds a network that is loaded on its first use and is no part of the model's weights.

    It follows the model from device to device; it is in no state dict, is not trained, and keeps its number format.

    Args:
        load: makes the network, for the device that it is told.
        device: where it always stands, wherever the model goes; None: where the model is.
    """

    device_anchor: Tensor

    def __init__(self, load: Callable[[torch.device], nn.Module], device: str | None = None) -> None:
        super().__init__()
        self._load, self._pinned_device = load, device
        self._networks: list[nn.Module] = []  # torch does not look for weights in a list
        self._current_device: torch.device | None = (
            None  # looking at every weight, as `to` does, takes longer than a tiny VAE
        )
        # an empty tensor that is moved with the model; on the CPU though models are built on no device at all
        self.register_buffer("device_anchor", torch.zeros(0, device="cpu"), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the network stands, or will."""
        return self.device_anchor.device if self._pinned_device is None else torch.device(self._pinned_device)

    @property
    def is_loaded(self) -> bool:
        """Whether it is in memory."""
        return bool(self._networks)

    def network(self) -> Any:
        """The network, frozen, on its device; loaded now if it is not yet."""
        if self._networks and self._current_device == self.device:
            return self._networks[0]
        with torch.inference_mode(False), torch.device("cpu"):  # not the mode or device of who happens to ask first
            if not self._networks:
                with silence_logs():
                    self._networks.append(self._load(self.device).eval().requires_grad_(False))
            self._current_device = self.device
            return self._networks[0].to(self._current_device)

    def unload(self) -> None:
        """Give its memory back; the next use loads it again."""
        self._networks.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def pin_device(self, device: str | None) -> None:
        """Keep it on a device from now on, wherever the model goes; None: let it follow again."""
        self._pinned_device = device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenModule:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for network in self._networks:
            network.to(self.device)
        self._current_device = self.device
        return self


def resolve_path(config: PretrainedConfig, patterns: Sequence[str], required_file: str = "config.json") -> Path:
    """The folder of a source: itself, or its place in the hub's cache, fetched if need be (never with HF_HUB_OFFLINE).

    Args:
        patterns: names of the files that are wanted of a hub's repository.
        proof: a file that must be there.

    Raises:
        CheckpointError: it is not there; the message says how to give a folder.
    """
    path = Path(config.source).expanduser()
    folder = (
        path if path.is_dir() else Path(_download(config.source, config.subfolder, config.revision, tuple(patterns)))
    )
    if not (folder / config.subfolder / required_file).is_file():
        raise CheckpointError(
            f"{folder / config.subfolder} holds no {required_file}; wanted a folder of published weights"
        )
    return folder / config.subfolder


@lru_cache(maxsize=64)  # the hub is asked once
def _download(source: str, subfolder: str, revision: str | None, patterns: tuple[str, ...]) -> str:
    hint = (
        "fetch it where it can be had and name its folder: `source: FOLDER` in the recipe or the model's config.json "
        "(train and convert: --set PART.source=FOLDER)"
    )
    if source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source:
        raise CheckpointError(f"there is no folder {source}; wanted a folder with config.json and weights")
    hub = require("huggingface_hub", "lumina-core[transformers]", f"'{source}' on the hub")
    allow_patterns = [f"{subfolder}/{pattern}" if subfolder else pattern for pattern in patterns]
    try:
        folder: str = hub.snapshot_download(source, revision=revision, allow_patterns=allow_patterns)
    except hub.errors.GatedRepoError as error:
        raise CheckpointError(
            f"'{source}' is gated: accept its terms on the hub and log in (hf auth login), or {hint}"
        ) from error
    except Exception as error:  # a dozen kinds, of the hub and of the network below it
        reason = str(error).strip().splitlines()[:1]
        raise CheckpointError(
            f"'{source}' is no folder here and cannot be had from the hub "
            f"({type(error).__name__}: {''.join(reason)}); {hint}"
        ) from error
    return folder


def require(module: str, install: str, feature: str) -> Any:
    """An optional module.

    Raises:
        PluginError: it is not installed; the message has the line that installs it.
    """
    try:
        with silence_logs():
            return importlib.import_module(module)
    except ImportError as error:
        raise PluginError(f"{feature} needs {module} ({error}): pip install '{install}'") from error


@contextmanager
def silence_logs() -> Iterator[None]:
    """Libraries keep to themselves what else they could use, which many tell when they are imported."""
    previous_level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous_level)


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of published weights.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        content: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return dict(content)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / 'config.json'} cannot be read ({error}); fetch the weights again") from error


def digest(*folders: Path) -> str:
    """sha256 over the names and contents of the settings, vocabularies and weights in these folders."""
    combined = hashlib.sha256()
    for folder in dict.fromkeys(folders):
        for path in sorted({path for pattern in HASHED_PATTERNS for path in folder.glob(pattern)}):
            combined.update(f"{path.name} {_file_digest(path)}\n".encode())
    return combined.hexdigest()


def _file_digest(path: Path) -> str:
    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    if key not in _digest_cache:
        content = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                content.update(chunk)
        _digest_cache[key] = content.hexdigest()
    return _digest_cache[key]


def verify_sha256(config: PretrainedConfig, *folders: Path) -> None:
    """Raise CheckpointError unless the folders hold what `sha256` says, where it says something."""
    if config.sha256 is None:
        return
    actual = digest(*folders)
    if actual != config.sha256:
        raise CheckpointError(
            f"{config.source} has changed since this model was made: its sha256 is {actual[:12]}..., wanted "
            f"{config.sha256[:12]}...; give the same weights, or take `sha256` out of the settings"
        )


def stored_dtype(folder: Path) -> torch.dtype:
    """The floating format of the safetensors files in a folder, by the first floating tensor.

    Raises:
        CheckpointError: there is no such file, or it cannot be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} holds no safetensors file; other formats are never loaded, convert them first")
    try:
        with safe_open(files[0], "pt") as file:
            formats = [file.get_slice(name).get_dtype() for name in file.keys()]  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{files[0]}: got a truncated or invalid file ({error}), expected safetensors. Download it again.") from error
    return next((SAFETENSORS_DTYPES[name] for name in formats if name in SAFETENSORS_DTYPES), torch.float32)
