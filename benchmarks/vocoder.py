"""Does a sound survive the way through the latent? Autoencoder and vocoder beside Griffin-Lim on the true spectrogram.

For held-out sounds of the built-in data: the multi-resolution STFT distance (`lumina_audio.vocoders.loss`) to it of

- `round trip`: sound -> spectrogram -> latent -> spectrogram -> vocoder -> sound; what the model's answers go through;
- `vocoder`: the true spectrogram -> vocoder, without the autoencoder;
- `griffin-lim`: the true spectrogram down to 1e-5, phases sought in 32 rounds; what one has without weights. The bar;
- `griffin-lim, same floor`: of the spectrogram as the model sees it, whose quietest parts are cut off.

Writes vocoder.json, vocoder.txt and vocoder.png to --out.

    python benchmarks/vocoder.py [--model DIR] [--quick] [--out docs/results/instruments]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import torch
from matplotlib import pyplot as plt
from torch import Tensor

from lumina_audio.datasets.instruments.dataset import InstrumentsEvalSet
from lumina_audio.mel import MelConfig, MelSpectrogram
from lumina_audio.vocoders.griffin_lim import GriffinLim
from lumina_audio.vocoders.loss import stft_losses
from lumina_core.sampling.pipeline import Pipeline

BATCH, FAINTEST = 8, 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="audio.instruments", help="a model folder, or an installed model")
    parser.add_argument("--quick", action="store_true", help="24 sounds rather than all that are held out")
    parser.add_argument("--out", type=Path, default=Path("docs/results/instruments"))
    args = parser.parse_args()
    exam = InstrumentsEvalSet()
    places = list(exam.indices("held_out"))
    places = places[:: len(places) // 24] if args.quick else places
    ways = ways_of(Pipeline.from_pretrained(args.model).model.autoencoder)
    found: dict[str, Any] = {"model": args.model, "sounds": len(places), "ways": {}}
    for name, way in ways.items():
        found["ways"][name] = measured(way, exam, places)
        print(name, found["ways"][name], flush=True)
    pairs = found["ways"]
    found["round_trip_is_nearer"] = share(pairs["round trip"]["each"], pairs["griffin-lim"]["each"])
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "vocoder.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (args.out / "vocoder.txt").write_text(table(found), encoding="utf-8")
    drawn(found, args.out / "vocoder.png")
    print(table(found))


def ways_of(autoencoder: Any) -> dict[str, Callable[[Tensor], Tensor]]:
    """Ways there and back, by name."""
    settings = autoencoder.config.mel

    def natural(sound: Tensor) -> Tensor:
        spectrogram: Tensor = autoencoder.spectrogram(sound) / settings.log_scale
        return spectrogram

    return {
        "round trip": lambda sound: autoencoder.decode(autoencoder.encode(sound)),
        "vocoder": lambda sound: autoencoder.vocoder(natural(sound)),
        "griffin-lim": sought(settings, FAINTEST),
        "griffin-lim, same floor": sought(settings, settings.min_amplitude),
    }


def sought(settings: MelConfig, floor: float) -> Callable[[Tensor], Tensor]:
    """Sound -> true spectrogram -> sound by Griffin-Lim."""
    values = {**settings.model_dump(), "min_amplitude": floor, "log_base": "natural"}
    mel, plain = MelSpectrogram(MelConfig.model_validate(values)), GriffinLim(GriffinLim.Config.model_validate(values))
    return lambda sound: plain(mel(sound))


@torch.inference_mode()
def measured(way: Callable[[Tensor], Tensor], exam: InstrumentsEvalSet, places: list[int]) -> dict[str, Any]:
    """Means of the distance and of its two terms, and the distance of each sound."""
    shares, logs = [], []
    for start in range(0, len(places), BATCH):
        sound = torch.stack([exam.reference(place) for place in places[start : start + BATCH]])
        share_, log = stft_losses(way(sound).clamp(-1, 1), sound)
        shares.append(share_)
        logs.append(log)
    convergence, log = torch.cat(shares), torch.cat(logs)
    return {
        "distance": round(float((convergence + log).mean()), 4),
        "spectral_convergence": round(float(convergence.mean()), 4),
        "log_magnitude": round(float(log.mean()), 4),
        "each": [round(value, 4) for value in (convergence + log).tolist()],
    }


def share(ours: list[float], theirs: list[float]) -> float:
    """Of the sounds that ours is nearer to."""
    return round(sum(a < b for a, b in zip(ours, theirs, strict=True)) / len(ours), 3)


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    rows = ["| way | distance | spectral convergence | log magnitude |", "|---|---|---|---|"]
    rows += [
        f"| {name} | {way['distance']:.3f} | {way['spectral_convergence']:.3f} | {way['log_magnitude']:.3f} |"
        for name, way in found["ways"].items()
    ]
    nearer = f"The round trip is nearer than Griffin-Lim for {found['round_trip_is_nearer']:.0%} of them."
    return "\n".join(rows) + f"\n\nMeans over {found['sounds']} held-out sounds. {nearer}\n"


def drawn(found: dict[str, Any], path: Path) -> None:
    """Every sound's distance, sorted, a line for each way."""
    figure, panel = plt.subplots(figsize=(6, 3.4))
    for name, way in found["ways"].items():
        values = sorted(way["each"])
        panel.plot([(n + 0.5) / len(values) for n in range(len(values))], values, label=name)
    panel.set(xlabel="share of the sounds", ylabel="multi-resolution STFT distance", ylim=(0, None))
    panel.legend()
    panel.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
