"""Sizes of released sound models where only their tensors tell them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from lumina_audio.captions.bert import BertSizes
from lumina_audio.published.arguments import Arguments
from lumina_audio.vae_settings import VaeSettings
from lumina_core.config import SettingsT
from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.nn.block import hidden_width
from lumina_core.weights.pieces import Weights


def network_arguments(state: Weights, where: str) -> Arguments:
    """The arguments of the FlagDiT that these tensors are of.

    Raises:
        CheckpointError: they are of none.
    """
    keys = (
        "proj_in.weight",
        "blocks.0.attention.gate",
        "blocks.0.attention.wk_y.weight",
        "blocks.0.feed_forward.w1.weight",
    )
    wide, gate, text, feed = (_shape(state, key, where, "FlagDiT") for key in keys)
    heads = gate[0]
    keys_wide = _shape(state, "blocks.0.attention.wk.weight", where, "FlagDiT")[0]
    multiple = next((m for m in (256, 128, 64, 32, 16, 8, 4, 2, 1) if hidden_width(wide[0], m, None) == feed[0]), None)
    if multiple is None:
        raise CheckpointError(
            f"{where}: a feed-forward {feed[0]} wide follows from no settings but those of a YAML file"
        )
    return _checked(
        Arguments,
        {
            "in_channels": wide[1], "context_dim": text[1], "hidden_size": wide[0], "num_heads": heads,
            "depth": _count(state, r"blocks\.(\d+)\."), "multiple_of": multiple,
            "n_kv_heads": None if keys_wide == wide[0] else keys_wide * heads // wide[0],
            "qk_norm": True if "blocks.0.attention.q_norm.weight" in state else None,
        },
        where,
    )  # fmt: skip


def vae_sizes(state: Weights, where: str) -> tuple[VaeSettings, int]:
    """The sizes of the autoencoder that these tensors are of, and its bands.

    Raises:
        CheckpointError: they are of none.
    """
    first = _shape(state, "encoder.conv_in.weight", where, "autoencoder")
    latent = _shape(state, "post_quant_conv.weight", where, "autoencoder")
    levels = range(_count(state, r"encoder\.down\.(\d+)\."))
    widths = [_shape(state, f"encoder.down.{level}.block.0.conv1.weight", where, "autoencoder")[0] for level in levels]
    said = {
        "channels": latent[1], "inner": latent[0], "width": first[0],
        "growth": tuple(width // first[0] for width in widths),
        "blocks": _count(state, r"encoder\.down\.0\.block\.(\d+)\."), "kernel": first[2],
        "halved": tuple(level for level in levels if f"encoder.down.{level}.downsample.conv.weight" in state),
        "attended": tuple(level for level in levels if f"encoder.down.{level}.attn.0.q.weight" in state),
    }  # fmt: skip
    return _checked(VaeSettings, said, where), first[1]


def bert_sizes(state: Weights, where: str) -> BertSizes:
    """The sizes of the CLAP text tower that these tensors are of; its heads are 64 wide, as all of BERT's are.

    Raises:
        CheckpointError: they are of none.
    """
    words = _shape(state, "base.embeddings.word_embeddings.weight", where, "text tower")
    places = _shape(state, "base.embeddings.position_embeddings.weight", where, "text tower")
    hidden = _shape(state, "base.encoder.layer.0.intermediate.dense.weight", where, "text tower")
    projected = _shape(state, "projection.linear1.weight", where, "text tower")
    said = {
        "vocabulary": words[0], "places": places[0], "width": words[1], "hidden": hidden[0],
        "projected": projected[0], "heads": max(1, words[1] // 64),
        "depth": _count(state, r"base\.encoder\.layer\.(\d+)\."),
    }  # fmt: skip
    return _checked(BertSizes, said, where)


def _shape(state: Weights, name: str, where: str, what: str) -> tuple[int, ...]:
    if name not in state:
        raise CheckpointError(f"{where} holds no {what}: {name} is missing")
    return state[name].shape


def _count(names: Iterable[str], pattern: str) -> int:
    return 1 + max((int(found[1]) for found in map(re.compile(pattern).match, names) if found), default=-1)


def _checked(settings: type[SettingsT], said: dict[str, Any], where: str) -> SettingsT:
    try:
        return settings.read(said, where)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
