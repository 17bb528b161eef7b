"""Task of recognition: an image of any size in, the class that it shows out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.protocols import Dataset, PredictionTask
from lumina_core.types import Tokens
from lumina_recog.image_io import ImageField
from lumina_recog.packing import is_packable, packed_logits
from lumina_recog.scores import evaluate_classifier, group_logits, group_sums

GROUP_SEPARATOR = "/"
"""Separates group and class in the name of a class: `Food & Drink/food-fruit`."""


class ClassifyRequest(Settings):
    """Request for the class of an image."""

    image: ImageField = Field(description="image: a file, its bytes, a Pillow image, an array or a tensor")
    top: int = Field(5, ge=1, le=1000, description="number of classes to name, the most probable first")


class Classify(PredictionTask):
    """Name what an image shows: its class, and the group of the class if the names of the classes have groups."""

    Request = ClassifyRequest
    data_field = "image"
    examples = ("lumina classify photo.png", "lumina classify photos/*.jpg --json")

    class Config(Settings):
        """Names of the classes, and calibration."""

        classes: tuple[str, ...] = Field(
            (), description="names of the classes in the order of the labels, `group/class` or plain; empty: numbers"
        )
        temperature: float = Field(
            1.0,
            gt=0,
            description="divisor of the logits, fitted on validation data so that probabilities are calibrated",
        )
        group_temperature: float | None = Field(
            None, gt=0, description="divisor of the logits of groups, the logarithms of their sums; null: none"
        )

    def __init__(self, config: Config) -> None:
        self.config = config

    def data(self, request: Any) -> Tensor:
        """Return the image (3, H, W) in [-1, 1]."""
        image: Tensor = request.image
        return image

    def predict_items(self, backbone: Any, head: Any, items: Sequence[Tokens]) -> Tensor | None:
        """Return the logits (B, K) of images of several sizes by packing; None if the components cannot."""
        return packed_logits(backbone, head, items) if is_packable(backbone, head) else None

    def answer(self, prediction: Tensor, request: Any) -> dict[str, Any]:
        """Return the answer: `label`, `probability`, `top`, and with groups `group`, `group_probability`.

        The group is the most probable one, see `group_probabilities`, and `label` the most probable class.

        Raises:
            ConfigError: the task names another number of classes than the head has.
        """
        return self.describe(prediction, request.top)

    def describe(self, prediction: Tensor, top: int = 5) -> dict[str, Any]:
        """Return the answer for logits (K,); see `answer`."""
        probabilities = self.probabilities(prediction[None])[0]
        names = self.class_names(len(probabilities))
        order = probabilities.argsort(descending=True)[:top].tolist()
        listed = [{"label": names[index], "probability": round(float(probabilities[index]), 4)} for index in order]
        result: dict[str, Any] = {"label": names[order[0]], "probability": listed[0]["probability"], "top": listed}
        _, groups = self.groups(len(probabilities))
        if groups:
            sums = self.group_probabilities(prediction[None])[0]
            best = int(sums.argmax())
            result |= {"group": groups[best], "group_probability": round(float(sums[best]), 4)}
        return result

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return calibrated probabilities (B, K) of logits (B, K)."""
        return (logits.float() / self.config.temperature).softmax(dim=1)

    def group_probabilities(self, logits: Tensor) -> Tensor:
        """Return calibrated probabilities (B, G) of the groups.

        Without a `group_temperature` they are the sums of the probabilities of their classes. With one, the sums of the
        uncalibrated probabilities, which the training compares with the groups, are calibrated: the order of the groups
        stays that of the training (our own choice).
        """
        index, groups = self.groups(logits.shape[1])
        if self.config.group_temperature is None:
            return group_sums(self.probabilities(logits), index, len(groups))
        return (group_logits(logits, index, len(groups)) / self.config.group_temperature).softmax(dim=1)

    def class_names(self, count: int) -> tuple[str, ...]:
        """Return the names of `count` classes.

        Raises:
            ConfigError: the task names another number of classes.
        """
        classes = self.config.classes
        if classes and len(classes) != count:
            raise ConfigError(
                f"task.classes: got {len(classes)} names, expected {count}, the classes of the head. Give one name per "
                "class, in the order of the labels."
            )
        return classes or tuple(str(index) for index in range(count))

    def class_indices(self, names: Sequence[str]) -> Tensor:
        """Return the model's index of each class of a data set, by the names; without names of its own, 0, 1, 2 ...

        Raises:
            ConfigError: the model does not know one of the names.
        """
        own = {name: index for index, name in enumerate(self.config.classes or names)}
        unknown = [name for name in names if name not in own]
        if unknown:
            raise ConfigError(
                f"dataset: got the class {unknown[0]}, expected those of the model: {', '.join([*own][:8])}"
                f"{' ...' if len(own) > 8 else ''}. Choose a data set of the same classes, or rename its folders."
            )
        return torch.tensor([own[name] for name in names])

    def groups(self, count: int) -> tuple[Tensor, tuple[str, ...]]:
        """Return the group index (K,) of each class and the names of the groups; no names if classes have no groups."""
        names = self.class_names(count)
        if not names or not all(GROUP_SEPARATOR in name for name in names):
            return torch.zeros(count, dtype=torch.int64), ()
        of_class = [name.partition(GROUP_SEPARATOR)[0] for name in names]
        groups = tuple(dict.fromkeys(of_class))
        return torch.tensor([groups.index(group) for group in of_class]), groups

    def evaluate(
        self,
        predict: Callable[[Sequence[Tensor]], Tensor],
        dataset: Dataset,
        *,
        num_samples: int,
        seed: int,
        batch_size: int,
        out: Path | None,
        progress: Callable[[str, int, int], None],
    ) -> Mapping[str, Any]:
        """Evaluate on a labelled data set: accuracy, calibration and confusion; the same over sizes and shapes.

        With `out`, it writes report.md, confusion.csv and, with matplotlib, sizes.png there.

        Raises:
            ConfigError: the examples have no label, or one that the head does not have.
        """
        return evaluate_classifier(
            self, predict, dataset, num_samples=num_samples, seed=seed, batch_size=batch_size, out=out,
            progress=progress,
        )  # fmt: skip
