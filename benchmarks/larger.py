"""The built-in model at twice and four times its side: every method of extrapolation beside the real drawings.

    python benchmarks/larger.py [--font FILE] [--count N] [--quick] [--json FILE] [--pictures FILE]

Names of the pack are generated at 64, 128 and 256 pixels, with the same seeds by every method. A picture is right where
its nearest among all real ones, by coarse pixels, is the one of its name; `error` is its root mean square
distance to the right one in 0..1, at its full size. Real ones at 128 pixels are drawn by the font that the pack was
made from (NotoColorEmoji.ttf 2.042, Debian's fonts-noto-color-emoji): its bitmaps are 136x128, of which the middle
128x128 is the picture. Without the font, and at 256 pixels, they are the pack's own or the font's, enlarged: then the
error says only how near the coarse picture is. The sheet shows the first names, a row each, a column a method.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lumina_core.metrics.retrieval_precision_recall import target_ranks
from lumina_core.sampling.pipeline import Pipeline
from lumina_image.datasets import emoji_data
from lumina_image.image_io import to_pil
from lumina_image.metrics.features import thumbnail_features
from lumina_image.metrics.retrieval import TIE_TOLERANCE

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
METHODS = (
    "none",
    "interpolation",
    "ntk",
    "frequency_aware",
    "frequency_aware:first_index=1",
    "time_aware",
    "time_aware:first_index=1",
    "watershed",
    "watershed:watershed=1",
    "yarn",
    "dype",
    "dype:method=interpolation",
)
BATCH = 16
Pictures = NDArray[np.uint8]


def drawn(key: str, font: ImageFont.FreeTypeFont | None, place: int, side: int) -> Pictures:
    """The real picture of the pack's `place`, (side, side, 3)."""
    picture = Image.fromarray(emoji_data.load_images()[place])
    if font is not None and len(key) == 1:  # what several characters make needs a shaping library
        whole = Image.new("RGB", (136, 128), "white")
        ImageDraw.Draw(whole).text((0, 0), key, font=font, embedded_color=True, anchor="lt")
        picture = whole.crop((4, 0, 132, 128))
    size = (side, side)
    return np.asarray(picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS))


def thumbnails(images: Pictures) -> torch.Tensor:
    return thumbnail_features(torch.from_numpy(images.copy()).permute(0, 3, 1, 2))


def chosen(count: int) -> list[int]:
    """So many of the pack's pictures of one character and without tones, mixed."""
    records = emoji_data.load_records()
    places = [place for place, one in enumerate(records) if one["skin"] is None and len(one["key"]) == 1]
    random.Random(0).shuffle(places)
    return places[:count]


def args(session: Pipeline, places: Sequence[int], side: int, method: str, more: dict[str, Any]) -> list[torch.Tensor]:
    records, made = emoji_data.load_records(), []
    for start in range(0, len(places), BATCH):
        batch = places[start : start + BATCH]
        requests = [
            session.make_request(
                prompt=records[place]["captions"]["en"]["name"], seed=place, size=(side, side),
                rope_scaling=method, **more,
            )
            for place in batch
        ]  # fmt: skip
        made += [answer.data for answer in session(requests)]
    return made


def measured(
    session: Pipeline, places: Sequence[int], side: int, methods: Sequence[str], more: dict[str, Any], font: Any
) -> tuple[list[dict[str, Any]], dict[str, list[Image.Image]]]:
    records, rows, shown = emoji_data.load_records(), [], {}
    references = thumbnails(emoji_data.load_images())
    real = np.stack([drawn(records[place]["key"], font, place, side) for place in places])
    shown["real"] = [Image.fromarray(one) for one in real]
    for method in methods:
        began = time.perf_counter()
        pictures = [to_pil(item) for item in args(session, places, side, method, more)]
        pixels = np.stack([np.asarray(picture) for picture in pictures])
        ranks = target_ranks(thumbnails(pixels), torch.tensor(places), references, TIE_TOLERANCE)
        error = np.sqrt(((pixels.astype(np.float64) - real) ** 2).mean(axis=(1, 2, 3))) / 255
        row = {"side": side, "method": method, **more, "top1": float((ranks < 1).double().mean())}
        rows.append({**row, "top5": float((ranks < 5).double().mean()), "error": float(error.mean())})
        shown[method] = pictures
        print(format_row(rows[-1]), f"({time.perf_counter() - began:.0f} s)", flush=True)
    return rows, shown


def format_row(row: dict[str, Any]) -> str:
    sharper = f", base_sequence_length {row['base_sequence_length']}" if row.get("base_sequence_length") else ""
    scores = f"top 1 {row['top1']:.2f}  top 5 {row['top5']:.2f}  error {row['error']:.3f}"
    return f"{row['side']:4d} px  {row['method'] + sharper:40s} {scores}"


def sheet(shown: dict[str, list[Image.Image]], path: Path, count: int = 6) -> None:
    """A row a picture, a column a method, its name above."""
    side = shown["real"][0].width
    whole = Image.new("RGB", (len(shown) * (side + 4), count * (side + 4) + 14), "white")
    for column, (name, pictures) in enumerate(shown.items()):
        ImageDraw.Draw(whole).text((column * (side + 4), 0), name[: side // 6], fill="black")
        for row, picture in enumerate(pictures[:count]):
            whole.paste(picture, (column * (side + 4), 14 + row * (side + 4)))
    whole.quantize(256).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="every method of extrapolation at 2x and 4x the trained side")
    parser.add_argument("--model", default="image.emoji", help="model folder or name")
    parser.add_argument("--font", type=Path, default=FONT, help="NotoColorEmoji.ttf [default: where Debian has it]")
    parser.add_argument("--count", type=int, default=50, help="names at twice the side; an eighth at four times")
    parser.add_argument("--steps", type=int, default=5, help="midpoint steps")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--pictures", type=Path, metavar="FILE.png", help="the pictures at 128 px side by side")
    parser.add_argument("--quick", action="store_true", help="few names and methods, twice the side alone")
    words = parser.parse_args()
    font = ImageFont.truetype(str(words.font), 109) if words.font.is_file() else None
    session = Pipeline.from_pretrained(words.model, dtype=words.dtype)
    count, steps = (8, 4) if words.quick else (words.count, words.steps)
    places, more = chosen(count), {"steps": steps}
    methods = METHODS[1:7] if words.quick else METHODS
    rows, _ = measured(session, places, 64, ("none",), more, font)
    found, shown = measured(session, places, 128, methods, more, font)
    rows += found
    if not words.quick:
        sharper = {**more, "base_sequence_length": 64}
        rows += measured(session, places, 128, ("interpolation", "time_aware:first_index=1"), sharper, font)[0]
        rows += measured(session, places[: max(4, count // 8)], 256, methods, more, font)[0]
    if words.pictures:
        sheet(shown, words.pictures)
    if words.json:
        drawn_by = "the pack, enlarged" if font is None else words.font.name
        kept = {"names": count, "steps": steps, "dtype": words.dtype, "real": drawn_by, "rows": rows}
        words.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
