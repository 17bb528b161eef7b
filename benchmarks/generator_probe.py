"""Linear probe of a generator: which block, at which time, tells the group of an emoji best?

Fits a ridge regression on the mean hidden state of Noto's training concepts and scores it on its test concepts, for 5
blocks and 5 times, compared with raw pixels (16x16 averages) and the same network with random weights. Writes a
table as JSON.

    python benchmarks/generator_probe.py [--model image.emoji] [--every 2] [--out docs/results/recognition/probe.json]
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
import torch.nn.functional as F

import lumina_core
from lumina_recog.datasets.emoji import EmojiDataset
from lumina_recog.from_generator import generator_features, probe_accuracy

TIMES = (0.2, 0.4, 0.6, 0.8, 1.0)
SIDE, BATCH = 64, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="image.emoji", help="generator: a model folder, or an installed model")
    parser.add_argument("--every", type=int, default=2, help="use every n-th training concept")
    parser.add_argument("--out", type=Path, default=Path("docs/results/recognition/probe.json"))
    options = parser.parse_args()
    model = lumina_core.load_model(options.model)
    layers = torch.linspace(0, model.backbone.num_layers - 1, 5).round().long().tolist()
    images, labels = load("train", options.every), load("test", 1)
    data = {"train": images[0], "test": labels[0]}
    targets = {"train": images[1], "test": labels[1]}
    pixels = {name: F.adaptive_avg_pool2d(x, 16).flatten(1) for name, x in data.items()}
    table = {"pixels": round(probe_accuracy(pixels, targets, 1.0)[1], 4), "layers": layers, "times": TIMES}
    table["macro"] = probe(model, data, targets, layers)
    with torch.no_grad():
        for module in model.backbone.modules():
            if isinstance(module, torch.nn.Linear):
                module.reset_parameters()
    table["macro_random_weights_t1"] = probe(model, data, targets, layers, TIMES[-1:])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(table, indent=1) + "\n")
    print(json.dumps(table))


def load(split: str, every: int) -> tuple[torch.Tensor, torch.Tensor]:
    config = EmojiDataset.Config(styles=("noto",), split=split, target="group", image_sizes=((SIDE, SIDE),))
    dataset = EmojiDataset(config)
    examples = [dataset.get(index, random.Random(0)) for index in range(0, len(dataset), every)]
    return torch.stack([one["image"] for one in examples]), torch.tensor([one["label"] for one in examples])


@torch.inference_mode()
def probe(model, data, targets, layers, times=TIMES) -> list[list[float]]:
    """Macro mean by layer (rows) and time (columns)."""
    columns = []
    for t in times:
        features: dict[str, list[torch.Tensor]] = {}
        for split, images in data.items():
            parts = [generator_features(model, model.tokenizer.patchify(x), t, layers) for x in images.split(BATCH)]
            features[split] = [torch.cat(rows) for rows in zip(*parts, strict=True)]
        columns.append(
            [round(probe_accuracy({s: f[i] for s, f in features.items()}, targets)[1], 4) for i in range(len(layers))]
        )
    return [list(row) for row in zip(*columns, strict=True)]


if __name__ == "__main__":
    main()
