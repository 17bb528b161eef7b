"""A training with buckets, and one that was interrupted and resumed, have the same weights."""

from __future__ import annotations

import shutil

import torch
from image.image_files import tar_members, write_tar
from making import registry_of

from lumina_core.model_dir import read_weights
from lumina_core.recipe import read_recipe
from lumina_core.training.trainer import Trainer


def recipe(folder, **training):
    usual = {
        "steps": 6,
        "global_batch_size": 4,
        "warmup_steps": 1,
        "compile": False,
        "checkpoint_interval": 3,
        "sample_interval": 0,
        "keep_latest_k": 9,
    }
    shards = {"type": "image.tar", "folder": str(folder), "image_size": 32, "buckets": {"step": 8}}
    values = {
        "task": {"type": "image.text_to_image", "image_size": 32},
        "dataset": {
            "type": "core.mixture",
            "dataset": [{**shards, "weight": 20}, {"type": "image.emoji", "image_size": 32, "weight": 5}],
        },
        "autoencoder": {"type": "image.identity"},
        "tokenizer": {"type": "image.patchify", "patch_size": 8},
        "backbone": {
            "type": "core.next_dit",
            "hidden_size": 16,
            "num_layers": 1,
            "num_heads": 2,
            "rope_axes_dim": [0, 4, 4],
            "multiple_of": 8,
        },
        "head": {"type": "core.velocity"},
        "objective": {"type": "core.flow_matching"},
        "training": {**usual, **training},
    }
    return read_recipe(values, "test")


def test_a_training_with_buckets_resumes_bit_for_bit(tmp_path):
    (tmp_path / "data").mkdir()
    write_tar(
        tmp_path / "data" / "a.tar", {**tar_members(12, size=(64, 32)), **tar_members(12, begin=12, size=(30, 60))}
    )
    registry, runs = registry_of("image"), [tmp_path / "whole", tmp_path / "broken"]
    whole = Trainer(recipe(tmp_path / "data"), runs[0], registry=registry).train()
    shutil.copytree(runs[0], runs[1])
    shutil.rmtree(runs[1] / "checkpoints" / "step-00000006")
    shutil.rmtree(runs[1] / "model")
    again = Trainer(recipe(tmp_path / "data", num_workers=1), runs[1], resume=True, registry=registry).train()
    first, second = (read_weights(folder / "model.safetensors") for folder in (whole, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
