"""Scores of a classifier against independent computations."""

from __future__ import annotations

import pytest
import torch

from lumina_core.protocols import Dataset
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


class Shapes(Dataset):
    """Images of one size; the label is 0."""

    def __init__(self, height, width):
        self.shape = (3, height, width)

    def __len__(self):
        return 2

    def get(self, index, rng):
        return {"image": torch.zeros(self.shape), "label": 0}


@pytest.mark.parametrize(("height", "width", "factors"), [(8, 32, 5), (16, 16, 5), (300, 100, 4), (1100, 10, 3)])
def test_rows_are_of_the_sizes_and_shapes_that_they_name(height, width, factors):
    seen, steps = [], []

    def predict(images):
        seen.append(tuple(images[0].shape[1:]))
        return torch.zeros(len(images), 2)

    report = scores.evaluate_classifier(
        Classify(Classify.Config()), predict, Shapes(height, width), num_samples=2, seed=0, batch_size=2, out=None,
        progress=lambda title, done, total: steps.append(done / total),
    )  # fmt: skip
    assert steps == sorted(steps) and steps[-1] == 1
    kept = [row["factor"] for row in report["sizes"]]
    assert kept == list(scores.SIZE_FACTORS[:factors])
    assert set(seen[1:factors]) == {(round(height * f), round(width * f)) for f in kept if f != 1}
    if height == width:  # its own shape is not predicted again
        seen.insert(factors + 2, (height, width))
    for row, (rows, columns) in zip(report["aspect_ratios"], seen[factors:], strict=True):
        high, wide = map(int, row["height_to_width"].split(":"))
        assert rows / columns == pytest.approx(high / wide, rel=0.1)
        assert rows * columns == pytest.approx(height * width, rel=0.1)


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
