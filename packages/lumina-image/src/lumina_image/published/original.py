"""The folders of Alpha-VLLM: `consolidated*.pth` or `.safetensors`, and `model_args.pth` beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lumina_core.errors import CheckpointError
from lumina_core.weights.pickled import open_pickled, read_settings, settings_file
from lumina_core.weights.pieces import Draft, Held, Piece, Unbuilt, Weights
from lumina_core.weights.tensorfiles import open_file
from lumina_image.published.arguments import Arguments, expected, from_shapes
from lumina_image.published.compare import check
from lumina_image.published.mapping import from_original, to_original
from lumina_image.published.names import PAD
from lumina_image.published.recipes import arguments_of, label_recipe, network_of, text_recipe
from lumina_image.published.shards import joined

NAME = "image.alpha_vllm"
ARGUMENTS = "model_args.pth"
WRITTEN = "consolidated_ema.00-of-01"
"""What is written: the published samplers take the average of the weights unless told otherwise."""
SAMPLING = {
    "steps": 29, "solver": "core.midpoint", "grid": {"use": "core.shift_grid", "shift": 4.0},
    "extrapolation": {"use": "core.watershed", "watershed": 0.3, "isotropic": True},
}  # fmt: skip
"""Of the published demo (lumina_next_t2i_mini/demo.py); its 30 counts points, ours steps."""
_FILE = re.compile(r"consolidated(_ema)?(?:\.(\d+)(?:-of-(\d+))?)?\.(pth|safetensors)")
_MODELS = {(2304, 24): "2B", (3072, 32): "3B", (4096, 32): "7B", (1536, 16): "600M"}


class OriginalFolder:
    """Text-to-image NextDiT, and DiT_Llama of ImageNet. Averaged weights (`_ema`) are taken where there are both."""

    def knows(self, folder: Path) -> bool:
        """Whether there are files of these names."""
        return (folder / ARGUMENTS).is_file() or any(_FILE.fullmatch(file.name) for file in folder.iterdir())

    def open(self, folder: Path) -> Unbuilt:
        """The model in the folder; `vae`, `text_encoder` and `tokenizer` beside it are taken where they are there.

        Raises:
            CheckpointError: parts are missing, code is in a file, or the tensors are not those of such a model.
        """
        said = read_settings(folder / ARGUMENTS) if (folder / ARGUMENTS).is_file() else {}
        files = _files(folder)
        where = str(files[0] if len(files) == 1 else folder)
        theirs = joined([_opened(file) for file in files], where)
        arguments = from_shapes({name: piece.shape for name, piece in theirs.items()}, said, where)
        check({n: p.shape for n, p in theirs.items()}, expected(arguments), where, lambda name: name)
        kept = {PAD: theirs[PAD]} if PAD in theirs else {}
        rest = {name: piece for name, piece in theirs.items() if name != PAD}
        weights = from_original(rest, arguments.in_channels, arguments.patch_size)
        return Unbuilt(_recipe(arguments, said, folder), weights, kept, {"layout": NAME, "model_args": said})

    def draft(self, model: Unbuilt) -> Draft:
        """One file of weights under the published names, and the arguments.

        Raises:
            CheckpointError: a part or an option of the model has no place in this layout.
        """
        arguments = arguments_of(model, NAME)
        network = network_of(model, NAME)
        theirs = to_original(network, arguments.in_channels, arguments.patch_size, imagenet=arguments.imagenet)
        weights = theirs if arguments.imagenet else {**padding(model, arguments), **theirs}
        side = int(dict(model.recipe["task"]).get("side", 64))
        said = dict(model.origin.get("model_args") or {**_said(arguments), "image_size": side})
        if _side(said, arguments) != side:
            said["image_size"] = side
        return Draft({WRITTEN: weights}, {ARGUMENTS: settings_file(said)}, whole=True)


def padding(model: Unbuilt, arguments: Arguments) -> dict[str, Piece]:
    """The published `pad_token`: the one that came with the model, or zeros (it has no influence on a result)."""
    if PAD in model.kept:
        return {PAD: model.kept[PAD]}
    dtype = model.weights["backbone.embed.weight"].dtype
    return {PAD: Held(torch.zeros(arguments.dim, dtype=dtype))}


def _opened(file: Path) -> Weights:
    return open_file(file) if file.suffix == ".safetensors" else open_pickled(file)


def _files(folder: Path) -> list[Path]:
    """The files of one set of weights, in the order of their parts: averaged before others, safetensors before pth."""
    found = [(hit, file) for file in sorted(folder.iterdir()) if (hit := _FILE.fullmatch(file.name))]
    if not found:
        raise CheckpointError(f"{folder} has {ARGUMENTS}, but no consolidated weights beside it; fetch them")
    first, _ = min(found, key=lambda pair: (pair[0][1] is None, pair[0][4] != "safetensors", pair[0][3] or ""))
    world = int(first[3] or 1)
    parts = {
        int(hit[2] or 0): file for hit, file in found if (hit[1], hit[3], hit[4]) == (first[1], first[3], first[4])
    }
    lacking = [rank for rank in range(world) if rank not in parts]
    if lacking:
        name = f"consolidated{first[1] or ''}.{lacking[0]:02d}-of-{first[3]}.{first[4]}"
        raise CheckpointError(f"{folder} lacks {name}, one of {world} parts; fetch it")
    return [parts[rank] for rank in range(world)]


def _recipe(arguments: Arguments, said: dict[str, Any], folder: Path) -> dict[str, Any]:
    side = _side(said, arguments)
    outside = {name: str(folder / name) for name in ("vae", "text_encoder", "tokenizer") if (folder / name).is_dir()}
    if "vae" not in outside and said.get("vae") in ("ema", "mse"):
        outside["vae"] = f"stabilityai/sd-vae-ft-{said['vae']}"
    if arguments.imagenet:
        return label_recipe(arguments, side, outside)
    tokens = (side // 16) ** 2
    return text_recipe(arguments, side, outside, {**SAMPLING, "proportional": tokens if tokens > 1 else None})


def _side(said: Mapping[str, Any], arguments: Arguments) -> int:
    return int(said.get("image_size") or (256 if arguments.imagenet else 1024))


def _said(arguments: Arguments) -> dict[str, Any]:
    """What the published code looks for, and the arguments themselves, which no shape tells."""
    a = arguments
    size = _MODELS.get((a.dim, a.n_layers), "custom")
    shared = "_GQA" if a.n_kv_heads not in (None, a.n_heads) else ""
    model = f"{'DiT_Llama' if a.imagenet else 'NextDiT'}_{size}{shared}_patch{a.patch_size}"
    own = {key: value for key, value in a.model_dump().items() if key not in ("cap_feat_dim", "num_classes")}
    return {"model": model, "vae": "ema" if a.imagenet else "sdxl", **own}
