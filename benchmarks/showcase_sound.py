"""Two sounds of the built-in model as WAV files, with labelled spectrograms, for the README.

python benchmarks/showcase_sound.py --audio docs/audio --out docs/pictures/sounds.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt

from lumina_core import Pipeline

PROMPTS = {"trumpet": ("a trumpet plays a high note", 2.0), "scale": ("a rising scale on a violin", 2.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, required=True, help="folder of the WAV files")
    parser.add_argument("--out", type=Path, required=True, help="PNG of the spectrograms")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    pipe = Pipeline.from_pretrained("audio.instruments")
    options.audio.mkdir(parents=True, exist_ok=True)
    figure, panels = plt.subplots(1, len(PROMPTS), figsize=(10, 3.4), sharey=True)
    for panel, (name, (prompt, duration)) in zip(panels, PROMPTS.items(), strict=True):
        output = pipe(prompt, duration=duration, seed=options.seed)
        output[0].save(options.audio / f"{name}.wav")
        panel.specgram(np.asarray(output.audios[0]), NFFT=1024, Fs=output.sampling_rate, noverlap=768, vmin=-140)
        panel.set(title=prompt, xlabel="time in s", ylim=(0, 5000))
    panels[0].set_ylabel("frequency in Hz")
    figure.tight_layout()
    figure.savefig(options.out, dpi=90)


if __name__ == "__main__":
    main()
