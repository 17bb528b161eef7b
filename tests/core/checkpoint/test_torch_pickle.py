"""Old .pth files: tensors and plain values are read, and nothing in them is ever run."""

from __future__ import annotations

import argparse
import collections
import pickle
import sys
import types
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from lumina_core.checkpoint.lazy_tensors import InMemoryTensor, read_tensor
from lumina_core.checkpoint.safetensors_io import FileTensor
from lumina_core.checkpoint.torch_pickle import list_keys, namespace_bytes, open_torch_pickle, read_namespace
from lumina_core.errors import CheckpointError

PLAIN = {
    "model": "NextDiT",
    "size": 1024,
    "rate": 1e-4,
    "on": True,
    "no": None,
    "list": [1, "a", (2.0,)],
    "d": {"a": 1},
}


class Trap:
    """Makes a file where a pickle is run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_tensors_are_read_from_their_places_in_the_file(tmp_path):
    wide = torch.randn(4, 6)
    tensors = {
        "a": torch.randn(7, 3),
        "b": torch.arange(5),
        "half": torch.randn(3).bfloat16(),
        "one": torch.tensor(2.0),
    }
    torch.save({**tensors, "every": wide[:, ::2], "rows": wide[1:3]}, tmp_path / "w.pth")
    found = open_torch_pickle(tmp_path / "w.pth")
    for name, tensor in {**tensors, "every": wide[:, ::2], "rows": wide[1:3]}.items():
        assert torch.equal(read_tensor(found[name]), tensor), name
        assert torch.equal(found[name].load(), tensor)
    kinds = {name: type(piece) for name, piece in found.items()}
    assert kinds == {**dict.fromkeys(found, FileTensor), "every": InMemoryTensor}


def test_a_trainings_checkpoint_gives_the_entry_asked_for(tmp_path):
    """Equal tensors beside it: a place counted from the wrong storage would give another one's numbers."""
    wanted = {f"w{k}": torch.full((4,), float(k)) for k in range(3)}
    beside = {"optimizer": [{"moment": torch.full((4,), -1.0)}], "epoch": 3}
    torch.save({"before": beside, "state_dict": wanted, "after": beside}, tmp_path / "w.ckpt")
    found = open_torch_pickle(tmp_path / "w.ckpt", "state_dict")
    for name, tensor in wanted.items():
        assert torch.equal(read_tensor(found[name]), tensor)
        assert torch.equal(read_tensor(found[name].slice_rows(1, 3)), tensor[1:3])
    assert list_keys(tmp_path / "w.ckpt") == {"before", "state_dict", "after"}
    assert "holds dict under 'before'" in said(lambda path: open_torch_pickle(path, "model"), tmp_path / "w.ckpt")


NAMES = ["stranger.callbacks.Callback", "collections.defaultdict", "builtins.list"]


def test_a_class_that_may_lie_beside_the_tensors_is_not_imported(tmp_path, monkeypatch):
    module = types.ModuleType("stranger.callbacks")
    made = type("Callback", (), {"__module__": "stranger.callbacks"})
    module.Callback = made
    monkeypatch.setitem(sys.modules, "stranger", types.ModuleType("stranger"))
    monkeypatch.setitem(sys.modules, "stranger.callbacks", module)
    state = made()
    state.moment = torch.full((4,), -1.0)
    table = collections.defaultdict(list, {"x": [1]})
    torch.save({"callbacks": {made: state}, "t": table, "state_dict": {"a": torch.ones(4)}}, tmp_path / "w.ckpt")
    monkeypatch.delitem(sys.modules, "stranger.callbacks")
    assert "code in it" in said(lambda path: open_torch_pickle(path, "state_dict"), tmp_path / "w.ckpt")
    found = open_torch_pickle(tmp_path / "w.ckpt", "state_dict", NAMES)
    assert torch.equal(read_tensor(found["a"]), torch.ones(4))
    assert "stranger.callbacks" not in sys.modules


def test_a_file_of_the_oldest_form_is_read_too(tmp_path):
    torch.save({"a": torch.arange(3)}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_tensor(open_torch_pickle(tmp_path / "w.pth")["a"]), torch.arange(3))


@pytest.mark.parametrize("kind", [dict, lambda values: Namespace(**values)], ids=["dict", "Namespace"])
def test_plain_values_are_read(tmp_path, kind):
    torch.save(kind(PLAIN), tmp_path / "s.pth")
    assert read_namespace(tmp_path / "s.pth") == PLAIN


def test_what_is_written_is_a_namespace_for_everybody(tmp_path):
    (tmp_path / "s.pth").write_bytes(namespace_bytes(PLAIN))
    with torch.serialization.safe_globals([argparse.Namespace]):
        assert torch.load(tmp_path / "s.pth", weights_only=True) == Namespace(**PLAIN)
    assert read_namespace(tmp_path / "s.pth") == PLAIN


def said(call, path):
    with pytest.raises(CheckpointError) as error:
        call(path)
    text = str(error.value)
    assert "\n" not in text and "weights_only" not in text
    return text


@pytest.mark.parametrize("call", [open_torch_pickle, read_namespace])
@pytest.mark.parametrize("save", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
@pytest.mark.parametrize("inside", [lambda trap: trap, lambda trap: {"a": trap}, lambda trap: Namespace(a=[trap])])
def test_code_in_a_file_is_told_and_not_run(tmp_path, call, save, inside):
    save(inside(Trap(tmp_path / "sprung")), tmp_path / "w.pth")
    assert "code in it" in said(call, tmp_path / "w.pth")
    assert not (tmp_path / "sprung").exists()


def test_what_would_be_run_is_named(tmp_path):
    torch.save({"a": Trap(tmp_path / "sprung")}, tmp_path / "w.pth")
    assert "wants to run " in said(open_torch_pickle, tmp_path / "w.pth")


def test_values_that_are_not_plain_are_named(tmp_path):
    torch.save(Namespace(model="a", weights=torch.zeros(2)), tmp_path / "s.pth")
    assert "the value of 'weights' is not plain" in said(read_namespace, tmp_path / "s.pth")
    torch.save([1], tmp_path / "s.pth")
    assert "holds list; wanted an argparse.Namespace" in said(read_namespace, tmp_path / "s.pth")


def test_anything_but_tensors_by_name_is_no_file_of_weights(tmp_path):
    torch.save({"a": torch.zeros(1), "b": {"c": torch.zeros(1)}}, tmp_path / "w.pth")
    assert "holds dict under 'b'; wanted tensors by their names" in said(open_torch_pickle, tmp_path / "w.pth")
    torch.save([torch.zeros(1)], tmp_path / "w.pth")
    assert "holds list" in said(open_torch_pickle, tmp_path / "w.pth")


@pytest.mark.parametrize("share", [0.0, 0.4, 0.97])
def test_a_file_that_was_cut_short_is_told(tmp_path, share):
    torch.save({"a": torch.randn(1000)}, tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(whole[: int(share * len(whole))])
    assert "is no whole .pth file" in said(open_torch_pickle, tmp_path / "w.pth")


def test_a_file_that_is_not_there_is_told(tmp_path):
    assert "there is no file" in said(read_namespace, tmp_path / "s.pth")
