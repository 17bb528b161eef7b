"""Builds the clips of the GPU training of sounds: python training_clips.py FluidR3_GM.sf2 --out DIR.

Writes to DIR, about 17 MB:

- base0.ogg ...: the training clips of `audio.instruments` (2.048 s), rendered again, without the held-out ones;
- long0.ogg ...: notes of 5.12 s, the key held to the end, three or four pitches a program, two of programs that decay;
- records.json.gz: a record of each clip;
- plan.npz, vocabulary.model: notes, captions and labels of the training items; see training_plan.py.

Needs tinysoundfont and soundfile, as build_instruments.py.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import instrument_render
import numpy as np
import soundfile
from instrument_plan import HEARD_AT, VELOCITIES, Clip, plan
from instrument_render import RATE, Player, Wave, heard_pitch
from training_plan import write_plan

from lumina_audio.datasets.instruments.data import records
from lumina_audio.datasets.instruments.general_midi import Instrument, instruments

COMPRESSION = 0.76
"""Of Ogg Vorbis: about 20 kbit/s."""
LONG_SAMPLES, RENDERED, HELD = 5 * 16384, 6 * 16384, 5.7
LONG_NOTES, DECAYING_NOTES, SUSTAINED_NOTES = 4, 2, 3
SUSTAINS = 0.25
"""Level of the fifth second relative to the first, above which an instrument sustains: -12 dB."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("soundfont", type=Path, help="FluidR3_GM.sf2")
    parser.add_argument("--out", type=Path, required=True, help="folder of the clips")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    player = Player(args.soundfont)
    clips = [player.play(program.program, clip) for program in instruments() for clip in plan(program)]
    shipped = [(record, clip) for record, clip in zip(records(), (c for c in clips if c is not None), strict=True)]
    base = [(record, clip) for record, clip in shipped if record["split"] == "train"]
    write_parts([clip for _, clip in base], args.out, "base", 8)
    instrument_render.SAMPLES = RENDERED
    long = chosen([found for program in instruments() for found in long_notes(player, program)])
    write_parts([faded(wave) for _, wave in long], args.out, "long", 4)
    held_out = [record for record, _ in shipped if record["split"] == "held_out"]
    content = {
        "base": [record for record, _ in base],
        "long": [record for record, _ in long],
        "all_held": [{key: record[key] for key in ("program", "kind", "pitch", "phrase")} for record in held_out],
        "base_samples": 32768,
        "long_samples": LONG_SAMPLES,
    }
    (args.out / "records.json.gz").write_bytes(gzip.compress(json.dumps(content).encode(), 9, mtime=0))
    print(write_plan(content, args.out))


def long_notes(player: Player, program: Instrument) -> list[tuple[dict[str, Any], Wave]]:
    """Render long notes of a program, spread over its register, none of them held out."""
    if program.register is None:
        return []
    chance = random.Random(f"long {program.program}")
    low, high = program.register
    octave = HEARD_AT.get(program.program, 0)
    held_out = {clip.pitch for clip in plan(program) if clip.split == "held_out" and clip.kind == "note"}
    found = []
    for n in range(LONG_NOTES):
        wanted = round(low + (high - low) * (n + 0.5) / LONG_NOTES)
        pitch = next(wanted + step for step in (0, 1, -1, 2, -2) if wanted + step not in held_out)
        loudness = chance.choice(list(VELOCITIES))
        clip = Clip("note", pitch - octave, loudness, "long", None, "train", ((pitch - octave, 0.0, HELD),))
        wave = player.play(program.program, clip)
        if wave is None:
            continue
        level = np.sqrt((wave[: 6 * RATE].reshape(6, RATE) ** 2).mean(1))
        record = {
            "program": program.program,
            "pitch": pitch,
            "loudness": loudness,
            "heard": heard_pitch(wave[:32768]),
            "sustains": bool(level[4] > SUSTAINS * level[0]),
        }
        found.append((record, wave))
    return found


def chosen(found: Sequence[tuple[dict[str, Any], Wave]]) -> list[tuple[dict[str, Any], Wave]]:
    """Keep fewer long notes of programs that decay: most of such a clip is silence."""
    kept, count = [], Counter[tuple[int, bool]]()
    for record, wave in found:
        key = (record["program"], record["sustains"])
        if count[key] < (SUSTAINED_NOTES if record["sustains"] else DECAYING_NOTES):
            count[key] += 1
            kept.append((record, wave))
    return kept


def faded(wave: Wave) -> Wave:
    """Cut a long note, with a fade of 50 ms."""
    cut = wave[:LONG_SAMPLES].copy()
    cut[-800:] *= np.linspace(1, 0, 800, dtype=np.float32)
    return cut


def write_parts(clips: Sequence[Wave], out: Path, name: str, parts: int) -> None:
    """Write clips one after another into several Ogg Vorbis files, so that threads decode them."""
    for part in range(parts):
        with soundfile.SoundFile(
            out / f"{name}{part}.ogg", "w", RATE, 1, format="OGG", subtype="VORBIS", compression_level=COMPRESSION
        ) as file:
            for clip in clips[part * len(clips) // parts : (part + 1) * len(clips) // parts]:
                file.write(clip)


if __name__ == "__main__":
    main()
