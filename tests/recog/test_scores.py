"""Scores of a classifier against independent computations."""

from __future__ import annotations

import pytest
import torch

from lumina_recog import scores
from lumina_recog.task import Classify


def test_accuracy_and_macro_mean():
    logits = torch.tensor([[2.0, 1, 0], [2.0, 1, 0], [2.0, 1, 0], [0.0, 2, 1]])
    labels = torch.tensor([0, 0, 1, 1])
    assert scores.accuracy(logits, labels) == 0.75
    assert scores.accuracy(logits, labels, 2) == 1.0
    assert scores.macro_accuracy(logits, torch.tensor([0, 0, 0, 2])) == 0.5


def test_ece_of_calibrated_and_overconfident_answers():
    probabilities = torch.tensor([[0.8, 0.2]]).repeat(10, 1)
    labels = torch.tensor([0] * 8 + [1] * 2)
    assert scores.expected_calibration_error(probabilities, labels) == pytest.approx(0, abs=1e-6)
    assert scores.expected_calibration_error(torch.tensor([[1.0, 0.0]]).repeat(10, 1), labels) == pytest.approx(0.2)


def test_the_fitted_temperature_recovers_the_scale_of_the_logits():
    torch.manual_seed(0)
    logits = torch.randn(4000, 5) * 2
    labels = torch.multinomial(logits.softmax(dim=1), 1)[:, 0]
    assert scores.fit_temperature(logits * 3, labels) == pytest.approx(3, rel=0.1)


def test_confusion_counts_pairs():
    matrix = scores.confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_wilson_interval_of_a_known_case():
    low, high = scores.wilson_interval(0.5, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-3), pytest.approx(0.5962, abs=1e-3))


def test_groups_are_scored_too():
    task = Classify(Classify.Config(classes=("a/x", "a/y", "b/z")))
    logits = torch.tensor([[2.0, 1.9, 0.0], [0.0, 0.1, 5.0]])
    found = scores.score(task, logits, torch.tensor([1, 2]))
    assert found["top1"] == 0.5
    assert found["group_top1"] == 1.0


def test_the_plot_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    row = {"top1": 0.5, "macro": 0.4}
    report = {
        "scores": row,
        "sizes": [{"factor": factor, **row} for factor in (0.5, 1.0, 2.0)],
        "aspect_ratios": [{"height_to_width": ratio, **row} for ratio in ("1:2", "1:1")],
    }
    assert scores.plot_report(report, tmp_path / "sizes.png")
    assert (tmp_path / "sizes.png").read_bytes().startswith(b"\x89PNG")
