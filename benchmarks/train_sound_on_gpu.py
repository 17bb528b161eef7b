"""Train codec, text encoder and generator of the built-in sound model in one go, in minutes on one GPU.

The stages share the given time; each is saved when it is done, and every minute. Learning rates follow the share of
the time that is over, so that a stage ends decayed whatever the speed. Data are those that
`packages/lumina-audio/scripts/training_clips.py` writes.

- Codec: autoencoder and vocoder of `audio.instruments_codec` together, on crops of clips and on synthetic tones.
- Text encoder: what captions say (program, pitch, content ...) by auxiliary classifiers that are dropped afterwards,
  and 16 averaged spectra as in `core.contrastive_text`.
- Generator: items of 2 to 8 seconds are composed from clips and encoded once; flow matching on their latents.

Writes codec.safetensors, text.safetensors, generator.safetensors and log.csv to --out; `--assemble MODEL` then joins
them with the config.json of a model folder.

    python benchmarks/train_sound_on_gpu.py --data DIR --out DIR [--seconds 440] [--smoke] [--device cuda]
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import os
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lumina_audio.autoencoders.mel_autoencoder import MelAutoencoder
from lumina_audio.mel import MelConfig, MelSpectrogram
from lumina_audio.vocoders.sines_and_noise import SinesAndNoise
from lumina_core.conditioning.text import TextConditioner
from lumina_core.models.heads import VelocityHead
from lumina_core.models.next_dit import NextDiTBackbone
from lumina_core.recipe import TrainingConfig
from lumina_core.training.optim import build_optimizers
from lumina_core.types import Condition, Tokens

CODEC = {
    "mel": {"n_fft": 2048, "n_mels": 160, "min_amplitude": 1e-4},
    "light_vae": {"latent_channels": 40, "hidden_size": 256, "num_layers": 3},
    "mel_mean": -5.5,
    "mel_std": 3.5,
    "kl_weight": 1e-5,
    "vocoder": {"type": "audio.sines_and_noise"},
}
VOCODER = {"n_mels": 160, "mel_mean": -5.5, "mel_std": 3.5}
TEXT = {"vocab_size": 1000, "num_latents": 16, "expand_dim": 512, "target_dim": 80}
BACKBONE = {
    "hidden_size": 256,
    "num_layers": 6,
    "num_heads": 4,
    "rope_axes_dim": (64, 0, 0),
    "multiple_of": 64,
    "token_dim": 80,
    "cross_attention_dim": 192,
    "pooled_dim": 256,
}
RATE, CLIP, LATENT, TAPS = 16000, 32768, 512, 24
LENGTHS = (32768, 65536, 131072, 49152, 98304)
"""Samples of items, by the index of their length in the plan."""
BATCHES, SHARES = (320, 160, 72, 208, 104), (0.56, 0.20, 0.08, 0.10, 0.06)
"""Items in a batch of the generator, and shares of batches, by length."""
CODEC_SHARE, TEXT_SHARE = 0.46, 0.10
"""Shares of the time; the generator has the rest."""
LABELS = {"program": 128, "pitch": 129, "class": 13, "register": 4, "content": 10, "loudness": 3, "length": 3}
"""Classes of each label of a caption."""


class Run:
    """Where and for how long a training runs, and its log."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.began, self.seconds = time.time(), args.seconds - 10
        self.out, self.data, self.device = args.out, args.data, torch.device(args.device)
        self.is_gpu, self.smoke = self.device.type == "cuda", args.smoke
        self.out.mkdir(parents=True, exist_ok=True)
        self.file = (self.out / "log.csv").open("w", newline="")
        self.writer = csv.writer(self.file)
        self.writer.writerow(["seconds", "stage", "step", "per_second", "terms"])

    def now(self) -> float:
        """Return the seconds since the start."""
        return time.time() - self.began

    def say(self, *words: Any) -> None:
        """Print a line with the time."""
        print(f"[{self.now():6.1f}]", *words, flush=True)

    def save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Save tensors in half precision, by an atomic rename."""
        halves = {key: (t.detach().half() if t.is_floating_point() else t.detach()).cpu() for key, t in tensors.items()}
        save_file({key: tensor.contiguous().clone() for key, tensor in halves.items()}, self.out / f"{name}.tmp")
        os.replace(self.out / f"{name}.tmp", self.out / name)


class Stage:
    """Time, log and checkpoints of a stage."""

    def __init__(self, run: Run, name: str, until: float, save: Callable[[], None] | None = None) -> None:
        self.run, self.name, self.until, self.save = run, name, until, save
        self.start = self.printed = self.saved = run.now()
        self.steps = self.count = 0

    def share(self) -> float:
        """Return the share of the stage's time that is over."""
        return min(1.0, (self.run.now() - self.start) / max(1e-3, self.until - self.start))

    def goes_on(self) -> bool:
        """Tell whether there is time for another step; a smoke test on a CPU has three."""
        if self.run.smoke and not self.run.is_gpu:
            return self.steps < 3
        return self.run.now() < self.until

    def lr_factor(self, warmup: int, constant: float) -> float:
        """Return the learning rate over its peak: warm-up by steps, constant, then linear decay by time."""
        share = self.share()
        decay = 1.0 if share < constant else max(0.0, 1 - (share - constant) / (1 - constant))
        return min(1.0, (self.steps + 1) / warmup) * decay

    def step(self, terms: Callable[[], Mapping[str, Any]]) -> None:
        """Count a step; log it every 15 s, and save every minute."""
        self.steps, self.count = self.steps + 1, self.count + 1
        now = self.run.now()
        if now - self.printed >= 15 or self.steps in (1, 3, 50):
            values = {name: round(float(value), 4) for name, value in terms().items()}
            rate = self.count / max(1e-3, now - self.printed)
            self.run.writer.writerow([round(now, 1), self.name, self.steps, round(rate, 2), json.dumps(values)])
            self.run.file.flush()
            self.run.say(self.name, self.steps, f"{rate:.1f}/s", values)
            self.printed, self.count = now, 0
        if self.save is not None and now - self.saved > 60:
            self.saved = now
            self.save()


class Average:
    """Exponential moving average of parameters and floating-point buffers."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay, self.count = module, decay, 0
        self.values = {name: t.detach().clone() for name, t in module.state_dict().items() if t.is_floating_point()}

    @torch.no_grad()
    def update(self) -> None:
        """Add the weights after a step."""
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        state = self.module.state_dict()
        torch._foreach_lerp_(list(self.values.values()), [state[name] for name in self.values], 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """Return the state dict with the averages."""
        return {**self.module.state_dict(), **self.values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of training_clips.py")
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--seconds", type=float, default=440, help="time for everything, from the start of the process")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--smoke", action="store_true", help="a few steps of every stage")
    parser.add_argument("--assemble", type=Path, help="only join the weights in --out with this model's config.json")
    args = parser.parse_args()
    if args.assemble is not None:
        return assemble(args.out, args.assemble)
    torch.manual_seed(17)
    torch.set_float32_matmul_precision("high")
    run = Run(args)
    base, long, plan, records = load(run)
    left = run.seconds - run.now()
    codec = train_codec(run, Crops(base, long, records), run.now() + CODEC_SHARE * left)
    run.say("cents of tones", tone_errors(codec, run.device))
    text = train_text(run, base, plan, run.now() + TEXT_SHARE * left)
    latents = encode_items(run, codec, plan, base, long)
    train_generator(run, latents, plan, encode_captions(run, text, plan), run.seconds - 4)
    run.say("end")


def assemble(folder: Path, model: Path) -> None:
    """Write model.safetensors next to the config.json of a model folder."""
    weights: dict[str, Tensor] = {}
    for name, prefix in (("codec", "autoencoder."), ("text", "conditioners.caption."), ("generator", "")):
        weights |= {prefix + key: tensor for key, tensor in load_file(folder / f"{name}.safetensors").items()}
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def load(run: Run) -> tuple[Tensor, Tensor, SimpleNamespace, dict[str, Any]]:
    """Return clips (N, 32768) and long notes (M, 81920) as int16, the plan, and the records."""
    records = json.loads(gzip.decompress((run.data / "records.json.gz").read_bytes()))
    names = [sorted(run.data.glob(f"{kind}*.ogg")) for kind in ("base", "long")]
    if run.smoke and not run.is_gpu:
        names = [part[:1] for part in names]
    lengths = (records["base_samples"], records["long_samples"])
    with ThreadPoolExecutor(3) as pool:
        base, long = (
            torch.cat(list(pool.map(decode, part, [length] * len(part)))).to(run.device)
            for part, length in zip(names, lengths, strict=True)
        )
    plan = SimpleNamespace(**np.load(run.data / "plan.npz"))
    plan.nn = plan.nn.astype(np.int64)
    plan.first, plan.num_base = plan.nn.cumsum() - plan.nn, len(records["base"])
    width = int(plan.lens.max())
    ids = np.zeros((len(plan.lens), width), np.int64)
    ids[np.arange(width)[None] < plan.lens.astype(np.int64)[:, None]] = plan.ids
    count = np.bincount(plan.cap_item, minlength=len(plan.nn))
    plan.ids = torch.from_numpy(ids).to(run.device)
    plan.owner = torch.from_numpy(plan.cap_item.astype(np.int64)).to(run.device)
    plan.cap_count = torch.from_numpy(count).to(run.device)
    plan.cap_first = plan.cap_count.cumsum(0) - plan.cap_count
    plan.weight = torch.from_numpy(plan.item_weight).to(run.device)
    run.say("clips", tuple(base.shape), tuple(long.shape), "items", len(plan.nn), "captions", len(ids))
    return base, long, plan, records


def decode(path: Path, length: int) -> Tensor:
    """Decode the clips of a file; the end of each, into which the next one leaks, is faded."""
    wave, _ = soundfile.read(path, dtype="int16")
    clips = np.ascontiguousarray(wave[: len(wave) // length * length]).reshape(-1, length).copy()
    fade = np.concatenate([np.linspace(1, 0, 544), np.zeros(256)])
    clips[:, -len(fade) :] = np.rint(clips[:, -len(fade) :] * fade)
    return torch.from_numpy(clips)


def resampled(wave: Tensor, ratio: Tensor, length: int | None = None) -> Tensor:
    """Read rows of a wave (B, S) at `ratio` (B,) times their speed, by a windowed sinc: (B, length)."""
    length = wave.shape[1] if length is None else length
    position = torch.arange(length, device=wave.device, dtype=torch.float64)[None] * ratio[:, None].double()
    whole = position.floor()
    part, whole = (position - whole).float(), whole.long()
    cutoff = torch.minimum(torch.ones_like(ratio), 1 / ratio).float()[:, None]
    padded = F.pad(wave, (TAPS, TAPS))
    result = torch.zeros(len(wave), length, device=wave.device)
    for k in range(-TAPS // 2 + 1, TAPS // 2 + 1):
        distance = k - part
        tap = torch.sinc(distance * cutoff) * cutoff * torch.cos(math.pi * distance / (TAPS + 2)).square()
        result += padded.gather(1, (whole + k + TAPS).clamp(0, padded.shape[1] - 1)) * tap
    return result


def synthetic_tones(count: int, samples: int, device: torch.device) -> Tensor:
    """Make harmonic tones (count, samples) of 30 Hz to 3.8 kHz: steady, with vibrato, decaying, with noise."""

    def uniform() -> Tensor:
        return torch.rand(count, 1, device=device)

    time_ = torch.arange(samples, device=device)[None] / RATE
    hertz = 30 * 2 ** (7 * uniform())
    depth, speed = (uniform() < 0.3).float() * uniform() * 0.015, 3 + 4 * uniform()
    phase = 2 * math.pi * hertz * (time_ - depth / (2 * math.pi * speed) * torch.cos(2 * math.pi * speed * time_))
    slope, only_odd = 2.2 * uniform(), uniform() < 0.15
    levels = torch.rand(count, 48, device=device) ** (0.2 + uniform())
    inharmonicity = (uniform() < 0.15).float() * uniform() * 4e-4
    n = torch.arange(1, 49, device=device)[None].float()
    stretched = n * (1 + inharmonicity * n * n).sqrt()
    levels = levels * n ** (-slope) * (hertz * stretched < 7900) * ~(only_odd & (n % 2 == 0))
    start_phase = 2 * math.pi * torch.rand(count, 48, 1, device=device)
    tone = (levels[..., None] * torch.sin(stretched[..., None] * phase[:, None] + start_phase)).sum(1)
    decay = torch.exp(-8 * time_ * uniform() ** 2 * (uniform() < 0.4))
    start = (uniform() < 0.3).float() * uniform() * 0.5
    tone = tone * decay * ((time_ - start) / 0.01).clamp(0, 1)
    tone = tone / tone.abs().amax(1, keepdim=True).clamp_min(1e-3)
    noise = torch.randn_like(tone) * 10 ** (-1 - 3 * uniform()) * (uniform() < 0.5)
    return (tone + noise) * (0.1 + 0.85 * uniform())


class Crops:
    """Random crops of clips at a random speed within a semitone, with synthetic tones: 0.55, 0.15 long, 0.3 tones."""

    def __init__(self, base: Tensor, long: Tensor, records: Mapping[str, Any]) -> None:
        self.base, self.long = base, long
        program = torch.tensor([record["program"] for record in records["base"]][: len(base)])
        self.weight = (1 / torch.bincount(program, minlength=128).clamp_min(1).float()[program]).to(base.device)

    def __call__(self, count: int, samples: int) -> Tensor:
        """Draw (count, 1, samples)."""
        device, need = self.base.device, int(samples * 1.07) + 2
        num_tones, num_long = max(1, round(0.3 * count)), max(1, round(0.15 * count))
        rows = torch.multinomial(self.weight, count - num_tones - num_long, replacement=True)
        start = (torch.rand(len(rows), device=device) ** 1.6 * (CLIP - need)).long()
        columns = torch.arange(need, device=device)
        pieces = [self.base[rows[:, None], start[:, None] + columns]]
        rows = torch.randint(len(self.long), (num_long,), device=device)
        start = (torch.rand(num_long, device=device) * (self.long.shape[1] - need)).long()
        pieces.append(self.long[rows[:, None], start[:, None] + columns])
        wave = torch.cat(pieces).float() / 32768
        ratio = 2 ** ((2 * torch.rand(len(wave), device=device) - 1) / 12)
        wave = resampled(wave, ratio, samples) * (0.4 + 0.65 * torch.rand(len(wave), 1, device=device))
        return torch.cat([wave, synthetic_tones(num_tones, samples, device)])[:, None].clamp(-1, 1)


def train_codec(run: Run, crops: Crops, until: float) -> MelAutoencoder:
    """Train autoencoder and vocoder together."""
    vocoder = SinesAndNoise(SinesAndNoise.Config.model_validate(VOCODER))
    codec = MelAutoencoder(MelAutoencoder.Config.read(CODEC, "codec"), vocoder).to(run.device)
    for module, names in ((codec.mel, ("filterbank", "window")), (vocoder, ("sine_window", "noise_window"))):
        for name in names:
            setattr(module, name, getattr(module, name).to(run.device))
    batch, samples = (32, 16384) if run.is_gpu else (4, 8192)
    matrices, others = ([p for p in codec.parameters() if (p.ndim >= 2) == is_matrix] for is_matrix in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=2e-3, betas=(0.8, 0.97), fused=run.is_gpu)
    average = Average(codec, 0.999)
    stage = Stage(run, "codec", until, lambda: run.save("codec.safetensors", average.state()))
    while stage.goes_on():
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * stage.lr_factor(200, 0.4)
        with torch.no_grad():
            wave = crops(batch, samples)
            mel = codec.mel(wave)
        spectrogram_loss, decoded, terms = autoencoder_loss(codec, mel)
        is_decoded = torch.rand(batch, 1, 1, device=run.device) < 0.5
        loss = codec.vocoder.loss(torch.where(is_decoded, decoded, mel), wave)
        optimizer.zero_grad(set_to_none=True)
        (spectrogram_loss + loss.total).backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 2.0)
        for parameter in codec.parameters():
            if parameter.grad is not None:
                torch.nan_to_num_(parameter.grad, 0.0, 0.0, 0.0)
        optimizer.step()
        average.update()
        stage.step(lambda: {**terms, **loss.terms})  # noqa: B023
    codec.load_state_dict(average.state())
    run.save("codec.safetensors", codec.state_dict())
    return codec.eval().requires_grad_(False)


def autoencoder_loss(codec: MelAutoencoder, mel: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Compute the loss of the VAE as `MelAutoencoder` does, with noise on the device; also the decoded spectrogram."""
    config = codec.config
    real = (mel - config.mel_mean) / config.mel_std
    mean, log_variance = codec.vae.encode(real)
    F.batch_norm(mean.detach().float(), codec.mean, codec.variance, training=True, momentum=0.02)
    decoded = codec.vae.decode(mean + (log_variance / 2).exp() * torch.randn_like(mean))
    error = decoded - real
    gradient = error.diff(dim=1).abs().mean() + error.diff(dim=2).abs().mean()
    kl = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
    total = error.abs().mean() + error.square().mean() + gradient + config.kl_weight * kl
    return total, decoded * config.mel_std + config.mel_mean, {"l1": error.abs().mean(), "kl": kl}


@torch.no_grad()
def tone_errors(codec: MelAutoencoder, device: torch.device) -> list[float]:
    """Return errors in cents of steady tones from 55 Hz to 1.8 kHz there and back, by peaks of a long spectrum."""
    time_ = torch.arange(CLIP, device=device) / RATE
    hertz = [55 * 2 ** (k / 3) for k in range(16)]
    tones = [sum(torch.sin(2 * math.pi * f * n * time_ + n) / n for n in range(1, 25) if f * n < 7800) for f in hertz]
    waves = torch.stack([0.6 * tone / tone.abs().max() for tone in tones])[:, None]
    made = codec.decode(codec.encode(waves))[:, 0]
    spectrum = torch.fft.rfft(made * torch.hann_window(CLIP, device=device), 4 * CLIP).abs()
    errors = []
    for k, f in enumerate(hertz):
        centers = [f * n * 4 * CLIP / RATE for n in (1, 2, 3)]
        peaks = [int(c * 0.97) + int(spectrum[k, int(c * 0.97) : int(c * 1.03)].argmax()) for c in centers]
        errors.append(round(sum(1200 * math.log2(p / c) for p, c in zip(peaks, centers, strict=True)) / 3, 1))
    return errors


def train_text(run: Run, base: Tensor, plan: SimpleNamespace, until: float) -> TextConditioner:
    """Train the text encoder on what its captions say and on averaged spectra of their clips."""
    text = TextConditioner(TextConditioner.Config.model_validate(TEXT)).to(run.device)
    raw = (run.data / "vocabulary.model").read_bytes()
    text.vocabulary = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    heads = nn.ModuleList(
        nn.ModuleList([nn.Linear(256, count), nn.Linear(16 * 192, count)]) for count in LABELS.values()
    ).to(run.device)
    weights = (1.0, 1.0, 0.5, 0.5, 0.7, 0.2, 0.2)
    labels = torch.from_numpy(plan.labels.astype(np.int64)).to(run.device)
    mel = MelSpectrogram(MelConfig(min_amplitude=1e-4))
    with torch.no_grad():
        parts = [(F.avg_pool1d(mel(part[:, None].float() / 32768), 8) + 6) / 3.5 for part in base.split(128)]
    targets = torch.cat(parts).transpose(1, 2)
    clip = torch.from_numpy(plan.item_base.astype(np.int64)).to(run.device)[plan.owner]
    clip = torch.where(clip < len(base), clip, -torch.ones_like(clip))
    batch = 1024 if run.is_gpu else 32
    others = [p for name, p in text.named_parameters() if name != "embedding.weight"] + list(heads.parameters())
    groups = [{"params": [text.embedding.weight], "peak": 1e-2}, {"params": others, "peak": 1e-3}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    average, stage = Average(text, 0.995), Stage(run, "text", until)
    chance = (plan.weight / plan.cap_count.clamp_min(1))[plan.owner].sqrt()
    while stage.goes_on():
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * stage.lr_factor(100, 0.3)
        rows = torch.multinomial(chance, batch, replacement=True)
        condition = text.encode_ids(plan.ids[rows], plan.ids[rows] != 0)
        total, terms = torch.zeros((), device=run.device), {}
        for k, name in enumerate(LABELS):
            for head, features in zip(heads[k], (condition.pooled, condition.context.flatten(1)), strict=True):
                logits = head(features)
                total = total + weights[k] * F.cross_entropy(logits, labels[rows, k], label_smoothing=0.02)
            terms[name] = (logits.argmax(1) == labels[rows, k]).float().mean()
        error, contrast = spectra_loss(text.to_target(condition.context), targets, clip[rows])
        optimizer.zero_grad(set_to_none=True)
        (total + error + contrast).backward()
        torch.nn.utils.clip_grad_norm_([*text.parameters(), *heads.parameters()], 1.0)
        optimizer.step()
        average.update()
        stage.step(lambda: {"error": error, "contrast": contrast, **terms})  # noqa: B023
    text.load_state_dict(average.state())
    run.save("text.safetensors", text.state_dict())
    return text.eval().requires_grad_(False)


def spectra_loss(predicted: Tensor, targets: Tensor, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Compute both terms of `core.contrastive_text` with the batch as negatives, without rows of clip -1."""
    has = clip >= 0
    if not bool(has.any()):
        zero = predicted.sum() * 0
        return zero, zero
    predicted, clip = predicted[has], clip[has]
    target = targets[clip]
    first, second = predicted.flatten(1), target.flatten(1)
    squares = first.square().mean(1)[:, None] + second.square().mean(1)[None]
    distances = squares - 2 * first @ second.T / first.shape[1]
    is_same = (clip[:, None] == clip[None]) & ~torch.eye(len(clip), dtype=torch.bool, device=clip.device)
    logits = (-25 * distances).masked_fill(is_same, float("-inf"))
    return F.mse_loss(predicted, target), F.cross_entropy(logits, torch.arange(len(clip), device=clip.device))


@torch.no_grad()
def encode_items(
    run: Run, codec: MelAutoencoder, plan: SimpleNamespace, base: Tensor, long: Tensor
) -> dict[int, tuple[Tensor, Tensor]]:
    """Compose and encode all items: latents (M, T, 40) in half precision and indices of the items, by length."""
    banks, slots = shifted_clips(run, plan, base, long)
    found = {}
    for length, samples in enumerate(LENGTHS):
        rows = np.flatnonzero(plan.item_len == length)
        if run.smoke:
            rows = rows[:: max(1, len(rows) // 6)][:6]
        # notes alone may be prolonged by repetition of their middle: never in a batch with phrases
        rows, step, parts = rows[np.argsort(plan.nn[rows], kind="stable")], 128 * CLIP // samples, []
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            for group in (part[plan.nn[part] == 1], part[plan.nn[part] > 1]):
                if len(group):
                    wave = compose(plan, group, banks, slots)
                    parts.append(codec.encode(wave[:, None]).transpose(1, 2).half())
        found[length] = (torch.cat(parts), torch.from_numpy(rows).to(run.device))
        run.say("latents", samples, tuple(found[length][0].shape))
    return found


def shifted_clips(
    run: Run, plan: SimpleNamespace, base: Tensor, long: Tensor
) -> tuple[tuple[Tensor, Tensor], NDArray[np.int64]]:
    """Resample each clip to the pitch shifts that notes need: both banks, and for each note its bank and row."""
    keys = np.stack([plan.src.astype(np.int64), plan.shift.astype(np.int64)], 1)
    if run.smoke and not run.is_gpu:  # only the first files were decoded
        is_base = keys[:, 0] < plan.num_base
        keys[:, 0] = np.where(is_base, keys[:, 0] % len(base), plan.num_base + (keys[:, 0] - plan.num_base) % len(long))
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    is_long = unique[:, 0] >= plan.num_base
    slots = np.zeros((len(unique), 2), np.int64)
    slots[:, 0] = is_long
    banks = []
    for bank, selected, offset in ((base, ~is_long, 0), (long, is_long, plan.num_base)):
        slots[selected, 1] = np.arange(selected.sum())
        rows = torch.from_numpy(unique[selected, 0] - offset).to(run.device)
        ratios = 2 ** (torch.from_numpy(unique[selected, 1].astype(np.float32)).to(run.device) / 12)
        shifted = torch.empty(len(rows), bank.shape[1], dtype=torch.int16, device=run.device)
        columns = torch.arange(bank.shape[1], device=run.device)[None]
        for start in range(0, len(rows), 128):
            wave, ratio = bank[rows[start : start + 128]].float(), ratios[start : start + 128]
            made = wave if run.smoke and not run.is_gpu else resampled(wave, ratio)
            made = torch.where((ratio == 1)[:, None], wave, made)
            # a clip that is sped up ends early: its end is faded
            end = (bank.shape[1] / ratio).clamp_max(bank.shape[1])[:, None]
            made = made * ((end - columns) / 800).clamp(0, 1)
            shifted[start : start + 128] = made.round().clamp(-32768, 32767).to(torch.int16)
        banks.append(shifted)
    return (banks[0], banks[1]), slots[inverse.reshape(-1)]


def compose(
    plan: SimpleNamespace, rows: NDArray[np.int64], banks: tuple[Tensor, Tensor], slots: NDArray[np.int64]
) -> Tensor:
    """Mix the notes of items of one length: (M, S) with the peak of their loudness."""
    device, samples = banks[0].device, LENGTHS[int(plan.item_len[rows[0]])]
    mixed = torch.zeros(len(rows), samples, device=device)
    time_ = torch.arange(samples, device=device)[None]

    def column(values: NDArray[Any], dtype: Any) -> Tensor:
        return torch.from_numpy(values.astype(dtype)).to(device)[:, None]

    for n in range(int(plan.nn[rows].max())):
        has_note = plan.nn[rows] > n
        notes = plan.first[rows] + np.minimum(n, plan.nn[rows] - 1)
        position = time_ - column(plan.start[notes], np.int64)
        hold, release = column(plan.hold[notes], np.int64), column(plan.rel[notes], np.float32) * RATE
        gain = column(plan.gain[notes] * has_note, np.float32)
        note = torch.zeros(len(rows), samples, device=device)
        for kind, bank in enumerate(banks):
            selected = np.flatnonzero(slots[notes, 0] == kind)
            if len(selected):
                index = torch.from_numpy(selected).to(device)
                row = torch.from_numpy(slots[notes[selected], 1]).to(device)[:, None]
                repeats = hold[index] < 9 * RATE - 1 if int(plan.nn[rows].max()) == 1 else None
                note[index] = read_clip(bank, row, position[index], repeats)
        envelope = ((hold + release - position) / release.clamp_min(1)).clamp(0, 1)
        envelope = torch.where(release > 0, envelope, torch.ones_like(envelope)) * (position >= 0)
        mixed += note * envelope * gain
    peak = column(plan.item_peak[rows], np.float32)
    mixed = mixed / 32768
    mixed = mixed * (peak / mixed.abs().amax(1, keepdim=True).clamp_min(1e-3))
    mixed[:, -800:] *= torch.linspace(1, 0, 800, device=device)
    return mixed


def read_clip(bank: Tensor, row: Tensor, position: Tensor, repeats: Tensor | None) -> Tensor:
    """Read clips of a bank at positions (M, S); where `repeats` (M, 1), the middle is repeated with a cross-fade."""
    length = bank.shape[1]
    if repeats is None or position.shape[1] <= length:
        inside = (position >= 0) & (position < length)
        return bank[row, position.clamp(0, length - 1)].float() * inside
    low, high, fade = (6000, 24000, 4000) if length == CLIP else (20000, 76000, 12000)
    period = high - low
    folded = torch.where(repeats & (position >= high), low + (position - low) % period, position)
    mix = ((folded - (high - fade)).float() / fade).clamp(0, 1) * (folded < high) * repeats
    value = bank[row, folded.clamp(0, length - 1)].float()
    ahead = bank[row, (folded - period).clamp(0, length - 1)].float()
    value = value * (1 - mix).sqrt() + ahead * mix.sqrt()
    return value * ((position >= 0) & (folded < length))


@torch.no_grad()
def encode_captions(run: Run, text: TextConditioner, plan: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """Encode all captions to contexts and pooled vectors in half precision; the last row is the empty caption."""
    contexts, pooled = [], []
    count = 256 if run.smoke and not run.is_gpu else len(plan.ids)
    empty = torch.ones(1, 1, dtype=torch.long, device=run.device)
    for ids in [*plan.ids[:count].split(2048), empty]:
        condition = text.encode_ids(ids, ids != 0)
        contexts.append(condition.context.half())
        pooled.append(condition.pooled.half())
    return torch.cat(contexts), torch.cat(pooled)


class Generator(nn.Module):
    """Backbone and head, by their names in a model."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = NextDiTBackbone(NextDiTBackbone.Config.model_validate(BACKBONE))
        sizes = {"hidden_size": 256, "token_dim": 80, "modulation_dim": self.backbone.modulation_dim}
        self.head = VelocityHead(VelocityHead.Config.model_validate(sizes))

    def forward(self, tokens: Tokens, t: Tensor, condition: Condition) -> Tensor:
        """Return the velocity."""
        return self.head(self.backbone(tokens, t, condition), tokens)


def train_generator(
    run: Run,
    latents: Mapping[int, tuple[Tensor, Tensor]],
    plan: SimpleNamespace,
    texts: tuple[Tensor, Tensor],
    until: float,
) -> None:
    """Train the generator by flow matching, a batch of one length each step."""
    contexts, pooled = texts
    empty = len(contexts) - 1
    model = Generator().to(run.device)
    settings = TrainingConfig(
        optimizer="muon",
        lr=2e-3,
        lr_overrides={"gate": 1e-2, "modulation": 4e-3, "pooled_embed": 4e-3},
        muon_lr=8e-3,
        betas=(0.9, 0.98),
    )
    optimizers, average = build_optimizers(model, settings), Average(model, 0.9985)
    stage = Stage(run, "generator", until, lambda: run.save("generator.safetensors", average.state()))
    chance, recent = random.Random(1), {}
    autocast = torch.autocast("cuda", dtype=torch.bfloat16, enabled=run.is_gpu)
    while stage.goes_on():
        optimizers.set_lr_factor(stage.lr_factor(100, 0.4))
        (length,) = chance.choices(range(len(LENGTHS)), SHARES)
        values, items = latents[length]
        batch = BATCHES[length] if run.is_gpu else 2
        picked = torch.multinomial(plan.weight[items], batch, replacement=True)
        data = patchify(values[picked].float())
        owner = items[picked]
        caption = plan.cap_first[owner] + (torch.rand(batch, device=run.device) * plan.cap_count[owner]).long()
        is_dropped = torch.rand(batch, device=run.device) < 0.1
        caption = torch.where(is_dropped, torch.full_like(caption, empty), caption.clamp_max(empty))
        condition = Condition(context=contexts[caption].float(), pooled=pooled[caption].float())
        t = torch.sigmoid(-1.0 + 1.2 * torch.randn(batch, device=run.device))[:, None, None]
        noise = torch.randn_like(data)
        positions = torch.zeros(batch, data.shape[1], 3, device=run.device)
        positions[..., 0] = torch.arange(data.shape[1], device=run.device)
        tokens = Tokens(t * data + (1 - t) * noise, positions, ((values.shape[1],),) * batch)
        with autocast:
            predicted = model(tokens, t[:, 0, 0], condition)
        loss = (predicted.float() - (data - noise)).square().mean()
        optimizers.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step()
        average.update()
        recent[length] = recent.get(length, loss.detach()).lerp(loss.detach(), 0.05)
        stage.step(lambda: {f"loss {LENGTHS[key] / RATE:.3f} s": value for key, value in recent.items()})
    run.save("generator.safetensors", average.state())


def patchify(latent: Tensor) -> Tensor:
    """Map (B, T, C) to tokens (B, T / 2, 2 C), ordered (channel, time) as `audio.patchify` does."""
    batch, frames, channels = latent.shape
    return latent.transpose(1, 2).reshape(batch, channels, frames // 2, 2).transpose(1, 2).flatten(2)


if __name__ == "__main__":
    main()
