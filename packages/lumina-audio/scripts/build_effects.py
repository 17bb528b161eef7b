"""Builds the effects of lumina-audio: python build_effects.py /usr/share/sonic-pi/samples [--out DIR].

The folder is that of Debian's package sonic-pi-samples. Two runs with the same libraries give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from ogg_serial import with_serial

from lumina_audio.audio_io import read_audio

HERE = Path(__file__).resolve().parent
RATE, GAP, LONGEST, COMPRESSION = 16000, 1024, 4.0, 0.65
"""Samples a second; silence between two sounds, so that none leaks into the next; seconds kept of one; of Vorbis."""
BLOCK = 65536
"""Samples handed to the encoder at once: Vorbis takes its room from the stack."""
CATEGORIES = {
    "ambi": "ambience", "bass": "bass", "bd": "bass drum", "drum": "drum", "elec": "electronic", "glitch": "glitch",
    "guit": "electric guitar", "loop": "loop", "mehackit": "electronic", "misc": "", "perc": "percussion",
    "sn": "snare drum", "tabla": "tabla", "vinyl": "vinyl record",
}  # fmt: skip
WORDS = {
    "hi": "high", "lo": "low", "mid": "middle", "filt": "filtered", "perc": "percussion", "dnb": "drum and bass",
    "em9": "E minor nine", "cineboom": "cinematic boom", "e": "E", "3d": "three d", "woosh": "whoosh",
}  # fmt: skip
CARD = """# Data card: the built-in effects

{count} named sound effects, drums and loops, for training and testing text-to-audio models. Built by
`packages/lumina-audio/scripts/build_effects.py`; do not edit by hand.

## Source

- The samples of Sonic Pi, as Debian's package `sonic-pi-samples` 3.2.2 brings them (sha256 over their contents in the
  order of their names: `{source}`). All come from freesound.org under CC0 1.0; `SOURCES.md` in this folder is Sonic
  Pi's list of their authors and pages, `LICENSE-CC0.txt` the text of the licence.
- Changed by us: mixed to mono, resampled to 16 kHz, cut to {longest:g} s with a fade, brought to a peak of 0.95.
- Captions are made from the names of the files (`drum_cymbal_open`: drum, cymbal open), not by listening.

To rebuild it: `apt-get install sonic-pi-samples`, then
`python packages/lumina-audio/scripts/build_effects.py /usr/share/sonic-pi/samples`.

## What is inside

- `effects.ogg`: {seconds:.0f} s of sound at 16 kHz mono, Ogg Vorbis, 1024 samples of silence between two.
- `effects.jsonl`, a line each: `name` (of the file), `category`, `words`, `start` and `samples` in `effects.ogg`.
- By category: {categories}.
- No split: too few to hold any out.

## Files

Made with libsndfile {library}.

| file | bytes | sha256 |
|---|---|---|
{files}
"""


def main() -> None:
    """Read, write, and say how large it became."""
    options = _options()
    files = sorted(options.samples.glob("*.flac"))
    if not files:
        raise SystemExit(f"no .flac in {options.samples}")
    records, parts, at = [], [], 0
    for file in files:
        wave = cut(read_audio(file, RATE, loudness="peak").waveform[0].numpy())
        records.append({"name": file.stem, **words_of(file.stem), "start": at, "samples": len(wave)})
        parts += [wave, np.zeros(GAP, np.float32)]
        at += len(wave) + GAP
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "effects.ogg").write_bytes(ogg(np.concatenate(parts)))
    (options.out / "effects.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    shutil.copyfile(options.samples / "README.md", options.out / "SOURCES.md")
    shutil.copyfile(options.licence, options.out / "LICENSE-CC0.txt")
    (options.out / "card.md").write_text(card(records, files, options.out), encoding="utf-8")
    total = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"{len(records)} sounds, {at / RATE:.0f} s, {total / 1e6:.2f} MB")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("samples", type=Path, help="the folder of Sonic Pi's samples")
    parser.add_argument("--licence", type=Path, default=Path("/usr/share/common-licenses/CC0-1.0"), help="CC0's text")
    parser.add_argument("--out", type=Path, default=HERE.parent / "src" / "lumina_audio" / "data" / "effects")
    return parser.parse_args()


def words_of(stem: str) -> dict[str, str]:
    """`drum_tom_hi_soft` -> category drum, words `tom high soft`; numbers and single letters behind are left out."""
    prefix, *rest = stem.split("_")
    plain = [re.sub(r"(?<=[a-z]{2})\d+$", "", word) if word not in WORDS else word for word in rest]
    words = [WORDS.get(word, word) for word in plain if len(word) > 1 or word == "e"]
    return {"category": CATEGORIES[prefix], "words": " ".join(words)}


def cut(wave: np.ndarray) -> np.ndarray:
    """At most so long, the end faded where something was cut off."""
    most = round(LONGEST * RATE)
    if len(wave) <= most:
        return wave
    kept = wave[:most].copy()
    kept[-1600:] *= np.linspace(1, 0, 1600, dtype=np.float32)
    return kept


def ogg(wave: np.ndarray) -> bytes:
    """Ogg Vorbis, with a serial number that does not come from the clock."""
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", RATE, 1, format="OGG", subtype="VORBIS", compression_level=COMPRESSION) as file:
        for start in range(0, len(wave), BLOCK):
            file.write(wave[start : start + BLOCK])
    return with_serial(out.getvalue(), 1)


def card(records: list[dict[str, Any]], files: list[Path], folder: Path) -> str:
    """The card as Markdown, about the files that already lie in `folder`."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    counts: dict[str, int] = {}
    for record in records:
        name = record["category"] or "others"
        counts[name] = counts.get(name, 0) + 1
    return CARD.format(
        count=len(records),
        source=digest.hexdigest(),
        longest=LONGEST,
        seconds=sum(record["samples"] for record in records) / RATE,
        categories=", ".join(f"{name} {count}" for name, count in counts.items()),
        library=soundfile.__libsndfile_version__,
        files="\n".join(
            f"| {path.name} | {path.stat().st_size} | `{hashlib.sha256(path.read_bytes()).hexdigest()}` |"
            for path in sorted(folder.iterdir())
            if path.name != "card.md"
        ),
    )


if __name__ == "__main__":
    main()
