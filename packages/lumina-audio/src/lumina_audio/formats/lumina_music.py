"""The checkpoint format of the released sound models: their parts read from files, and written back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from lumina_audio.autoencoders.vae import VAE, VAEConfig
from lumina_audio.formats import config_mapping, recipes
from lumina_audio.formats.config_mapping import (
    PublishedConfig,
    expected_shapes,
    from_published,
    to_published,
    vae_config_from_published,
)
from lumina_audio.formats.release_files import (
    AUTOENCODER_PREFIX,
    CLAP_PREFIX,
    NETWORK_PREFIX,
    SCALE_KEY,
    ReleaseFiles,
    check_state_dict,
    is_release,
    locate_files,
    open_checkpoint,
    read_scale_factor,
    sub_state_dict,
)
from lumina_audio.mel import MelConfig
from lumina_audio.text.clap import BertConfig, ClapTextTower
from lumina_audio.vocoders import bigvgan_checkpoint
from lumina_audio.vocoders.bigvgan import BigVGAN
from lumina_audio.vocoders.bigvgan_model import GeneratorConfig
from lumina_core.checkpoint.lazy_tensors import (
    ExportPlan,
    InMemoryTensor,
    LazyTensor,
    LoadedCheckpoint,
    Weights,
    init_empty_weights,
    read_tensor,
)
from lumina_core.checkpoint.safetensors_io import open_safetensors
from lumina_core.checkpoint.torch_pickle import open_torch_pickle
from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.protocols import CheckpointFormat


def read_network_config(files: ReleaseFiles, state: Weights, where: str) -> PublishedConfig:
    """The network's arguments, as the YAML says, else as the tensors do.

    Raises:
        CheckpointError: the tensors are not those of such a network.
    """
    if not state:
        raise CheckpointError(f"{where} holds no {NETWORK_PREFIX}...; it is no checkpoint of a released sound model")
    params = _stage_params(files.model_params.get("unet_config"))
    if params:
        try:
            config = PublishedConfig.read(params, f"{files.config_file}: unet_config")
        except ConfigError as error:
            raise CheckpointError(str(error)) from error
    else:
        config = config_mapping.infer_network_config(state, where)
    check_state_dict("network", state, expected_shapes(config), where)
    return config


def read_autoencoder(files: ReleaseFiles, state: Weights) -> tuple[VAEConfig, Weights]:
    """Sizes and weights of the autoencoder: of the checkpoint itself, else of maa2.

    Raises:
        CheckpointError: it is nowhere, or its tensors are not those that its sizes ask for.
    """
    inner_state = sub_state_dict(state, AUTOENCODER_PREFIX)
    vae_state = {name: value for name, value in inner_state.items() if not name.startswith("loss.")}
    where = str(files.generator if vae_state else files.vae)
    if not vae_state:
        if files.vae is None:
            raise CheckpointError(
                f"{files.folder} lacks the autoencoder: neither maa2/maa2.ckpt is there, nor does {files.generator} "
                f"hold {AUTOENCODER_PREFIX}...; fetch maa2"
            )
        file_state = open_checkpoint(files.vae)
        vae_state = {name: value for name, value in file_state.items() if not name.startswith("loss.")}
    params = _stage_params(files.model_params.get("first_stage_config"))
    try:
        config, n_mels = (
            vae_config_from_published(params, str(files.config_file))
            if params
            else config_mapping.infer_vae_config(vae_state, where)
        )
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    with init_empty_weights():
        expected = {name: tuple(tensor.shape) for name, tensor in VAE(config, n_mels).state_dict().items()}
    check_state_dict("autoencoder", vae_state, expected, where)
    if n_mels != 80:
        raise CheckpointError(
            f"{where} reads spectrograms of {n_mels} bands; released models have {MelConfig().n_mels}"
        )
    return config, vae_state


def read_vocoder(files: ReleaseFiles) -> tuple[dict[str, Any] | None, Weights]:
    """Options and weights of the vocoder; None and nothing where none lies beside.

    Raises:
        CheckpointError: it does not fit the spectrograms, or its tensors not its settings.
    """
    if files.vocoder is None:
        return None, {}
    options = bigvgan_checkpoint.read_options(files.vocoder)
    config = BigVGAN.Config.read(options, str(files.vocoder))
    mel, hop_length = MelConfig(), math.prod(config.upsample_rates)
    for quantity, actual, expected in (
        ("samples a second", config.sample_rate, mel.sample_rate),
        ("bands", config.n_mels, mel.n_mels),
        ("samples a frame", hop_length, mel.hop_length),
    ):
        if actual != expected:
            raise CheckpointError(
                f"{files.vocoder} is a vocoder of {actual} {quantity}, and the model's spectrograms have {expected}; "
                "fetch the vocoder that belongs to it"
            )
    return options, bigvgan_checkpoint.open_generator(files.vocoder, config)


def read_conditioner(
    files: ReleaseFiles, state: Weights, network_config: PublishedConfig
) -> tuple[dict[str, Any], dict[str, LazyTensor]]:
    """How the model is told what to do, and the weights of CLAP's tower for a model that has one.

    Raises:
        CheckpointError: CLAP's tower is missing, or does not fit.
    """
    target = str(dict(files.model_params.get("cond_stage_config") or {}).get("target", ""))
    clap_state = sub_state_dict(state, CLAP_PREFIX)
    if not (clap_state or files.clap or "CLAP" in target or files.folder.joinpath("audio_generation").exists()):
        t5_spec = recipes.t5_options(recipes.MUSIC, files.text_encoders.get("t5"), network_config.context_dim)
        return {"field": "caption", **t5_spec}, {}
    where = str(files.generator if clap_state else files.clap or files.folder)
    if not clap_state and files.clap is not None:
        clap_state = sub_state_dict(open_clap_checkpoint(files.clap), "caption_encoder.")
    tower_state = {
        n: p for n, p in clap_state.items() if not n.startswith("base.pooler.") and not n.endswith(".position_ids")
    }
    if not tower_state:
        raise CheckpointError(
            f"{where} lacks CLAP's text tower: {CLAP_PREFIX}... in the checkpoint, or CLAP/CLAP_weights_2022.pth; fetch it"
        )
    bert_config = config_mapping.infer_bert_config(tower_state, where)
    with init_empty_weights():
        expected = {name: tuple(tensor.shape) for name, tensor in ClapTextTower(bert_config).state_dict().items()}
    check_state_dict("text tower", tower_state, expected, where)
    _check_context_dim(bert_config, network_config, where)
    t5_spec = recipes.t5_options(recipes.AUDIO, files.text_encoders.get("t5"), network_config.context_dim)
    conditioner_options = recipes.dual_encoder_options(files.text_encoders.get("bert"), bert_config, t5_spec)
    return conditioner_options, {f"conditioners.caption.first.tower.{name}": lazy for name, lazy in tower_state.items()}


def _check_context_dim(bert_config: BertConfig, network_config: PublishedConfig, where: str) -> None:
    if bert_config.projection_dim != network_config.context_dim:
        raise CheckpointError(
            f"{where}: CLAP's text tower is {bert_config.projection_dim} wide, and the network reads {network_config.context_dim}; "
            "fetch those that belong together"
        )


def open_clap_checkpoint(path: Path) -> Weights:
    """The tensors of a CLAP checkpoint, which holds them under `model`."""
    return open_safetensors(path) if path.suffix == ".safetensors" else open_torch_pickle(path, "model")


def _stage_params(stage: Any) -> dict[str, Any]:
    return dict(stage.get("params") or {}) if isinstance(stage, Mapping) else {}


_CONDITIONER_TARGETS = {"music": "FrozenFLANEmbedder", "audio": "FrozenCLAPFLANEmbedder"}
_V2_FIELDS = ("in_channels", "context_dim", "hidden_size", "num_heads", "depth", "max_len")
"""All that FlagDiTv2 can be told."""
TOWER_PREFIX = "conditioners.caption.first.tower."


def export_clap_weights(model: LoadedCheckpoint) -> Weights:
    """CLAP's text tower, or nothing for a model of music."""
    return sub_state_dict(model.weights, TOWER_PREFIX)


def export_vae_weights(model: LoadedCheckpoint) -> Weights:
    """The autoencoder of spectrograms."""
    return sub_state_dict(model.weights, "autoencoder.vae.")


def export_vocoder(model: LoadedCheckpoint, where: str) -> tuple[dict[str, Any] | None, Weights]:
    """Settings and weights of the vocoder; None and nothing where it has no weights.

    Raises:
        CheckpointError: it is no BigVGAN.
    """
    spec = dict(dict(model.recipe["autoencoder"]).get("vocoder") or {"type": "audio.griffin_lim"})
    if spec["type"] == "audio.griffin_lim":
        return None, {}
    if spec["type"] != "audio.bigvgan" or spec.get("source"):
        raise CheckpointError(f"{where} holds models with audio.bigvgan and its weights; this one has {spec['use']}")
    sizes = {key: value for key, value in spec.items() if key in GeneratorConfig.model_fields}
    published_config = bigvgan_checkpoint.options_to_published(GeneratorConfig.read(sizes, "vocoder"))
    return {**published_config, "sampling_rate": int(spec.get("sample_rate", 16000))}, sub_state_dict(
        model.weights, "autoencoder.vocoder.generator."
    )


def export_yaml(variant: str, config: PublishedConfig, model: LoadedCheckpoint) -> bytes:
    """Their YAML: what a model is built with, without paths and without what training alone asks."""
    values = config.model_dump()
    extra = {
        key: values[key]
        for key in values
        if key not in _V2_FIELDS and values[key] != PublishedConfig.model_fields[key].default
    }
    unet = {key: values[key] for key in _V2_FIELDS} | extra
    params: dict[str, Any] = {
        "timesteps": 1000, "mel_dim": config.in_channels, "scale_by_std": True,
        "unet_config": {
            "target": f"models.diffusion.flag_large_dit.FlagDiT{'' if extra else 'v2'}", "params": unet,
        },
        "first_stage_config": {
            "target": "models.autoencoder1d.AutoencoderKL", "params": _export_vae_config(model.recipe["autoencoder"]),
        },
        "cond_stage_config": {"target": f"models.encoders.modules.{_CONDITIONER_TARGETS[variant]}"},
    }  # fmt: skip
    content = {"model": {"target": "models.diffusion.ddpm_audio.CFM", "params": params}}
    return yaml.safe_dump(content, sort_keys=False).encode()


def _export_vae_config(autoencoder: Mapping[str, Any]) -> dict[str, Any]:
    vae = VAEConfig.read(dict(autoencoder.get("vae") or {}), "vae")
    n_mels = 80
    dd = {
        "double_z": True, "in_channels": n_mels, "out_ch": n_mels, "z_channels": vae.z_channels, "kernel_size": vae.kernel_size,
        "ch": vae.ch, "ch_mult": list(vae.ch_mult), "num_res_blocks": vae.num_res_blocks,
        "attn_layers": list(vae.attn_layers), "down_layers": list(vae.down_layers), "dropout": 0.0,
    }  # fmt: skip
    return {"embed_dim": vae.latent_channels, "ddconfig": dd}


FORMAT_NAME = "audio.lumina_music"
PICKLE_NOTE = "their code reads pickles: torch.save({'state_dict': ...}) of each file, the vocoder's under 'generator'"


class LuminaMusicFormat(CheckpointFormat):
    """A folder as on the hub: `music_generation` (or `audio_generation`), `maa2`, `bigvnat`, perhaps `CLAP`, T5, YAML.

    Checkpoints are pickles of a training: their tensors alone are read, no class beside them is imported. Where no YAML
    lies beside, sizes are told by the tensors. The autoencoder inside the checkpoint comes before `maa2`, as in their
    code; without vocoder Griffin-Lim takes its place. Text encoders are named: T5 from a folder beside or the hub.
    """

    def matches(self, folder: Path) -> bool:
        """Whether there is a generator's checkpoint, or a YAML that speaks of one."""
        return is_release(folder)

    def load(self, folder: Path) -> LoadedCheckpoint:
        """The model in the folder.

        Raises:
            CheckpointError: the generator or the autoencoder is missing, parts do not fit, or code is in a file.
        """
        files = locate_files(folder)
        if files.generator is None:
            raise CheckpointError(f"{folder} has no checkpoint such as music_generation or audio_generation; fetch it")
        state, where = open_checkpoint(files.generator), str(files.generator)
        network_config = read_network_config(files, sub_state_dict(state, NETWORK_PREFIX), where)
        vae_config, autoencoder_weights = read_autoencoder(files, state)
        vocoder_options, vocoder_weights = read_vocoder(files)
        if vae_config.latent_channels != network_config.in_channels:
            raise CheckpointError(
                f"{where} moves {network_config.in_channels} channels, and the autoencoder beside it has {vae_config.latent_channels}; "
                "fetch those that belong together"
            )
        conditioner_options, tower_weights = read_conditioner(files, state, network_config)
        variant = recipes.AUDIO if tower_weights else recipes.MUSIC
        weights = {**from_published(sub_state_dict(state, NETWORK_PREFIX)), **tower_weights}
        weights |= {f"autoencoder.vae.{name}": tensor for name, tensor in autoencoder_weights.items()}
        weights |= {f"autoencoder.vocoder.generator.{name}": tensor for name, tensor in vocoder_weights.items()}
        scale = read_scale_factor(state, where)
        weights["autoencoder.mean"] = InMemoryTensor(torch.zeros(vae_config.latent_channels))
        weights["autoencoder.variance"] = InMemoryTensor(recipes.variance_from_scale(scale, vae_config.latent_channels))
        recipe = recipes.make_recipe(variant, network_config, vae_config, vocoder_options, conditioner_options)
        source_metadata = {"checkpoint_format": FORMAT_NAME, "variant": variant}
        return LoadedCheckpoint(
            recipe, weights, {SCALE_KEY: state[SCALE_KEY]}, source_metadata, notes=_found_notes(files, state)
        )

    def export(self, model: LoadedCheckpoint) -> ExportPlan:
        """The parts under their published names, as safetensors where the release has pickles, and the YAML.

        Raises:
            CheckpointError: a part or an option of the model has no place in this layout.
        """
        variant, network_config = (
            recipes.release_variant(model, FORMAT_NAME),
            recipes.published_config(model, FORMAT_NAME),
        )
        network = {n: p for n, p in model.weights.items() if n.startswith(("backbone.", "head."))}
        state = {f"{NETWORK_PREFIX}{name}": tensor for name, tensor in to_published(network).items()}
        state |= {f"{CLAP_PREFIX}{name}": tensor for name, tensor in export_clap_weights(model).items()}
        weights: dict[str, Weights] = {
            f"{variant}_generation/lumina": {**state, SCALE_KEY: _export_scale(model)}, "maa2/maa2": export_vae_weights(model),
        }  # fmt: skip
        files = {f"configs/lumina-text2{variant}.yaml": export_yaml(variant, network_config, model)}
        vocoder_options, vocoder_weights = export_vocoder(model, FORMAT_NAME)
        if vocoder_options is not None:
            weights["bigvnat/best_netG"] = vocoder_weights
            files["bigvnat/args.yml"] = yaml.safe_dump(vocoder_options, sort_keys=False).encode()
        return ExportPlan(weights, files, single_file=True, notes=(PICKLE_NOTE,))


def _export_scale(model: LoadedCheckpoint) -> LazyTensor:
    """The scale that came with the model, where it still is the model's."""
    mean, variance = (read_tensor(model.weights[f"autoencoder.{name}"], torch.float32) for name in ("mean", "variance"))
    if SCALE_KEY in model.extra_tensors:
        stored_scale = float(read_tensor(model.extra_tensors[SCALE_KEY], torch.float32))
        if not bool(mean.any()) and torch.equal(recipes.variance_from_scale(stored_scale, len(mean)), variance):
            return model.extra_tensors[SCALE_KEY]
    return InMemoryTensor(recipes.scale_from_variance(mean, variance, FORMAT_NAME))


def _found_notes(files: ReleaseFiles, state: Weights) -> tuple[str, ...]:
    """Which parts were found, and where."""
    has_inner_vae = any(name.startswith(AUTOENCODER_PREFIX) for name in state)
    components = {
        "settings": files.config_file or "none, sizes are told by the tensors",
        "generator": files.generator,
        "autoencoder": f"in {files.generator}" if has_inner_vae else files.vae,
        "vocoder": files.vocoder or "none: Griffin-Lim takes its place (fetch bigvnat for better sound)",
        "T5": files.text_encoders.get(
            "t5", "none here: named by its place on the hub; a folder of it laid into this one would be found"
        ),
    }
    return tuple(f"{component}: {location}" for component, location in components.items())
