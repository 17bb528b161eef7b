"""A whole training on pictures of many shapes: it ends, and a run that was broken off ends with the same numbers."""

from __future__ import annotations

import shutil

import torch
from image.making_pictures import samples, write_tar
from making import registry_of

from lumina_core.checkpoint import read_weights
from lumina_core.recipe import read_recipe
from lumina_core.train.loop import Asked, train


def recipe(folder, **training):
    usual = {"steps": 6, "batch": 4, "warmup": 1, "compile": False, "save_every": 3, "sample_every": 0, "keep": 9}
    shards = {"use": "image.tar", "folder": str(folder), "side": 32, "buckets": {"step": 8}}
    values = {
        "task": {"use": "image.text_to_image", "side": 32},
        "dataset": {"use": "core.mixture", "dataset": [shards, {"use": "image.emoji", "side": 32, "weight": 5}]},
        "autoencoder": {"use": "image.pixels"},
        "tokenizer": {"use": "image.patches", "patch": 8},
        "backbone": {"use": "core.next_dit", "width": 16, "depth": 1, "heads": 2, "axes": [0, 4, 4], "multiple_of": 8},
        "head": {"use": "core.velocity"},
        "objective": {"use": "core.flow_matching"},
        "training": {**usual, **training},
    }
    return read_recipe(values, "test")


def test_a_run_on_shapes_goes_on_where_it_was_broken_off_bit_for_bit(tmp_path):
    (tmp_path / "data").mkdir()
    write_tar(tmp_path / "data" / "a.tar", {**samples(12, size=(64, 32)), **samples(12, begin=12, size=(30, 60))})
    registry, runs = registry_of("image"), [tmp_path / "whole", tmp_path / "broken"]
    whole = train(recipe(tmp_path / "data"), registry, Asked(runs[0], quiet=True))
    shutil.copytree(runs[0], runs[1])
    shutil.rmtree(runs[1] / "checkpoints" / "step-00000006")
    shutil.rmtree(runs[1] / "model")
    again = train(recipe(tmp_path / "data", workers=1), registry, Asked(runs[1], resume=True, quiet=True))
    first, second = (read_weights(folder / "model.safetensors") for folder in (whole, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
