"""Recipes for released sound models: which of our parts give the numbers that their own code gives, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lumina_audio.autoencoders.vae import VAEConfig
from lumina_audio.formats.components import DiscreteTimeFlagDiT
from lumina_audio.formats.config_mapping import ROPE_THETA, PublishedConfig, to_options
from lumina_audio.mel import MelConfig
from lumina_audio.text.clap import BertConfig
from lumina_core.checkpoint.lazy_tensors import LoadedCheckpoint
from lumina_core.errors import CheckpointError, ConfigError

MUSIC, AUDIO = "music", "audio"
T5_SOURCES = {MUSIC: "google/flan-t5-large", AUDIO: "google/t5-v1_1-large"}
"""The T5 of each release, by its name on the hub (encoders/modules.py)."""
BERT_TOKENIZER_SOURCE = "bert-base-uncased"
MAX_TOKENS = 77
"""Of a text that each encoder reads, filled up to so many."""
RELEASE_DURATION = 9.984
"""Of a released sound: 624 frames of its spectrogram, 312 of its latent."""
SAMPLING_OPTIONS = {
    MUSIC: {"steps": 39, "solver": "core.euler", "schedule": {"type": "audio.float32_schedule"}, "guidance_scale": 5.0},
    AUDIO: {"steps": 99, "solver": "core.euler", "schedule": {"type": "audio.float32_schedule"}, "guidance_scale": 3.0},
}
"""Of the demos (demo_music.py, demo_audio.py); their 40 and 100 count points, ours steps."""
_COMPONENTS = {
    "backbone": "audio.flag_dit", "head": "core.velocity", "tokenizer": "audio.patchify", "autoencoder": "audio.mel",
}  # fmt: skip
OBJECTIVE_OPTIONS = {
    "type": "core.flow_matching", "path": {"type": "audio.cfm_path"}, "time_sampler": {"type": "audio.discrete_times"},
}  # fmt: skip

DERIVED_OPTIONS = {"type", "token_dim", "cross_attention_dim", "pooled_dim", "modulation_dim"}
"""Of a backbone: its name, and the widths that follow from other parts."""


def make_recipe(
    variant: str,
    network_config: PublishedConfig,
    vae_config: VAEConfig,
    vocoder: Mapping[str, Any] | None,
    conditioner: dict[str, Any],
) -> dict[str, Any]:
    """A text-to-sound model.

    Args:
        kind: `music` or `audio`, for how it is asked.
        vocoder: options of `audio.bigvgan`; None: Griffin-Lim, which needs no weights.
    """
    components = to_options(network_config)
    vocoder_options: dict[str, Any] = {"type": "audio.griffin_lim"}
    if vocoder is not None:
        vocoder_options = {"type": "audio.bigvgan", "log_base": "decimal", **vocoder}
    return {
        "task": {"type": "audio.text_to_audio", "duration": RELEASE_DURATION},
        "autoencoder": {
            "type": "audio.mel", "mel": {"log_base": "decimal"},
            "vae": vae_config.model_dump(mode="json", exclude_defaults=True), "vocoder": vocoder_options,
        },
        "tokenizer": {"type": "audio.patchify"},
        "backbone": {"type": "audio.flag_dit", **components["backbone"]},
        "head": {"type": "core.velocity", **components["head"]},
        "objective": OBJECTIVE_OPTIONS,
        "conditioners": [conditioner],
        "sampling": SAMPLING_OPTIONS[variant],
    }  # fmt: skip


def t5_options(variant: str, source: Path | str | None, context_dim: int) -> dict[str, Any]:
    """The options of T5 as their code reads it: 77 pieces, padding among them, none of it masked."""
    return {
        "type": "core.transformers", "source": str(source or T5_SOURCES[variant]), "hidden_state_index": -1, "max_length": MAX_TOKENS,
        "pad_to_max_length": True, "use_attention_mask": False, "hidden_size": context_dim,
    }  # fmt: skip


def dual_encoder_options(tokenizer: Path | None, bert_config: BertConfig, t5_spec: dict[str, Any]) -> dict[str, Any]:
    """The options of CLAP's tower, with weights of the model's own, and T5 behind it."""
    tower = {
        "type": "audio.clap_text", "source": str(tokenizer or BERT_TOKENIZER_SOURCE), "max_length": MAX_TOKENS,
        "bert": bert_config.model_dump(mode="json"),
    }  # fmt: skip
    return {"field": "caption", "type": "audio.dual_text", "conditioner": [tower, t5_spec]}


def release_variant(model: LoadedCheckpoint, where: str) -> str:
    """`music` or `audio`, by how a model of ours is told what to do.

    Raises:
        CheckpointError: in a way that no release knows.
    """
    specs = [dict(spec) for spec in model.recipe.get("conditioners") or ()]
    variants = {"core.transformers": MUSIC, "audio.dual_text": AUDIO}
    if len(specs) != 1 or specs[0]["type"] not in variants:
        names = ", ".join(str(spec["type"]) for spec in specs) or "nothing"
        raise CheckpointError(f"{where} holds models that T5 tells, alone or behind CLAP; this one is told by {names}")
    return variants[specs[0]["type"]]


def published_config(model: LoadedCheckpoint, where: str) -> PublishedConfig:
    """The arguments of FlagDiT for a model of ours.

    Raises:
        CheckpointError: a part or an option has no place in the released code.
    """
    expected = {
        "backbone": "audio.flag_dit",
        "head": "core.velocity",
        "tokenizer": "audio.patchify",
        "autoencoder": "audio.mel",
    }
    options = {
        component_type: dict(model.recipe.get(component_type) or {}) for component_type in (*expected, "objective")
    }
    for component_type, name in expected.items():
        if options[component_type].get("type") != name:
            raise CheckpointError(
                f"{where} holds models with {name}; the {component_type} of this one is {options[component_type].get('use')}"
            )
    _check_options(options, where)
    backbone_options = {key: value for key, value in options["backbone"].items() if key not in DERIVED_OPTIONS}
    backbone = DiscreteTimeFlagDiT.Config.read(backbone_options, "backbone")
    if backbone.position_ids != "index" or not backbone.time_conditioned or backbone.pooled_embed != "mlp":
        raise CheckpointError(
            f"{where}: no released model has position_ids {backbone.position_ids}, "
            f"time_conditioned {backbone.time_conditioned}, pooled_embed {backbone.pooled_embed}"
        )
    return PublishedConfig(
        in_channels=model.weights["backbone.embed.weight"].shape[1],
        context_dim=model.weights["backbone.blocks.0.context_norm.weight"].shape[0],
        hidden_size=backbone.hidden_size, depth=backbone.num_layers, num_heads=backbone.num_heads, n_kv_heads=backbone.num_kv_heads, multiple_of=backbone.multiple_of,
        ffn_dim_multiplier=backbone.ffn_dim_multiplier, norm_eps=backbone.eps, qk_norm=backbone.qk_norm or None, rope_scaling_factor=backbone.rope_scaling_factor,
        ntk_factor=backbone.rope_theta / ROPE_THETA,
    )  # fmt: skip


def _check_options(options: Mapping[str, Any], where: str) -> None:
    """That path, times, logarithm and sizes of frames are theirs."""
    objective, autoencoder = options["objective"], options["autoencoder"]
    path = dict(objective.get("path") or {})
    if path.get("type") != "audio.cfm_path" or objective.get("prediction", "velocity") != "velocity":
        raise CheckpointError(
            f"{where} holds models that answer a velocity on the path audio.cfm_path; this one does not"
        )
    if not options["head"].get("shift") or options["tokenizer"].get("patch_size", 1) != 1:
        raise CheckpointError(f"{where} holds models with a shifting head and tokens of one frame; this one is another")
    try:
        mel = MelConfig.read(dict(autoencoder.get("mel") or {}), "mel")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    if mel != MelConfig(log_base="decimal") or autoencoder.get("mel_mean", 0) or autoencoder.get("mel_std", 1) != 1:
        raise CheckpointError(
            f"{where} holds models of spectrograms at 16000 samples a second with 80 bands and a decimal logarithm, "
            "neither centred nor scaled; this one has others"
        )


def scale_from_variance(mean: torch.Tensor, variance: torch.Tensor, where: str) -> torch.Tensor:
    """The released scale (one number) of a latent's mean and variance by channel.

    Raises:
        CheckpointError: they differ from channel to channel.
    """
    scale = (variance + VARIANCE_EPS).rsqrt()
    if bool(mean.any()) or not torch.allclose(scale, scale[:1].expand_as(scale), rtol=1e-6):
        raise CheckpointError(
            f"{where} has one scale for all channels of a latent; this model has a mean and one for each"
        )
    return scale[0]


VARIANCE_EPS = 1e-5
"""What `audio.mel` adds to a variance before its root."""


def variance_from_scale(scale: float, channels: int) -> torch.Tensor:
    """The variance by channel that `audio.mel` keeps for a latent that is multiplied by `scale`."""
    return torch.full((channels,), scale**-2 - VARIANCE_EPS, dtype=torch.float64).float()
