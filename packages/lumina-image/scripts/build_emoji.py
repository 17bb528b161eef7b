"""Build the emoji data set of lumina-image from three npm packages: python build_emoji.py [--cache DIR] [--out DIR].

Needs `npm`, numpy and Pillow. Builds with the same Pillow are equal byte for byte; with another one the pixels are
equal, as the SHA-256 of the pixels in the card shows.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from emoji_card import BuildInfo, card
from emoji_split import choose, twins
from PIL import Image, __version__, features

HERE = Path(__file__).resolve().parent
SOURCES = {
    "emoji-datasource-google@16.0.0": "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    "cldr-annotations-full@48.2.0": "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1",
    "cldr-annotations-derived-full@48.2.0": "4be946ff5815f806ec78b50363d577a769f2fbfb90c6380a44e161a92436996e",
}
# languages with a name for every image
LANGUAGES = (
    "en", "zh", "zh-Hant", "ja", "ko", "de", "fr", "es", "pt", "it", "ru", "ar", "hi", "th", "vi", "tr", "pl", "nl",
)  # fmt: skip
SIDE, CELLS = 64, 16
SKIN = {
    "1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark",
}  # fmt: skip
HAIR = {"1F9B0": "red", "1F9B1": "curly", "1F9B3": "white", "1F9B2": "bald"}

Record = dict[str, Any]


def main() -> None:
    """Download, check and build the data set, and print its size."""
    options = _options()
    archives = {name: fetch(name, digest, options.cache) for name, digest in SOURCES.items()}
    image_archive, *caption_archives = archives.values()
    tables = {language: read_annotations(caption_archives, language) for language in LANGUAGES}
    with tarfile.open(image_archive) as archive:
        records = list(read_records(json.loads(_member(archive, "emoji.json"))))
        images = [on_white(_member(archive, f"img/google/64/{record.pop('image')}")) for record in records]
    for record in records:
        record["captions"] = captions(record["key"], tables)
    pixels = np.stack([np.asarray(image) for image in images])
    left_out = choose(records, pixels)
    for record in records:
        record["left_out"] = record["code"] in left_out
    options.out.mkdir(parents=True, exist_ok=True)
    for old in options.out.glob("pictures-*.webp"):
        old.unlink()
    write_sheets(images, options.out)
    write_captions(records, options.out / "captions.jsonl.gz")
    with tarfile.open(caption_archives[0]) as archive:
        (options.out / "LICENSE-Unicode-3.0.txt").write_bytes(_member(archive, "LICENSE"))
    write_names(records, tables["en"], options.out / "names.json")
    tools = f"Pillow {__version__}, libwebp {features.version_module('webp')}"
    build = BuildInfo(tools, hashlib.sha256(pixels.tobytes()).hexdigest(), twins(records, pixels))
    (options.out / "card.md").write_text(card(records, SOURCES, options.out, LANGUAGES, build), encoding="utf-8")
    total = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"{len(records)} images, {sum(r['left_out'] for r in records)} held out of training, {total / 1e6:.2f} MB")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cache", type=Path, default=HERE.parent / ".cache", help="folder of the downloaded npm packages"
    )
    parser.add_argument("--out", type=Path, default=HERE.parent / "src" / "lumina_image" / "data" / "emoji")
    return parser.parse_args()


def fetch(name: str, digest: str, cache: Path) -> Path:
    """Return the .tgz of a package in the cache, downloaded if missing; exits if its SHA-256 differs."""
    cache.mkdir(parents=True, exist_ok=True)
    (cache / ".gitignore").write_text("*\n", encoding="utf-8")
    # npm's name of the file: @scope/name@version -> scope-name-version
    path = cache / f"{name.lstrip('@').replace('/', '-').replace('@', '-')}.tgz"
    if not path.exists():
        subprocess.run(["npm", "pack", name, "--silent", "--pack-destination", str(cache)], check=True)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        raise SystemExit(f"{path}: got sha256 {found}, expected {digest}. Delete the file and run this again.")
    return path


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(f"package/{name}")
    if file is None:
        raise SystemExit(f"{archive.name!r}: got no file {name}.")
    return file.read()


def read_annotations(archives: list[Path], language: str) -> dict[str, dict[str, list[str]]]:
    """Read {characters without U+FE0F: {"tts": [name], "default": keywords}} from both packages of CLDR."""
    merged: dict[str, dict[str, list[str]]] = {}
    for path, folder in zip(archives, ("annotations", "annotationsDerived"), strict=True):
        with tarfile.open(path) as archive:
            table = json.loads(_member(archive, f"{folder}/{language}/annotations.json"))
        merged.update(table[folder]["annotations"])
    return merged


def key_of(code: str) -> str:
    """Convert a code such as `1F44B-1F3FB` to its characters without U+FE0F, as in the keys of CLDR."""
    return "".join(chr(int(part, 16)) for part in code.split("-")).replace("\ufe0f", "")


def read_records(emoji: list[dict[str, Any]]) -> Iterator[Record]:
    """Iterate over the base emoji in the order of Unicode, each followed by its variants."""
    for entry in sorted(emoji, key=lambda entry: (int(entry["sort_order"]), str(entry["unified"]))):
        variants = entry.get("skin_variations", {})
        for item in (entry, *(variants[tones] for tones in sorted(variants))):
            parts = item["unified"].split("-")
            variant = item is not entry
            yield {
                "key": key_of(item["unified"]),
                "code": item["unified"],
                "base": entry["unified"],
                "group": entry["category"],
                "subgroup": entry["subcategory"],
                "skin": [SKIN[part] for part in parts if part in SKIN] if variant else None,
                "hair": next((HAIR[part] for part in parts[1:] if part in HAIR), None),
                "left_out": False,
                "image": item["image"],
            }


def captions(key: str, tables: dict[str, dict[str, dict[str, list[str]]]]) -> dict[str, Record]:
    """Return name and keywords by language, without keywords that equal the name."""
    found: dict[str, Record] = {}
    for language, table in tables.items():
        entry = table.get(key, {})
        if entry.get("tts"):
            name = entry["tts"][0].strip()
            keywords = [word.strip() for word in entry.get("default", []) if word.strip() != name]
            found[language] = {"name": name, "keywords": list(dict.fromkeys(keywords))}
    return found


def on_white(data: bytes) -> Image.Image:
    """Convert a PNG of any mode to 64x64 RGB on white."""
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    if image.size != (SIDE, SIDE):
        raise SystemExit(f"image: got a size of {image.size}, expected {SIDE}x{SIDE}.")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def write_sheets(images: list[Image.Image], folder: Path) -> None:
    """Write sheets of 16x16 cells, row by row; the last one is as tall as its images."""
    per_sheet = CELLS * CELLS
    for number, start in enumerate(range(0, len(images), per_sheet)):
        part = images[start : start + per_sheet]
        sheet = Image.new("RGB", (CELLS * SIDE, -(-len(part) // CELLS) * SIDE), "white")
        for index, image in enumerate(part):
            sheet.paste(image, (index % CELLS * SIDE, index // CELLS * SIDE))
        sheet.save(folder / f"pictures-{number:02d}.webp", lossless=True, quality=100, method=6)


def write_captions(records: list[Record], path: Path) -> None:
    """Write one JSON object per line, gzip without timestamp."""
    lines = "".join(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n" for record in records)
    path.write_bytes(gzip.compress(lines.encode(), compresslevel=9, mtime=0))


def write_names(records: list[Record], english: dict[str, dict[str, list[str]]], path: Path) -> None:
    """Write {characters without U+FE0F: English name}, for all images and for newer emoji in CLDR."""
    names = {record["key"]: record["captions"]["en"]["name"] for record in records}
    newer = {key: entry["tts"][0] for key, entry in english.items() if entry.get("tts") and ord(max(key)) >= 0x1F000}
    names = dict(sorted({**newer, **names}.items()))
    path.write_text(json.dumps(names, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
