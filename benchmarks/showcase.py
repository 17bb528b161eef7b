"""A sheet of images by the built-in model with their prompts, for the README: picked prompts, or random emoji names.

python benchmarks/showcase.py --out docs/pictures/showcase.png
python benchmarks/showcase.py --random 16 --seed 5 --out docs/pictures/random.png
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lumina_core import Pipeline
from lumina_image.datasets import emoji_data

PICKED = (
    "red heart",
    "grinning face",
    "flag: Italy",
    "police officer",
    "Flagge: Kenia",
    "green apple",
    "yellow circle",
    "woman health worker",
    "corazón azul",
    "strawberry",
    "drapeau : France",
    "stop sign",
    "man singer",
    "red square",
    "man farmer: dark skin tone",
    "sleeping face",
)
COLUMNS, CELL, LINE, FONT_SIZE = 8, 128, 22, 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="image.emoji_latent", help="installed name or folder")
    parser.add_argument("--random", type=int, metavar="N", help="N random English names instead of the picked prompts")
    parser.add_argument("--seed", type=int, default=7, help="of the random names and of the noise")
    parser.add_argument("--prompts", type=Path, help="a file with one prompt per line")
    parser.add_argument("--font", default="DejaVuSans.ttf")
    options = parser.parse_args()
    pipe = Pipeline.from_pretrained(options.model)
    prompts = chosen_prompts(options)
    sheet(list(zip(prompts, pipe(prompts, seed=options.seed).images, strict=True)), options.font).save(options.out)


def chosen_prompts(options: argparse.Namespace) -> list[str]:
    """Return the prompts of a file, random names of base emoji, or the picked ones."""
    if options.prompts:
        return [line for line in options.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    if options.random:
        bases = [record for record in emoji_data.load_records() if record["skin"] is None]
        names = [record["captions"]["en"]["name"] for record in bases]
        return random.Random(options.seed).sample(names, options.random)
    return list(PICKED)


def sheet(cells: list[tuple[str, Image.Image]], font_name: str) -> Image.Image:
    """Arrange images with their prompts below."""
    image = Image.new("RGB", (COLUMNS * CELL, -(-len(cells) // COLUMNS) * (CELL + LINE)), "white")
    draw = ImageDraw.Draw(image)
    try:
        font: ImageFont.FreeTypeFont | ImageFont.ImageFont = ImageFont.truetype(font_name, FONT_SIZE)
    except OSError:
        font = ImageFont.load_default(FONT_SIZE)
    for index, (prompt, drawing) in enumerate(cells):
        x, y = index % COLUMNS * CELL, index // COLUMNS * (CELL + LINE)
        image.paste(drawing.resize((CELL - 8, CELL - 8), Image.Resampling.LANCZOS), (x + 4, y + 4))
        label = prompt
        while draw.textlength(label, font=font) > CELL - 4:
            label = label.removesuffix("…")[:-1] + "…"
        draw.text((x + CELL // 2, y + CELL), label, fill="#444", font=font, anchor="mt")
    return image


if __name__ == "__main__":
    main()
