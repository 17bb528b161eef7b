"""The folders of diffusers' Lumina-Next: the network, what lies beside it and its settings; or the network alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina_core.errors import CheckpointError
from lumina_core.weights.pickled import open_pickled
from lumina_core.weights.pieces import Draft, Unbuilt, Weights
from lumina_core.weights.tensorfiles import open_file, open_index, open_weights, stored_here
from lumina_image.published import arguments as sizes
from lumina_image.published.compare import check
from lumina_image.published.mapping import from_diffusers, from_original, to_diffusers, to_original
from lumina_image.published.names import PAD, current, in_diffusers
from lumina_image.published.names import from_diffusers as original_name
from lumina_image.published.original import padding
from lumina_image.published.recipes import STRIDE, arguments_of, network_of, text_recipe

NAME = "image.diffusers"
NETWORK, STEM, INDEX_FILE = "transformer", "diffusion_pytorch_model", "model_index.json"
STEPS = "scheduler/scheduler_config.json"
MODEL = "LuminaNextDiT2DModel"
WHOLE = ("LuminaPipeline", "LuminaText2ImgPipeline")
"""The class of a whole folder, by its name today and its older one."""
OURS = "_lumina"
"""Where a folder remembers what diffusers has no place for; names with a leading line are passed over there."""
USUAL_STEPS = {
    "_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0,
    "use_dynamic_shifting": False,
}  # fmt: skip


class DiffusersFolder:
    """LuminaPipeline's folder, or a LuminaNextDiT2DModel's own; names of the older converter are read too."""

    def knows(self, folder: Path) -> bool:
        """Whether there are settings of diffusers."""
        return (folder / INDEX_FILE).is_file() or "_class_name" in _settings(folder / "config.json", there=False)

    def open(self, folder: Path) -> Unbuilt:
        """The model in the folder; what lies beside the network is named by its place.

        Raises:
            CheckpointError: another family, missing shards, or the tensors are not those of such a model.
        """
        index = _settings(folder / INDEX_FILE, there=False)
        _check_class(folder / INDEX_FILE, index, WHOLE if index else ())
        place = folder / NETWORK if index else folder
        config = _settings(place / "config.json")
        _check_class(place / "config.json", config, (MODEL,))
        arguments = sizes.from_diffusers(config, str(place / "config.json"))
        found = {current(name): piece for name, piece in _weights(place).items()}
        wanted = {new: shape for old, shape in sizes.expected(arguments).items() for new in in_diffusers(old)}
        check({n: p.shape for n, p in found.items()}, wanted, str(place), original_name)
        theirs = from_diffusers(found)
        kept = {PAD: theirs.pop(PAD)} if PAD in theirs else {}
        weights = from_original(theirs, arguments.in_channels, arguments.patch_size)
        steps = _settings(folder / STEPS, there=False) if index else {}
        recipe = _recipe(arguments, config, steps, folder if index else None)
        origin = {**dict(config.get(OURS) or {}), "layout": NAME, "transformer": _own(config), "steps": steps}
        dtype = config.get("dtype") or config.get("torch_dtype")
        return Unbuilt(recipe, weights, kept, origin, None if dtype is None else str(dtype).removeprefix("torch."))

    def draft(self, model: Unbuilt) -> Draft:
        """A whole folder; what lies outside is copied where it is a folder, and said where it is not.

        Raises:
            CheckpointError: a part or an option of the model has no place in this layout.
        """
        arguments = arguments_of(model, NAME)
        if arguments.imagenet:
            raise CheckpointError(f"{NAME} has no place for a model that is told a class; write image.alpha_vllm")
        network = to_original(network_of(model, NAME), arguments.in_channels, arguments.patch_size)
        weights = to_diffusers({**padding(model, arguments), **network})
        folders, notes = _outside(model.recipe)
        steps = dict(model.origin.get("steps") or USUAL_STEPS)
        files = {
            f"{NETWORK}/config.json": _config(model, arguments), STEPS: steps, INDEX_FILE: _index(folders, steps)
        }  # fmt: skip
        told = {
            name: (json.dumps(content, indent=2, sort_keys=True) + "\n").encode() for name, content in files.items()
        }
        return Draft({f"{NETWORK}/{STEM}": weights}, told, folders, notes=notes)


def _recipe(
    arguments: sizes.Arguments, config: Mapping[str, Any], steps: Mapping[str, Any], folder: Path | None
) -> dict[str, Any]:
    names = ("vae", "text_encoder", "tokenizer") if folder is not None else ()
    outside = {name: str(folder / name) for name in names if folder is not None and (folder / name).is_dir()}
    latent = int(config.get("sample_size") or 128)
    # where its settings say nothing, the tokenizer of Gemma pads on the left
    settings = (
        _settings(Path(outside["tokenizer"]) / "tokenizer_config.json", there=False) if "tokenizer" in outside else None
    )
    padding = "right" if settings is None else settings.get("padding_side", "left")
    return text_recipe(arguments, latent * STRIDE, {**outside, "padding": padding}, _sampling(latent, steps))


def _sampling(latent: int, steps: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of diffusers' call: 30 steps of Euler on the grid of its settings, positions always interpolated."""
    grid = {
        "use": "core.diffusers_grid",
        **{key: steps[key] for key in ("shift", "num_train_timesteps") if key in steps},
    }
    tokens = (latent * STRIDE // 16) ** 2
    return {
        "steps": 30, "solver": "core.euler", "grid": grid,
        "extrapolation": {"use": "core.interpolation", "isotropic": True, "shrink": True},
        "proportional": tokens if tokens > 1 else None,
    }  # fmt: skip


def _weights(place: Path) -> Weights:
    """Plain weights before those of a variant (`fp16`), whole ones before shards, and a pickle last."""
    if stored_here(place, STEM):
        return open_weights(place, STEM)
    indices = sorted(place.glob(f"{STEM}.safetensors.index.*.json"))
    if indices:
        return open_index(indices[0])
    variants = sorted(file for file in place.glob(f"{STEM}.*.safetensors") if "-of-" not in file.name)
    if variants:
        return open_file(variants[0])
    pickled = place / f"{STEM}.bin"
    return open_pickled(pickled) if pickled.is_file() else open_file(place / f"{STEM}.safetensors")


def _own(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the network's settings say besides the sizes."""
    return {key: value for key, value in config.items() if key not in sizes.IN_DIFFUSERS and key != OURS}


def _config(model: Unbuilt, arguments: sizes.Arguments) -> dict[str, Any]:
    side = int(dict(model.recipe["task"]).get("side", 64))
    kept = {key: value for key, value in model.origin.items() if key not in ("layout", "transformer", "steps")}
    own = {"_class_name": MODEL, "scaling_factor": 1.0, **dict(model.origin.get("transformer") or {})}
    own = {key: value for key, value in own.items() if key not in ("dtype", "torch_dtype")}
    return {**own, **sizes.to_diffusers(arguments), "sample_size": side // STRIDE, **({OURS: kept} if kept else {})}


def _outside(recipe: Mapping[str, Any]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Folders to copy by their names in this layout, and what is not on this machine."""
    caption: Mapping[str, Any] = next(iter(recipe.get("conditioners") or ()), {})
    source = caption.get("source")
    places = {
        "vae": ("autoencoder.source", dict(recipe["autoencoder"]).get("source")),
        "text_encoder": ("conditioners.0.source", source),
        "tokenizer": ("conditioners.0.tokenizer", caption.get("tokenizer") or source),
    }
    folders = {name: Path(place) for name, (_, place) in places.items() if place and Path(place).is_dir()}
    notes = tuple(
        f"{name} is left out, for {place or 'it'} is no folder here; take it along with --set {key}=FOLDER"
        for name, (key, place) in places.items()
        if name not in folders
    )
    return folders, notes


def _index(folders: Mapping[str, Path], steps: Mapping[str, Any]) -> dict[str, Any]:
    parts = {NETWORK: ["diffusers", MODEL], "scheduler": ["diffusers", steps["_class_name"]]}
    if "vae" in folders:
        parts["vae"] = ["diffusers", "AutoencoderKL"]
    if "text_encoder" in folders:
        said = _settings(folders["text_encoder"] / "config.json", there=False).get("architectures") or ["GemmaModel"]
        parts["text_encoder"] = ["transformers", str(said[0])]
    if "tokenizer" in folders:
        kind = _settings(folders["tokenizer"] / "tokenizer_config.json", there=False).get("tokenizer_class")
        parts["tokenizer"] = ["transformers", str(kind or "GemmaTokenizer")]
    return {"_class_name": WHOLE[0], **parts}


def _check_class(path: Path, settings: Mapping[str, Any], wanted: tuple[str, ...]) -> None:
    found = settings.get("_class_name")
    if wanted and found not in wanted:
        raise CheckpointError(f"{path} is of another family, {found or 'which it does not say'}; wanted {wanted[0]}")


def _settings(path: Path, there: bool = True) -> dict[str, Any]:
    """A file of settings; empty where it is not there and need not be."""
    if not path.is_file() and not there:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no keys and values")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as settings ({error}); fetch it again") from error
    return content
