"""Draw emoji in more styles for train_emoji.py: python build_styles.py --out runs/styles [--cache DIR].

Needs `npm`, numpy, Pillow, resvg-py and lumina-image (English names). Renders icon sets of Iconify at 64x64: Noto's old
style, Fluent Emoji Flat, EmojiOne 2 and FxEmoji. One file NAME.npz per style: `images` (N, 64, 64, 4) uint8 RGBA in the
order of the concepts of data/emoji, and `available` (N,) bool. Icons without a code are found by their name.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import tarfile
import unicodedata
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from build_emoji import HERE, fetch_npm, member, to_rgba

from lumina_recog.datasets import emoji_data

PACKAGES = (
    # name, sha256, license
    ("@iconify-json/noto-v1@1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37", "Apache-2.0"),
    (
        "@iconify-json/fluent-emoji-flat@1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        "MIT",
    ),
    ("@iconify-json/fluent-emoji@1.2.7", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b", "MIT"),
    (
        "@iconify-json/streamline-emojis@1.2.4",
        "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
        "CC-BY-4.0",
    ),
    ("@iconify-json/emojione@1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e", "CC-BY-4.0"),
    ("@iconify-json/fxemoji@1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef", "Apache-2.0"),
)
SIDE = 64


def main() -> None:
    """Download, check and render the styles, and print the number of drawings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=HERE.parent / ".cache", help="folder of the downloaded packages")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    records, rows = emoji_data.load_records(), rows_by_name()
    options.out.mkdir(parents=True, exist_ok=True)
    for package, digest, _ in PACKAGES:
        with tarfile.open(fetch_npm(package, digest, options.cache)) as archive:
            icons, codes = (json.loads(member(archive, f"{name}.json")) for name in ("icons", "chars"))
        images = np.zeros((len(records), SIDE, SIDE, 4), np.uint8)
        for row, name in match(icons, codes, records, rows).items():
            images[row] = render(icons, name)
        available = images[..., 3].any(axis=(1, 2))
        np.savez(options.out / f"{icons['prefix']}.npz", images=images, available=available)
        print(f"{icons['prefix']}: {int(available.sum())} of {len(records)} concepts")


def rows_by_name() -> dict[str, int]:
    """Return the row of each concept by its English and its Unicode name."""
    data = (files("lumina_image") / "data" / "emoji" / "captions.jsonl.gz").read_bytes()
    lines = gzip.decompress(data).decode("utf-8").splitlines()
    english = {one["code"]: one["captions"]["en"]["name"] for one in map(json.loads, lines)}
    rows: dict[str, int] = {}
    for row, record in enumerate(emoji_data.load_records()):
        for name in (english.get(record["code"], record["name"]), record["name"]):
            rows.setdefault(plain(name), row)
            if name.startswith("flag: "):
                rows.setdefault("flagfor" + plain(name[6:]), row)
    return rows


def plain(name: str) -> str:
    """Return the letters and digits of a name, in lower case without accents."""
    text = unicodedata.normalize("NFKD", name.replace("&", "and")).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]", "", text)


def match(
    icons: Mapping[str, Any], codes: Mapping[str, str], records: Sequence[Mapping[str, Any]], rows: Mapping[str, int]
) -> dict[int, str]:
    """Return the icon of each row: by its code if the set has codes, else by its name."""
    by_code = {code.upper(): name for code, name in codes.items()}
    chosen: dict[int, str] = {}
    for row, record in enumerate(records):
        parts = [part for part in record["code"].split("-") if part != "FE0F"]
        candidates = (record["code"], "-".join(parts), "-".join(part.lstrip("0") for part in parts))
        name = next((by_code[code] for code in candidates if code in by_code), None)
        if name is not None:
            chosen[row] = name
    for name in (*icons["icons"], *icons.get("aliases", {})):
        row = rows.get(plain(name))
        if row is not None:
            chosen.setdefault(row, name)
    return chosen


def render(icons: Mapping[str, Any], name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Render an icon as (SIDE, SIDE, 4) RGBA."""
    while name in icons.get("aliases", {}):
        name = icons["aliases"][name]["parent"]
    icon = icons["icons"][name]
    width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width}" height="{height}" viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">'
        f"{icon['body']}</svg>"
    )
    longer = {"width": SIDE} if width >= height else {"height": SIDE}
    image = to_rgba(bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True, **longer)))
    return np.asarray(image.resize((SIDE, SIDE)) if image.size != (SIDE, SIDE) else image)


if __name__ == "__main__":
    main()
