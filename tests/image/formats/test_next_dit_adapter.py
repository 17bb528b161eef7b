"""Adapters of the published Next-DiT: names, numbers and config survive a round trip; misfits are named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from goldens_model import Network, numbers, published_config, unread
from published_checkpoints import SIZES, class_conditional_tensors, tensors
from torch import Tensor

from lumina_core.checkpoint.lazy_tensors import InMemoryTensor
from lumina_core.errors import CheckpointError
from lumina_image.formats.next_dit import (
    LABEL_TABLE,
    PAD_TOKEN,
    DiffusersNextDiTAdapter,
    NextDiTAdapter,
    PublishedConfig,
    config_from_native,
    diffusers_names,
    infer_config,
    permute_final_rows,
)

CHANNELS, PATCH = 3, 2
ORIGINAL, DIFFUSERS = NextDiTAdapter(), DiffusersNextDiTAdapter()
ARGUMENTS = {
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "multiple_of": 16,
    "in_channels": CHANNELS,
    "patch_size": PATCH,
    "cap_feat_dim": 12,
}
VARIANTS = pytest.mark.parametrize(
    ("changes", "imagenet"),
    [
        ({"n_kv_heads": None, "qk_norm": True, "learn_sigma": True}, False),
        ({"n_kv_heads": 2, "qk_norm": True, "learn_sigma": True}, False),
        ({"n_kv_heads": 2, "qk_norm": False, "learn_sigma": False}, False),
        ({"n_kv_heads": 1, "qk_norm": True, "learn_sigma": True}, True),
    ],
    ids=["full attention", "grouped queries", "no norms", "imagenet"],
)


def config_of(changes: dict[str, Any], imagenet: bool = False) -> PublishedConfig:
    return published_config({**ARGUMENTS, **changes}, imagenet)


def native_state(changes: dict[str, Any], imagenet: bool = False) -> dict[str, Tensor]:
    """A native network of these arguments with random weights."""
    state = Network({**ARGUMENTS, **changes}, imagenet).state_dict()
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@VARIANTS
def test_a_round_trip_is_exact(changes, imagenet):
    state, config = native_state(changes, imagenet), config_of(changes, imagenet)
    for adapter in (ORIGINAL,) if imagenet else (ORIGINAL, DIFFUSERS):
        foreign = adapter.to_foreign(unread(state), config)
        back = adapter.key_map(config).to_native(foreign)
        assert equal(numbers(back), state)
        assert equal(numbers(adapter.to_foreign(back, config)), numbers(foreign))


@VARIANTS
def test_published_names_are_unique_and_hold_every_number(changes, imagenet):
    state = native_state(changes, imagenet)
    foreign = numbers(ORIGINAL.to_foreign(unread(state), config_of(changes, imagenet)))
    assert sum(t.numel() for t in foreign.values()) == sum(t.numel() for t in state.values())
    assert all(not name.startswith(("backbone.", "head.")) for name in foreign)


@VARIANTS
def test_expected_shapes_are_those_of_the_network(changes, imagenet):
    config = config_of(changes, imagenet)
    foreign = ORIGINAL.to_foreign(unread(native_state(changes, imagenet)), config)
    expected = ORIGINAL.foreign_shapes(config)
    further = {"y_embedder.embedding_table.weight"} if imagenet else {PAD_TOKEN}
    assert {name: tensor.shape for name, tensor in foreign.items()} == {
        name: shape for name, shape in expected.items() if name not in further
    }
    assert further <= expected.keys()


def test_pad_token_and_label_table_are_mapped():
    published = {PAD_TOKEN: torch.arange(4.0), "y_embedder.embedding_table.weight": torch.arange(6.0).reshape(3, 2)}
    key_map = ORIGINAL.key_map(config_of({}))
    native = key_map.to_native(unread(published))
    assert set(native) == {PAD_TOKEN, LABEL_TABLE}
    assert equal(numbers(key_map.to_foreign(native)), published)


def test_rows_of_the_final_layer_are_reordered_from_row_column_half_channel_to_half_channel_row_column():
    # each row of the published layer holds its own address: row, column, half, channel
    grids = torch.meshgrid(*(torch.arange(size) for size in (PATCH, PATCH, 2, CHANNELS)), indexing="ij")
    addresses = torch.stack(grids, dim=-1).reshape(-1, 4)
    row, column, half, channel = permute_final_rows(addresses, CHANNELS, PATCH).T
    index = ((half * CHANNELS + channel) * PATCH + row) * PATCH + column
    assert torch.equal(index, torch.arange(len(addresses)))


def test_a_missing_matrix_of_a_fused_one_is_named():
    config = config_of({"qk_norm": True})
    foreign = ORIGINAL.to_foreign(unread(native_state({"qk_norm": True})), config)
    del foreign["layers.1.attention.wk.weight"]
    with pytest.raises(CheckpointError, match=r"without layers\.1\.attention\.wk\.weight"):
        ORIGINAL.key_map(config).to_native(foreign)
    with pytest.raises(CheckpointError, match=r"missing: layers\.1\.attention\.wk\.weight"):
        ORIGINAL.from_foreign(foreign, config, "file")


@pytest.mark.parametrize("name", ["blocks.0.weight", "layers.0.attention.wz.weight"])
def test_an_unpublished_tensor_is_named(name):
    with pytest.raises(CheckpointError, match=name):
        ORIGINAL.key_map(config_of({})).to_native({name: InMemoryTensor(torch.zeros(1))})


def test_a_native_tensor_without_a_published_name_is_named():
    with pytest.raises(CheckpointError, match=r"conditioners\.caption\.x"):
        ORIGINAL.to_foreign({"conditioners.caption.x": InMemoryTensor(torch.zeros(1))}, config_of({}))


def native_of_sizes() -> tuple[dict[str, Tensor], PublishedConfig]:
    config = published_config(SIZES)
    return numbers(ORIGINAL.from_foreign(unread(tensors(SIZES)), config, "test")), config


def test_the_query_and_its_norm_are_stored_twice_in_diffusers_and_once_here():
    state, config = native_of_sizes()
    foreign = DIFFUSERS.to_foreign(unread(state), config)
    assert diffusers_names("layers.3.attention.q_norm.bias") == (
        "layers.3.attn1.norm_q.bias",
        "layers.3.attn2.norm_q.bias",
    )
    assert len(foreign) == len(tensors(SIZES)) + 3 * SIZES["n_layers"]
    assert equal(numbers(DIFFUSERS.from_foreign(foreign, config, "test")), state)


def test_two_copies_of_the_query_that_differ_are_refused_when_read():
    state, config = native_of_sizes()
    foreign = DIFFUSERS.to_foreign(unread(state), config)
    changed = foreign["layers.1.attn2.to_q.weight"].load().clone()
    changed[3, 4] += 1e-6
    foreign = {**foreign, "layers.1.attn2.to_q.weight": InMemoryTensor(changed)}
    native = DIFFUSERS.from_foreign(foreign, config, "test")
    native["backbone.blocks.0.attention.qkv.weight"].load()
    with pytest.raises(
        CheckpointError, match=r"layers\.1\.attn1\.to_q\.weight and layers\.1\.attn2\.to_q\.weight: got"
    ):
        native["backbone.blocks.1.attention.qkv.weight"].load()


LEGACY = {
    "patch_embedder.proj.": "patch_embedder.",
    "norm1.linear.": "adaLN_modulation.1.",
    "norm1.norm.": "attn_norm1.",
    "norm2.": "attn_norm2.",
    "norm_out.linear_2.": "final_layer.linear.",
    "norm_out.linear_1.": "final_layer.adaLN_modulation.1.",
}
"""Names of the model in diffusers, and of the older conversion script."""


def test_names_of_the_older_conversion_script_are_read():
    state, config = native_of_sizes()
    foreign = DIFFUSERS.to_foreign(unread(state), config)
    legacy = {}
    for name, tensor in foreign.items():
        for new, old in LEGACY.items():
            if f".{name}".find(f".{new}") >= 0:
                name = f".{name}".replace(f".{new}", f".{old}")[1:]
                break
        legacy[name] = tensor
    assert len(legacy.keys() - foreign.keys()) == 2 * 3 + SIZES["n_layers"] * 4
    assert equal(numbers(DIFFUSERS.from_foreign(legacy, config, "test")), state)


@pytest.mark.parametrize(
    "changes", [{}, {"n_kv_heads": None}, {"qk_norm": False}, {"learn_sigma": False}, {"n_layers": 3}]
)
def test_the_config_is_inferred_from_the_shapes(changes):
    sizes = {**SIZES, **changes}
    weights = unread(tensors(sizes))
    inferred = infer_config(weights, {}, "here")
    assert ORIGINAL.foreign_shapes(inferred) == {name: tensor.shape for name, tensor in weights.items()}
    expected = {**sizes, "n_kv_heads": sizes["n_kv_heads"] or sizes["n_heads"]}
    del expected["multiple_of"]
    assert {key: getattr(inferred, key) for key in expected} == expected


def test_the_config_of_a_class_conditional_model_is_inferred_from_the_shapes():
    weights = unread(class_conditional_tensors())
    inferred = infer_config(weights, {}, "here")
    assert (inferred.imagenet, inferred.num_classes, inferred.n_heads, inferred.qk_norm) == (True, 5, 32, True)
    assert ORIGINAL.foreign_shapes(inferred) == {name: tensor.shape for name, tensor in weights.items()}


@VARIANTS
def test_native_options_determine_the_config(changes, imagenet):
    config = config_of(changes, imagenet)
    options = config.native_options()
    dims = (PATCH, CHANNELS, config.cap_feat_dim, config.num_classes)
    assert config_from_native(options["backbone"], options["head"], *dims) == config


@pytest.mark.parametrize("adapter", [ORIGINAL, DIFFUSERS])
def test_published_settings_survive_a_round_trip(adapter):
    config = config_of({"n_kv_heads": 2, "qk_norm": True, "norm_eps": 1e-6, "cap_feat_dim": 5120})
    assert adapter.config_from(adapter.config_to(config), "test") == config


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_layout": "blocks"},
        {"rope_theta": 500.0},
        {"pooled_embed": "add"},
        {"weighted_pre_norm": False},
        {"time_conditioned": False},
    ],
)
def test_an_option_that_no_published_model_has_is_named(changes):
    options = config_of({}).native_options()
    with pytest.raises(
        CheckpointError, match=f"{next(iter(changes))}: got .*, expected .*: the format of Next-DiT has no other"
    ):
        config_from_native({**options["backbone"], **changes}, options["head"], PATCH, CHANNELS, 12)
