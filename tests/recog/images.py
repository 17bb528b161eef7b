"""Small classifiers and image files for the tests of recognition."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from PIL import Image

import lumina_core
from lumina_core.model import build_model
from lumina_core.model_dir import save_model
from lumina_core.recipe import read_recipe
from lumina_recog.classifier import NextDiTClassifier

CLASSES = ["warm/red", "warm/yellow", "cold/green", "cold/blue"]


def network(pooling="map", rope="mixed", classes=5, **kwargs) -> NextDiTClassifier:
    """A tiny classifier with weights of a size that makes differences visible."""
    torch.manual_seed(0)
    net = NextDiTClassifier(8, 48, 3, 3, classes, global_pool=pooling, rope=rope, **kwargs)
    for name, parameter in net.named_parameters():
        if parameter.ndim >= 2 and "freqs" not in name:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return net


def recipe(**overrides):
    """The recipe of a tiny classifier with two groups of two classes."""
    values = {
        "schema_version": 2,
        "task": {"type": "recog.classify", "classes": CLASSES},
        "tokenizer": {"type": "recog.patchify", "patch_size": 8, "max_tokens": 64},
        "autoencoder": {"type": "recog.identity"},
        "backbone": {
            "type": "core.next_dit",
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 2,
            "multiple_of": 32,
            "time_conditioned": False,
            "position_encoding": {"type": "core.mixed_rope"},
        },
        "head": {"type": "recog.classification", "num_classes": 4, "pooling": "attention"},
        "objective": {"type": "recog.classification"},
        "training": {"steps": 1, "global_batch_size": 2, "compile": False, "cond_dropout": 0},
    }
    return read_recipe({**values, **overrides}, "test")


def save_classifier(folder: Path, **overrides) -> Path:
    """Write the folder of a tiny classifier with random weights."""
    torch.manual_seed(1)
    model = build_model(recipe(**overrides))
    torch.nn.init.normal_(model.head.linear.weight)
    save_model(model, folder)
    return folder


def load(folder: Path):
    return lumina_core.load_model(folder)


def encode(image: Image.Image, form="PNG", **kwargs) -> bytes:
    held = io.BytesIO()
    image.save(held, form, **kwargs)
    return held.getvalue()


def class_folder(root: Path, per_class=4, size=(24, 20)) -> Path:
    """A folder of images in one folder per class, of one color each."""
    for name, color in (("blue", (0, 0, 255)), ("green", (0, 255, 0)), ("red", (255, 0, 0))):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            Image.new("RGB", size, color).save(root / name / f"{number}.png")
    return root
