"""One folder for a model: config.json (recipe, schema, plugins) and model.safetensors, whole or absent. No pickle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor

from lumina_core.checkpoint import compare
from lumina_core.checkpoint.lazy_tensors import (
    ExportPlan,
    InMemoryTensor,
    LazyTensor,
    Weights,
    cast_weights,
    init_empty_weights,
    num_bytes,
    read_tensor,
)
from lumina_core.checkpoint.safetensors_io import (
    MAX_SHARD_BYTES,
    has_weights,
    open_safetensors,
    open_weights,
    write_weights,
)
from lumina_core.config import ComponentSpec
from lumina_core.errors import CheckpointError, ConfigError, PluginError
from lumina_core.io import atomic_dir
from lumina_core.model import Model, build_component, build_model
from lumina_core.plugins.registry import Registry
from lumina_core.protocols import CheckpointFormat
from lumina_core.recipe import SCHEMA_VERSION, Recipe, map_paths, read_recipe

CONFIG_FILE, WEIGHTS_FILE, EMA_WEIGHTS_FILE = "config.json", "model.safetensors", "ema.safetensors"
EXTRA_STEM = "extra_tensors"
"""Stem of the file with tensors that have no place in a model of ours and wait for the way back."""
MAX_CONFIG_BYTES = 1 << 20
_PICKLE_SUFFIXES = {".pth", ".pt", ".bin", ".ckpt", ".pkl"}


@dataclass(frozen=True)
class LoadedDir:
    """A model folder before anything is built or read.

    Attributes:
        folder: where it lies.
        plugins: distributions and versions that it was made with.
        layout: the name of its layout; empty for ours.
        dtype: what its settings say of the weights' format, where they say something.
        kept, origin, notes: see `Unbuilt`.
    """

    folder: Path
    recipe: Recipe
    weights: Weights
    plugins: Mapping[str, str] = field(default_factory=dict)
    format: str = ""
    dtype: str | None = None
    extra_tensors: Weights = field(default_factory=dict)
    source_metadata: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def open_model_dir(folder: Path, registry: Registry) -> LoadedDir:
    """A model folder (or a run's: its newest checkpoint) of ours or of another layout, averaged weights first.

    Raises:
        CheckpointError: nobody knows it, it is damaged, or of a family of models that its layout does not read.
        PluginError: a layout cannot be imported.
    """
    name = detect_format(folder, registry)
    if name is not None:
        checkpoint = find_format(registry, name).load(folder)
        recipe = read_recipe(dict(checkpoint.recipe), str(folder))
        return LoadedDir(
            folder,
            recipe,
            checkpoint.weights,
            {},
            name,
            checkpoint.dtype,
            checkpoint.extra_tensors,
            checkpoint.source_metadata,
            checkpoint.notes,
        )
    folder = resolve_model_dir(folder)
    recipe, plugins = read_model_config(folder)
    config = _read_config_json(folder / CONFIG_FILE)
    extra_tensors = open_weights(folder, EXTRA_STEM) if has_weights(folder, EXTRA_STEM) else {}
    return LoadedDir(
        folder,
        recipe,
        _open_dir_weights(folder),
        plugins,
        "",
        config.get("dtype"),
        extra_tensors,
        config.get("source_metadata", {}),
    )


def detect_format(folder: Path, registry: Registry) -> str | None:
    """The name of the layout that a folder is of; None for a folder of ours and for what nobody knows."""
    if not folder.is_dir() or _is_native(folder):
        return None
    return next(
        (name for name in registry.registrations("checkpoint_format") if find_format(registry, name).matches(folder)),
        None,
    )


def find_format(registry: Registry, name: str) -> CheckpointFormat:
    """The layout called so.

    Raises:
        PluginError: there is none; the nearest is offered.
    """
    checkpoint_format: CheckpointFormat = registry.find("checkpoint_format", name)()
    return checkpoint_format


def resolve_model_dir(folder: Path) -> Path:
    """Where in a folder of ours the model lies: here, or in the newest whole checkpoint of a run.

    Raises:
        CheckpointError: nowhere in it.
    """
    if (folder / CONFIG_FILE).is_file():
        return folder
    checkpoints = sorted((folder / "checkpoints").glob("step-*"))
    if checkpoints:
        return checkpoints[-1]
    if not folder.is_dir():
        raise CheckpointError(f"there is no model folder {folder}; see what there is with: lumina models")
    raise CheckpointError(
        f"{folder} holds no {CONFIG_FILE}: it is no model folder, or one that was never finished, "
        "and it is of no published layout that an installed plugin reads"
    )


def read_model_config(folder: Path) -> tuple[Recipe, dict[str, str]]:
    """The recipe and the plugins of a model folder of ours; places in it are resolved against the folder."""
    path = folder / CONFIG_FILE
    content = _read_config_json(path)
    try:
        recipe, plugins = dict(content["recipe"]), dict(content.get("plugins", {}))
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable_error(path, f"{type(error).__name__}: {error}") from error
    try:
        return read_recipe(map_paths(recipe, lambda option: _resolve_path(folder, option)), str(path)), plugins
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def dominant_dtype(weights: Weights) -> torch.dtype:
    """The floating format that most bytes of the weights are stored in; float32 where none is."""
    bytes_by_dtype: dict[torch.dtype, int] = {torch.float32: 0}
    for tensor in weights.values():
        if tensor.dtype.is_floating_point:
            bytes_by_dtype[tensor.dtype] = bytes_by_dtype.get(tensor.dtype, 0) + num_bytes(tensor)
    return max(bytes_by_dtype, key=lambda dtype: bytes_by_dtype[dtype])


def check_dtype(loaded: LoadedDir) -> None:
    """Raise CheckpointError where the settings speak of another format than the weights are stored in."""
    stored = str(dominant_dtype(loaded.weights)).removeprefix("torch.")
    if loaded.dtype is not None and loaded.dtype != stored:
        raise CheckpointError(
            f"{loaded.folder / CONFIG_FILE} asks for {loaded.dtype} weights, and those beside it are {stored}; "
            f"fetch those that belong to it, or say which format you want: --dtype {stored}"
        )


def write_export(
    plan: ExportPlan,
    folder: Path,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    on_bytes_written: Callable[[int], None] | None = None,
) -> None:
    """Fill a folder with what a draft says; weights go one tensor at a time.

    Args:
        most: bytes of a file of weights, above which it is cut into shards.
        told: called with the number of bytes after each tensor.
    """
    for name, source in plan.folders.items():
        shutil.copytree(source, folder / name)
    for name, content in plan.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for name, weights in plan.weights.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_weights(folder / name, weights, None if plan.single_file else max_shard_bytes, on_bytes_written)


def missing_weights_message(path: Path) -> str:
    """Why a folder has no weights under this name, in words."""
    pickles = [file.name for file in path.parent.glob("*") if file.suffix in _PICKLE_SUFFIXES]
    if pickles:
        return (
            f"{path.parent} has {pickles[0]} but no {path.name}; pickled weights are never loaded, convert them first"
        )
    return f"{path.parent} has no {path.name}; the folder is half-written or not a model"


def _open_dir_weights(folder: Path) -> Weights:
    stem = Path(EMA_WEIGHTS_FILE if has_weights(folder, Path(EMA_WEIGHTS_FILE).stem) else WEIGHTS_FILE).stem
    if not has_weights(folder, stem):
        raise CheckpointError(missing_weights_message(folder / WEIGHTS_FILE))
    return open_weights(folder, stem)


def _is_native(folder: Path) -> bool:
    """Whether the settings are ours, or say nothing: then it is taken for a damaged folder of ours."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        return (folder / "checkpoints").is_dir()
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= MAX_CONFIG_BYTES else None
    except (OSError, ValueError, RecursionError):
        return True
    return not isinstance(content, dict) or "schema_version" in content or not (_FOREIGN_KEYS & content.keys())


_FOREIGN_KEYS = {"_class_name", "model_type", "architectures"}
"""Keys by which the settings of others say what they are."""


def _read_config_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes; it is no model's settings")
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and ("lumina" in content or _is_old_version(content.get("schema_version"))):
            raise CheckpointError(
                f"{path} is of schema 1 (`lumina: 1`), from before the first release; this lumina-core reads schema "
                f"{SCHEMA_VERSION} only: train or convert the model again"
            )
        schema = content["schema_version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        foreign = sorted(_FOREIGN_KEYS & content.keys()) if isinstance(error, KeyError) else []
        if foreign:
            raise CheckpointError(
                f"{path} is of another family ({foreign[0]}: {content[foreign[0]]}); it is no model of ours, "
                "nor of a published layout that an installed plugin reads"
            ) from error
        raise _unreadable_error(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(schema, int) or schema > SCHEMA_VERSION:
        raise CheckpointError(
            f"{path} is of schema {schema}; this lumina-core reads up to {SCHEMA_VERSION}. "
            "Install a newer one: pip install -U lumina-core"
        )
    return dict(content)


def _is_old_version(version: Any) -> bool:
    return isinstance(version, int) and version < SCHEMA_VERSION


def _unreadable_error(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read as a model's settings ({reason}); fetch or save the model again")


def _resolve_path(folder: Path, path: str) -> str:
    """A place beside config.json as a whole path; names on a hub and whole paths as they are."""
    if path.startswith(("./", "../")) or (path and not Path(path).is_absolute() and (folder / path).exists()):
        return str((folder / path).resolve())
    return path


COMPUTE_DTYPE = {torch.float16: torch.float32, torch.float64: torch.float32, torch.float8_e4m3fn: torch.bfloat16,
        torch.float8_e5m2: torch.bfloat16}  # fmt: skip
"""Formats that numbers are stored in, and those that they are computed in unless another is asked for."""


def save_model(
    model: Model,
    registry: Registry,
    folder: Path,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a model folder, whole or not at all.

    Args:
        dtype: floating weights are stored in it; None keeps theirs.
        most: bytes of a file of weights, above which it is cut into shards.
    """
    weights = cast_weights({name: InMemoryTensor(tensor) for name, tensor in model.state_dict().items()}, dtype)
    with atomic_model_dir(folder) as partial_dir:
        write_config(partial_dir, model.recipe, registry)
        write_weights(partial_dir / Path(WEIGHTS_FILE).stem, weights, max_shard_bytes)


@contextmanager
def atomic_model_dir(folder: Path) -> Iterator[Path]:
    """A folder to fill that takes its place whole or not at all.

    Raises:
        CheckpointError: the disk is full, or the folder cannot be written.
    """
    try:
        with atomic_dir(folder) as partial_dir:
            yield partial_dir
    except (OSError, SafetensorError) as error:  # safetensors has its own word for a full disk
        reason = " ".join(str(error).split())
        raise CheckpointError(f"cannot write {folder} ({reason}); what was saved before is still whole") from error


def write_config(folder: Path, recipe: Recipe, registry: Registry) -> None:
    """config.json: the recipe, and which distributions in which versions its parts come from."""
    (folder / CONFIG_FILE).write_bytes(config_bytes(recipe, registry))


def config_bytes(recipe: Recipe, registry: Registry, **extra: Any) -> bytes:
    """The content of config.json; `more` are further keys of it, left out where they are empty."""
    recipe = with_hashes(recipe, registry)
    plugins: dict[str, str] = {}
    for component_type, name in recipe.component_names():
        with suppress(PluginError):  # a model can be converted where not all of its parts are installed
            provider = registry.provider(component_type, name)
            plugins |= {} if provider is None else dict([provider])
    content = {
        "schema_version": SCHEMA_VERSION,
        "plugins": plugins,
        "recipe": recipe.model_dump(mode="json", exclude_defaults=True),
    }
    content |= {key: value for key, value in extra.items() if value}
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def with_hashes(recipe: Recipe, registry: Registry) -> Recipe:
    """The recipe with what holds it to the folders that it borrows from: their digests, where a part can tell them."""
    values = recipe.model_dump(mode="json", exclude_defaults=True)
    pretrained = [
        ("autoencoder", values["autoencoder"]),
        *(("conditioner", spec) for spec in values.get("conditioners", ())),
    ]
    for component_type, spec in chain.from_iterable(_walk_components(*component) for component in pretrained):
        if isinstance(spec.get("source"), str) and Path(spec["source"]).is_dir() and not spec.get("sha256"):
            with suppress(
                PluginError, ConfigError, CheckpointError
            ):  # not installed, or not whole: told when it is asked
                component = build_component(registry, component_type, ComponentSpec(**spec))
                spec |= component.pin_hashes()
    return Recipe.model_validate(values)


def _walk_components(component_type: str, spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A part and those that its own options name; the option's name is the kind, and it may name several."""
    yield component_type, spec
    for option, value in spec.items():
        for child in value if isinstance(value, list | tuple) else [value]:
            if isinstance(child, dict) and "type" in child:
                yield from _walk_components(option, child)


def to_cpu_contiguous(state: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Tensors as safetensors takes them: contiguous, on the CPU, floating ones in `dtype`."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    if dtype is None:
        return tensors
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def load_model(
    folder: Path, registry: Registry, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Model:
    """A model from its folder (or a run's: its newest checkpoint), averaged weights first, ready to be asked.

    A folder of another layout is opened as it is. Weights are read one by one; where nothing has to be changed they
    are windows on the file. Whoever overwrites that file in place changes the model.

    Args:
        dtype: of the floating weights. None: as most of them are stored, but float16, in which CPUs are slow and large
            models overflow, as float32.

    Raises:
        CheckpointError: the folder is missing, half-written, of a newer schema or of another family of models, or its
            weights do not fit its recipe.
        PluginError: a plugin that the recipe needs is not installed or broken.
    """
    loaded = open_model_dir(folder, registry)
    if dtype is None:
        check_dtype(loaded)
    try:
        with init_empty_weights():
            model = build_model(loaded.recipe, registry)
    except PluginError as error:
        made_with = ", ".join(f"{name} {version}" for name, version in loaded.plugins.items())
        installed = {source.distribution for source in registry.sources.values()}
        missing = [f"'{name}=={version}'" for name, version in loaded.plugins.items() if name not in installed]
        reinstall_hint = f"; the same again: pip install {' '.join(missing)}" if missing else ""
        raise PluginError(
            f"{error} ({loaded.folder} was made with {made_with or 'unnamed plugins'}{reinstall_hint})"
        ) from error
    except ConfigError as error:
        raise CheckpointError(f"{loaded.folder / CONFIG_FILE}: {error}") from error
    stored_dtype = dominant_dtype(loaded.weights)
    target_dtype = COMPUTE_DTYPE.get(stored_dtype, stored_dtype) if dtype is None else dtype
    _load_state(model, loaded, torch.device(device), target_dtype)
    return model.to(device, target_dtype).eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, in memory.

    Raises:
        CheckpointError: the file is missing, cut short, or something else (a pickle, say) under this name.
    """
    if not path.is_file():
        raise CheckpointError(missing_weights_message(path))
    return {name: read_tensor(tensor) for name, tensor in open_safetensors(path).items()}


def _load_state(model: Model, loaded: LoadedDir, device: torch.device, dtype: torch.dtype) -> None:
    mismatch = describe_mismatch(model, loaded.weights)
    if mismatch:
        raise CheckpointError(f"{loaded.folder} does not fit its recipe: {mismatch}")
    model.load_state_dict({n: _materialize(p, device, dtype) for n, p in loaded.weights.items()}, assign=True)


def _materialize(tensor: LazyTensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """In its format on its device: a window on the file where that is all, else one tensor at a time in memory."""
    target_dtype = dtype if tensor.dtype.is_floating_point else tensor.dtype
    if device.type == "cpu":
        return tensor.load() if target_dtype == tensor.dtype else read_tensor(tensor, target_dtype)
    return read_tensor(tensor).to(device, target_dtype)


HasShapeT = TypeVar("HasShapeT", bound=compare.HasShape)


def describe_mismatch(model: Model, weights: Mapping[str, compare.HasShape]) -> str:
    """Describe weights that are missing, unexpected or of another shape than those of a model; empty: they match."""
    expected = {n: None if _has_variable_length(n) else tuple(t.shape) for n, t in model.state_dict().items()}
    return compare.describe_mismatch(weights, expected)


def _has_variable_length(name: str) -> bool:
    # a learnt vocabulary is as long as it was learnt
    return name.endswith(".vocabulary")


def matching_weights(model: Model, weights: Mapping[str, HasShapeT]) -> dict[str, HasShapeT]:
    """The weights of another model that fit this one by name and shape, for `--init`."""
    state_dict = model.state_dict()
    return {
        n: w
        for n, w in weights.items()
        if n in state_dict and (state_dict[n].shape == w.shape or _has_variable_length(n))
    }
