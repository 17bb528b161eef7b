"""Write drums, tabla and electronic sounds, which the built-in model does not know, with captions to DIR.

python examples/fine_tune/sounds.py DIR
"""

import random
import sys
from pathlib import Path

import soundfile

from lumina_audio.datasets.effects import SAMPLE_RATE, EffectsDataset, records

CATEGORIES = ("bass drum", "drum", "electronic", "tabla")


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    dataset = EffectsDataset(EffectsDataset.Config())
    chosen = [index for index, record in enumerate(records()) if record["category"] in CATEGORIES]
    for index in chosen:
        record = records()[index]
        waveform = dataset.get(index, random.Random(index))["audio"]
        soundfile.write(out / f"{record['name']}.wav", waveform.T.numpy(), SAMPLE_RATE)
        caption = f"{record['category']} {record['words']}".strip()
        (out / f"{record['name']}.txt").write_text(caption + "\n", encoding="utf-8")
    print(f"{len(chosen)} sounds in {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
