"""Pictures of the guide of fine-tuning: what a model generates before and after, next to real examples.

python benchmarks/fine_tuning.py style DATA/test RUN/lora OUT.png
python benchmarks/fine_tuning.py classes DATA RUN/checkpoints/step-00000050 RUN/model OUT.png
python benchmarks/fine_tuning.py sounds DATA RUN/model OUT.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from lumina_core import Pipeline

GAP, LABEL_WIDTH = 4, 64
NUM_NAMES = 12


def sheet(rows: dict[str, list[Image.Image]], path: Path) -> None:
    """Save rows of images of one size, each with its name on the left."""
    width, height = next(iter(rows.values()))[0].size
    columns = max(map(len, rows.values()))
    size = (LABEL_WIDTH + columns * (width + GAP), len(rows) * (height + GAP))
    result = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(result)
    for row, (name, images) in enumerate(rows.items()):
        top = row * (height + GAP)
        draw.text((4, top + height // 2 - 6), name, fill="black")
        for column, image in enumerate(images):
            result.paste(image, (LABEL_WIDTH + column * (width + GAP), top))
    result.save(path)


def style(data: Path, lora: Path, out: Path) -> None:
    names = sorted(data.glob("*.txt"))
    chosen = [names[round(index)] for index in np.linspace(40, len(names) - 40, NUM_NAMES)]
    prompts = [path.read_text(encoding="utf-8").strip() for path in chosen]
    pipe = Pipeline.from_pretrained("image.emoji_latent")
    before = pipe(prompts, seed=1).images
    pipe.load_lora(lora, 0.7)
    after = pipe(prompts, seed=1, guidance_scale=1.2).images
    real = [Image.open(path.with_suffix(".png")).convert("RGB") for path in chosen]
    sheet({"before": before, "after": after, "Twemoji": real}, out)
    print(", ".join(prompts))


def classes(data: Path, early: Path, model: Path, out: Path) -> None:
    names = sorted(path.name for path in data.iterdir() if path.is_dir())
    labels = [label for label in range(len(names)) for _ in range(2)]
    rows = {}
    for name, folder in (("step 50", early), ("trained", model)):
        pipe = Pipeline.from_pretrained(folder)
        rows[name] = pipe(labels, seed=1).images
    files = [sorted((data / name).glob("*.png"))[:2] for name in names]
    real = [Image.open(file).convert("RGB") for pair in files for file in pair]
    sheet({**rows, "real": real}, out)
    print(", ".join(names))


def sounds(data: Path, model: Path, out: Path) -> None:
    import soundfile
    import torch

    from lumina_audio.plot import save_grid

    files = sorted(data.glob("*.txt"))
    chosen = [files[round(index)] for index in np.linspace(2, len(files) - 2, 6)]
    prompts = [path.read_text(encoding="utf-8").strip() for path in chosen]
    rows = []
    for name in (None, model):
        pipe = Pipeline.from_pretrained("audio.instruments" if name is None else name)
        rows += [result.data for result in pipe(prompts, seed=1)]
    rate = 16000
    rows += [torch.from_numpy(soundfile.read(path.with_suffix(".wav"))[0]).float()[None] for path in chosen]
    save_grid(rows, rate, out, columns=6)
    print(", ".join(prompts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("style", "classes", "sounds"))
    parser.add_argument("paths", nargs="+", type=Path)
    args = parser.parse_args()
    {"style": style, "classes": classes, "sounds": sounds}[args.what](*args.paths)


if __name__ == "__main__":
    main()
