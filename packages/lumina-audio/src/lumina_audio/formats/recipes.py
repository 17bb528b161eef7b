"""Recipes of released audio models, and the published config of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lumina_audio.autoencoders.vae import VAEConfig
from lumina_audio.formats.networks import FlagDiTConfig, config_from_native
from lumina_audio.mel import MelConfig
from lumina_audio.text.clap import BertConfig
from lumina_core.checkpoint.lazy_tensors import LoadedCheckpoint
from lumina_core.checkpoint.state_dict_adapter import check_supported, read_config
from lumina_core.errors import CheckpointError

MUSIC, AUDIO = "music", "audio"
T5_SOURCES = {MUSIC: "google/flan-t5-large", AUDIO: "google/t5-v1_1-large"}
"""T5 of each release by its name on the hub (encoders/modules.py)."""
BERT_TOKENIZER_SOURCE = "bert-base-uncased"
MAX_TOKENS = 77
"""Length to which each text encoder truncates or pads a text."""
RELEASE_DURATION = 9.984
"""Duration of released sounds in seconds: 624 frames of the spectrogram, 312 of the latent."""
_SAMPLING = {"solver": "core.euler", "schedule": {"type": "audio.float32_schedule"}}
SAMPLING_OPTIONS = {
    MUSIC: {"steps": 39, **_SAMPLING, "guidance_scale": 5.0},
    AUDIO: {"steps": 99, **_SAMPLING, "guidance_scale": 3.0},
}
"""Options of the demos (demo_music.py, demo_audio.py), whose 40 and 100 count times and not steps."""
_COMPONENTS = {
    "backbone": "audio.flag_dit",
    "head": "core.velocity",
    "tokenizer": "audio.patchify",
    "autoencoder": "audio.mel",
    "objective": "core.flow_matching",
}
_CONDITIONERS = {"core.transformers": MUSIC, "audio.dual_text": AUDIO}
VARIANCE_EPS = 1e-5
"""What `audio.mel` adds to a variance before the square root."""


def make_recipe(
    variant: str,
    network: FlagDiTConfig,
    vae: VAEConfig,
    vocoder: Mapping[str, Any] | None,
    conditioner: Mapping[str, Any],
) -> dict[str, Any]:
    """Make the recipe of a released text-to-audio model.

    Args:
        variant: `MUSIC` or `AUDIO`.
        network: config of the network.
        vae: config of the autoencoder.
        vocoder: options of `audio.bigvgan`; None for Griffin-Lim, which has no weights.
        conditioner: options of the text conditioner.
    """
    options = network.native_options()
    return {
        "task": {"type": "audio.text_to_audio", "duration": RELEASE_DURATION},
        "autoencoder": {
            "type": _COMPONENTS["autoencoder"],
            "mel": {"log_base": "decimal"},
            "vae": vae.model_dump(mode="json", exclude_defaults=True),
            "vocoder": {"type": "audio.griffin_lim"}
            if vocoder is None
            else {"type": "audio.bigvgan", "log_base": "decimal", **vocoder},
        },
        "tokenizer": {"type": _COMPONENTS["tokenizer"]},
        "backbone": {"type": _COMPONENTS["backbone"], **options["backbone"]},
        "head": {"type": _COMPONENTS["head"], **options["head"]},
        "objective": {
            "type": _COMPONENTS["objective"],
            "path": {"type": "audio.cfm_path"},
            "time_sampler": {"type": "audio.discrete_times"},
        },
        "conditioners": [dict(conditioner)],
        "sampling": SAMPLING_OPTIONS[variant],
    }


def t5_options(variant: str, source: Path | None, context_dim: int) -> dict[str, Any]:
    """Return the options of T5 as the released code uses it: 77 tokens, padding included and not masked."""
    return {
        "type": "core.transformers",
        "source": str(source or T5_SOURCES[variant]),
        "hidden_state_index": -1,
        "max_length": MAX_TOKENS,
        "pad_to_max_length": True,
        "use_attention_mask": False,
        "hidden_size": context_dim,
    }


def dual_encoder_options(tokenizer: Path | None, bert: BertConfig, t5: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a dual conditioner: CLAP's text tower, whose weights are the model's, then T5."""
    tower = {
        "type": "audio.clap_text",
        "source": str(tokenizer or BERT_TOKENIZER_SOURCE),
        "max_length": MAX_TOKENS,
        "bert": bert.model_dump(mode="json"),
    }
    return {"type": "audio.dual_text", "conditioner": [tower, dict(t5)]}


def published_config(model: LoadedCheckpoint, format_name: str) -> tuple[str, FlagDiTConfig]:
    """Return the variant and the published config of a native model.

    Args:
        model: the native model.
        format_name: checkpoint format that is written, for messages.

    Raises:
        CheckpointError: the model has a component or an option that no released model has.
    """
    options = {name: dict(model.recipe.get(name) or {}) for name in _COMPONENTS}
    conditioners = [str(spec["type"]) for spec in model.recipe.get("conditioners") or ()]
    variant = _CONDITIONERS.get(conditioners[0], "") if len(conditioners) == 1 else ""
    mel = read_config(MelConfig, dict(options["autoencoder"].get("mel") or {}), "mel")
    expected: dict[str, Any] = {
        **_COMPONENTS,
        "objective.path": "audio.cfm_path",
        "objective.prediction": "velocity",
        "head.shift": True,
        "tokenizer.patch_size": 1,
        "autoencoder.mel": MelConfig(log_base="decimal"),
        "autoencoder.mel_mean": 0,
        "autoencoder.mel_std": 1,
    }
    actual = {name: options[name].pop("type", None) for name in _COMPONENTS} | {
        "objective.path": dict(options["objective"].get("path") or {}).get("type"),
        "objective.prediction": options["objective"].get("prediction", "velocity"),
        "head.shift": bool(options["head"].get("shift")),
        "tokenizer.patch_size": options["tokenizer"].get("patch_size", 1),
        "autoencoder.mel": mel,
        "autoencoder.mel_mean": options["autoencoder"].get("mel_mean", 0),
        "autoencoder.mel_std": options["autoencoder"].get("mel_std", 1),
    }
    if not variant:
        actual["conditioners"] = ", ".join(conditioners) or None
        expected["conditioners"] = f"one of {', '.join(_CONDITIONERS)}"
    check_supported(actual, expected, format_name)
    weights = model.weights
    config = config_from_native(
        options["backbone"],
        in_channels=weights["backbone.embed.weight"].shape[1],
        context_dim=weights["backbone.blocks.0.context_norm.weight"].shape[0],
        format_name=format_name,
    )
    return variant, config


def variance_from_scale(scale: float, channels: int) -> torch.Tensor:
    """Return the variances (channels,) that `audio.mel` stores for latents which are multiplied by `scale`."""
    return torch.full((channels,), scale**-2 - VARIANCE_EPS, dtype=torch.float64).float()


def scale_from_variance(mean: torch.Tensor, variance: torch.Tensor, format_name: str) -> torch.Tensor:
    """Return the released scale, a scalar, from mean and variance (channels,) of a latent.

    Raises:
        CheckpointError: the mean is not 0, or the variance differs between channels.
    """
    scale = (variance + VARIANCE_EPS).rsqrt()
    if bool(mean.any()) or not torch.allclose(scale, scale[:1].expand_as(scale), rtol=1e-6):
        raise CheckpointError(
            f"autoencoder: got a mean and a variance per channel, expected one scale: {format_name} holds no other. "
            "Convert to another checkpoint format."
        )
    return scale[0]
