"""Build the second drawing style of the emoji data set: python build_fluent.py [--cache DIR] [--out DIR] [--size N].

Renders Fluent Emoji Flat (Microsoft, MIT License) from an npm package, for the emoji of the first style. Needs `npm`,
Pillow and resvg_py. Run build_emoji.py first: it writes the records.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from build_emoji import CELLS, HERE, SIDE, fetch
from PIL import Image

from lumina_image.datasets import emoji_data

SOURCE = "@iconify-json/fluent-emoji-flat@1.2.6"
DIGEST = "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"
MARGIN = 1
"""Units of the 32x32 view box that are cut off on each side: the drawings are then as large as those of Noto Emoji."""


def main() -> None:
    """Download, check and render the drawings, and write sheets and the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=HERE.parent / ".cache", help="folder of downloaded packages")
    parser.add_argument("--out", type=Path, default=HERE.parent / "src" / "lumina_image" / "data" / "fluent")
    options = parser.parse_args()
    icons = read_icons(fetch(SOURCE, DIGEST, options.cache))
    drawings = {
        record["code"]: render(icons[code], SIDE)
        for record in emoji_data.load_records()
        if (code := normalized(record["code"])) in icons
    }
    options.out.mkdir(parents=True, exist_ok=True)
    for old in options.out.glob("pictures-*.webp"):
        old.unlink()
    images = list(drawings.values())
    for number, start in enumerate(range(0, len(images), CELLS * CELLS)):
        part = images[start : start + CELLS * CELLS]
        sheet = Image.new("RGB", (CELLS * SIDE, -(-len(part) // CELLS) * SIDE), "white")
        for index, image in enumerate(part):
            sheet.paste(image, (index % CELLS * SIDE, index // CELLS * SIDE))
        sheet.save(options.out / f"pictures-{number:02d}.webp", quality=95, method=6)
    (options.out / "codes.json").write_text(json.dumps(list(drawings), indent=0) + "\n", encoding="utf-8")
    pixels = np.stack([np.asarray(image) for image in images])
    print(f"{len(images)} drawings, sha256 of the pixels {hashlib.sha256(pixels.tobytes()).hexdigest()}")


def read_icons(archive: Path) -> dict[str, dict[str, Any]]:
    """Read {code without FE0F, lower case: {"body", "width", "height"}} from the package."""
    with tarfile.open(archive) as files:
        members = {}
        for name in ("icons", "chars"):
            file = files.extractfile(f"package/{name}.json")
            assert file is not None
            members[name] = json.load(file)
    icons, aliases = members["icons"]["icons"], members["icons"].get("aliases", {})

    def find(name: str) -> dict[str, Any]:
        found: dict[str, Any] = icons[name] if name in icons else find(aliases[name]["parent"])
        return found

    return {normalized(code): find(name) for code, name in members["chars"].items()}


def normalized(code: str) -> str:
    """Return a code in lower case without FE0F and leading zeros."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f").lstrip("0")


def render(icon: dict[str, Any], size: int) -> Image.Image:
    """Render an icon on white, (size, size) RGB, at four times the size and reduced."""
    width, height = (icon.get(side, 32) - 2 * MARGIN for side in ("width", "height"))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{MARGIN} {MARGIN} {width} {height}" '
        f'width="{4 * size}" height="{4 * size}">{icon["body"]}</svg>'
    )
    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
    on_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return on_white.resize((size, size), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
