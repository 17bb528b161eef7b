"""Pretrained weights of other projects: their folders, their hashes, and frozen networks outside of the state dict."""

from __future__ import annotations

import fnmatch
import hashlib
import importlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lumina_core.checkpoint.lazy_tensors import check_finite
from lumina_core.config import Config
from lumina_core.device import supported_dtype
from lumina_core.errors import CheckpointError, PluginError, install_command
from lumina_core.io import atomic_file, read_json

HASHED_PATTERNS = ("*.json", "*.model", "*.safetensors")
"""Files that a digest covers: configs, vocabularies and weights."""
COPIED_PATTERNS = (
    "*.safetensors", "*.safetensors.index.json", "*.model", "*.tiktoken", "config.json", "generation_config.json",
    "model_index.json", "preprocessor_config.json", "feature_extractor.json", "scheduler_config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "args.yml", "*.pt", "*.pth", "*.ckpt", "g_*",
)  # fmt: skip
"""Files that belong to pretrained weights; nothing else of a folder is copied."""
_SAFETENSORS_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_CHUNK_BYTES = 1 << 22
_MIN_AGE_SECONDS = 2.0
"""Age of a file before its hash is cached: a change within one tick of the file system's clock would be missed."""


class PretrainedConfig(Config):
    """Source of frozen pretrained weights; base class of the configs of components that use some."""

    source: str = Field(description="folder of the weights, or a name on the hub")
    subfolder: str = Field("", description="folder within the source")
    revision: str | None = Field(None, description="branch, tag or commit on the hub")
    sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="sha256 of the files, set when a model is saved; other files are refused",
    )
    dtype: Literal["stored", "float32", "bfloat16", "float16"] = Field(
        "stored", description="dtype of the weights; stored: as in the files, or float32 on devices that are slow at it"
    )
    device: str | None = Field(None, description="fixed device, `cpu` for instance; None: the model's device")

    def resolve_dtype(self, folder: Path, device: torch.device) -> torch.dtype:
        """Return the dtype of the weights in `folder` on a device."""
        stored = supported_dtype(stored_dtype(folder), device)
        return stored if self.dtype == "stored" else getattr(torch, self.dtype)


class FrozenModule(nn.Module):
    """A frozen network that is loaded on its first use and is not part of the model's weights.

    It moves with the model from device to device. It is in no state dict, is not trained, and keeps its dtype.

    Args:
        load: makes the network for a device.
        device: fixed device; None: the model's device.
    """

    device_anchor: Tensor

    def __init__(self, load: Callable[[torch.device], nn.Module], device: str | None = None) -> None:
        super().__init__()
        self._load, self._pinned_device = load, device
        self._networks: list[nn.Module] = []  # a list, so that torch does not register the network
        # cached, because `to` looks at every weight, which takes longer than a tiny VAE
        self._current_device: torch.device | None = None
        # an empty tensor that moves with the model; on the CPU even while models are built on the meta device
        self.register_buffer("device_anchor", torch.zeros(0, device="cpu"), persistent=False)

    @property
    def device(self) -> torch.device:
        """Device of the network, whether it is loaded or not."""
        return self.device_anchor.device if self._pinned_device is None else torch.device(self._pinned_device)

    @property
    def is_loaded(self) -> bool:
        """Whether the network is in memory."""
        return bool(self._networks)

    def network(self) -> Any:
        """Return the network, frozen and on its device; the first call loads it."""
        if self._networks and self._current_device == self.device:
            return self._networks[0]
        with torch.inference_mode(False), torch.device("cpu"):  # independent of the mode and device of the first caller
            if not self._networks:
                with suppress_logs():
                    network = self._load(self.device).eval().requires_grad_(False)
                for name, weight in network.named_parameters():
                    if type(weight.data) is not Tensor:  # quantized
                        continue
                    # float16 may have overflowed by the cast, which its users notice and repair
                    if weight.dtype != torch.float16 or bool(weight.isnan().any()):
                        check_finite(weight, name, type(network).__name__)
                self._networks.append(network)
            self._current_device = self.device
            return self._networks[0].to(self._current_device)

    def unload(self) -> None:
        """Free the memory of the network; the next use loads it again."""
        self._networks.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def pin_device(self, device: str | None) -> None:
        """Set a fixed device; None: the model's device."""
        self._pinned_device = device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenModule:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for network in self._networks:
            network.to(self.device)
        self._current_device = self.device
        return self


def resolve_path(config: PretrainedConfig, patterns: Sequence[str], required_file: str = "config.json") -> Path:
    """Return the folder of a source: itself, or its copy in the hub's cache.

    A missing copy is downloaded unless HF_HUB_OFFLINE is set.

    Args:
        patterns: glob patterns of the files to download from the hub.
        required_file: name of a file that must exist.

    Raises:
        CheckpointError: the folder or the file does not exist, or cannot be downloaded.
    """
    path = Path(config.source).expanduser()
    folder = (
        path if path.is_dir() else Path(_download(config.source, config.subfolder, config.revision, tuple(patterns)))
    )
    if not (folder / config.subfolder / required_file).is_file():
        raise CheckpointError(
            f"source: got {folder / config.subfolder} without {required_file}, expected a folder of pretrained weights."
        )
    return folder / config.subfolder


@lru_cache(maxsize=64)
def _download(source: str, subfolder: str, revision: str | None, patterns: tuple[str, ...]) -> str:
    hint = "download it elsewhere and set `source` to its folder, in the recipe or in the model's config.json."
    if source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source:
        raise CheckpointError(f"source: there is no folder {source}, expected one with config.json and weights.")
    hub = require("huggingface_hub", "lumina-core[transformers]", f"'{source}' on the hub")
    allow_patterns = [f"{subfolder}/{pattern}" if subfolder else pattern for pattern in patterns]
    try:
        folder: str = hub.snapshot_download(source, revision=revision, allow_patterns=allow_patterns)
    except hub.errors.GatedRepoError as error:
        raise CheckpointError(
            f"source: '{source}' is gated. Accept its terms on the hub and log in (hf auth login), or {hint}"
        ) from error
    except Exception as error:  # many types, of the hub and of the network below it
        reason = str(error).strip().splitlines()[:1]
        raise CheckpointError(
            f"source: got '{source}', which is neither a folder nor available from the hub "
            f"({type(error).__name__}: {''.join(reason)}). Check the name, or {hint}"
        ) from error
    return folder


def require(module: str, install: str, feature: str) -> Any:
    """Import an optional module.

    Raises:
        PluginError: it is not installed; the message has the command that installs it.
    """
    try:
        with suppress_logs():
            return importlib.import_module(module)
    except ImportError as error:
        raise PluginError(f"{feature} needs {module} ({error}): {install_command(install)}") from error


@contextmanager
def suppress_logs() -> Iterator[None]:
    """Suppress log messages of libraries, many of which report missing extras on import."""
    previous_level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous_level)


def read_config(folder: Path) -> dict[str, Any]:
    """Read the config.json of pretrained weights.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        content: dict[str, Any] = read_json(folder / "config.json")
        return dict(content)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{folder / 'config.json'} cannot be read ({error}). Download the weights again."
        ) from error


def digest(*folders: Path) -> str:
    """Return the sha256 of the names and contents of configs, vocabularies and weights in these folders.

    The hashes of files are cached on disk by path, size and modification time, so that gigabytes are read once.
    """
    cache_file = Path(os.environ.get("LUMINA_CACHE") or Path.home() / ".cache" / "lumina") / "sha256.json"
    try:
        cache: dict[str, str] = dict(json.loads(cache_file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        cache = {}
    combined, new = hashlib.sha256(), {}
    for folder in dict.fromkeys(folders):
        for path in sorted({path for pattern in HASHED_PATTERNS for path in folder.glob(pattern)}):
            stat = path.stat()
            key = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
            if key not in cache:
                cache[key] = _file_sha256(path)
                if time.time() - stat.st_mtime > _MIN_AGE_SECONDS:
                    new[key] = cache[key]
            combined.update(f"{path.name} {cache[key]}\n".encode())
    if new:
        _add_to_cache(cache_file, new)
    return combined.hexdigest()


def pretrained_files(folder: Path) -> list[Path]:
    """Return the files of pretrained weights in a folder and its subfolders, as paths relative to it.

    A link counts if it leads to a file of the same folder, or to the blobs of a hub cache that the folder belongs to.
    """
    root = folder.resolve()
    roots = [root, *([root.parents[1] / "blobs"] if len(root.parents) > 2 and root.parent.name == "snapshots" else [])]
    return sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file()
        and any(fnmatch.fnmatchcase(path.name, pattern) for pattern in COPIED_PATTERNS)
        and any(path.resolve().is_relative_to(one) for one in roots)
    )


def _file_sha256(path: Path) -> str:
    content = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            content.update(chunk)
    return content.hexdigest()


def _add_to_cache(cache_file: Path, new: dict[str, str]) -> None:
    with suppress(OSError, ValueError, TypeError):  # without a writable cache, files are hashed in every process
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        old = json.loads(cache_file.read_text(encoding="utf-8")) if cache_file.is_file() else {}
        with atomic_file(cache_file) as partial:
            partial.write_text(json.dumps({**old, **new}, indent=1), encoding="utf-8")


def verify_sha256(config: PretrainedConfig, *folders: Path) -> None:
    """Raise CheckpointError if the files in the folders have another hash than `sha256`, unless that is None."""
    if config.sha256 is None:
        return
    actual = digest(*folders)
    if actual != config.sha256:
        raise CheckpointError(
            f"sha256 of {config.source}: got {actual[:12]}..., expected {config.sha256[:12]}...: the files "
            "have changed since the model was saved. Use the same files, or remove `sha256` from the options."
        )


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the dtype of the first floating tensor of the safetensors files in a folder; float32 if there is none.

    Raises:
        CheckpointError: there is no such file, or it cannot be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder}: got no safetensors file, expected one. Other formats are never loaded.")
    try:
        with safe_open(files[0], "pt") as file:
            formats = [file.get_slice(name).get_dtype() for name in file.keys()]  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{files[0]}: got a truncated or invalid file ({error}), expected safetensors. Download it again."
        ) from error
    return next((_SAFETENSORS_DTYPES[name] for name in formats if name in _SAFETENSORS_DTYPES), torch.float32)
