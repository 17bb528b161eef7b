"""Builds the instruments of lumina-audio from a SoundFont: python build_instruments.py FluidR3_GM.sf2 [--out DIR].

Needs tinysoundfont (pip install --no-deps tinysoundfont: it only plays to a loudspeaker with more), torchaudio and
soundfile. Debian's package fluid-soundfont-gm brings the SoundFont. Two runs with the same libraries give the same
bytes; with others the sounds stay the same to the ear.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from instrument_card import Made, card
from instrument_plan import VELOCITIES, Clip, plan
from instrument_render import RATE, Player, Wave, heard_pitch, sounding
from ogg_serial import with_serial

from lumina_audio.datasets.instruments.general_midi import Instrument, instruments

HERE = Path(__file__).resolve().parent
SOURCE = "74594e8f4250680adf590507a306655a299935343583256f3b722c48a1bc1cb0"
"""sha256 of FluidR3_GM.sf2 3.1."""
COMPRESSION = 0.65
"""Of Ogg Vorbis, 0 best: the log-mel then differs by 0.2 on average where something sounds."""
SHORT, LONG = 0.75, 1.3
"""Seconds: at most so much is a short sound, at least so much a long one; between them it is neither."""

Record = dict[str, Any]


def main() -> None:
    """Check the SoundFont, play everything, write, and say how large it became."""
    options = _options()
    found = hashlib.sha256(options.soundfont.read_bytes()).hexdigest()
    if found != SOURCE:
        raise SystemExit(f"{options.soundfont} has the sha256 {found}; wanted {SOURCE}, that of FluidR3_GM 3.1")
    options.out.mkdir(parents=True, exist_ok=True)
    for old in options.out.glob("*.ogg"):
        old.unlink()
    records: list[Record] = []
    silent: list[str] = []
    digest = hashlib.sha256()
    player = Player(options.soundfont)
    for instrument in instruments():
        played = list(_played(player, instrument, silent))
        records += [record for record, _ in played]
        waves = np.concatenate([wave for _, wave in played])
        digest.update((waves * 32767).round().astype("<i2").tobytes())
        path = options.out / f"{instrument.program:03d}.ogg"
        write_ogg(waves, path)
        path.write_bytes(with_serial(path.read_bytes(), instrument.program))
    write_records(records, options.out / "clips.jsonl.gz")
    tools = f"tinysoundfont {version('tinysoundfont')}, libsndfile {soundfile.__libsndfile_version__}"
    (options.out / "card.md").write_text(card(records, options.out, Made(SOURCE, tools, digest.hexdigest(), silent)))
    total = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"{len(records)} clips, {sum(r['split'] == 'held_out' for r in records)} held out, {total / 1e6:.2f} MB")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("soundfont", type=Path, help="FluidR3_GM.sf2")
    parser.add_argument("--out", type=Path, default=HERE.parent / "src" / "lumina_audio" / "data" / "instruments")
    return parser.parse_args()


def _played(player: Player, instrument: Instrument, silent: list[str]) -> Iterator[tuple[Record, Wave]]:
    made = [(clip, player.play(instrument.program, clip)) for clip in plan(instrument)]
    silent += [f"{instrument.name} at {clip.pitch}" for clip, wave in made if wave is None]
    estimates = [(clip, wave, _heard(clip, wave)) for clip, wave in made if wave is not None]
    matches = [away for clip, _, away in estimates if clip.kind == "note"]
    # chords and phrases are not measured: they are called by a note where single notes of the program can be
    trusted = sum(away in ("same", "octave") for away in matches) >= 0.7 * len(matches)
    for clip, wave, away in estimates:
        note = clip.kind == "note"
        named = clip.pitch is not None and (away in ("same", "octave") if note else trusted)
        yield record_of(instrument, clip, sounding(wave), named, note and away == "same"), wave


def _heard(clip: Clip, wave: Wave) -> str:
    """Compare the estimated pitch of a note with the intended one: same, octave, other."""
    estimates = heard_pitch(wave) if clip.kind == "note" and clip.pitch is not None else None
    if estimates is None or clip.pitch is None:
        return "other"
    away = estimates - clip.pitch
    return "same" if abs(away) <= 0.5 else "octave" if abs((away + 6) % 12 - 6) <= 0.5 else "other"


def record_of(instrument: Instrument, clip: Clip, seconds: float, named: bool, clear: bool) -> Record:
    """What is known of a clip."""
    length = "short" if seconds <= SHORT else "long" if seconds >= LONG else None
    return {
        "program": instrument.program,
        "name": instrument.name,
        "family": instrument.family,
        "kind": clip.kind,
        "pitch": clip.pitch,
        "named": named,
        "clear": clear,
        "velocity": VELOCITIES[clip.loudness],
        "loudness": clip.loudness,
        "length": None if clip.kind == "phrase" else length,
        "seconds": round(seconds, 3),
        "phrase": clip.phrase,
        "split": clip.split,
    }


def write_ogg(wave: Wave, path: Path) -> None:
    """The clips of a program one after another, Ogg Vorbis."""
    with soundfile.SoundFile(path, "w", RATE, 1, format="OGG", subtype="VORBIS", compression_level=COMPRESSION) as file:
        file.write(wave)


def write_records(records: list[Record], path: Path) -> None:
    """One JSON object a line, gzip without a clock in it."""
    lines = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records)
    path.write_bytes(gzip.compress(lines.encode(), compresslevel=9, mtime=0))


if __name__ == "__main__":
    main()
