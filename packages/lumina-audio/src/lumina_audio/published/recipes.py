"""Recipes for released sound models: which of our parts give the numbers that their own code gives, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lumina_audio.captions.bert import BertSizes
from lumina_audio.mel import MelSettings
from lumina_audio.published.arguments import BASE, Arguments, options
from lumina_audio.published.conventions import WholeTimeFlagDiT
from lumina_audio.vae_settings import VaeSettings
from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.weights.pieces import Unbuilt

MUSIC, AUDIO = "music", "audio"
READERS = {MUSIC: "google/flan-t5-large", AUDIO: "google/t5-v1_1-large"}
"""The T5 of each release, by its name on the hub (encoders/modules.py)."""
TOKENIZER = "bert-base-uncased"
PIECES = 77
"""Of a text that each encoder reads, filled up to so many."""
SECONDS = 9.984
"""Of a released sound: 624 frames of its spectrogram, 312 of its latent."""
SAMPLING = {
    MUSIC: {"steps": 39, "solver": "core.euler", "grid": {"use": "audio.float32_grid"}, "guidance": 5.0},
    AUDIO: {"steps": 99, "solver": "core.euler", "grid": {"use": "audio.float32_grid"}, "guidance": 3.0},
}
"""Of the demos (demo_music.py, demo_audio.py); their 40 and 100 count points, ours steps."""
_PARTS = {
    "backbone": "audio.flag_dit", "head": "core.velocity", "tokenizer": "audio.frames", "autoencoder": "audio.mel",
}  # fmt: skip
OBJECTIVE = {
    "use": "core.flow_matching", "path": {"use": "audio.trace"}, "times": {"use": "audio.thousandths"},
}  # fmt: skip


def recipe(
    kind: str, arguments: Arguments, vae: VaeSettings, vocoder: Mapping[str, Any] | None, conditioner: dict[str, Any]
) -> dict[str, Any]:
    """A text-to-sound model.

    Args:
        kind: `music` or `audio`, for how it is asked.
        vocoder: options of `audio.bigvgan`; None: Griffin-Lim, which needs no weights.
    """
    parts = options(arguments)
    heard: dict[str, Any] = {"use": "audio.griffin_lim"}
    if vocoder is not None:
        heard = {"use": "audio.bigvgan", "logarithm": "decimal", **vocoder}
    return {
        "task": {"use": "audio.text_to_audio", "seconds": SECONDS},
        "autoencoder": {
            "use": "audio.mel", "mel": {"logarithm": "decimal"},
            "vae": vae.model_dump(mode="json", exclude_defaults=True), "vocoder": heard,
        },
        "tokenizer": {"use": "audio.frames"},
        "backbone": {"use": "audio.flag_dit", **parts["backbone"]},
        "head": {"use": "core.velocity", **parts["head"]},
        "objective": OBJECTIVE,
        "conditioners": [conditioner],
        "sampling": SAMPLING[kind],
    }  # fmt: skip


def t5(kind: str, source: Path | str | None, width: int) -> dict[str, Any]:
    """The options of T5 as their code reads it: 77 pieces, padding among them, none of it masked."""
    return {
        "use": "core.transformers", "source": str(source or READERS[kind]), "layer": -1, "length": PIECES,
        "full": True, "masked": False, "width": width,
    }  # fmt: skip


def pair(tokenizer: Path | None, sizes: BertSizes, reader: dict[str, Any]) -> dict[str, Any]:
    """The options of CLAP's tower, with weights of the model's own, and T5 behind it."""
    tower = {
        "use": "audio.clap_text", "source": str(tokenizer or TOKENIZER), "length": PIECES,
        "bert": sizes.model_dump(mode="json"),
    }  # fmt: skip
    return {"name": "caption", "use": "audio.dual_text", "conditioner": [tower, reader]}


def kind_of(model: Unbuilt, where: str) -> str:
    """`music` or `audio`, by how a model of ours is told what to do.

    Raises:
        CheckpointError: in a way that no release knows.
    """
    uses = [dict(use) for use in model.recipe.get("conditioners") or ()]
    kinds = {"core.transformers": MUSIC, "audio.dual_text": AUDIO}
    if len(uses) != 1 or uses[0]["use"] not in kinds:
        said = ", ".join(str(use["use"]) for use in uses) or "nothing"
        raise CheckpointError(f"{where} holds models that T5 tells, alone or behind CLAP; this one is told by {said}")
    return kinds[uses[0]["use"]]


def arguments_of(model: Unbuilt, where: str) -> Arguments:
    """The arguments of FlagDiT for a model of ours.

    Raises:
        CheckpointError: a part or an option has no place in the released code.
    """
    wanted = {
        "backbone": "audio.flag_dit",
        "head": "core.velocity",
        "tokenizer": "audio.frames",
        "autoencoder": "audio.mel",
    }
    said = {kind: dict(model.recipe.get(kind) or {}) for kind in (*wanted, "objective")}
    for kind, name in wanted.items():
        if said[kind].get("use") != name:
            raise CheckpointError(
                f"{where} holds models with {name}; the {kind} of this one is {said[kind].get('use')}"
            )
    _check_options(said, where)
    known = {key: value for key, value in said["backbone"].items() if key != "use" and not key.endswith("_width")}
    b = WholeTimeFlagDiT.Config.read(known, "backbone")
    if b.place != "index" or not b.timed or b.summary != "norm":
        raise CheckpointError(f"{where}: no released model has place {b.place}, timed {b.timed}, summary {b.summary}")
    return Arguments(
        in_channels=model.weights["backbone.embed.weight"].shape[1],
        context_dim=model.weights["backbone.blocks.0.memory_norm.weight"].shape[0],
        hidden_size=b.width, depth=b.depth, num_heads=b.heads, n_kv_heads=b.kv_heads, multiple_of=b.multiple_of,
        ffn_dim_multiplier=b.multiplier, norm_eps=b.eps, qk_norm=b.qk_norm or None, rope_scaling_factor=b.stretch,
        ntk_factor=b.base / BASE,
    )  # fmt: skip


def _check_options(said: Mapping[str, Any], where: str) -> None:
    """That path, times, logarithm and sizes of frames are theirs."""
    objective, autoencoder = said["objective"], said["autoencoder"]
    path = dict(objective.get("path") or {})
    if path.get("use") != "audio.trace" or objective.get("prediction", "velocity") != "velocity":
        raise CheckpointError(f"{where} holds models that answer a velocity on the path audio.trace; this one does not")
    if not said["head"].get("shift") or said["tokenizer"].get("frame", 1) != 1:
        raise CheckpointError(f"{where} holds models with a shifting head and tokens of one frame; this one is another")
    try:
        mel = MelSettings.read(dict(autoencoder.get("mel") or {}), "mel")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    if mel != MelSettings(logarithm="decimal") or autoencoder.get("centre", 0) or autoencoder.get("spread", 1) != 1:
        raise CheckpointError(
            f"{where} holds models of spectrograms at 16000 samples a second with 80 bands and a decimal logarithm, "
            "neither centred nor scaled; this one has others"
        )


def scale_back(mean: torch.Tensor, variance: torch.Tensor, where: str) -> torch.Tensor:
    """The released scale (one number) of a latent's mean and variance by channel.

    Raises:
        CheckpointError: they differ from channel to channel.
    """
    scale = (variance + EPS).rsqrt()
    if bool(mean.any()) or not torch.allclose(scale, scale[:1].expand_as(scale), rtol=1e-6):
        raise CheckpointError(
            f"{where} has one scale for all channels of a latent; this model has a mean and one for each"
        )
    return scale[0]


EPS = 1e-5
"""What `audio.mel` adds to a variance before its root."""


def variance_of(scale: float, channels: int) -> torch.Tensor:
    """The variance by channel that `audio.mel` keeps for a latent that is multiplied by `scale`."""
    return torch.full((channels,), scale**-2 - EPS, dtype=torch.float64).float()
