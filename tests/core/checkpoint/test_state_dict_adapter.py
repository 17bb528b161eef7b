"""Key maps rename, join, split and reorder tensors in both directions; adapters check names and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from lumina_core.checkpoint.lazy_tensors import InMemoryTensor, describe_mismatch
from lumina_core.checkpoint.state_dict_adapter import (
    Concat,
    KeyMap,
    KeyRow,
    Reorder,
    StateDictAdapter,
    check_supported,
    read_config,
    rename_tensors,
)
from lumina_core.config import Config
from lumina_core.errors import CheckpointError

KEY_MAP = KeyMap(
    [
        KeyRow(["layer.{}.q", "layer.{}.k"], "blocks.{}.qk", Concat((2, 1))),
        KeyRow([("layer.{}.in.*", "layer.{}.copy.*")], "blocks.{}.embed.*"),
        KeyRow("out.*", "head.*", Reorder(lambda tensor: tensor.flip(0), lambda tensor: tensor.flip(0))),
    ]
)


def lazy(**tensors: torch.Tensor) -> dict[str, InMemoryTensor]:
    return {name.replace("__", "."): InMemoryTensor(tensor) for name, tensor in tensors.items()}


FOREIGN = lazy(
    layer__12__q=torch.arange(8.0).view(4, 2),
    layer__12__k=torch.arange(4.0).view(2, 2),
    layer__12__in__bias=torch.ones(2),
    layer__12__copy__bias=torch.ones(2),
    out__weight=torch.arange(3.0),
)


def test_foreign_tensors_are_joined_renamed_and_reordered():
    native = {name: tensor.load() for name, tensor in KEY_MAP.to_native(FOREIGN).items()}
    assert native.keys() == {"blocks.12.qk", "blocks.12.embed.bias", "head.weight"}
    assert torch.equal(native["blocks.12.qk"], torch.cat([FOREIGN["layer.12.q"].value, FOREIGN["layer.12.k"].value]))
    assert torch.equal(native["head.weight"], torch.tensor([2.0, 1.0, 0.0]))


def test_a_round_trip_restores_native_tensors():
    back = KEY_MAP.to_foreign(KEY_MAP.to_native(FOREIGN))
    assert back.keys() == FOREIGN.keys()
    assert all(torch.equal(back[name].load(), FOREIGN[name].value) for name in FOREIGN)


def test_copies_that_differ_are_refused_when_they_are_read():
    foreign = FOREIGN | lazy(layer__12__copy__bias=torch.zeros(2))
    with pytest.raises(CheckpointError, match=r"layer\.12\.in\.bias and layer\.12\.copy\.bias: got different values"):
        KEY_MAP.to_native(foreign)["blocks.12.embed.bias"].load()


def test_an_incomplete_row_and_unknown_names_are_refused():
    foreign = {name: tensor for name, tensor in FOREIGN.items() if name != "layer.12.k"}
    with pytest.raises(CheckpointError, match=r"got layer\.12\.q without layer\.12\.k"):
        KEY_MAP.to_native(foreign)
    with pytest.raises(CheckpointError, match=r"tensor 'layer\.x\.q': got an unknown name"):
        KEY_MAP.to_native(lazy(layer__x__q=torch.zeros(1)))
    with pytest.raises(CheckpointError, match=r"tensor 'tail\.weight': got no name"):
        KEY_MAP.to_foreign(lazy(tail__weight=torch.zeros(1)))


def test_a_table_renames_some_tensors():
    renamed = rename_tensors(lazy(old__3__x=torch.zeros(1), other=torch.zeros(1)), {"old.{}.*": "new.{}.*"})
    assert renamed.keys() == {"new.3.x", "other"}


class Sizes(Config):
    width: int = 2


class LinearAdapter(StateDictAdapter[Sizes]):
    component = "projection"
    optional = ("unused",)

    def config_from(self, settings: Mapping[str, Any], where: str) -> Sizes:
        return read_config(Sizes, {"width": settings.get("d_model", 2)}, where)

    def config_to(self, config: Sizes) -> dict[str, Any]:
        return {"d_model": config.width}

    def key_map(self, config: Sizes) -> KeyMap:
        return KeyMap([KeyRow("w", "linear.weight"), KeyRow("unused", "unused")])

    def native_shapes(self, config: Sizes) -> dict[str, tuple[int, ...]]:
        return {"linear.weight": (config.width, config.width), "unused": (1,)}


def test_an_adapter_checks_the_tensors_against_the_config():
    adapter = LinearAdapter()
    config = adapter.config_from({"d_model": 3}, "config.json")
    assert adapter.from_foreign(lazy(w=torch.eye(3)), config, "file").keys() == {"linear.weight"}
    with pytest.raises(
        CheckpointError, match=r"^file: .*config of the projection \(other shape: w is \(2, 2\), expect"
    ):
        adapter.from_foreign(lazy(w=torch.eye(2)), config, "file")
    with pytest.raises(CheckpointError, match=r"config\.json: "):
        adapter.config_from({"d_model": "wide"}, "config.json")


def test_an_unsupported_option_is_named():
    check_supported({"path": "linear", "more": 1}, {"path": "linear"}, "x.format")
    with pytest.raises(CheckpointError, match=r"path: got cosine, expected linear: the format x\.format has no other"):
        check_supported({"path": "cosine"}, {"path": "linear"}, "x.format")


def test_a_mismatch_lists_three_names_of_each_problem():
    expected: dict[str, tuple[int, ...] | None] = {f"layer{number}": (1,) for number in range(5)}
    actual = {"layer9": torch.zeros(1), "layer0": torch.zeros(2), "table": torch.zeros(7)}
    message = describe_mismatch(actual, {**expected, "table": None}, optional=("layer1",))
    assert message.startswith("missing: layer2, layer3, layer4; unexpected: layer9")
    assert message.endswith("; other shape: layer0 is (2,), expected (1,)")
    assert describe_mismatch({}, expected).startswith("missing: layer0, layer1, layer2 and 2 more")
    assert describe_mismatch({"layer0": torch.zeros(1)}, {"layer0": (1,)}) == ""
