"""Checkpoint format of the released audio models (Lumina-T2Music, Lumina-T2Audio)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import yaml

from lumina_audio.autoencoders.vae import VAEConfig
from lumina_audio.formats import recipes
from lumina_audio.formats.networks import (
    V2_FIELDS,
    FlagDiTAdapter,
    FlagDiTConfig,
    VAEAdapter,
    check_text_tower,
    infer_bert_config,
    infer_network_config,
    infer_vae_config,
)
from lumina_audio.formats.release_files import (
    SCALE_KEY,
    ReleaseFiles,
    is_release,
    locate_files,
    open_checkpoint,
    read_scale_factor,
    sub_state_dict,
)
from lumina_audio.mel import MelConfig
from lumina_audio.vocoders import bigvgan
from lumina_audio.vocoders.bigvgan import BigVGAN, GeneratorConfig
from lumina_core.checkpoint.lazy_tensors import (
    ExportPlan,
    InMemoryTensor,
    LazyTensor,
    LoadedCheckpoint,
    Weights,
    read_tensor,
)
from lumina_core.errors import CheckpointError
from lumina_core.protocols import CheckpointFormat

FORMAT_NAME = "audio.lumina_music"
PICKLE_NOTE = "The released code reads pickles: torch.save({'state_dict': ...}), or {'generator': ...} for the vocoder."
NETWORK_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
CLAP_PREFIX = "cond_stage_model.caption_encoder."
NATIVE_VAE_PREFIX = "autoencoder.vae."
NATIVE_VOCODER_PREFIX = "autoencoder.vocoder.generator."
NATIVE_TOWER_PREFIX = "conditioners.caption.first.tower."
_CONDITIONER_TARGETS = {recipes.MUSIC: "FrozenFLANEmbedder", recipes.AUDIO: "FrozenCLAPFLANEmbedder"}
NETWORK, VAE_ADAPTER = FlagDiTAdapter(), VAEAdapter()


class LuminaMusicFormat(CheckpointFormat):
    """Folders as on the hub: `music_generation` (or `audio_generation`), `maa2`, `bigvnat`, optionally CLAP, T5, YAML.

    Checkpoints are pickles of a training: only tensors are read, and no class is imported. Without a YAML config sizes
    are inferred from the tensors. An autoencoder in the checkpoint has priority over `maa2`, as in the released code.
    Without a vocoder Griffin-Lim is used. The recipe refers to T5 in a subfolder, or on the hub.
    """

    def matches(self, folder: Path) -> bool:
        """Return whether the folder has a generator's checkpoint, or a YAML config of one."""
        return is_release(folder)

    def load(self, folder: Path) -> LoadedCheckpoint:
        """Open the model in a folder.

        Raises:
            CheckpointError: the generator or the autoencoder is missing, networks do not fit together, or a file has
                code in it.
        """
        files = locate_files(folder)
        if files.generator is None:
            raise CheckpointError(f"{folder}: got no checkpoint music_generation or audio_generation. Get it.")
        state, where = open_checkpoint(files.generator), str(files.generator)
        network_config, weights = _load_network(files, state, where)
        vae_config, vae_weights = _load_vae(files, state)
        if vae_config.latent_channels != network_config.in_channels:
            raise CheckpointError(
                f"{where}: got an autoencoder of {vae_config.latent_channels} channels, expected "
                f"{network_config.in_channels}. Get network and autoencoder of the same release."
            )
        vocoder_options, vocoder_weights = _load_vocoder(files)
        conditioner_options, tower_weights = _load_conditioner(files, state, network_config)
        variant = recipes.AUDIO if tower_weights else recipes.MUSIC
        for prefix, tensors in (
            (NATIVE_VAE_PREFIX, vae_weights),
            (NATIVE_VOCODER_PREFIX, vocoder_weights),
            (NATIVE_TOWER_PREFIX, tower_weights),
        ):
            weights |= {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
        variance = recipes.variance_from_scale(read_scale_factor(state, where), vae_config.latent_channels)
        weights["autoencoder.mean"] = InMemoryTensor(torch.zeros_like(variance))
        weights["autoencoder.variance"] = InMemoryTensor(variance)
        return LoadedCheckpoint(
            recipes.make_recipe(variant, network_config, vae_config, vocoder_options, conditioner_options),
            weights,
            extra_tensors={SCALE_KEY: state[SCALE_KEY]},
            source_metadata={"checkpoint_format": FORMAT_NAME, "variant": variant},
            notes=_notes(files, state),
        )

    def export(self, model: LoadedCheckpoint) -> ExportPlan:
        """Plan a folder with the released names of files and tensors, as safetensors, and the YAML config.

        Raises:
            CheckpointError: the model has a component or an option that no released model has.
        """
        variant, config = recipes.published_config(model, FORMAT_NAME)
        network = {name: p for name, p in model.weights.items() if name.startswith(("backbone.", "head."))}
        state = {f"{NETWORK_PREFIX}{name}": tensor for name, tensor in NETWORK.to_foreign(network, config).items()}
        tower = sub_state_dict(model.weights, NATIVE_TOWER_PREFIX)
        state |= {f"{CLAP_PREFIX}{name}": tensor for name, tensor in tower.items()}
        weights: dict[str, Weights] = {
            f"{variant}_generation/lumina": {**state, SCALE_KEY: _export_scale(model)},
            "maa2/maa2": sub_state_dict(model.weights, NATIVE_VAE_PREFIX),
        }
        files = {f"configs/lumina-text2{variant}.yaml": _yaml_config(variant, config, model)}
        vocoder_options = _export_vocoder(model)
        if vocoder_options is not None:
            weights["bigvnat/best_netG"] = sub_state_dict(model.weights, NATIVE_VOCODER_PREFIX)
            files["bigvnat/args.yml"] = yaml.safe_dump(vocoder_options, sort_keys=False).encode()
        return ExportPlan(weights, files, single_file=True, notes=(PICKLE_NOTE,))


def _load_network(files: ReleaseFiles, state: Weights, where: str) -> tuple[FlagDiTConfig, dict[str, LazyTensor]]:
    """Open the network; its config is that of the YAML, or inferred from the tensors."""
    weights = sub_state_dict(state, NETWORK_PREFIX)
    if not weights:
        raise CheckpointError(f"{where}: got no {NETWORK_PREFIX}*, expected the checkpoint of a released audio model.")
    params = files.stage_params("unet_config")
    if params:
        config = NETWORK.config_from(params, f"{files.config_file}: unet_config")
    else:
        config = infer_network_config(weights, where)
    return config, NETWORK.from_foreign(weights, config, where)


def _load_vae(files: ReleaseFiles, state: Weights) -> tuple[VAEConfig, Weights]:
    """Open the autoencoder of the generator's checkpoint, or else of maa2."""
    weights, path = sub_state_dict(state, VAE_PREFIX), files.generator
    if not weights:
        if files.vae is None:
            raise CheckpointError(f"{files.folder}: got no autoencoder, expected maa2/maa2.ckpt. Get maa2.")
        weights, path = open_checkpoint(files.vae), files.vae
    weights = {name: value for name, value in weights.items() if not name.startswith("loss.")}
    params = files.stage_params("first_stage_config")
    config = VAE_ADAPTER.config_from(params, str(files.config_file)) if params else infer_vae_config(weights, str(path))
    return config, VAE_ADAPTER.from_foreign(weights, config, str(path))


def _load_vocoder(files: ReleaseFiles) -> tuple[dict[str, Any] | None, Weights]:
    """Open the vocoder: its options and weights, or (None, {}) without one."""
    if files.vocoder is None:
        return None, {}
    options = bigvgan.read_options(files.vocoder)
    config = BigVGAN.Config.read(options, str(files.vocoder))
    mel = MelConfig()
    for name, actual, expected in (
        ("sampling rate", config.sample_rate, mel.sample_rate),
        ("number of mel bands", config.n_mels, mel.n_mels),
        ("hop length", math.prod(config.upsample_rates), mel.hop_length),
    ):
        if actual != expected:
            raise CheckpointError(
                f"{files.vocoder}: {name}: got {actual}, expected {expected}. Get the vocoder of the same release."
            )
    return options, bigvgan.open_generator(files.vocoder, config)


def _load_conditioner(files: ReleaseFiles, state: Weights, network: FlagDiTConfig) -> tuple[dict[str, Any], Weights]:
    """Open the text conditioner: T5 alone, or CLAP's text tower with its weights before T5."""
    target = str(dict(files.model_params.get("cond_stage_config") or {}).get("target", ""))
    weights, path = sub_state_dict(state, CLAP_PREFIX), files.generator
    t5_folder = files.text_encoders.get("t5")
    if not (weights or files.clap or "CLAP" in target or files.folder.joinpath("audio_generation").exists()):
        return {"field": "caption", **recipes.t5_options(recipes.MUSIC, t5_folder, network.context_dim)}, {}
    if not weights and files.clap is not None:
        weights, path = sub_state_dict(open_checkpoint(files.clap, "model"), "caption_encoder."), files.clap
    unused = ("base.pooler.", "base.embeddings.position_ids")
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(unused)}
    if not weights:
        raise CheckpointError(f"{path}: got no text tower, expected CLAP/CLAP_weights_2022.pth. Get it.")
    bert = infer_bert_config(weights, str(path))
    check_text_tower(bert, weights, str(path))
    if bert.projection_dim != network.context_dim:
        raise CheckpointError(
            f"{path}: got a text tower of width {bert.projection_dim}, expected {network.context_dim}. "
            "Get network and CLAP of the same release."
        )
    t5 = recipes.t5_options(recipes.AUDIO, t5_folder, network.context_dim)
    return {"field": "caption", **recipes.dual_encoder_options(files.text_encoders.get("bert"), bert, t5)}, weights


def _notes(files: ReleaseFiles, state: Weights) -> tuple[str, ...]:
    """Describe which file each component was read from."""
    has_vae = any(name.startswith(VAE_PREFIX) for name in state)
    components = {
        "config": files.config_file or "none, sizes are inferred from the tensors",
        "generator": files.generator,
        "autoencoder": f"in {files.generator}" if has_vae else files.vae,
        "vocoder": files.vocoder or "none, Griffin-Lim is used (get bigvnat for better sound)",
        "T5": files.text_encoders.get("t5", "on the hub (a subfolder with T5 would be used)"),
    }
    return tuple(f"{component}: {location}" for component, location in components.items())


def _export_vocoder(model: LoadedCheckpoint) -> dict[str, Any] | None:
    """Return the published settings of the vocoder; None for Griffin-Lim, which has no weights."""
    spec = dict(dict(model.recipe["autoencoder"]).get("vocoder") or {"type": "audio.griffin_lim"})
    if spec["type"] == "audio.griffin_lim":
        return None
    if spec["type"] != "audio.bigvgan" or spec.get("source"):
        raise CheckpointError(
            f"autoencoder.vocoder: got {spec['type']} without its own weights, expected audio.bigvgan with weights. "
            "Convert to another checkpoint format."
        )
    sizes = {key: value for key, value in spec.items() if key in GeneratorConfig.model_fields}
    settings = bigvgan.options_to_published(GeneratorConfig.read(sizes, "vocoder"))
    return {**settings, "sampling_rate": int(spec.get("sample_rate", 16000))}


def _export_scale(model: LoadedCheckpoint) -> LazyTensor:
    """Return the stored scale of latents if it is still that of the model, else the scale of its variance."""
    mean, variance = (read_tensor(model.weights[f"autoencoder.{name}"], torch.float32) for name in ("mean", "variance"))
    stored = model.extra_tensors.get(SCALE_KEY)
    if stored is not None and not bool(mean.any()):
        scale = float(read_tensor(stored, torch.float32))
        if torch.equal(recipes.variance_from_scale(scale, len(mean)), variance):
            return stored
    return InMemoryTensor(recipes.scale_from_variance(mean, variance, FORMAT_NAME))


def _yaml_config(variant: str, config: FlagDiTConfig, model: LoadedCheckpoint) -> bytes:
    """Return the YAML config of the released code, without paths and training options."""
    network = NETWORK.config_to(config)
    vae = VAEConfig.read(dict(dict(model.recipe["autoencoder"]).get("vae") or {}), "vae")
    params = {
        "timesteps": 1000,
        "mel_dim": config.in_channels,
        "scale_by_std": True,
        "unet_config": {
            "target": f"models.diffusion.flag_large_dit.FlagDiT{'v2' if network.keys() <= set(V2_FIELDS) else ''}",
            "params": network,
        },
        "first_stage_config": {
            "target": "models.autoencoder1d.AutoencoderKL",
            "params": VAE_ADAPTER.config_to(vae),
        },
        "cond_stage_config": {"target": f"models.encoders.modules.{_CONDITIONER_TARGETS[variant]}"},
    }
    content = {"model": {"target": "models.diffusion.ddpm_audio.CFM", "params": params}}
    return yaml.safe_dump(content, sort_keys=False).encode()
