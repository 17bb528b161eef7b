"""Write a classifier that begins as a generator: python init_from_generator.py [--model NAME] [--out runs/init].

The blocks are those of the generator at time --t (lumina_recog.from_generator.fold_time), as many as the recipe has.
The head is fitted by logistic regression on their features of the recipe's training images, at several sizes and
shapes.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
import torch.nn.functional as F

import lumina_core
from lumina_core.model import build_dataset, build_model
from lumina_core.model_dir import save_model
from lumina_core.recipe import Recipe
from lumina_recog.from_generator import fold_time
from lumina_recog.packing import pack, packed_states

SIZES = ((64, 64), (64, 64), (32, 32), (48, 48), (24, 24), (32, 64), (64, 32), (32, 128), (128, 32))
"""Height and width of the images that the head is fitted on; each is drawn NUM_DRAWS times, half of them mirrored."""
BATCH, STEPS, NUM_DRAWS = 128, 200, 4


def main() -> None:
    """Fold the weights, fit the head, and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="image.emoji", help="generator: a model folder, or an installed model")
    parser.add_argument("--recipe", default="recog.emoji", help="recipe of the classifier")
    parser.add_argument("--t", type=float, default=1.0, help="time of the generator, 0 noise to 1 data")
    parser.add_argument("--weight-decay", type=float, default=3e-3, help="penalty of the head's weights")
    parser.add_argument("--styles", default="noto,twemoji", help="drawing styles of the training images")
    parser.add_argument("--out", type=Path, default=Path("runs/init"))
    options = parser.parse_args()
    overrides = [f"dataset.image_sizes={[list(size) for size in SIZES]}", "dataset.augment=false"]
    recipe = Recipe.load(options.recipe, (*overrides, f"dataset.styles=[{options.styles}]"))
    model = build_model(recipe).eval()
    weights = fold_time(lumina_core.load_model(options.model), options.t)
    own = model.state_dict()
    model.load_state_dict({name: tensor for name, tensor in weights.items() if name in own}, strict=False)
    dataset = build_dataset(recipe)
    features, labels = read_features(model, dataset)
    fit_head(model, features, labels, options.weight_decay)
    with torch.no_grad():
        pooled = (features - features.mean(dim=0)) / (features.std(dim=0) + 1e-6)
        accuracy = float((model.head.classify(pooled).argmax(dim=1) == labels).float().mean())
    save_model(model, options.out)
    print(f"{len(features)} images, training accuracy {accuracy:.3f}, written to {options.out}")


@torch.no_grad()
def read_features(model, dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pooled features (N, C) and labels (N,) of every image at one of the sizes, by turns."""
    rows, labels = [], []
    draws = [(index, turn) for turn in range(NUM_DRAWS) for index in range(len(dataset))]
    for start in range(0, len(draws), BATCH):
        examples = [
            dataset.get(index, random.Random(f"{index}/{turn}")) for index, turn in draws[start : start + BATCH]
        ]
        turns = [turn for _, turn in draws[start : start + BATCH]]
        images = [
            one["image"].flip(-1) if turn % 2 else one["image"] for one, turn in zip(examples, turns, strict=True)
        ]
        items = [model.tokenizer.patchify(image[None]) for image in images]
        pooled: dict[int, torch.Tensor] = {}
        for one in pack(items):
            states = packed_states(model.backbone, one)
            pooled |= dict(zip(one.indices, model.head.pool(states, one.segments).unbind(0), strict=True))
        rows += [pooled[index] for index in range(len(items))]
        labels += [one["label"] for one in examples]
    return torch.stack(rows), torch.tensor(labels)


def fit_head(model, features: torch.Tensor, labels: torch.Tensor, weight_decay: float) -> None:
    """Fit norm and linear layer of the head by logistic regression on classes and groups (L-BFGS).

    The weights of the norm standardize the features; groups count by the inverse square root of their images.
    """
    norm, linear = model.head.norm, model.head.linear
    mean, std = features.mean(dim=0), features.std(dim=0) + 1e-6
    with torch.no_grad():
        norm.weight.copy_(1 / std)
        norm.bias.copy_(-mean / std)
        linear.weight.zero_()
        linear.bias.zero_()
    inputs = (features - mean) / std
    group_index, groups = model.task.groups(linear.out_features)
    member = F.one_hot(group_index, len(groups)).float()
    group_labels = group_index[labels]
    weights = torch.bincount(group_labels).float()[group_labels] ** -0.5
    weights = weights / weights.mean()
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits = linear(inputs)
        class_loss = F.cross_entropy(logits, labels, reduction="none", label_smoothing=0.05)
        group_log = (logits.softmax(dim=1) @ member).clamp(min=1e-7).log()
        group_loss = F.nll_loss(group_log, group_labels, reduction="none")
        loss = ((class_loss + group_loss) * weights).mean() + weight_decay * linear.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)


if __name__ == "__main__":
    main()
