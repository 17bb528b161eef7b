"""Parts of a model of ours as a released folder has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from lumina_audio.published.arguments import Arguments
from lumina_audio.vae_settings import VaeSettings
from lumina_audio.vocoders import bigvgan_files
from lumina_audio.vocoders.generator import Shape
from lumina_core.errors import CheckpointError
from lumina_core.weights.pieces import Unbuilt, Weights

_CONDITIONERS = {"music": "FrozenFLANEmbedder", "audio": "FrozenCLAPFLANEmbedder"}
_SHORT = ("in_channels", "context_dim", "hidden_size", "num_heads", "depth", "max_len")
"""All that FlagDiTv2 can be told."""
TOWER = "conditioners.caption.first.tower."


def clap_of(model: Unbuilt) -> Weights:
    """CLAP's text tower, or nothing for a model of music."""
    return _under(model.weights, TOWER)


def vae_of(model: Unbuilt) -> Weights:
    """The autoencoder of spectrograms."""
    return _under(model.weights, "autoencoder.vae.")


def vocoder_of(model: Unbuilt, where: str) -> tuple[dict[str, Any] | None, Weights]:
    """Settings and weights of the vocoder; None and nothing where it has no weights.

    Raises:
        CheckpointError: it is no BigVGAN.
    """
    use = dict(dict(model.recipe["autoencoder"]).get("vocoder") or {"use": "audio.griffin_lim"})
    if use["use"] == "audio.griffin_lim":
        return None, {}
    if use["use"] != "audio.bigvgan" or use.get("source"):
        raise CheckpointError(f"{where} holds models with audio.bigvgan and its weights; this one has {use['use']}")
    sizes = {key: value for key, value in use.items() if key in Shape.model_fields}
    said = bigvgan_files.published(Shape.read(sizes, "vocoder"))
    return {**said, "sampling_rate": int(use.get("rate", 16000))}, _under(
        model.weights, "autoencoder.vocoder.generator."
    )


def settings_of(kind: str, arguments: Arguments, model: Unbuilt) -> bytes:
    """Their YAML: what a model is built with, without paths and without what training alone asks."""
    said = arguments.model_dump()
    more = {key: said[key] for key in said if key not in _SHORT and said[key] != Arguments.model_fields[key].default}
    unet = {key: said[key] for key in _SHORT} | more
    params: dict[str, Any] = {
        "timesteps": 1000, "mel_dim": arguments.in_channels, "scale_by_std": True,
        "unet_config": {
            "target": f"models.diffusion.flag_large_dit.FlagDiT{'' if more else 'v2'}", "params": unet,
        },
        "first_stage_config": {
            "target": "models.autoencoder1d.AutoencoderKL", "params": _first_stage(model.recipe["autoencoder"]),
        },
        "cond_stage_config": {"target": f"models.encoders.modules.{_CONDITIONERS[kind]}"},
    }  # fmt: skip
    content = {"model": {"target": "models.diffusion.ddpm_audio.CFM", "params": params}}
    return yaml.safe_dump(content, sort_keys=False).encode()


def _first_stage(autoencoder: Mapping[str, Any]) -> dict[str, Any]:
    vae = VaeSettings.read(dict(autoencoder.get("vae") or {}), "vae")
    bands = 80
    dd = {
        "double_z": True, "in_channels": bands, "out_ch": bands, "z_channels": vae.inner, "kernel_size": vae.kernel,
        "ch": vae.width, "ch_mult": list(vae.growth), "num_res_blocks": vae.blocks,
        "attn_layers": list(vae.attended), "down_layers": list(vae.halved), "dropout": 0.0,
    }  # fmt: skip
    return {"embed_dim": vae.channels, "ddconfig": dd}


def _under(weights: Weights, prefix: str) -> Weights:
    return {name[len(prefix) :]: piece for name, piece in weights.items() if name.startswith(prefix)}
