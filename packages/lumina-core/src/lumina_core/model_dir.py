"""Model folders: config.json (recipe, schema version, plugins) and model.safetensors, written atomically. No pickle."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor

from lumina_core.checkpoint import lazy_tensors
from lumina_core.checkpoint.lazy_tensors import (
    ExportPlan,
    HasShape,
    InMemoryTensor,
    LazyTensor,
    LoadedCheckpoint,
    Weights,
    cast_weights,
    check_finite,
    init_empty_weights,
    num_bytes,
    prefix_note,
    read_tensor,
    strip_wrappers,
)
from lumina_core.checkpoint.safetensors_io import (
    MAX_SHARD_BYTES,
    has_weights,
    is_sharded_dir,
    open_safetensors,
    open_weights,
    write_weights,
)
from lumina_core.config import ComponentSpec
from lumina_core.device import parse_device
from lumina_core.errors import CheckpointError, ConfigError, LuminaError, PluginError
from lumina_core.io import atomic_dir, describe_content, restore_dir
from lumina_core.locate import (
    CONFIG_FILE,
    EMA_WEIGHTS_FILE,
    WEIGHTS_FILE,
    checkpoint_step,
    find_model,
    list_checkpoint_dirs,
)
from lumina_core.model import Model, build_component, build_model
from lumina_core.plugins.loader import load_plugins
from lumina_core.plugins.registry import Registry
from lumina_core.protocols import CheckpointFormat
from lumina_core.recipe import (
    SCHEMA_VERSION,
    Recipe,
    check_schema_version,
    iter_components,
    map_paths,
    read_recipe,
)

EXTRA_STEM = "extra_tensors"
"""Stem of the file with foreign tensors that a model of this project does not use; converting back needs them."""
MAX_CONFIG_BYTES = 1 << 20
_FOREIGN_KEYS = {"_class_name", "model_type", "architectures", "architecture"}
_PICKLE_SUFFIXES = {".pth", ".pt", ".bin", ".ckpt", ".pkl"}
_COMPUTE_DTYPES = {
    torch.float16: torch.float32,
    torch.float64: torch.float32,
    torch.float8_e4m3fn: torch.bfloat16,
    torch.float8_e5m2: torch.bfloat16,
}

HasShapeT = TypeVar("HasShapeT", bound=HasShape)


@dataclass(frozen=True)
class LoadedDir:
    """A model folder before anything is built or read.

    Attributes:
        folder: path of the folder.
        plugins: versions of the distributions that the model was saved with, by name.
        format: name of the checkpoint format; empty for this project's own.
        dtype: dtype of the weights according to the folder's config; None: not stated.
        extra_tensors, source_metadata, notes: see `LoadedCheckpoint`.
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


# ---- reading


def load_model(
    name_or_folder: str | Path,
    registry: Registry | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    recipe: Recipe | None = None,
) -> Model:
    """Load a model from its folder, or an installed one by its name, in evaluation mode.

    Of a training's output folder, the newest checkpoint is loaded; averaged weights are preferred. Folders of other
    checkpoint formats are read as they are. Weights without any conversion stay views of the file.

    Args:
        registry: where components are found; default: all installed plugins.
        dtype: dtype of floating weights. None: as most of them are stored, but float32 for float16, in which CPUs are
            slow and large models overflow.
        recipe: recipe to build instead of the stored one; its weights must be the same.

    Raises:
        ConfigError: the device is not available.
        CheckpointError: the folder is missing, incomplete, of another schema version or family, or its weights do not
            fit its recipe.
        PluginError: a plugin that the recipe needs is not installed or broken.
    """
    registry = load_plugins() if registry is None else registry
    device = parse_device(device) if isinstance(device, str) else device
    with find_model(name_or_folder, registry) as folder:
        loaded = open_model_dir(folder, registry)
        loaded = loaded if recipe is None else replace(loaded, recipe=recipe)
        if dtype is None:
            check_dtype(loaded)
        model = _build_empty(loaded, registry)
        mismatch = describe_mismatch(model, loaded.weights)
        if mismatch and loaded.recipe.training.adapter is not None:
            raise CheckpointError(
                f"{loaded.folder}: got the training of an adapter, expected a model. Open its base, "
                f"{loaded.recipe.base_model}, and load the adapter as a LoRA."
            )
        if mismatch:
            raise CheckpointError(f"{loaded.folder} does not fit its recipe: {mismatch}")
        stored_dtype = dominant_dtype(loaded.weights)
        dtype = dtype or _COMPUTE_DTYPES.get(stored_dtype, stored_dtype)
        for note in loaded.notes:
            if note.startswith("step-"):  # an older checkpoint than the user may expect
                warnings.warn(note, stacklevel=2)
        source = str(loaded.folder)
        weights = {n: _read(t, n, source, device, dtype) for n, t in loaded.weights.items()}
        model.load_state_dict(weights, assign=True)
    return model.to(device, dtype).eval()


def open_model_dir(folder: Path, registry: Registry) -> LoadedDir:
    """Open a model folder, or the newest checkpoint of a training's output folder; averaged weights are preferred.

    Raises:
        CheckpointError: the folder is of no installed format, damaged, or of a family that its format does not read.
        PluginError: a checkpoint format cannot be imported.
    """
    name = detect_format(folder, registry)
    if name is not None:
        checkpoint = _load_foreign(registry, name, folder)
        return LoadedDir(
            folder,
            read_recipe(dict(checkpoint.recipe), str(folder)),
            checkpoint.weights,
            format=name,
            dtype=checkpoint.dtype,
            extra_tensors=checkpoint.extra_tensors,
            source_metadata=checkpoint.source_metadata,
            notes=checkpoint.notes,
        )
    out, folder = folder, resolve_model_dir(folder)
    recipe, plugins = read_model_config(folder)
    config = _read_config(folder / CONFIG_FILE)
    weights, prefix = strip_wrappers(_open_best_weights(folder))
    passed_over = [one for one in list_checkpoint_dirs(out) if checkpoint_step(one) > checkpoint_step(folder) >= 0]
    return LoadedDir(
        folder,
        recipe,
        weights,
        plugins,
        notes=(
            *(f"{one.name} is damaged; opened {folder.name} instead" for one in passed_over),
            *prefix_note(prefix),
        ),
        dtype=config.get("dtype"),
        extra_tensors=open_weights(folder, EXTRA_STEM) if has_weights(folder, EXTRA_STEM) else {},
        source_metadata=config.get("source_metadata", {}),
    )


def read_model_recipe(name_or_folder: str | Path, registry: Registry) -> Recipe:
    """Return the recipe of a model folder, or of an installed model; reads no weights.

    Raises:
        CheckpointError: there is no such model, or its config cannot be read.
    """
    with find_model(name_or_folder, registry) as folder:
        return open_model_dir(folder, registry).recipe


def _load_foreign(registry: Registry, name: str, folder: Path) -> LoadedCheckpoint:
    try:
        checkpoint = find_format(registry, name).load(folder)
    except LuminaError:
        raise
    except Exception as error:
        plugin = registry.registrations("checkpoint_format")[name].plugin
        raise PluginError(
            f"{folder}: the checkpoint format {name} of the plugin '{plugin}' cannot read it "
            f"({type(error).__name__}: {' '.join(str(error).split())})."
        ) from error
    if not isinstance(checkpoint, LoadedCheckpoint):
        plugin = registry.registrations("checkpoint_format")[name].plugin
        raise PluginError(
            f"the checkpoint format {name} of the plugin '{plugin}': got {type(checkpoint).__name__} from load, "
            "expected a LoadedCheckpoint."
        )
    return checkpoint


def detect_format(folder: Path, registry: Registry) -> str | None:
    """Return the name of a folder's foreign checkpoint format; None for this project's own and for unknown formats."""
    if not folder.is_dir() or _is_native(folder):
        return None
    return next(
        (name for name in registry.registrations("checkpoint_format") if _matches(registry, name, folder)), None
    )


def _matches(registry: Registry, name: str, folder: Path) -> bool:
    """Return whether a folder has a format. A format that fails is named and passed over, so that others work."""
    try:
        return bool(find_format(registry, name).matches(folder))
    except Exception as error:
        plugin = registry.registrations("checkpoint_format")[name].plugin
        reason = " ".join(str(error).split())
        warnings.warn(
            f"the checkpoint format {name} of the plugin '{plugin}' failed and was passed over "
            f"({type(error).__name__}: {reason})",
            stacklevel=2,
        )
        return False


def find_format(registry: Registry, name: str) -> CheckpointFormat:
    """Return a checkpoint format by its name.

    Raises:
        PluginError: the format is not installed; the nearest name is offered.
    """
    checkpoint_format: CheckpointFormat = registry.find("checkpoint_format", name)()
    return checkpoint_format


def resolve_model_dir(folder: Path) -> Path:
    """Return the folder with config.json: `folder` itself, or the newest checkpoint of a training's output folder.

    Raises:
        CheckpointError: the folder does not exist, or is not a model folder.
    """
    restore_dir(folder)
    if (folder / CONFIG_FILE).is_file():
        return folder
    checkpoints = list_checkpoint_dirs(folder)
    if checkpoints:
        return next((one for one in reversed(checkpoints) if _is_readable(one)), checkpoints[-1])
    if not folder.is_dir():
        raise CheckpointError(f"model: got {folder}, expected an existing model folder.")
    raise CheckpointError(
        f"{folder}: got no {CONFIG_FILE}, expected a complete model folder, or one of a checkpoint format that an "
        "installed plugin reads."
    )


def _is_readable(checkpoint: Path) -> bool:
    """Return whether the config and the weights of a checkpoint can be opened."""
    try:
        _read_config(checkpoint / CONFIG_FILE)
        return bool(_open_best_weights(checkpoint))
    except CheckpointError:
        return False


def _open_best_weights(folder: Path) -> Weights:
    if is_sharded_dir(folder):
        from lumina_core.checkpoint.sharded import open_averages

        return open_averages(folder)
    stem = Path(EMA_WEIGHTS_FILE if has_weights(folder, Path(EMA_WEIGHTS_FILE).stem) else WEIGHTS_FILE).stem
    if not has_weights(folder, stem):
        raise _missing_weights(folder / WEIGHTS_FILE)
    return open_weights(folder, stem)


def read_model_config(folder: Path) -> tuple[Recipe, dict[str, str]]:
    """Read the recipe and the versions of the plugins of a model folder; relative paths in it become absolute."""
    path = folder / CONFIG_FILE
    content = _read_config(path)
    try:
        recipe, plugins = dict(content["recipe"]), dict(content.get("plugins", {}))
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(path, error) from error
    try:
        return read_recipe(map_paths(recipe, lambda option: _absolute_path(folder, option)), str(path)), plugins
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file to memory.

    Raises:
        CheckpointError: the file is missing, truncated or no safetensors file (a pickle of this name, for example).
    """
    if not path.is_file():
        raise _missing_weights(path)
    weights = {name: read_tensor(tensor) for name, tensor in open_safetensors(path).items()}
    for name, value in weights.items():
        check_finite(value, name, str(path))
    return weights


def dominant_dtype(weights: Weights) -> torch.dtype:
    """Return the floating dtype of most bytes of the weights; float32 if there are none."""
    bytes_by_dtype: dict[torch.dtype, int] = {torch.float32: 0}
    for tensor in weights.values():
        if tensor.dtype.is_floating_point:
            bytes_by_dtype[tensor.dtype] = bytes_by_dtype.get(tensor.dtype, 0) + num_bytes(tensor)
    return max(bytes_by_dtype, key=lambda dtype: bytes_by_dtype[dtype])


def check_dtype(loaded: LoadedDir) -> None:
    """Raise CheckpointError if the config of a folder states another dtype than that of its weights."""
    stored = str(dominant_dtype(loaded.weights)).removeprefix("torch.")
    if loaded.dtype is not None and loaded.dtype != stored:
        raise CheckpointError(
            f"{loaded.folder / CONFIG_FILE}: dtype: got {loaded.dtype}, expected {stored}, the dtype of its weights. "
            "Download both again, or choose a dtype when the model is loaded."
        )


def check_fits(loaded: LoadedDir, registry: Registry) -> None:
    """Raise CheckpointError if the weights of a folder of this project do not fit its recipe.

    Without the plugins of its components, which a conversion does not need, nothing is checked.
    """
    if loaded.format:
        return
    with suppress(PluginError):
        mismatch = describe_mismatch(_build_empty(loaded, registry), loaded.weights)
        if mismatch:
            raise CheckpointError(f"{loaded.folder} does not fit its recipe: {mismatch}")


def describe_mismatch(model: Model, weights: Mapping[str, HasShape]) -> str:
    """Describe weights that are missing, unexpected or of another shape than those of a model; empty: they match."""
    expected = {n: None if _has_variable_length(n) else tuple(t.shape) for n, t in model.state_dict().items()}
    return lazy_tensors.describe_mismatch(weights, expected)


def matching_weights(model: Model, weights: Mapping[str, HasShapeT]) -> dict[str, HasShapeT]:
    """Return those weights of another model that fit this one by name and shape, to initialise a training."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return {
        name: weight
        for name, weight in weights.items()
        if name in shapes and (shapes[name] == tuple(weight.shape) or _has_variable_length(name))
    }


def _build_empty(loaded: LoadedDir, registry: Registry) -> Model:
    try:
        with init_empty_weights():
            return build_model(loaded.recipe, registry)
    except PluginError as error:
        saved_with = ", ".join(f"{name} {version}" for name, version in loaded.plugins.items())
        installed = {source.distribution for source in registry.sources.values()}
        missing = [f"'{name}=={version}'" for name, version in loaded.plugins.items() if name not in installed]
        install = f". Install the same versions: pip install {' '.join(missing)}" if missing else ""
        raise PluginError(
            f"{error} ({loaded.folder} was saved with {saved_with or 'unnamed plugins'}{install})"
        ) from error
    except ConfigError as error:
        raise CheckpointError(f"{loaded.folder / CONFIG_FILE}: {error}") from error


def _read(tensor: LazyTensor, name: str, source: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Read one tensor, and check that it is finite; on the CPU and without a cast, a view of the file."""
    dtype = dtype if tensor.dtype.is_floating_point else tensor.dtype
    if device.type == "cpu" and dtype == tensor.dtype:
        value = tensor.load()
        check_finite(value, name, source)
        return value
    value = read_tensor(tensor)
    check_finite(value, name, source)  # as stored: a narrower dtype may overflow, which generation notices
    return value.to(device, dtype)


def _has_variable_length(name: str) -> bool:
    return name.endswith(".vocabulary")  # its length is learned


def _missing_weights(path: Path) -> CheckpointError:
    pickles = [file.name for file in path.parent.glob("*") if file.suffix in _PICKLE_SUFFIXES]
    if pickles:
        return CheckpointError(
            f"{path.parent}: got {pickles[0]}, expected {path.name}. Pickled weights are never loaded: convert them."
        )
    return CheckpointError(f"{path.parent}: got no {path.name}, expected a complete model folder.")


def _is_native(folder: Path) -> bool:
    """Return whether a folder has this project's own format, also if its config.json is damaged."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        return (folder / "checkpoints").is_dir()
    try:
        content = _parse_config(path)
    except CheckpointError:
        return True
    return "schema_version" in content or not _FOREIGN_KEYS & content.keys()


def _parse_config(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"larger than {MAX_CONFIG_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
        content = describe_content(text[:64].encode())
        if content:
            raise ValueError(f"it is {content}")
        return dict(json.loads(text))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise _unreadable(path, error) from error


def _read_config(path: Path) -> dict[str, Any]:
    """Read config.json of this project's own format."""
    content = _parse_config(path)
    if "schema_version" not in content and "lumina" not in content:
        foreign = sorted(_FOREIGN_KEYS & content.keys())
        if foreign:
            raise CheckpointError(
                f"{path}: got a model of another family ({foreign[0]}: {content[foreign[0]]}), expected one of this "
                "project or of a checkpoint format that an installed plugin reads."
            )
        raise _unreadable(path, KeyError("schema_version"))
    try:
        check_schema_version(content, str(path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    return content


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    reason = f"{type(error).__name__}: {error}"
    return CheckpointError(f"{path} cannot be read as the config of a model ({reason}). Save or download it again.")


def _absolute_path(folder: Path, path: str) -> str:
    """Resolve a path relative to a model folder; names on the hub and absolute paths stay."""
    if path.startswith(("./", "../")) or (path and not Path(path).is_absolute() and (folder / path).exists()):
        return str((folder / path).resolve())
    return path


# ---- writing


def save_model(
    model: Model,
    folder: Path,
    registry: Registry | None = None,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a model folder, atomically.

    Args:
        registry: source of the plugin versions in config.json; default: all installed plugins.
        dtype: dtype of floating weights; None: as they are.
        max_shard_bytes: largest number of bytes of weights in one file.

    Raises:
        CheckpointError: the disk is full, or the folder cannot be written.
    """
    weights = cast_weights({name: InMemoryTensor(tensor) for name, tensor in model.state_dict().items()}, dtype)
    with atomic_model_dir(folder) as partial_dir:
        write_config(partial_dir, model.recipe, load_plugins() if registry is None else registry)
        write_weights(partial_dir / Path(WEIGHTS_FILE).stem, weights, max_shard_bytes)


@contextmanager
def atomic_model_dir(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; without an exception it then replaces `folder`.

    Raises:
        CheckpointError: the disk is full, or the folder cannot be written.
    """
    try:
        with atomic_dir(folder) as partial_dir:
            yield partial_dir
    except (OSError, SafetensorError) as error:  # safetensors has its own error for a full disk
        reason = " ".join(str(error).split())
        raise CheckpointError(f"cannot write {folder} ({reason}). An earlier model there is unchanged.") from error


def write_export(
    plan: ExportPlan,
    folder: Path,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    on_bytes_written: Callable[[int], None] | None = None,
) -> None:
    """Write the content of a plan to an existing folder, one tensor at a time.

    Args:
        max_shard_bytes: largest number of bytes of weights in one file.
        on_bytes_written: called with the number of bytes after each tensor.
    """
    for name, source in plan.folders.items():
        from lumina_core.pretrained import pretrained_files

        for file in pretrained_files(source):
            (folder / name / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, folder / name / file)
    for name, content in plan.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for name, weights in plan.weights.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_weights(
            folder / name, weights, None if plan.single_file else max_shard_bytes, on_bytes_written, name != EXTRA_STEM
        )


def write_config(folder: Path, recipe: Recipe, registry: Registry) -> None:
    """Write config.json: the recipe, and the versions of the distributions of its components."""
    (folder / CONFIG_FILE).write_bytes(config_bytes(recipe, registry))


def config_bytes(recipe: Recipe, registry: Registry, **extra: Any) -> bytes:
    """Return the content of config.json, with those of the extra keys that have a value."""
    recipe = pin_pretrained(recipe, registry)
    plugins: dict[str, str] = {}
    for component_type, name in recipe.component_names():
        with suppress(PluginError):  # a model can be converted without the plugins of its components
            provider = registry.provider(component_type, name)
            plugins |= {} if provider is None else dict([provider])
    content = {"schema_version": SCHEMA_VERSION, "plugins": plugins, "recipe": recipe.to_dict()}
    content |= {key: value for key, value in extra.items() if value}
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def pin_pretrained(recipe: Recipe, registry: Registry) -> Recipe:
    """Return the recipe with the sha256 of pretrained folders, so that other weights are refused later."""
    values = recipe.to_dict()
    for component_type, spec in iter_components(values):
        source = spec.get("source")
        if component_type not in ("autoencoder", "conditioner") or spec.get("sha256"):
            continue
        if isinstance(source, str) and Path(source).is_dir():
            # without its plugin or with damaged files, the component reports it when it is used
            with suppress(PluginError, ConfigError, CheckpointError):
                spec |= build_component(registry, component_type, ComponentSpec(**spec)).pin_hashes()
    return Recipe.model_validate(values)


def to_cpu_contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as safetensors takes them: contiguous and on the CPU."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
