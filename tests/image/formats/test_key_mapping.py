"""Published weights go under our names and back without a bit changed; what does not fit is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from goldens_model import Network, numbers, unread
from published_checkpoints import SIZES, class_conditional_tensors, tensors
from torch import Tensor

from lumina_core.checkpoint.lazy_tensors import InMemoryTensor
from lumina_core.errors import CheckpointError
from lumina_image.formats.config_mapping import (
    expected_shapes,
    from_kwargs,
    from_options,
    infer_from_shapes,
    to_options,
)
from lumina_image.formats.key_mapping import (
    PAD_TOKEN,
    from_diffusers,
    from_original,
    modernize_key,
    original_key_to_diffusers,
    permute_final_rows,
    to_diffusers,
    to_original,
)

CHANNELS, PATCH = 3, 2
OURS = {
    "dim": 32, "n_layers": 2, "n_heads": 4, "multiple_of": 16, "in_channels": CHANNELS, "patch_size": PATCH,
    "cap_feat_dim": 12,
}  # fmt: skip
KINDS = pytest.mark.parametrize(
    ("constructor", "imagenet"),
    [
        ({"n_kv_heads": None, "qk_norm": True, "learn_sigma": True}, False),
        ({"n_kv_heads": 2, "qk_norm": True, "learn_sigma": True}, False),
        ({"n_kv_heads": 2, "qk_norm": False, "learn_sigma": False}, False),
        ({"n_kv_heads": 1, "qk_norm": True, "learn_sigma": True}, True),
    ],
    ids=["plain", "shared keys", "bare", "imagenet"],
)


def ours(constructor: dict[str, Any], imagenet: bool) -> dict[str, Tensor]:
    """A model of ours for these arguments, every tensor of it drawn at random."""
    state = Network({**OURS, **constructor}, imagenet).state_dict()
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randn(tensor.shape, generator=draw) for name, tensor in state.items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@KINDS
def test_there_and_back_changes_no_bit(constructor, imagenet):
    state = ours(constructor, imagenet)
    theirs = to_original(unread(state), CHANNELS, PATCH, imagenet=imagenet)
    back = from_original(theirs, CHANNELS, PATCH)
    assert equal(numbers(back), state)
    assert equal(numbers(to_original(back, CHANNELS, PATCH, imagenet=imagenet)), numbers(theirs))


@KINDS
def test_no_two_published_names_meet_and_no_number_is_lost(constructor, imagenet):
    state = ours(constructor, imagenet)
    theirs = numbers(to_original(unread(state), CHANNELS, PATCH, imagenet=imagenet))
    assert sum(t.numel() for t in theirs.values()) == sum(t.numel() for t in state.values())
    assert all(not name.startswith(("backbone.", "head.")) for name in theirs)


@KINDS
def test_the_shapes_that_are_expected_are_those_of_the_model_itself(constructor, imagenet):
    theirs = to_original(unread(ours(constructor, imagenet)), CHANNELS, PATCH, imagenet=imagenet)
    wanted = expected_shapes(from_kwargs({**OURS, **constructor}, imagenet=imagenet))
    besides = {"y_embedder.embedding_table.weight"} if imagenet else {PAD_TOKEN}
    assert {name: piece.shape for name, piece in theirs.items()} == {
        n: s for n, s in wanted.items() if n not in besides
    }
    assert besides <= wanted.keys()


def test_the_unused_pad_token_and_the_table_of_labels_come_along():
    published = {PAD_TOKEN: torch.arange(4.0), "y_embedder.embedding_table.weight": torch.arange(6.0).reshape(3, 2)}
    here = from_original(unread(published), CHANNELS, PATCH)
    assert set(here) == {PAD_TOKEN, "conditioners.label.table.weight"}
    assert equal(numbers(to_original(here, CHANNELS, PATCH)), published)


def test_the_last_layer_is_turned_from_row_column_channel_to_half_channel_row_column():
    # each row of the published layer holds its own address: row, column, half, channel
    grids = torch.meshgrid(*(torch.arange(size) for size in (PATCH, PATCH, 2, CHANNELS)), indexing="ij")
    addresses = torch.stack(grids, dim=-1).reshape(-1, 4)
    row, column, half, channel = permute_final_rows(addresses, CHANNELS, PATCH).T
    place = ((half * CHANNELS + channel) * PATCH + row) * PATCH + column
    assert torch.equal(place, torch.arange(len(addresses)))


def test_half_of_a_joined_matrix_is_refused():
    whole = to_original(unread(ours({"qk_norm": True}, False)), CHANNELS, PATCH)
    del whole["layers.1.attention.wk.weight"]
    with pytest.raises(CheckpointError, match=r"layers\.1 lacks .*attention\.wk\.weight"):
        from_original(whole, CHANNELS, PATCH)


@pytest.mark.parametrize("name", ["blocks.0.weight", "layers.0.attention.wz.weight"])
def test_a_tensor_that_nobody_published_is_named(name):
    with pytest.raises(CheckpointError, match=name):
        from_original({name: InMemoryTensor(torch.zeros(1))}, CHANNELS, PATCH)


def test_a_tensor_of_ours_without_a_published_name_is_named():
    with pytest.raises(CheckpointError, match=r"conditioners\.caption\.x"):
        to_original({"conditioners.caption.x": InMemoryTensor(torch.zeros(1))}, CHANNELS, PATCH)


def test_the_query_and_its_norm_stand_twice_in_diffusers_and_once_again_here():
    state = tensors(SIZES)
    theirs = to_diffusers(unread(state))
    assert original_key_to_diffusers("layers.3.attention.q_norm.bias") == (
        "layers.3.attn1.norm_q.bias", "layers.3.attn2.norm_q.bias",
    )  # fmt: skip
    assert len(theirs) == len(state) + 3 * SIZES["n_layers"]
    assert equal(numbers(from_diffusers(theirs)), state)


def test_a_query_that_differs_from_its_twin_is_refused_when_it_is_read():
    theirs = to_diffusers(unread(tensors(SIZES)))
    other = theirs["layers.1.attn2.to_q.weight"].load().clone()
    other[3, 4] += 1e-6
    back = from_diffusers({**theirs, "layers.1.attn2.to_q.weight": InMemoryTensor(other)})
    back["layers.0.attention.wq.weight"].load()
    with pytest.raises(
        CheckpointError, match=r"layers\.1\.attn1\.to_q\.weight and layers\.1\.attn2\.to_q\.weight differ"
    ):
        back["layers.1.attention.wq.weight"].load()


@pytest.mark.parametrize(
    ("older", "today"),
    [
        ("patch_embedder.weight", "patch_embedder.proj.weight"),
        ("patch_embedder.proj.bias", "patch_embedder.proj.bias"),
        ("layers.2.adaLN_modulation.1.bias", "layers.2.norm1.linear.bias"),
        ("layers.0.attn_norm1.weight", "layers.0.norm1.norm.weight"),
        ("layers.0.attn_norm2.weight", "layers.0.norm2.weight"),
        ("final_layer.linear.weight", "norm_out.linear_2.weight"),
        ("final_layer.adaLN_modulation.1.bias", "norm_out.linear_1.bias"),
        ("layers.0.norm1_context.weight", "layers.0.norm1_context.weight"),
    ],
)
def test_names_of_the_older_converter_become_those_of_today(older, today):
    assert modernize_key(older) == today


@pytest.mark.parametrize(
    "changes", [{}, {"n_kv_heads": None}, {"qk_norm": False}, {"learn_sigma": False}, {"n_layers": 3}]
)
def test_the_arguments_are_told_by_the_shapes(changes):
    sizes = {**SIZES, **changes}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors(sizes).items()}
    found = infer_from_shapes(shapes, {}, "here")
    assert expected_shapes(found) == shapes
    wanted = {**sizes, "n_kv_heads": sizes["n_kv_heads"] or sizes["n_heads"]}
    said = found.model_dump()
    assert {key: said[key] for key in wanted if key != "multiple_of"} == {
        k: v for k, v in wanted.items() if k != "multiple_of"
    }


def test_the_arguments_of_a_class_conditional_model_are_told_by_the_shapes():
    shapes = {name: tuple(tensor.shape) for name, tensor in class_conditional_tensors().items()}
    found = infer_from_shapes(shapes, {}, "here")
    assert (found.imagenet, found.num_classes, found.n_heads, found.qk_norm) == (True, 5, 32, True)
    assert expected_shapes(found) == shapes


@KINDS
def test_our_options_say_the_same_arguments_again(constructor, imagenet):
    arguments = from_kwargs({**OURS, **constructor}, imagenet=imagenet)
    made = to_options(arguments)
    sizes = (arguments.cap_feat_dim, arguments.num_classes)
    assert from_options(made["backbone"], made["head"], (PATCH, CHANNELS), *sizes) == arguments


@pytest.mark.parametrize(
    "other",
    [
        {"rope_layout": "blocks"},
        {"rope_theta": 500.0},
        {"pooled_embed": "add"},
        {"weighted_pre_norm": False},
        {"time_conditioned": False},
    ],
)
def test_an_option_that_no_published_model_has_is_named(other):
    made = to_options(from_kwargs(OURS))
    with pytest.raises(CheckpointError, match=f"no published model has {next(iter(other))}"):
        from_options({**made["backbone"], **other}, made["head"], (PATCH, CHANNELS), 12, 0)
