"""Print the temperatures that calibrate a classifier: python fit_temperature.py MODEL [KEY=VALUE ...].

The keys change the data set of the model's recipe; by default its validation split, without augmentation. If classes
have groups, these have a temperature of their own. Store the result:

lumina convert MODEL OUT --format lumina --set task.temperature=T --set task.group_temperature=T
"""

from __future__ import annotations

import random
import sys

import torch

import lumina_core
from lumina_core.config import ComponentSpec, apply_override
from lumina_core.model import build_component
from lumina_core.plugins.loader import load_plugins
from lumina_core.prediction import predict_data
from lumina_recog.scores import expected_calibration_error, fit_temperature, group_logits

BATCH = 64


def main() -> None:
    """Predict the validation images, fit, and print."""
    folder, *overrides = sys.argv[1:]
    model = lumina_core.load_model(folder)
    values = {"type": model.recipe.dataset.type, **model.recipe.dataset.options}
    for override in ["split=validation", "augment=false", "image_sizes=[[64,64],[32,32],[128,128]]", *overrides]:
        values = apply_override(values, override)
    dataset = build_component(load_plugins(), "dataset", ComponentSpec(**values))
    examples = [dataset.get(index, random.Random(index)) for index in range(len(dataset))]
    images = [one["image"] for one in examples]
    logits = torch.cat([predict_data(model, images[i : i + BATCH]) for i in range(0, len(images), BATCH)])
    labels = torch.tensor([one["label"] for one in examples])
    index, groups = model.task.groups(logits.shape[1])
    temperature = fit_temperature(logits, labels)
    before, after = (expected_calibration_error((logits / t).softmax(dim=1), labels) for t in (1.0, temperature))
    print(f"task.temperature={temperature:.3f}: ECE {after:.3f}, as it is {before:.3f}")
    if groups:
        logits, labels = group_logits(logits, index, len(groups)), index[labels]
        temperature = fit_temperature(logits, labels)
        before, after = (expected_calibration_error((logits / t).softmax(dim=1), labels) for t in (1.0, temperature))
        print(f"task.group_temperature={temperature:.3f}: ECE of groups {after:.3f}, as it is {before:.3f}")


if __name__ == "__main__":
    main()
