"""Train four classifiers of emoji on the same data for equal times, and compare their held-out accuracy by step.

    python benchmarks/recognition.py --styles runs/styles --seconds 600 --out runs/recognition [--only vit]

`generator` is recog.emoji with the blocks of a generator as its first weights, `scratch` the same from random weights,
`vit` timm's blocks of equal width and depth with learned positions, which are interpolated at other sizes than 64
pixels, `naflexvit` timm's NaFlexViT of equal width and depth. Training, data and teacher are those of
packages/lumina-recog/scripts/train_emoji.py. `knn` trains nothing: the nearest drawings by features of
EfficientNet-Lite0 at 128 pixels name the group, with the number of neighbours that is best on the validation concepts.
`--only model` trains nothing either: it measures --init, or the built-in classifier. Writes curves.csv (macro mean over
the 9 groups on the validation concepts, by step) and scores.json (the three splits at the end).
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
from timm.models.vision_transformer import Block
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "packages" / "lumina-recog" / "scripts"))
from train_emoji import Drawings, make_parser, premultiply, start_model, train

import lumina_core
from lumina_core.metrics.efficientnet_lite0 import efficientnet_lite0
from lumina_core.protocols import Component
from lumina_core.types import BackboneOutput, Condition, Tokens
from lumina_recog import scores
from lumina_recog.datasets import emoji_data
from lumina_recog.datasets.emoji import EmojiDataset

SPLITS = {
    "new concepts": {"styles": ("noto",), "split": "test"},
    "new style": {"styles": ("twemoji",), "split": "train"},
    "both": {"styles": ("twemoji",), "split": "test"},
}
GRID = 8
KNN_SIDE, NEIGHBOURS = 128, (1, 3, 5, 10, 20)


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


class NaFlex(nn.Module, Component):
    """timm's NaFlexViT on tokens of images: learned positions of an 8x8 grid, interpolated for each grid of patches."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.net = NaFlexVit(
            NaFlexVitCfg(
                patch_size=8, embed_dim=config.hidden_size, depth=config.num_layers, num_heads=config.num_heads,
                pos_embed_grid_size=(GRID, GRID), global_pool="avg",
            ),
            num_classes=0,
        )  # fmt: skip

    def no_muon(self) -> set[str]:
        return {"net.embeds.pos_embed"}

    def no_weight_decay(self) -> set[str]:
        return {"net.embeds.pos_embed"}

    def forward(
        self, tokens: Tokens, t: Tensor | None, condition: Condition, *, precomputed: Any = None
    ) -> BackboneOutput:
        valid = torch.ones(tokens.values.shape[:2], dtype=torch.bool)
        features = self.net.forward_features(tokens.values, tokens.positions[..., -2:].long(), valid)
        return BackboneOutput(features["patches"] if isinstance(features, dict) else features)


def first_weights(name: str) -> Any:
    def start(model: Any, projection: nn.Linear, drawings: Any, targets: Tensor, args: argparse.Namespace) -> None:
        if name == "generator":
            start_model(model, projection, drawings, targets, args)
        if name in ("vit", "naflexvit"):
            model.backbone = (ViT if name == "vit" else NaFlex)(model.backbone.config)

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


@torch.inference_mode()
def nearest_neighbours(styles: Path) -> dict[str, Any]:
    """Return the macro mean over the groups by the nearest training drawings, weighted by their cosine similarity."""
    network = efficientnet_lite0(KNN_SIDE, "cpu", "benchmarks/recognition.py", "lumina-image[metrics]")

    def features(pixels: Tensor) -> Tensor:
        """Normalized features (N, D) of RGBA drawings (N, 4, H, W) on white."""
        found = []
        for part in pixels.split(64):
            over_white = premultiply(part)
            white = ((over_white[:, :3] + 1 - over_white[:, 3:]) * 255).round().to(torch.uint8)
            found.append(F.normalize(network(white).float(), dim=1))
        return torch.cat(found)

    records = emoji_data.load_records()
    names = sorted({record["group"] for record in records})
    groups = torch.tensor([names.index(record["group"]) for record in records])
    drawings = Drawings(styles)
    known, of_known = features(drawings.large), groups[drawings.concepts]

    def accuracy(style: str, split: str, count: int) -> float:
        rows = torch.tensor([index for index, record in enumerate(records) if record["split"] == split])
        similarity, nearest = (tested(style)[rows] @ known.T).topk(count, dim=1)
        votes = torch.zeros(len(rows), len(names)).scatter_add_(1, of_known[nearest], similarity)
        right, truth = votes.argmax(dim=1) == groups[rows], groups[rows]
        return float(torch.stack([right[truth == group].float().mean() for group in truth.unique()]).mean())

    @functools.cache
    def tested(style: str) -> Tensor:
        return features(torch.from_numpy(emoji_data.load_images(style)).permute(0, 3, 1, 2))

    count = max(NEIGHBOURS, key=lambda one: accuracy("noto", "validation", one))
    chosen = {name: accuracy(split["styles"][0], str(split["split"]), count) for name, split in SPLITS.items()}
    return {**chosen, "neighbours": count}


def shipped_scores(folder: str | None) -> dict[str, float]:
    """Return the macro mean over the groups of a trained classifier, by default of the built-in one."""
    model = lumina_core.load_model(folder or "recog.emoji").float()
    return {split: group_macro(model, **options) for split, options in SPLITS.items()}


def main() -> None:
    parser = make_parser()
    choices = ("generator", "scratch", "vit", "naflexvit", "knn")
    parser.add_argument("--only", choices=(*choices, "model"), help="model: measure --init or recog.emoji as it is")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows, report = [], {}
    for name in choices if args.only is None else (args.only,):
        start = time.time()
        if name in ("knn", "model"):
            report[name] = nearest_neighbours(args.styles) if name == "knn" else shipped_scores(args.init)
            print(name, report[name], flush=True)
            continue

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
