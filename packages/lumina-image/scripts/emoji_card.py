"""Data card of the emoji data set."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEXT = """# Data card: the built-in emoji set

Small images with names in many languages, for training and testing text-to-image models where nothing can be
downloaded. Built by `packages/lumina-image/scripts/build_emoji.py`; do not edit by hand.

## Sources

| npm package | sha256 of the package | used files | license |
|---|---|---|---|
{sources}

- Images: Noto Emoji by Google, 64x64 px. The images are under the Apache License 2.0 (stated by Noto Emoji and by the
  README of the package; the package's own code and `emoji.json` are MIT, copyright 2013 Cal Henderson).
  Changes: composited on white, packed into sheets.
- Names and keywords: Unicode CLDR annotations, Unicode License V3, copyright 2004-2026 Unicode, Inc.
  Changes: the two packages merged, keywords equal to the name dropped, {languages_count} languages kept.
- Selection, split and order: license of this project.

## Contents

- {count} images, 64x64 RGB on white: {bases} base emoji and {variants} variants ({single} with one skin tone,
  {pair} with two, {hair} with hair and skin tone).
- Captions in {languages_count} languages: {languages}.
- {captions} names, {words} keywords; {missing}
- `names.json`: {names_note}

Groups (base emoji / variants):

{groups}

## Held out of training

{left} variants carry `"left_out": true`: {left_single} with one tone, {left_pair} with two, {left_hair} with hair
and tone, from {left_families} families. They test whether a model generalizes to combinations. Chosen by the sha256
of their code, never a base emoji, at most 1 of a family with one tone, 2 of one with hair,
5 of one with two tones; every such family keeps at least {kept} variants and its base in training, and all five tones
appear among them. Each differs visibly from the rest of its family (mean squared difference of at least 0.001, values
in 0..1): some tones change only a few pixels of a swimmer or a rider, which are not distinguishable.

## Limitations

- Emoji newer than the package ({version}); drawings by other vendors; sizes above 64 px.
- {twins} images equal another one (flags of territories, families, snowboarders): {twin_note}.
- Only languages with a name for every image; Indonesian, for example, lacks 3 keycaps.
- Names are CLDR's, written to be read aloud: short and literal. Keywords are associations; many belong to many
  images.
- Skin tone and gender are drawn as Unicode encodes them; a default drawing is yellow.

The texts of both licenses are in this folder.

## Files

Made with {tools}. sha256 of all pixels in order: `{pixels}`.

| file | bytes | sha256 |
|---|---|---|
{files}
"""


@dataclass(frozen=True)
class BuildInfo:
    """Provenance of a build: versions of the tools, SHA-256 of all pixels, and groups of equal images."""

    tools: str
    pixels: str
    twins: Sequence[Sequence[str]]


def card(
    records: Sequence[Mapping[str, Any]],
    sources: Mapping[str, str],
    folder: Path,
    languages: Sequence[str],
    build: BuildInfo,
) -> str:
    """Return the card as Markdown, for the files in `folder`."""
    left = [record for record in records if record["left_out"]]
    numbers = {**_variant_counts(records, ""), **_variant_counts(left, "left_")}
    return TEXT.format(
        **numbers,
        sources="\n".join(_source(name, digest) for name, digest in sources.items()),
        count=len(records),
        variants=len(records) - numbers["bases"],
        languages=", ".join(languages),
        languages_count=len(languages),
        captions=sum(len(record["captions"]) for record in records),
        words=sum(len(caption["keywords"]) for record in records for caption in record["captions"].values()),
        missing=_missing(records, languages),
        names_note="emoji characters without U+FE0F -> English name, also for emoji newer than the images.",
        groups=_groups(records),
        left=len(left),
        left_families=len({record["base"] for record in left}),
        kept=_min_kept(records),
        version=next(iter(sources)),
        twins=sum(len(group) - 1 for group in build.twins),
        twin_note="; ".join(" = ".join(group) for group in build.twins) or "none",
        tools=build.tools,
        pixels=build.pixels,
        files="\n".join(_file(path) for path in sorted(folder.iterdir()) if path.name != "card.md"),
    )


def _source(name: str, digest: str) -> str:
    is_image_package = name.startswith("emoji")
    used = "`img/google/64`, `emoji.json`" if is_image_package else "`annotations.json` of the languages below"
    license = "Apache-2.0 (images), MIT (table)" if is_image_package else "Unicode-3.0"
    return f"| {name} | `{digest}` | {used} | {license} |"


def _variant_counts(records: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, int]:
    variants = [record for record in records if record["skin"] is not None]
    plain = [record for record in variants if record["hair"] is None]
    pair = sum(len(record["skin"]) > 1 for record in plain)
    return {
        f"{prefix}bases": len(records) - len(variants),
        f"{prefix}single": len(plain) - pair,
        f"{prefix}pair": pair,
        f"{prefix}hair": len(variants) - len(plain),
    }


def _missing(records: Sequence[Mapping[str, Any]], languages: Sequence[str]) -> str:
    absent = {language: [r["code"] for r in records if language not in r["captions"]] for language in languages}
    named = [f"{language}: {', '.join(codes)}" for language, codes in absent.items() if codes]
    return f"without a name: {'; '.join(named)}." if named else "every image has a name in every language."


def _groups(records: Sequence[Mapping[str, Any]]) -> str:
    bases = Counter(record["group"] for record in records if record["skin"] is None)
    variants = Counter(record["group"] for record in records if record["skin"] is not None)
    return "\n".join(f"- {group}: {count} / {variants[group]}" for group, count in bases.items())


def _min_kept(records: Sequence[Mapping[str, Any]]) -> int:
    families = {record["base"] for record in records if record["left_out"]}
    kept = Counter(r["base"] for r in records if r["skin"] is not None and not r["left_out"])
    return min((kept[family] for family in families), default=0)


def _file(path: Path) -> str:
    return f"| {path.name} | {path.stat().st_size} | `{hashlib.sha256(path.read_bytes()).hexdigest()}` |"
