"""Weights as training programs and Git LFS leave them: prefixes are taken off and reported, pointers are named."""

from __future__ import annotations

import shutil

import pytest
import torch
from making import make_model, registry_of
from safetensors.torch import load_file, save_file

from lumina_core.checkpoint.lazy_tensors import strip_wrappers
from lumina_core.errors import CheckpointError
from lumina_core.locate import find_model
from lumina_core.model_dir import load_model, open_model_dir
from lumina_core.plugins.loader import load_plugins

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 3500000000\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model("image.tiny", tmp_path_factory.mktemp("tiny") / "model", registry_of("image"))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "model.diffusion_model.", "module._orig_mod."])
def test_a_prefix_of_all_names_is_taken_off_and_reported(folder, tmp_path, prefix, lumina):
    shutil.copytree(folder, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, tmp_path / "m" / "model.safetensors")
    assert any(prefix in note for note in open_model_dir(tmp_path / "m", load_plugins()).notes)
    loaded, whole = load_model(tmp_path / "m"), load_model(folder)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), whole.parameters(), strict=True))
    names = ("x_embedder.weight", "layers.0.attention.wk.weight")
    save_file(
        {prefix + name: torch.zeros(4, 4) for name in names}, tmp_path / "m" / "consolidated.00-of-01.safetensors"
    )
    (tmp_path / "m" / "config.json").unlink()
    done = lumina("models", tmp_path / "m")
    assert done.status == 1 and f"without the prefix '{prefix}'" in done.err and "x_embedder.weight is" not in done.err


def test_a_part_of_the_names_with_a_prefix_is_left_as_it_is():
    weights = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert strip_wrappers(weights) == (weights, "")


def test_a_pointer_of_git_lfs_is_named(tmp_path, folder, lumina):
    for name in ("consolidated.00-of-01.safetensors", "model_args.pth"):
        (tmp_path / "foreign").mkdir(exist_ok=True)
        (tmp_path / "foreign" / name).write_text(POINTER)
        assert "a pointer of Git LFS" in lumina("models", tmp_path / "foreign").err
        (tmp_path / "foreign" / name).unlink()
    for name in ("model.safetensors", "config.json"):
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / name / name).write_text(POINTER)
        with pytest.raises(CheckpointError, match="a pointer of Git LFS"):
            load_model(tmp_path / name)


def test_a_file_of_a_model_means_its_folder(folder, tmp_path, lumina, monkeypatch):
    for name in ("model.safetensors", "config.json"):
        with find_model(folder / name, load_plugins()) as path:
            assert path == folder
    (tmp_path / "x.txt").write_text("no model")
    with (
        pytest.raises(CheckpointError, match="Name the folder that it lies in"),
        find_model(tmp_path / "x.txt", load_plugins()),
    ):
        pass
    monkeypatch.setenv("HOME", str(folder.parent))
    with find_model("~/model", load_plugins()) as path:
        assert path == folder


def test_the_name_of_a_model_is_described_like_a_folder(lumina):
    done = lumina("models", "image.emoji")
    assert done.status == 0 and "image.text_to_image" in done.out
    assert "did you mean 'image.emoji'" in lumina("models", "image.emojy").err
