"""Train three classifiers of emoji on the same data for equal times, and compare their held-out accuracy by step.

    python benchmarks/recognition.py --styles runs/styles --seconds 600 --out runs/recognition [--only vit]

`generator` is recog.emoji with the blocks of a generator as its first weights, `scratch` the same from random weights,
`vit` timm's blocks of equal width and depth with learned positions, which are interpolated at other sizes than 64
pixels. Training, data and teacher are those of packages/lumina-recog/scripts/train_emoji.py. Writes curves.csv (macro
mean over the 9 groups on the validation concepts, by step) and scores.json (the three splits at the end).
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "packages" / "lumina-recog" / "scripts"))
from train_emoji import make_parser, start_model, train

from lumina_core.types import BackboneOutput, Condition, Tokens
from lumina_recog import scores
from lumina_recog.datasets.emoji import EmojiDataset

SPLITS = {
    "new concepts": {"styles": ("noto",), "split": "test"},
    "new style": {"styles": ("twemoji",), "split": "train"},
    "both": {"styles": ("twemoji",), "split": "test"},
}
GRID = 8


class ViT(nn.Module):
    """Blocks of timm on tokens of images, with learned positions of an 8x8 grid, interpolated for other grids."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.embed = nn.Linear(config.token_dim, width)
        self.positions = nn.Embedding(GRID * GRID, width)  # an embedding, so that Muon leaves it to AdamW
        nn.init.normal_(self.positions.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(width, config.num_heads, qkv_bias=True) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, tokens: Tokens, t: Tensor | None, condition: Condition, *, precomputed: Any = None
    ) -> BackboneOutput:
        (height, width), count = tokens.sizes[0], tokens.values.shape[1]
        rows = round((count * height / width) ** 0.5)  # patches are square
        grid = F.interpolate(
            self.positions.weight.T.unflatten(1, (GRID, GRID))[None],
            (rows, count // rows),
            mode="bicubic",
            antialias=True,
        )
        x = self.embed(tokens.values) + grid.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return BackboneOutput(self.norm(x))


def first_weights(name: str) -> Any:
    def start(model: Any, projection: nn.Linear, drawings: Any, targets: Tensor, args: argparse.Namespace) -> None:
        if name == "generator":
            start_model(model, projection, drawings, targets, args)
        if name == "vit":
            model.backbone = ViT(model.backbone.config)

    return start


@torch.inference_mode()
def group_macro(model: Any, **options: Any) -> float:
    dataset = EmojiDataset(EmojiDataset.Config(image_sizes=((64, 64),), **options))
    examples = [dataset.get(index, random.Random(index)) for index in range(len(dataset))]
    model.eval()
    logits = torch.cat(
        [
            model.predict(model.tokenizer.patchify(images), None, Condition()).float()
            for images in torch.stack([one["image"] for one in examples]).split(128)
        ]
    )
    model.train()
    return float(scores.score(model.task, logits, torch.tensor([one["label"] for one in examples]))["group_macro"])


def main() -> None:
    parser = make_parser()
    parser.add_argument("--only", choices=("generator", "scratch", "vit"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    names = ("generator", "scratch", "vit") if args.only is None else (args.only,)
    rows, report = [], {}
    for name in names:
        start = time.time()

        def measure(model: Any, step: int, name: str = name, start: float = start) -> None:
            value = group_macro(model, split="validation")
            rows.append([name, step, round(time.time() - start, 1), round(value, 4)])
            print(*rows[-1], flush=True)
            if rows[-1][2] > args.seconds - 12:
                report[name] = {split: group_macro(model, **options) for split, options in SPLITS.items()}
                report[name] |= {"steps": step}
                print(name, report[name], flush=True)

        train(args, start, first_weights(name), measure)
    with open(args.out / "curves.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["start", "step", "seconds", "validation"], *rows])
    (args.out / "scores.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
