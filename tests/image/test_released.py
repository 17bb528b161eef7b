"""Published weights go under our names and back without a bit changed; what does not fit is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lumina_core.builtin.velocity import VelocityHead
from lumina_core.errors import CheckpointError
from lumina_core.nn.next_dit import NextDiT
from lumina_image.released import PAD, from_original, options_from_original, reordered, to_original

CHANNELS, PATCH = 3, 2
SIZES = {
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
    options = options_from_original({**SIZES, **constructor}, imagenet=imagenet)
    modules = {
        "backbone": NextDiT(NextDiT.Config.read(options["backbone"], "test")),
        "head": VelocityHead(VelocityHead.Config.read(options["head"], "test")),
    }
    shapes = {f"{part}.{name}": tensor.shape for part, m in modules.items() for name, tensor in m.state_dict().items()}
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@KINDS
def test_there_and_back_changes_no_bit(constructor, imagenet):
    state = ours(constructor, imagenet)
    theirs = to_original(state, CHANNELS, PATCH, imagenet=imagenet)
    back = from_original(theirs, CHANNELS, PATCH)
    assert equal(back, state)
    assert equal(to_original(back, CHANNELS, PATCH, imagenet=imagenet), theirs)


@KINDS
def test_no_two_published_names_meet_and_no_number_is_lost(constructor, imagenet):
    state = ours(constructor, imagenet)
    theirs = to_original(state, CHANNELS, PATCH, imagenet=imagenet)
    assert sum(t.numel() for t in theirs.values()) == sum(t.numel() for t in state.values())
    assert all(not name.startswith(("backbone.", "head.")) for name in theirs)


def test_the_unused_pad_token_and_the_table_of_labels_come_along():
    published = {PAD: torch.arange(4.0), "y_embedder.embedding_table.weight": torch.arange(6.0).reshape(3, 2)}
    assert set(from_original(published, CHANNELS, PATCH)) == {PAD, "conditioners.label.table.weight"}
    assert equal(to_original(from_original(published, CHANNELS, PATCH), CHANNELS, PATCH), published)


def test_the_last_layer_is_turned_from_row_column_channel_to_half_channel_row_column():
    # each row of the published layer holds its own address: row, column, half, channel
    grids = torch.meshgrid(*(torch.arange(size) for size in (PATCH, PATCH, 2, CHANNELS)), indexing="ij")
    addresses = torch.stack(grids, dim=-1).reshape(-1, 4)
    row, column, half, channel = reordered(addresses, CHANNELS, PATCH).T
    place = ((half * CHANNELS + channel) * PATCH + row) * PATCH + column
    assert torch.equal(place, torch.arange(len(addresses)))


def test_half_of_a_joined_matrix_is_refused():
    whole = to_original(ours({"qk_norm": True}, False), CHANNELS, PATCH)
    del whole["layers.1.attention.wk.weight"]
    with pytest.raises(CheckpointError, match=r"layers\.1 lacks .*attention\.wk\.weight"):
        from_original(whole, CHANNELS, PATCH)


@pytest.mark.parametrize("name", ["blocks.0.weight", "layers.0.attention.wz.weight"])
def test_a_tensor_that_nobody_published_is_named(name):
    with pytest.raises(CheckpointError, match=name):
        from_original({name: torch.zeros(1)}, CHANNELS, PATCH)


def test_a_tensor_of_ours_without_a_published_name_is_named():
    with pytest.raises(CheckpointError, match=r"conditioners\.caption\.x"):
        to_original({"conditioners.caption.x": torch.zeros(1)}, CHANNELS, PATCH)
