"""Write the emoji of eight groups to DIR/<class>/: a data set for a class-conditional model.

python examples/fine_tune/classes.py DIR
"""

import sys
from pathlib import Path

from PIL import Image

from lumina_image.datasets.emoji import EmojiDataset

CLASSES = {
    "animal": ("animal-mammal",),
    "building": ("place-building",),
    "clock": ("time",),
    "face": ("face-smiling", "face-concerned"),
    "flag": ("country-flag",),
    "fruit": ("food-fruit",),
    "heart": ("heart",),
    "vehicle": ("transport-ground",),
}
"""Groups of Unicode of each class."""
MAX_IMAGES = 60


def main(out: Path) -> None:
    dataset = EmojiDataset(EmojiDataset.Config(split="all"))
    for name, groups in CLASSES.items():
        (out / name).mkdir(parents=True, exist_ok=True)
        indices = [i for i, r in enumerate(dataset.records()) if r["subgroup"] in groups and r["skin"] is None]
        for index in indices[:MAX_IMAGES]:
            Image.fromarray(dataset.images()[index]).save(out / name / f"{dataset.records()[index]['code']}.png")
        print(f"{min(len(indices), MAX_IMAGES)} images in {out / name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
