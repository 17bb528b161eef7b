"""Images of several sizes: packed, padded, one by one, and padded by timm's NaFlexViT, of the same width and depth.

Prints for each workload the seconds of a forward pass (best of --repeats), and the ratios that
docs/results/recognition.md quotes. NaFlexViT has rotary positions too; its attention masks are made by its own code.

    python benchmarks/packing.py [--threads 2] [--repeats 3] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg, batch_patchify
from torch import Tensor

from lumina_core.types import Condition
from lumina_recog.classifier import NextDiTClassifier, padded_tokens
from lumina_recog.packing import packed_logits

PATCH, WIDTH, DEPTH, HEADS, CLASSES = 8, 192, 6, 3, 98
WORKLOADS = {"8 images, 4x4 to 24x24 patches": (8, 4, 24), "32 images, 4x4 to 24x24 patches": (32, 4, 24),
             "64 images of at most 8x8 patches": (64, 1, 8)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    net = NextDiTClassifier(PATCH, WIDTH, DEPTH, HEADS, CLASSES).eval()
    cfg = NaFlexVitCfg(
        patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, global_pool="avg", class_token=False,
        reg_tokens=0, rope_type="axial", pos_embed="none",
    )  # fmt: skip
    naflex = NaFlexVit(cfg, num_classes=CLASSES).eval()
    generator = torch.Generator().manual_seed(0)
    rows = [
        measure(name, net, naflex, torch.randint(low, high + 1, (count, 2), generator=generator), options.repeats)
        for name, (count, low, high) in WORKLOADS.items()
    ]
    for row in rows:
        print(row)
    if options.out is not None:
        options.out.write_text(json.dumps({"threads": options.threads, "rows": rows}, indent=1) + "\n")


@torch.inference_mode()
def measure(name: str, net: NextDiTClassifier, naflex: Any, grids: Tensor, repeats: int) -> dict[str, Any]:
    images = [torch.rand(3, PATCH * rows, PATCH * columns) for rows, columns in grids.tolist()]
    items = [net.tokenizer.patchify(image[None]) for image in images]
    batch, patches, condition = padded_tokens(net.tokenizer, images), naflex_input(images), Condition()
    seconds = {
        "packed": best(lambda: packed_logits(net.backbone, net.head, items), repeats),
        "padded": best(lambda: net.head(net.backbone(batch, None, condition), batch), repeats),
        "one_by_one": best(lambda: [net.head(net.backbone(one, None, condition), one) for one in items], repeats),
        "naflex": best(lambda: naflex(patches), repeats),
    }
    lengths = [item.values.shape[1] for item in items]
    padded_over_real = max(lengths) * len(lengths) / sum(lengths)
    return {
        "workload": name,
        **{key: round(value, 3) for key, value in seconds.items()},
        "padded_over_real": round(padded_over_real, 2),
        "padded/packed": round(seconds["padded"] / seconds["packed"], 2),
        "bar of it": round(0.85 * padded_over_real, 2),
        "naflex/packed": round(seconds["naflex"] / seconds["packed"], 2),
        "one_by_one/packed": round(seconds["one_by_one"] / seconds["packed"], 2),
    }


def naflex_input(images: Sequence[Tensor]) -> dict[str, Tensor]:
    parts = [batch_patchify(image[None], (PATCH, PATCH)) for image in images]
    longest = max(values.shape[1] for values, _ in parts)
    patches = torch.zeros(len(images), longest, 3 * PATCH**2)
    coordinates = torch.zeros(len(images), longest, 2, dtype=torch.int64)
    valid = torch.zeros(len(images), longest, dtype=torch.bool)
    for index, (values, (rows, columns)) in enumerate(parts):
        length = values.shape[1]
        patches[index, :length] = values[0]
        coordinates[index, :length] = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).view(-1, 2)
        valid[index, :length] = True
    return {"patches": patches, "patch_coord": coordinates, "patch_valid": valid}


def best(run: Callable[[], object], repeats: int) -> float:
    run()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found)


if __name__ == "__main__":
    main()
