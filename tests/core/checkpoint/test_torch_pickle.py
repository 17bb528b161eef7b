"""Pickled .pth files: tensors and plain values are read, and code in them is never run."""

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

from lumina_core.checkpoint.lazy_tensors import read_tensor
from lumina_core.checkpoint.torch_pickle import namespace_bytes, open_torch_pickle, read_namespace
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


def anonymous_bytes() -> int:
    """Memory of this process that no file holds, in bytes."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs /proc")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


class Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_tensors_of_all_strides_are_read(tmp_path):
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
        assert torch.equal(read_tensor(found[name], torch.float64), tensor.double())


def test_opening_reads_no_values(tmp_path):
    torch.save({"a": torch.randn(2**20)}, tmp_path / "w.pth")
    before = anonymous_bytes()
    found = open_torch_pickle(tmp_path / "w.pth")
    assert anonymous_bytes() - before < 2**21 < found["a"].load().nbytes


def test_an_entry_of_a_training_checkpoint_is_read(tmp_path):
    """Tensors of the same shape stand before and after the entry."""
    expected = {f"w{k}": torch.full((4,), float(k)) for k in range(3)}
    others = {"optimizer": [{"moment": torch.full((4,), -1.0)}], "epoch": 3}
    torch.save({"before": others, "state_dict": expected, "after": others}, tmp_path / "w.ckpt")
    found = open_torch_pickle(tmp_path / "w.ckpt", "state_dict")
    for name, tensor in expected.items():
        assert torch.equal(read_tensor(found[name]), tensor)
        assert torch.equal(read_tensor(found[name].slice_rows(1, 3)), tensor[1:3])
    assert "got dict under 'before'" in message_of(lambda path: open_torch_pickle(path, "model"), tmp_path / "w.ckpt")


NAMES = ["vendor.callbacks.Callback", "collections.defaultdict", "builtins.list"]


def test_an_allowed_class_is_not_imported(tmp_path, monkeypatch):
    module = types.ModuleType("vendor.callbacks")
    made = type("Callback", (), {"__module__": "vendor.callbacks"})
    module.Callback = made
    monkeypatch.setitem(sys.modules, "vendor", types.ModuleType("vendor"))
    monkeypatch.setitem(sys.modules, "vendor.callbacks", module)
    state = made()
    state.moment = torch.full((4,), -1.0)
    table = collections.defaultdict(list, {"x": [1]})
    torch.save({"callbacks": {made: state}, "t": table, "state_dict": {"a": torch.ones(4)}}, tmp_path / "w.ckpt")
    monkeypatch.delitem(sys.modules, "vendor.callbacks")
    assert "Code in a pickle" in message_of(lambda path: open_torch_pickle(path, "state_dict"), tmp_path / "w.ckpt")
    found = open_torch_pickle(tmp_path / "w.ckpt", "state_dict", NAMES)
    assert torch.equal(read_tensor(found["a"]), torch.ones(4))
    assert "vendor.callbacks" not in sys.modules


def test_a_file_of_the_oldest_form_is_read(tmp_path):
    torch.save({"a": torch.arange(3)}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_tensor(open_torch_pickle(tmp_path / "w.pth")["a"]), torch.arange(3))


@pytest.mark.parametrize("make_mapping", [dict, lambda values: Namespace(**values)], ids=["dict", "Namespace"])
def test_plain_values_are_read(tmp_path, make_mapping):
    torch.save(make_mapping(PLAIN), tmp_path / "s.pth")
    assert read_namespace(tmp_path / "s.pth") == PLAIN


def test_written_values_are_a_namespace_for_torch(tmp_path):
    (tmp_path / "s.pth").write_bytes(namespace_bytes(PLAIN))
    with torch.serialization.safe_globals([argparse.Namespace]):
        assert torch.load(tmp_path / "s.pth", weights_only=True) == Namespace(**PLAIN)
    assert read_namespace(tmp_path / "s.pth") == PLAIN


def message_of(call, path):
    with pytest.raises(CheckpointError) as error:
        call(path)
    text = str(error.value)
    assert "\n" not in text and "weights_only" not in text
    return text


@pytest.mark.parametrize("call", [open_torch_pickle, read_namespace])
@pytest.mark.parametrize("save", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
@pytest.mark.parametrize("inside", [lambda trap: trap, lambda trap: {"a": trap}, lambda trap: Namespace(a=[trap])])
def test_code_in_a_file_is_reported_and_not_run(tmp_path, call, save, inside):
    save(inside(Trap(tmp_path / "executed")), tmp_path / "w.pth")
    assert "Code in a pickle" in message_of(call, tmp_path / "w.pth")
    assert not (tmp_path / "executed").exists()


def test_the_function_that_a_file_would_run_is_named(tmp_path):
    torch.save({"a": Trap(tmp_path / "executed")}, tmp_path / "w.pth")
    assert "got code that runs " in message_of(open_torch_pickle, tmp_path / "w.pth")


def test_values_that_are_not_plain_are_named(tmp_path):
    torch.save(Namespace(model="a", weights=torch.zeros(2)), tmp_path / "s.pth")
    assert "'weights': got Tensor, expected strings" in message_of(read_namespace, tmp_path / "s.pth")
    torch.save([1], tmp_path / "s.pth")
    assert "got list, expected an argparse.Namespace" in message_of(read_namespace, tmp_path / "s.pth")


def test_anything_but_tensors_by_name_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1), "b": {"c": torch.zeros(1)}}, tmp_path / "w.pth")
    assert "got dict under 'b', expected tensors by name" in message_of(open_torch_pickle, tmp_path / "w.pth")
    torch.save([torch.zeros(1)], tmp_path / "w.pth")
    assert "got list" in message_of(open_torch_pickle, tmp_path / "w.pth")


@pytest.mark.parametrize("share", [0.0, 0.4, 0.97])
def test_a_truncated_file_is_reported(tmp_path, share):
    torch.save({"a": torch.randn(1000)}, tmp_path / "w.pth")
    data = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(data[: int(share * len(data))])
    assert "got a truncated file" in message_of(open_torch_pickle, tmp_path / "w.pth")


def test_a_missing_file_is_reported(tmp_path):
    assert "there is no file" in message_of(read_namespace, tmp_path / "s.pth")
