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
from lumina_core.errors import CheckpointError, PluginError
from lumina_core.precision import usable

HASHED = ("*.json", "*.model", "*.safetensors")
"""Files that a digest covers: settings, vocabularies and weights."""
FORMATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Floating formats as safetensors calls them."""
_CHUNK = 1 << 22
_digests: dict[tuple[str, int, int], str] = {}


class Borrowing(Config):
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

    def chosen(self, folder: Path, device: torch.device) -> torch.dtype:
        """The number format of the weights in `folder` on a device."""
        stored = usable(stored_in(folder), device)
        return stored if self.dtype == "stored" else getattr(torch, self.dtype)


class Borrowed(nn.Module):
    """Holds a network that is loaded on its first use and is no part of the model's weights.

    It follows the model from device to device; it is in no state dict, is not trained, and keeps its number format.

    Args:
        load: makes the network, for the device that it is told.
        device: where it always stands, wherever the model goes; None: where the model is.
    """

    place: Tensor

    def __init__(self, load: Callable[[torch.device], nn.Module], device: str | None = None) -> None:
        super().__init__()
        self._load, self._fixed = load, device
        self._held: list[nn.Module] = []  # torch does not look for weights in a list
        self._stands: torch.device | None = None  # looking at every weight, as `to` does, takes longer than a tiny VAE
        # an empty tensor that is moved with the model; on the CPU though models are built on no device at all
        self.register_buffer("place", torch.zeros(0, device="cpu"), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the network stands, or will."""
        return self.place.device if self._fixed is None else torch.device(self._fixed)

    @property
    def loaded(self) -> bool:
        """Whether it is in memory."""
        return bool(self._held)

    def network(self) -> Any:
        """The network, frozen, on its device; loaded now if it is not yet."""
        if self._held and self._stands == self.device:
            return self._held[0]
        with torch.inference_mode(False), torch.device("cpu"):  # not the mode or device of who happens to ask first
            if not self._held:
                with hushed():
                    self._held.append(self._load(self.device).eval().requires_grad_(False))
            self._stands = self.device
            return self._held[0].to(self._stands)

    def release(self) -> None:
        """Give its memory back; the next use loads it again."""
        self._held.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def stay(self, device: str | None) -> None:
        """Keep it on a device from now on, wherever the model goes; None: let it follow again."""
        self._fixed = device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Borrowed:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for network in self._held:
            network.to(self.device)
        self._stands = self.device
        return self


def located(use: Borrowing, patterns: Sequence[str], proof: str = "config.json") -> Path:
    """The folder of a source: itself, or its place in the hub's cache, fetched if need be (never with HF_HUB_OFFLINE).

    Args:
        patterns: names of the files that are wanted of a hub's repository.
        proof: a file that must be there.

    Raises:
        CheckpointError: it is not there; the message says how to give a folder.
    """
    path = Path(use.source).expanduser()
    folder = path if path.is_dir() else Path(_fetched(use.source, use.subfolder, use.revision, tuple(patterns)))
    if not (folder / use.subfolder / proof).is_file():
        raise CheckpointError(f"{folder / use.subfolder} holds no {proof}; wanted a folder of published weights")
    return folder / use.subfolder


@lru_cache(maxsize=64)  # the hub is asked once
def _fetched(source: str, subfolder: str, revision: str | None, patterns: tuple[str, ...]) -> str:
    local = (
        "fetch it where it can be had and name its folder: `source: FOLDER` in the recipe or the model's config.json "
        "(train and convert: --set PART.source=FOLDER)"
    )
    if source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source:
        raise CheckpointError(f"there is no folder {source}; wanted a folder with config.json and weights")
    hub = needed("huggingface_hub", "lumina-core[transformers]", f"'{source}' on the hub")
    wanted = [f"{subfolder}/{pattern}" if subfolder else pattern for pattern in patterns]
    try:
        folder: str = hub.snapshot_download(source, revision=revision, allow_patterns=wanted)
    except hub.errors.GatedRepoError as error:
        raise CheckpointError(
            f"'{source}' is gated: accept its terms on the hub and log in (hf auth login), or {local}"
        ) from error
    except Exception as error:  # a dozen kinds, of the hub and of the network below it
        reason = str(error).strip().splitlines()[:1]
        raise CheckpointError(
            f"'{source}' is no folder here and cannot be had from the hub "
            f"({type(error).__name__}: {''.join(reason)}); {local}"
        ) from error
    return folder


def needed(module: str, install: str, what: str) -> Any:
    """An optional module.

    Raises:
        PluginError: it is not installed; the message has the line that installs it.
    """
    try:
        with hushed():
            return importlib.import_module(module)
    except ImportError as error:
        raise PluginError(f"{what} needs {module} ({error}): pip install '{install}'") from error


@contextmanager
def hushed() -> Iterator[None]:
    """Libraries keep to themselves what else they could use, which many tell when they are imported."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def described(folder: Path) -> dict[str, Any]:
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
    whole = hashlib.sha256()
    for folder in dict.fromkeys(folders):
        for path in sorted({path for pattern in HASHED for path in folder.glob(pattern)}):
            whole.update(f"{path.name} {_file_digest(path)}\n".encode())
    return whole.hexdigest()


def _file_digest(path: Path) -> str:
    state = path.stat()
    key = (str(path.resolve()), state.st_size, state.st_mtime_ns)
    if key not in _digests:
        content = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                content.update(chunk)
        _digests[key] = content.hexdigest()
    return _digests[key]


def verified(use: Borrowing, *folders: Path) -> None:
    """Raise CheckpointError unless the folders hold what `sha256` says, where it says something."""
    if use.sha256 is None:
        return
    found = digest(*folders)
    if found != use.sha256:
        raise CheckpointError(
            f"{use.source} has changed since this model was made: its sha256 is {found[:12]}..., wanted "
            f"{use.sha256[:12]}...; give the same weights, or take `sha256` out of the settings"
        )


def stored_in(folder: Path) -> torch.dtype:
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
        raise CheckpointError(f"{files[0]} is no whole safetensors file ({error}); fetch it again") from error
    return next((FORMATS[name] for name in formats if name in FORMATS), torch.float32)
