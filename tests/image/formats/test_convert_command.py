"""Command `lumina convert`: output, files, and what it never overwrites."""

from __future__ import annotations

import json

import pytest
import torch
from published_checkpoints import SIZES, tensors, write_original
from safetensors.torch import load_file


@pytest.fixture
def published(tmp_path):
    return write_original(tmp_path / "published", tensors(SIZES))


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_published_folder_becomes_ours_by_default_and_goes_back_where_asked(lumina, published, tmp_path):
    result = lumina("convert", published, tmp_path / "ours", "--json", "--dtype", "bfloat16")
    content = json.loads(result.out.splitlines()[-1])
    assert (result.status, content["from"], content["to"]) == (0, "image.alpha_vllm", "lumina")
    assert (
        names(tmp_path / "ours")
        == ["config.json", "extra_tensors.safetensors", "model.safetensors"]
        == content["files"]
    )
    assert load_file(tmp_path / "ours" / "model.safetensors")["backbone.embed.bias"].dtype == torch.bfloat16
    result = lumina("convert", tmp_path / "ours", tmp_path / "back", "--format", "alpha_vllm")
    assert (result.status, result.out.splitlines()[-1]) == (0, f"the model is in {tmp_path / 'back'}")
    assert names(tmp_path / "back") == ["consolidated_ema.00-of-01.safetensors", "model_args.pth"]


def test_a_dry_run_prints_the_plan_and_writes_nothing(lumina, published, tmp_path):
    result = lumina("convert", published, tmp_path / "ours", "--format", "image.diffusers", "--dry-run")
    assert result.status == 0
    assert "image.alpha_vllm -> image.diffusers: 67 tensors" in result.out
    assert "  transformer/diffusion_pytorch_model.safetensors" in result.out.splitlines()
    assert "nothing was written (--dry-run)" in result.out
    assert "Note: vae is not copied: autoencoder.source is stabilityai/sdxl-vae, not a local folder." in result.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["published"]


def test_external_folders_are_copied_from_the_configured_paths(lumina, published, tmp_path):
    for part, name in (("vae", "config.json"), ("words", "config.json"), ("words", "tokenizer_config.json")):
        (tmp_path / part).mkdir(exist_ok=True)
        (tmp_path / part / name).write_text(
            '{"architectures": ["Gemma2Model"], "tokenizer_class": "GemmaTokenizerFast"}'
        )
    places = {"autoencoder.source": "vae", "conditioners.0.source": "words", "conditioners.0.tokenizer": "words"}
    settings = [part for key, place in places.items() for part in ("--set", f"{key}={tmp_path / place}")]
    result = lumina("convert", published, tmp_path / "theirs", "--format", "image.diffusers", *settings)
    assert (result.status, result.err) == (0, "")
    index = json.loads((tmp_path / "theirs" / "model_index.json").read_text())
    assert index["text_encoder"] == ["transformers", "Gemma2Model"]
    assert index["tokenizer"] == ["transformers", "GemmaTokenizerFast"]
    assert {path.name for path in (tmp_path / "theirs").iterdir()} == {
        "model_index.json", "scheduler", "text_encoder", "tokenizer", "transformer", "vae",
    }  # fmt: skip


def test_an_existing_folder_is_overwritten_only_with_the_option(lumina, published, tmp_path):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "diary.txt").write_text("dear")
    result = lumina("convert", published, tmp_path / "ours")
    assert (result.status, names(tmp_path / "ours")) == (2, ["diary.txt"])
    assert "which exists. Choose another" in result.err
    assert lumina("convert", published, tmp_path / "ours", "--overwrite").status == 0
    assert "config.json" in names(tmp_path / "ours")


@pytest.mark.parametrize("place", [".", "inside", ".."])
def test_the_source_is_never_written_into(lumina, published, place):
    result = lumina("convert", published, published / place, "--overwrite")
    assert result.status == 2 and "expected a folder neither in" in result.err
    assert names(published) == ["consolidated.00-of-01.pth", "model_args.pth"]


def test_a_native_folder_needs_a_format_and_a_misspelt_one_gets_a_suggestion(lumina, published, tmp_path):
    lumina("convert", published, tmp_path / "ours")
    result = lumina("convert", tmp_path / "ours", tmp_path / "back")
    assert result.status == 2
    assert "image.alpha_vllm, image.diffusers" in result.err
    result = lumina("convert", tmp_path / "ours", tmp_path / "back", "--format", "image.difusers")
    assert result.status == 2 and "did you mean 'image.diffusers'?" in result.err


def test_a_damaged_folder_is_one_line_and_leaves_nothing(lumina, published, tmp_path):
    torch.save({"x": torch.nn.Linear(1, 1)}, published / "consolidated.00-of-01.pth")
    result = lumina("convert", published, tmp_path / "ours")
    assert (result.status, len(result.err.splitlines())) == (1, 1)
    assert "got code that runs" in result.err and "torch.nn.modules.linear.Linear" in result.err
    assert lumina("convert", tmp_path / "none", tmp_path / "ours").err.startswith("Error: model: got")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["published"]
