"""Tensors unread: what is read is what was written, whole or in shards, and what is damaged is told."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lumina_core.checkpoint.lazy_tensors import (
    CastTensor,
    ConcatTensor,
    InMemoryTensor,
    TransformedTensor,
    cast_weights,
    num_bytes,
    read_tensor,
)
from lumina_core.checkpoint.safetensors_io import open_safetensors, open_weights, write_weights
from lumina_core.errors import CheckpointError

FORMATS = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool)


@pytest.fixture
def tensors():
    draw = torch.Generator().manual_seed(0)
    made = {str(f).rpartition(".")[2]: (9 * torch.rand(7, 3, generator=draw)).to(f) for f in FORMATS}
    return {**made, "one": torch.tensor(2.5), "none": torch.zeros(0, 4)}


@pytest.fixture
def unread(tensors, tmp_path):
    save_file(tensors, tmp_path / "w.safetensors")
    return open_safetensors(tmp_path / "w.safetensors")


def test_what_is_read_is_what_safetensors_has_written(tensors, unread):
    assert unread.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (unread[name].shape, unread[name].dtype) == (tuple(tensor.shape), tensor.dtype)
        assert torch.equal(read_tensor(unread[name]), tensor)
        assert torch.equal(unread[name].load(), tensor)
        assert torch.equal(read_tensor(unread[name], torch.float64), tensor.double())


def test_what_is_written_is_read_by_safetensors(tensors, tmp_path):
    write_weights(tmp_path / "again", {name: InMemoryTensor(tensor) for name, tensor in tensors.items()})
    again = load_file(tmp_path / "again.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


def test_a_window_takes_no_memory_of_its_own(unread):
    window, copy = unread["float32"].load(), read_tensor(unread["float32"])
    assert window.data_ptr() != copy.data_ptr()
    assert unread["float32"].load().data_ptr() == window.data_ptr()


def test_rows_joins_and_changes_are_those_of_the_tensors(tensors, unread):
    piece, tensor = unread["bfloat16"], tensors["bfloat16"]
    assert torch.equal(read_tensor(piece.slice_rows(2, 5)), tensor[2:5])
    assert torch.equal(piece.slice_rows(2, 5).slice_rows(1, 2).load(), tensor[3:4])
    for dim in (0, 1):
        both = ConcatTensor([piece, piece], dim)
        whole = torch.cat([tensor, tensor], dim)
        assert both.shape == tuple(whole.shape)
        assert torch.equal(read_tensor(both), whole)
        assert torch.equal(read_tensor(both, torch.float32), whole.float())
        assert torch.equal(read_tensor(both.slice_rows(3, 6)), whole[3:6])
    assert ConcatTensor([piece, piece]).slice_rows(7, 14) is piece
    turned = TransformedTensor(piece, (3, 7), lambda t: t.T.contiguous())
    assert torch.equal(read_tensor(turned), tensor.T)
    assert torch.equal(read_tensor(turned.slice_rows(1, 3)), tensor.T[1:3])


def test_a_format_on_the_way_rounds_even_if_a_wider_one_is_asked_for_afterwards(tensors, unread):
    assert torch.equal(
        read_tensor(CastTensor(unread["float32"], torch.bfloat16), torch.float32), tensors["float32"].bfloat16().float()
    )
    changed = cast_weights(unread, torch.bfloat16)
    assert {name: piece.dtype for name, piece in changed.items() if piece.dtype != unread[name].dtype} == {
        name: torch.bfloat16 for name in ("float32", "float16", "one", "none")
    }
    assert num_bytes(changed["float32"]) * 2 == num_bytes(unread["float32"])


def test_numbers_that_are_larger_than_what_is_read_at_once_are_converted_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("lumina_core.checkpoint.safetensors_io.CONVERT_BUFFER_BYTES", 100)
    tensor = torch.randn(33, 7)
    save_file({"w": tensor}, tmp_path / "w.safetensors")
    assert torch.equal(
        read_tensor(open_safetensors(tmp_path / "w.safetensors")["w"], torch.bfloat16), tensor.bfloat16()
    )


def test_shards_hold_at_most_so_much_and_come_back_together(tensors, tmp_path):
    write_weights(
        tmp_path / "w", {name: InMemoryTensor(tensor) for name, tensor in tensors.items()}, max_shard_bytes=150
    )
    files = sorted(file.name for file in tmp_path.glob("w-*.safetensors"))
    assert files[0] == f"w-00001-of-{len(files):05d}.safetensors" and len(files) > 2
    assert all(sum(t.numel() * t.itemsize for t in load_file(tmp_path / f).values()) <= 168 for f in files)
    index = json.loads((tmp_path / "w.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * t.itemsize for t in tensors.values())
    again = open_weights(tmp_path, "w")
    assert all(torch.equal(read_tensor(again[name]), tensor) for name, tensor in tensors.items())


# ---- what is wrong with files


def reason(call, *arguments):
    with pytest.raises(CheckpointError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def cut(tensors, tmp_path):
    write_weights(
        tmp_path / "w", {name: InMemoryTensor(tensor) for name, tensor in tensors.items()}, max_shard_bytes=150
    )
    return tmp_path


def test_shards_that_are_missing_are_named(cut):
    (cut / "w-00002-of-00004.safetensors").unlink()
    assert "names shards that are not there: w-00002-of-00004.safetensors; fetch them" in reason(open_weights, cut, "w")


def test_an_index_that_names_what_no_shard_has_is_told(cut):
    index = json.loads((cut / "w.safetensors.index.json").read_text())
    index["weight_map"]["ghost"] = "w-00001-of-00004.safetensors"
    (cut / "w.safetensors.index.json").write_text(json.dumps(index))
    assert "w-00001-of-00004.safetensors holds ghost, but it does not" in reason(open_weights, cut, "w")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"weight_map": {}}', '{"weight_map": {"a": "../w.safetensors"}}'])
def test_an_index_that_is_none_or_leads_elsewhere_is_refused(cut, text):
    (cut / "w.safetensors.index.json").write_text(text)
    assert "cannot be read as an index of shards" in reason(open_weights, cut, "w")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_file_that_was_cut_short_is_told(cut, share):
    path = cut / "w-00001-of-00004.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "w-00001-of-00004.safetensors is no whole safetensors file" in reason(open_weights, cut, "w")


def test_a_file_that_becomes_shorter_while_it_is_open_is_told(unread, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"")
    assert "has become shorter" in reason(read_tensor, unread["float32"])


def test_a_file_that_is_not_there_is_told(tmp_path):
    assert "there is no file" in reason(open_weights, tmp_path, "w")
