"""Score what a LoRA has learnt of a style: the drawing of a name is searched among the drawings of both styles.

python examples/fine_tune/score_style.py DIR [LORA[:WEIGHT]]   DIR: the folder that style.py has written
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from style import file_name
from torch import Tensor

from lumina_core import Pipeline, evaluate
from lumina_core.protocols import EvalSet
from lumina_image.datasets.emoji import EmojiDataset
from lumina_image.image_io import to_tensor

NUM_NAMES = 100


class TwoStyles(EvalSet):
    """The names of a folder with their drawings in the new style, then with those in the old one (Noto)."""

    splits = ("new", "old")

    def __init__(self, folder: Path) -> None:
        noto = EmojiDataset(EmojiDataset.Config(split="all"))
        indices = {file_name(record["key"]): index for index, record in enumerate(noto.records())}
        files = sorted(folder.glob("*.png"))
        self.names = [path.with_suffix(".txt").read_text(encoding="utf-8").strip() for path in files]
        self.drawings = [
            *(to_tensor(np.asarray(Image.open(path).convert("RGB"))) for path in files),
            *(to_tensor(noto.images()[indices[path.stem]]) for path in files),
        ]

    def __len__(self) -> int:
        return len(self.drawings)

    def reference(self, index: int) -> Tensor:
        return self.drawings[index]

    def fields(self, index: int, language: str | None) -> Mapping[str, Any]:
        return {"caption": self.names[index % len(self.names)]}

    def indices(self, split: str) -> Sequence[int]:
        count = len(self.names)
        return range(count) if split == "new" else range(count, 2 * count)


def main(folder: Path, lora: str = "") -> None:
    path, _, weight = lora.partition(":")
    pipe = Pipeline.from_pretrained("image.emoji_latent")
    if lora:
        pipe.load_lora(path, float(weight or 1))
    drawings = TwoStyles(folder / "test")
    for split in drawings.splits:
        scores = evaluate(pipe, drawings, "image.retrieval", split=split, num_samples=NUM_NAMES)["image.retrieval"]
        print(f"{split} style: top-1 {scores['top1'].value:.2f}, top-5 {scores['top5'].value:.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
