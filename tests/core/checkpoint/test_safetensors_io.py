"""Lazy tensors: values survive writing and reading, in one file or in shards, and damage is reported."""

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
def lazy(tensors, tmp_path):
    save_file(tensors, tmp_path / "w.safetensors")
    return open_safetensors(tmp_path / "w.safetensors")


def test_files_of_safetensors_are_read(tensors, lazy):
    assert lazy.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (lazy[name].shape, lazy[name].dtype) == (tuple(tensor.shape), tensor.dtype)
        assert torch.equal(read_tensor(lazy[name]), tensor)
        assert torch.equal(lazy[name].load(), tensor)
        assert torch.equal(read_tensor(lazy[name], torch.float64), tensor.double())


def test_written_files_are_read_by_safetensors(tensors, tmp_path):
    write_weights(tmp_path / "reread", {name: InMemoryTensor(tensor) for name, tensor in tensors.items()})
    reread = load_file(tmp_path / "reread.safetensors")
    assert reread.keys() == tensors.keys()
    assert all(torch.equal(reread[name], tensor) for name, tensor in tensors.items())


def test_a_loaded_tensor_is_a_view_of_the_file(lazy):
    view, copy = lazy["float32"].load(), read_tensor(lazy["float32"])
    assert view.data_ptr() != copy.data_ptr()
    assert lazy["float32"].load().data_ptr() == view.data_ptr()


def test_rows_concatenations_and_transforms_equal_those_of_the_tensors(tensors, lazy):
    lazy_tensor, tensor = lazy["bfloat16"], tensors["bfloat16"]
    assert torch.equal(read_tensor(lazy_tensor.slice_rows(2, 5)), tensor[2:5])
    assert torch.equal(lazy_tensor.slice_rows(2, 5).slice_rows(1, 2).load(), tensor[3:4])
    for dim in (0, 1):
        both = ConcatTensor([lazy_tensor, lazy_tensor], dim)
        full = torch.cat([tensor, tensor], dim)
        assert both.shape == tuple(full.shape)
        assert torch.equal(read_tensor(both), full)
        assert torch.equal(read_tensor(both, torch.float32), full.float())
        assert torch.equal(read_tensor(both.slice_rows(3, 6)), full[3:6])
    assert ConcatTensor([lazy_tensor, lazy_tensor]).slice_rows(7, 14) is lazy_tensor
    transposed = TransformedTensor(lazy_tensor, (3, 7), lambda t: t.T.contiguous())
    assert torch.equal(read_tensor(transposed), tensor.T)
    assert torch.equal(read_tensor(transposed.slice_rows(1, 3)), tensor.T[1:3])


def test_a_cast_rounds_even_if_a_wider_dtype_is_read(tensors, lazy):
    assert torch.equal(
        read_tensor(CastTensor(lazy["float32"], torch.bfloat16), torch.float32), tensors["float32"].bfloat16().float()
    )
    changed = cast_weights(lazy, torch.bfloat16)
    assert {
        name: lazy_tensor.dtype for name, lazy_tensor in changed.items() if lazy_tensor.dtype != lazy[name].dtype
    } == {name: torch.bfloat16 for name in ("float32", "float16", "one", "none")}
    assert num_bytes(changed["float32"]) * 2 == num_bytes(lazy["float32"])


def test_shards_are_not_larger_than_the_limit_and_are_read_together(tensors, tmp_path):
    write_weights(
        tmp_path / "w", {name: InMemoryTensor(tensor) for name, tensor in tensors.items()}, max_shard_bytes=150
    )
    files = sorted(file.name for file in tmp_path.glob("w-*.safetensors"))
    assert files[0] == f"w-00001-of-{len(files):05d}.safetensors" and len(files) > 2
    assert all(sum(t.numel() * t.itemsize for t in load_file(tmp_path / f).values()) <= 168 for f in files)
    index = json.loads((tmp_path / "w.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * t.itemsize for t in tensors.values())
    reread = open_weights(tmp_path, "w")
    assert all(torch.equal(read_tensor(reread[name]), tensor) for name, tensor in tensors.items())


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


def test_missing_shards_are_named(cut):
    (cut / "w-00002-of-00004.safetensors").unlink()
    assert "missing shards w-00002-of-00004.safetensors. Download them" in reason(open_weights, cut, "w")


def test_a_tensor_of_the_index_that_no_shard_has_is_reported(cut):
    index = json.loads((cut / "w.safetensors.index.json").read_text())
    index["weight_map"]["ghost"] = "w-00001-of-00004.safetensors"
    (cut / "w.safetensors.index.json").write_text(json.dumps(index))
    assert "w-00001-of-00004.safetensors does not hold the tensor ghost" in reason(open_weights, cut, "w")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"weight_map": {}}', '{"weight_map": {"a": "../w.safetensors"}}'])
def test_an_invalid_index_or_one_of_another_folder_is_refused(cut, text):
    (cut / "w.safetensors.index.json").write_text(text)
    assert "cannot be read as an index of shards" in reason(open_weights, cut, "w")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_reported(cut, share):
    path = cut / "w-00001-of-00004.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "w-00001-of-00004.safetensors: got a truncated or invalid file" in reason(open_weights, cut, "w")


def test_a_missing_file_is_reported(tmp_path):
    assert "there is no file" in reason(open_weights, tmp_path, "w")
