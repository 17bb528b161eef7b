"""Train digit classifiers at 28 pixels and test them at 56 without tuning: rotary positions and interpolated ones.

    python packages/lumina-recog/scripts/build_mnist.py --out mnist
    python benchmarks/untuned_sizes.py --folder mnist [--seeds 3] [--steps 3000] [--json FILE]

All have 5 blocks of width 64, patches of 4 pixels, the same data, order and optimizer. `vit` is timm's with learned
positions, interpolated at 56 pixels. `rope` is ours with mixed rotary positions and position jitter; `interpolated` and
`resized` are the same weights, at 56 pixels with halved positions, and with as many tokens as in training, whose
patches of 8 pixels the trained weights read (the token budget of `recog.patchify`). Prints the accuracy at both sizes,
and the mean difference to `vit` at 56 pixels with its 95 % interval over the seeds (Student's t).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lumina_core.types import Condition
from lumina_recog.classifier import NextDiTClassifier
from lumina_recog.objective import jitter_positions
from lumina_recog.patchify import tokenize

SIDE, PATCH, WIDTH, DEPTH, HEADS, BATCH = 28, 4, 64, 5, 2, 128
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}
"""Student's t of a 95 % interval by the number of values."""


class Rope(nn.Module):
    """Our classifier, with jitter of the positions in training, and a factor of them or a token budget afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.factor = NextDiTClassifier(PATCH, WIDTH, DEPTH, HEADS, 10), 1.0
        self.max_tokens: int | None = None

    def forward(self, images: Tensor) -> Tensor:
        tokens = tokenize(images, PATCH, self.max_tokens, 3)
        if self.training:
            tokens = jitter_positions(tokens, 0.2, [torch.default_generator] * len(images))
        elif self.factor != 1:
            tokens = replace(tokens, positions=tokens.positions * self.factor)
        return self.net.head(self.net.backbone(tokens, None, Condition()), tokens)


def vit() -> nn.Module:
    return VisionTransformer(
        SIDE, PATCH, num_classes=10, global_pool="avg", class_token=False, embed_dim=WIDTH, depth=DEPTH,
        num_heads=HEADS, dynamic_img_size=True,
    )  # fmt: skip


def load(folder: Path) -> tuple[Tensor, Tensor]:
    files = [(path, label) for label in range(10) for path in sorted((folder / str(label)).glob("*.png"))]
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in files])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
    return images, torch.tensor([label for _, label in files])


def train(model: nn.Module, images: Tensor, labels: Tensor, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in range(steps):
        rows = torch.randint(len(images), (BATCH,), generator=generator)
        dy, dx = torch.randint(-2, 3, (2,), generator=generator).tolist()
        loss = F.cross_entropy(model(images[rows].roll((dy, dx), (2, 3))), labels[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


@torch.inference_mode()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor, side: int) -> float:
    if side != SIDE:
        images = F.interpolate(images, (side, side), mode="bicubic").clamp(-1, 1)
    named = torch.cat([model(part).argmax(dim=1) for part in images.split(250)])
    return float((named == labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of build_mnist.py")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    data, test = load(args.folder / "train"), load(args.folder / "test")
    found: dict[str, list[tuple[float, float]]] = {"vit": [], "rope": [], "interpolated": [], "resized": []}
    for seed in range(args.seeds):
        for name, make in (("vit", vit), ("rope", Rope)):
            torch.manual_seed(seed)
            start, model = time.time(), make()
            train(model, *data, args.steps, seed)
            found[name].append((accuracy(model, *test, SIDE), accuracy(model, *test, 2 * SIDE)))
            if isinstance(model, Rope):
                model.factor = 0.5
                found["interpolated"].append((found[name][-1][0], accuracy(model, *test, 2 * SIDE)))
                model.factor, model.max_tokens = 1.0, (SIDE // PATCH) ** 2
                found["resized"].append((found[name][-1][0], accuracy(model, *test, 2 * SIDE)))
            print(name, seed, *found[name][-1], f"{time.time() - start:.0f} s", flush=True)
    report: dict[str, Any] = {"steps": args.steps, "accuracy": found}
    for name in ("rope", "interpolated", "resized"):
        gains = torch.tensor([ours[1] - theirs[1] for ours, theirs in zip(found[name], found["vit"], strict=True)])
        half = T_95.get(len(gains), 2.0) * float(gains.std()) / len(gains) ** 0.5
        report[f"{name} minus vit at {2 * SIDE} px"] = [round(float(gains.mean()), 4), round(half, 4)]
    print(json.dumps(report, indent=1))
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
