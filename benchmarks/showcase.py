"""The sheet of pictures at the head of the README: prompts in several languages, with the built-in model as it comes.

python benchmarks/showcase.py --out docs/pictures/showcase.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lumina_core.sampling.pipeline import Pipeline
from lumina_image.image_io import to_pil

PROMPTS = (
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
COLUMNS, CELL, LINE = 8, 128, 22


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", help="folder; the built-in model where left out")
    parser.add_argument("--prompts", type=Path, help="other prompts, one a line")
    parser.add_argument(
        "--font", default="DejaVuSans.ttf", help="for the words below; Pillow's own where it is missing"
    )
    asked = parser.parse_args()
    prompts = asked.prompts.read_text(encoding="utf-8").split("\n") if asked.prompts else PROMPTS
    session = Pipeline.from_pretrained(asked.model)
    requests = [session.make_request(prompt=prompt, seed=7) for prompt in prompts if prompt]
    answers = session(requests)
    sheet = Image.new("RGB", (COLUMNS * CELL, -(-len(answers) // COLUMNS) * (CELL + LINE)), "white")
    draw, font = ImageDraw.Draw(sheet), _font(asked.font)
    for place, answer in enumerate(answers):
        x, y = place % COLUMNS * CELL, place // COLUMNS * (CELL + LINE)
        sheet.paste(to_pil(answer.data).resize((CELL - 8, CELL - 8), Image.Resampling.LANCZOS), (x + 4, y + 4))
        draw.text((x + CELL // 2, y + CELL), str(answer.metadata["prompt"]), fill="#444", font=font, anchor="mt")
    sheet.save(asked.out)


def _font(name: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.truetype(name, 12)
    except OSError:
        return ImageFont.load_default(12)


if __name__ == "__main__":
    main()
