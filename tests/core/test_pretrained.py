"""Hashes of pretrained files, cached on disk by path, size and modification time."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
import torch

from lumina_core import pretrained
from lumina_core.errors import CheckpointError
from lumina_core.pretrained import FrozenModule, digest


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sha256.json"


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that are read."""
    names, read = [], pretrained._file_sha256
    monkeypatch.setattr(pretrained, "_file_sha256", lambda path: names.append(path.name) or read(path))
    return names


def make(folder, content=b"weights", seconds=1000):
    folder.mkdir(exist_ok=True)
    file = folder / "model.safetensors"
    file.write_bytes(content)
    os.utime(file, (seconds, seconds))
    return folder


def test_a_digest_is_that_of_names_and_contents(tmp_path, cache):
    folder = make(tmp_path / "a")
    expected = hashlib.sha256(f"model.safetensors {hashlib.sha256(b'weights').hexdigest()}\n".encode()).hexdigest()
    assert digest(folder) == expected == digest(folder, folder)


def test_an_unchanged_file_is_read_once_even_by_another_process(tmp_path, cache, hashed):
    folder = make(tmp_path / "a")
    first = digest(folder)
    assert list(json.loads(cache.read_text()).values()) == [hashlib.sha256(b"weights").hexdigest()]
    assert digest(folder) == first and hashed == ["model.safetensors"]


@pytest.mark.parametrize("change", [{"content": b"other weights"}, {"seconds": 2000}])
def test_a_file_of_another_size_or_time_is_read_again(tmp_path, cache, hashed, change):
    digest(make(tmp_path / "a"))
    digest(make(tmp_path / "a", **change))
    assert hashed == ["model.safetensors"] * 2


def test_a_file_that_was_written_a_moment_ago_is_not_cached(tmp_path, cache, hashed):
    folder = make(tmp_path / "a")
    os.utime(folder / "model.safetensors")
    digest(folder)
    digest(folder)
    assert hashed == ["model.safetensors"] * 2 and not cache.exists()


@pytest.mark.parametrize("content", ["", "[1", "[]", "3"])
def test_a_damaged_cache_is_replaced(tmp_path, cache, content):
    cache.parent.mkdir()
    cache.write_text(content)
    expected = digest(make(tmp_path / "a"))
    assert digest(tmp_path / "a") == expected


def test_without_a_writable_cache_digests_are_the_same(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "file"))
    assert digest(make(tmp_path / "a")) == digest(tmp_path / "a")


def test_a_frozen_network_with_nan_is_refused_when_it_is_loaded():
    network = torch.nn.Linear(2, 2)
    network.weight.data[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="the weight weight holds NaN or Inf"):
        FrozenModule(lambda device: network).network()
