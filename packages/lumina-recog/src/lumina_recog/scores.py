"""Scores of a classifier: accuracy, macro mean, calibration, confusion, and accuracy over sizes and shapes."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.io import atomic_file, new_dir
from lumina_core.protocols import Dataset

SIZE_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Sides of the images over their own in the table of sizes."""
ASPECT_RATIOS = ((1, 4), (1, 2), (1, 1), (2, 1), (4, 1))
"""Height to width of the images in the table of shapes; their area is kept."""
ECE_BINS = 15
SIDE_LIMIT = 1024
"""Rows of the table of sizes whose images would be enlarged beyond this side are left out."""

Predict = Callable[[Sequence[Tensor]], Tensor]
"""Images (3, H, W) of any sizes -> logits (B, K) float32 on the CPU."""


class ClassNames(Protocol):
    """What the scores need of a task."""

    def class_names(self, count: int) -> tuple[str, ...]: ...

    def groups(self, count: int) -> tuple[Tensor, tuple[str, ...]]: ...

    def probabilities(self, logits: Tensor) -> Tensor: ...

    def group_probabilities(self, logits: Tensor) -> Tensor: ...

    def class_indices(self, names: Sequence[str]) -> Tensor: ...


def accuracy(scores: Tensor, labels: Tensor, k: int = 1) -> float:
    """Return the fraction of rows whose label is among the k highest scores (B, K)."""
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return float((best == labels[:, None]).any(dim=1).float().mean())


def macro_accuracy(scores: Tensor, labels: Tensor) -> float:
    """Return the mean over the classes that occur of their accuracy, so that each class counts the same."""
    correct = (scores.argmax(dim=1) == labels).float()
    return float(torch.stack([correct[labels == label].mean() for label in labels.unique()]).mean())


def expected_calibration_error(probabilities: Tensor, labels: Tensor, num_bins: int = ECE_BINS) -> float:
    """Return the expected calibration error (Guo et al., arXiv 1706.04599, equation 3) with bins of equal width.

    Args:
        probabilities: (B, K).
        labels: (B,) class indices.
        num_bins: bins of the confidence, the probability of the predicted class.
    """
    confidence, predicted = probabilities.max(dim=1)
    correct = (predicted == labels).float()
    bins = (confidence * num_bins).long().clamp(max=num_bins - 1)
    total = 0.0
    for number in range(num_bins):
        inside = bins == number
        if bool(inside.any()):
            gap = (correct[inside].mean() - confidence[inside].mean()).abs()
            total += float(gap) * float(inside.float().mean())
    return total


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature, 0.05 to 20, with the smallest cross-entropy of logits (B, K) / temperature.

    Fit it on validation data, never on those that are then scored. For groups, give `group_logits` and group labels.

    Args:
        logits: (B, K).
        labels: (B,) class indices.
    """
    low, high = -3.0, 3.0  # logarithms; the loss has one minimum (golden-section search)
    ratio = (5**0.5 - 1) / 2

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(logits.double() / torch.tensor(log_temperature).exp(), labels))

    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return float(torch.tensor((low + high) / 2).exp())


def confusion_matrix(predicted: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return (K, K) counts: row the true class, column the predicted one."""
    return torch.bincount(labels * count + predicted, minlength=count**2).view(count, count)


def wilson_interval(successes: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % confidence interval of a fraction (Wilson's score interval)."""
    center, spread = (
        (successes + z * z / 2 / count),
        z * (successes * (1 - successes) / count + z * z / 4 / count**2) ** 0.5,
    )
    return (center - spread) / (1 + z * z / count), (center + spread) / (1 + z * z / count)


def score(task: ClassNames, logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return the scores of logits (B, K) for class indices (B,): those of classes, and of groups if there are any."""
    probabilities = task.probabilities(logits)
    low, high = wilson_interval(accuracy(logits, labels), len(labels))
    result: dict[str, Any] = {
        "count": len(labels),
        "top1": round(accuracy(logits, labels), 4),
        "top1_interval": [round(low, 4), round(high, 4)],
        "top5": round(accuracy(logits, labels, 5), 4),
        "macro": round(macro_accuracy(logits, labels), 4),
        "ece": round(expected_calibration_error(probabilities, labels), 4),
    }
    group_index, groups = task.groups(logits.shape[1])
    if groups:
        sums, group_labels = task.group_probabilities(logits), group_index[labels]
        result |= {
            "group_top1": round(accuracy(sums, group_labels), 4),
            "group_macro": round(macro_accuracy(sums, group_labels), 4),
            "group_ece": round(expected_calibration_error(sums, group_labels), 4),
        }
    return result


def group_sums(probabilities: Tensor, group_index: Tensor, num_groups: int) -> Tensor:
    """Return the probabilities of groups (B, G): the sums over their classes."""
    sums = probabilities.new_zeros(len(probabilities), num_groups)
    return sums.index_add(1, group_index.to(probabilities.device), probabilities)


def group_logits(logits: Tensor, group_index: Tensor, num_groups: int) -> Tensor:
    """Return the logits of groups (B, G) for logits of classes (B, K): logarithms of sums of exponentials."""
    members = group_index.to(logits.device) == torch.arange(num_groups, device=logits.device)[:, None]
    return torch.where(members, logits.float()[:, None], float("-inf")).logsumexp(dim=2)


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize an image (3, H, W) bicubically, antialiased where it shrinks."""
    if image.shape[1:] == (height, width):
        return image
    return F.interpolate(image[None], (height, width), mode="bicubic", antialias=True)[0].clamp(-1, 1)


def evaluate_classifier(
    task: ClassNames,
    predict: Predict,
    dataset: Dataset,
    *,
    num_samples: int,
    seed: int,
    batch_size: int,
    out: Path | None,
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """Score a classifier on (a sample of) a data set, at the images' own size, at other sizes and in other shapes.

    Returns:
        `scores` at the images' own size, `sizes` (without sides beyond SIDE_LIMIT) and `aspect_ratios` (lists of the
        same scores with `factor`, or `height_to_width`), `confusion` (rows of counts), `labels` (names).

    Raises:
        ConfigError: the examples have no label, or one that the head does not have.
    """
    order = random.Random(seed).sample(range(len(dataset)), min(num_samples, len(dataset)))
    examples = [dataset.get(index, random.Random(f"{seed}/{index}")) for index in order]
    images, labels = [example["image"] for example in examples], _labels(examples)
    class_names = dataset.class_names("label")
    if class_names:
        _check_labels(labels, len(class_names), "its own class names")
        labels = task.class_indices(class_names)[labels]
    longest = max(max(image.shape[1:]) for image in images)
    factors = [factor for factor in SIZE_FACTORS if factor <= 1 or longest * factor <= SIDE_LIMIT]
    is_square = all(image.shape[1] == image.shape[2] for image in images)
    done, steps = 0, len(factors) + len(ASPECT_RATIOS) - is_square

    def run(shape: Callable[[Tensor], tuple[int, int]]) -> Tensor:
        nonlocal done
        rows = []
        for start in range(0, len(images), batch_size):
            batch = [resize(image, *shape(image)) for image in images[start : start + batch_size]]
            rows.append(predict(batch))
            progress("evaluating", done * len(images) + start + len(batch), steps * len(images))
        done += 1
        return torch.cat(rows)

    own = run(lambda image: (image.shape[1], image.shape[2]))
    num_classes, names = own.shape[1], task.class_names(own.shape[1])
    _check_labels(labels, num_classes, "the classes of the model")
    sizes, ratios = [], []
    for factor in factors:
        logits = own if factor == 1 else run(lambda image, factor=factor: _scaled(image, factor))  # type: ignore[misc]
        sizes.append({"factor": factor, **score(task, logits, labels)})
    for ratio in ASPECT_RATIOS:
        is_own = ratio == (1, 1) and is_square
        logits = own if is_own else run(lambda image, ratio=ratio: _stretched(image, ratio))  # type: ignore[misc]
        ratios.append({"height_to_width": f"{ratio[0]}:{ratio[1]}", **score(task, logits, labels)})
    confusion = confusion_matrix(own.argmax(dim=1), labels, num_classes)
    report = {"scores": score(task, own, labels), "sizes": sizes, "aspect_ratios": ratios}
    if out is not None:
        write_report(report, confusion, names, out)
    return {**report, "confusion": confusion.tolist(), "labels": list(names)}


def _labels(examples: Sequence[Mapping[str, Any]]) -> Tensor:
    if not examples or "label" not in examples[0]:
        raise ConfigError("dataset: got examples without a label, expected a class index in the field 'label'.")
    return torch.tensor([int(example["label"]) for example in examples])


def _check_labels(labels: Tensor, count: int, meaning: str) -> None:
    wrong = [label for label in labels.unique().tolist() if not 0 <= label < count]
    if wrong:
        raise ConfigError(
            f"dataset: got the label {wrong[0]}, expected 0 to {count - 1}, {meaning}. Choose a data set of the same "
            "classes."
        )


def _scaled(image: Tensor, factor: float) -> tuple[int, int]:
    height, width = (max(1, round(side * factor)) for side in image.shape[1:])
    return height, width


def _stretched(image: Tensor, ratio: tuple[int, int]) -> tuple[int, int]:
    factor = (ratio[0] / ratio[1]) ** 0.5
    side = (image.shape[1] * image.shape[2]) ** 0.5
    return max(1, round(side * factor)), max(1, round(side / factor))


def write_report(report: Mapping[str, Any], confusion: Tensor, names: Sequence[str], out: Path) -> None:
    """Write report.md (tables), confusion.csv and, if matplotlib is installed, sizes.png (curves) to a folder."""
    columns = list(report["scores"])
    rows = [("own size", report["scores"])]
    rows += [(f"size x {row['factor']:g}", row) for row in report["sizes"] if row["factor"] != 1]
    rows += [(f"shape {row['height_to_width']}", row) for row in report["aspect_ratios"]]
    lines = [f"| images | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(_cell(row[column]) for column in columns)} |" for name, row in rows]
    with new_dir(out), atomic_file(out / "report.md") as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["true class", *names])
    writer.writerows([name, *row] for name, row in zip(names, confusion.tolist(), strict=True))
    with atomic_file(out / "confusion.csv") as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")
    plot_report(report, out / "sizes.png")


def _cell(value: Any) -> str:
    return f"{value[0]:.3f}-{value[1]:.3f}" if isinstance(value, list) else f"{value:.4g}"


def plot_report(report: Mapping[str, Any], path: Path) -> bool:
    """Plot accuracy over sizes and shapes; returns False without matplotlib, and writes nothing then."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    keys = [key for key in ("top1", "macro", "group_top1", "group_macro") if key in report["scores"]]
    factors = [row["factor"] for row in report["sizes"]]
    for key in keys:
        left.plot(factors, [row[key] for row in report["sizes"]], "o-", label=key)
        right.plot(
            [row["height_to_width"] for row in report["aspect_ratios"]],
            [row[key] for row in report["aspect_ratios"]], "o-", label=key,
        )  # fmt: skip
    left.set_xscale("log", base=2)
    left.set_xticks(factors, [f"{factor:g}" for factor in factors])
    left.set_xlabel("side over the images' own")
    right.set_xlabel("height : width")
    left.set_ylabel("accuracy")
    left.set_ylim(0, 1)
    left.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
    return True
