"""Teaches the small network that names instruments, on the built-in data's training split; writes weights and card.

Minutes on one core. Log-mel spectrograms are made once, of every clip and of its shifts by a semitone; what is drawn
for each step is loudness, tilt, start, length and a little noise.

    python packages/lumina-audio/scripts/train_classifier.py [--steps 800] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from lumina_audio.datasets.instruments.dataset import InstrumentsDataset, pitch_shift
from lumina_audio.datasets.instruments.general_midi import instruments
from lumina_audio.mel import MelSpectrogram
from lumina_audio.metrics.features import MEL_CONFIG
from lumina_audio.metrics.instruments import InstrumentCNN

OUT = Path(__file__).parents[1] / "src/lumina_audio/data/classifier"
BATCH, RATE, WEIGHT_DECAY, SMOOTHING = 64, 3e-3, 0.02, 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.manual_seed(0)
    mels, labels, _ = spectrograms("train", shifts=True)
    network = trained(mels, labels, args.steps)
    held, right, records = spectrograms("held_out", shifts=False)
    args.out.mkdir(parents=True, exist_ok=True)
    weights = {n: w.half() if w.is_floating_point() else w for n, w in network.state_dict().items()}
    save_file({n: w.contiguous() for n, w in weights.items()}, args.out / "classifier.safetensors")
    network.load_state_dict({n: w.float() if w.is_floating_point() else w for n, w in weights.items()})
    text = card(answers(network, held), right, records, args.steps)
    (args.out / "card.md").write_text(text, encoding="utf-8")
    print(text)


def spectrograms(split: str, shifts: bool) -> tuple[Tensor, Tensor, list[dict[str, Any]]]:
    """(N, 80, T) float16, (N,) programs, and a record each: every clip, and its pitch shifts if requested."""
    still = InstrumentsDataset(InstrumentsDataset.Config(split=split, pitch_shift_semitones=0))
    moving = InstrumentsDataset(InstrumentsDataset.Config(split=split, pitch_shift_semitones=1 if shifts else 0))
    mel, rows, records = MelSpectrogram(MEL_CONFIG), [], []
    for index, record in enumerate(still.records()):
        sound = still.get(index, random.Random(index))["audio"][0]
        for step in moving.pitch_shifts(index):
            rows.append(mel(pitch_shift(sound, step)[None, None])[0].half())
            records.append(record)
    return torch.stack(rows), torch.tensor([record["program"] for record in records]), records


def trained(mels: Tensor, labels: Tensor, steps: int) -> InstrumentCNN:
    """AdamW, the rate rising for a twentieth of the steps and then falling to nothing; programs drawn alike."""
    network = InstrumentCNN()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    of = [torch.nonzero(labels == program).flatten() for program in range(len(instruments()))]
    for step in range(steps):
        done = step / steps
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, done / 0.05) * (1 - done) + 1e-5
        programs = torch.randint(len(of), (BATCH,))
        rows = torch.stack([of[p][torch.randint(len(of[p]), ())] for p in programs.tolist()])
        loss = F.cross_entropy(network(varied(mels[rows].float())), programs, label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.3f}", flush=True)
    return network.eval()


def varied(mel: Tensor) -> Tensor:
    """(B, 80, T) as other recordings would have it, and other lengths: the same for all of a batch in time."""
    count, bands, length = mel.shape
    silence = MEL_CONFIG.min_value
    tilt = torch.randn(count, 1, 1) * 0.4 * torch.linspace(-1, 1, bands)[:, None]
    mel = mel + torch.empty(count, 1, 1).uniform_(-2.0, 0.5) + tilt + 0.15 * torch.randn_like(mel)
    start, end = int(torch.randint(12, ())), length - int(torch.randint(40, ()))
    lead = int(torch.randint(8, ()))
    return F.pad(mel.clamp(min=silence)[:, :, start * (lead == 0) : end], (lead, 0), value=silence)


@torch.inference_mode()
def answers(network: InstrumentCNN, mels: Tensor) -> Tensor:
    """(N, 128) logits."""
    return torch.cat([network(part.float()) for part in mels.split(64)])


def card(logits: Tensor, right: Tensor, records: list[dict[str, Any]], steps: int) -> str:
    """How well held-out clips are named, by kind and by family."""
    order = logits.argsort(1, descending=True)
    top1, top5 = order[:, 0] == right, (order[:, :5] == right[:, None]).any(1)
    family = order[:, 0] // 8 == right // 8
    rows = ["| held-out clips | right program | among five | right family | of |", "|---|---|---|---|---|"]

    def row(title: str, kept: list[int]) -> None:
        shares = [float(found[kept].float().mean()) for found in (top1, top5, family)]
        rows.append(f"| {title} | {shares[0]:.2f} | {shares[1]:.2f} | {shares[2]:.2f} | {len(kept)} |")

    row("all", list(range(len(records))))
    for key in ("kind", "family"):
        for name in dict.fromkeys(record[key] for record in records):
            row(name, [n for n, record in enumerate(records) if record[key] == name])
    count = sum(p.numel() for p in InstrumentCNN().parameters())
    return f"""# The instrument classifier

A convolutional network of {count / 1e3:.0f} thousand parameters that names the General MIDI program of a sound from its
log-mel spectrogram (16 kHz, 80 bands, floor 1e-4). Trained by `packages/lumina-audio/scripts/train_classifier.py` on
the training split of `audio.instruments` alone, {steps} steps of {BATCH}, minutes on one core; weights are kept in
float16. It is for figures (`audio.class_kl`, and as features `audio.instrument_classifier`), not for recordings of real
instruments.

{chr(10).join(rows)}
"""


if __name__ == "__main__":
    main()
