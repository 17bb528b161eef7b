"""Measures of the benchmark of the claims: the right drawing wins, blur is not sharp."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lumina_image.datasets import emoji_data
from lumina_image.metrics.features import thumbnail_features

COUNT = 24


@pytest.fixture(scope="module")
def claims():
    path = Path(__file__).parents[2] / "benchmarks" / "claims.py"
    spec = importlib.util.spec_from_file_location("claims", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["claims"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["claims"]


@pytest.fixture(scope="module")
def drawings():
    return emoji_data.load_images()[:: len(emoji_data.load_images()) // COUNT][:COUNT]


def _scores(claims, images, drawings):
    references = thumbnail_features(torch.from_numpy(drawings.copy()).permute(0, 3, 1, 2))
    return claims.scores(images, drawings, references, list(range(COUNT)))


def test_the_true_drawings_have_perfect_scores(claims, drawings):
    assert _scores(claims, drawings, drawings) == {"rmse": 0.0, "rmse_half_width": 0.0, "top1": 1.0, "sharpness": 1.0}


def test_other_drawings_are_wrong(claims, drawings):
    found = _scores(claims, np.roll(drawings, 1, axis=0), drawings)
    assert found["top1"] == 0 and found["rmse"] > 0.1


def test_blur_is_less_sharp_than_the_truth(claims, drawings):
    small = [Image.fromarray(one).resize((16, 16)).resize((64, 64), Image.Resampling.BICUBIC) for one in drawings]
    found = _scores(claims, np.stack([np.asarray(image) for image in small]), drawings)
    assert found["sharpness"] < 0.6 and found["top1"] > 0.9


def test_the_model_draws_as_many_classes_as_there_are_codes(claims):
    records = {record["code"] for record in emoji_data.load_records()}
    assert len(claims.codes()) == len(set(claims.codes())) == 384
    assert set(claims.codes()) <= records
