"""The parts of a released sound model, read from its files and held against each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina_audio.captions.bert import BertSizes, Tower
from lumina_audio.mel import MelSettings
from lumina_audio.published import recipes, shapes
from lumina_audio.published.arguments import Arguments, expected, vae_settings
from lumina_audio.published.found import Found
from lumina_audio.published.states import AUTOENCODER, CLAP, NETWORK, compare, open_state, under
from lumina_audio.vae import Vae
from lumina_audio.vae_settings import VaeSettings
from lumina_audio.vocoders import bigvgan_files
from lumina_audio.vocoders.bigvgan import BigVGAN
from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.weights.pickled import open_pickled
from lumina_core.weights.pieces import Piece, Weights
from lumina_core.weights.tensorfiles import open_file
from lumina_core.weights.unfilled import unfilled


def arguments(found: Found, network: Weights, where: str) -> Arguments:
    """The network's arguments, as the YAML says, else as the tensors do.

    Raises:
        CheckpointError: the tensors are not those of such a network.
    """
    if not network:
        raise CheckpointError(f"{where} holds no {NETWORK}...; it is no checkpoint of a released sound model")
    params = _params(found.said.get("unet_config"))
    if params:
        try:
            arguments = Arguments.read(params, f"{found.settings}: unet_config")
        except ConfigError as error:
            raise CheckpointError(str(error)) from error
    else:
        arguments = shapes.network_arguments(network, where)
    compare("network", network, expected(arguments), where)
    return arguments


def autoencoder(found: Found, state: Weights) -> tuple[VaeSettings, Weights]:
    """Sizes and weights of the autoencoder: of the checkpoint itself, else of maa2.

    Raises:
        CheckpointError: it is nowhere, or its tensors are not those that its sizes ask for.
    """
    inside = under(state, AUTOENCODER)
    own = {name: piece for name, piece in inside.items() if not name.startswith("loss.")}
    where = str(found.generator if own else found.vae)
    if not own:
        if found.vae is None:
            raise CheckpointError(
                f"{found.folder} lacks the autoencoder: neither maa2/maa2.ckpt is there, nor does {found.generator} "
                f"hold {AUTOENCODER}...; fetch maa2"
            )
        opened = open_state(found.vae)
        own = {name: piece for name, piece in opened.items() if not name.startswith("loss.")}
    said = _params(found.said.get("first_stage_config"))
    try:
        settings, bands = vae_settings(said, str(found.settings)) if said else shapes.vae_sizes(own, where)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    with unfilled():
        wanted = {name: tuple(tensor.shape) for name, tensor in Vae(settings, bands).state_dict().items()}
    compare("autoencoder", own, wanted, where)
    if bands != 80:
        raise CheckpointError(
            f"{where} reads spectrograms of {bands} bands; released models have {MelSettings().bands}"
        )
    return settings, own


def vocoder(found: Found) -> tuple[dict[str, Any] | None, Weights]:
    """Options and weights of the vocoder; None and nothing where none lies beside.

    Raises:
        CheckpointError: it does not fit the spectrograms, or its tensors not its settings.
    """
    if found.vocoder is None:
        return None, {}
    said = bigvgan_files.options(found.vocoder)
    shape = BigVGAN.Config.read(said, str(found.vocoder))
    mel, hop = MelSettings(), math.prod(shape.rates)
    for what, came, wanted in (
        ("samples a second", shape.rate, mel.rate),
        ("bands", shape.bands, mel.bands),
        ("samples a frame", hop, mel.hop),
    ):
        if came != wanted:
            raise CheckpointError(
                f"{found.vocoder} is a vocoder of {came} {what}, and the model's spectrograms have {wanted}; "
                "fetch the vocoder that belongs to it"
            )
    return said, bigvgan_files.open_generator(found.vocoder, shape)


def conditioner(found: Found, state: Weights, arguments: Arguments) -> tuple[dict[str, Any], dict[str, Piece]]:
    """How the model is told what to do, and the weights of CLAP's tower for a model that has one.

    Raises:
        CheckpointError: CLAP's tower is missing, or does not fit.
    """
    target = str(dict(found.said.get("cond_stage_config") or {}).get("target", ""))
    inside = under(state, CLAP)
    if not (inside or found.clap or "CLAP" in target or found.folder.joinpath("audio_generation").exists()):
        reader = recipes.t5(recipes.MUSIC, found.readers.get("t5"), arguments.context_dim)
        return {"name": "caption", **reader}, {}
    where = str(found.generator if inside else found.clap or found.folder)
    if not inside and found.clap is not None:
        inside = under(open_clap(found.clap), "caption_encoder.")
    kept = {n: p for n, p in inside.items() if not n.startswith("base.pooler.") and not n.endswith(".position_ids")}
    if not kept:
        raise CheckpointError(
            f"{where} lacks CLAP's text tower: {CLAP}... in the checkpoint, or CLAP/CLAP_weights_2022.pth; fetch it"
        )
    sizes = shapes.bert_sizes(kept, where)
    with unfilled():
        wanted = {name: tuple(tensor.shape) for name, tensor in Tower(sizes).state_dict().items()}
    compare("text tower", kept, wanted, where)
    _check_width(sizes, arguments, where)
    reader = recipes.t5(recipes.AUDIO, found.readers.get("t5"), arguments.context_dim)
    use = recipes.pair(found.readers.get("bert"), sizes, reader)
    return use, {f"conditioners.caption.first.tower.{name}": piece for name, piece in kept.items()}


def _check_width(sizes: BertSizes, arguments: Arguments, where: str) -> None:
    if sizes.projected != arguments.context_dim:
        raise CheckpointError(
            f"{where}: CLAP's text tower is {sizes.projected} wide, and the network reads {arguments.context_dim}; "
            "fetch those that belong together"
        )


def open_clap(path: Path) -> Weights:
    """The tensors of a CLAP checkpoint, which holds them under `model`."""
    return open_file(path) if path.suffix == ".safetensors" else open_pickled(path, "model")


def _params(part: Any) -> dict[str, Any]:
    return dict(part.get("params") or {}) if isinstance(part, Mapping) else {}
