"""Train a picture model of emoji on one GPU in one go: autoencoder, text encoder, generator.

    python benchmarks/train_on_gpu.py --out runs/gpu --font NotoColorEmoji.ttf    # 8 minutes on one H100
    python benchmarks/train_on_gpu.py --out runs/smoke --smoke                    # a few steps of everything on a CPU

The three stages share the time of `--seconds`, and the learning rates follow the clock: the result is a whole model
whatever the speed. It ends as a model folder, `OUT/model`. `lumina train` draws examples one by one, which a GPU
outruns; here drawings, latents and token ids are tensors on the device, and batches are drawn there.

Data: the drawings of lumina-image in two styles at 64 px, and with `--font` (Debian's fonts-noto-color-emoji) those of
the first style at 128 px, from which sizes up to 128 px and shapes of 2:1 are made. Held-out combinations are left out
of everything, and 5 % of the emoji out of the training of the autoencoder.

The objective is that of docs/experiments/latent-model.md: data prediction with a loss of velocities, times near noise,
and a text encoder that predicts whole latents. No network is needed. Give the GPU to this script alone: with five other
trainings on one H200 the autoencoder made 200 steps in its time (docs/experiments/latent-model.md).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from lumina_core.conditioning.text import TextConditioner
from lumina_core.model import Model, build_model
from lumina_core.model_dir import save_model
from lumina_core.recipe import Recipe, read_recipe
from lumina_core.training.optim import zeropower_via_newtonschulz
from lumina_core.types import Tokens
from lumina_image.autoencoders.small import SmallAutoencoder
from lumina_image.datasets import emoji_data
from lumina_image.datasets.emoji import STYLE_NAMES, EmojiDataset

RECIPE = {
    "schema_version": 2,
    "task": {"type": "image.text_to_image", "image_size": 64},
    "dataset": {"type": "image.emoji", "english_prob": 0.3, "name_only_prob": 0.85, "styles": ["noto", "fluent"]},
    "autoencoder": {
        "type": "image.small",
        "latent_channels": 24,
        "base_channels": 48,
        "pixel_unshuffle_factor": 2,
        "num_downsamples": 2,
        "num_decoder_blocks": 2,
    },
    "tokenizer": {"type": "image.patchify", "patch_size": 1},
    "conditioners": [
        {"field": "caption", "type": "core.text", "num_latents": 16, "target_dim": 96, "expand_dim": 768},
    ],
    "backbone": {
        "type": "core.next_dit",
        "hidden_size": 256,
        "num_layers": 7,
        "num_heads": 4,
        "rope_axes_dim": [0, 32, 32],
        "rope_layout": "interleaved",
        "multiple_of": 64,
    },
    "head": {"type": "core.velocity"},
    "objective": {
        "type": "core.flow_matching",
        "prediction": "data",
        "time_sampler": {"type": "core.logit_normal", "mean": -1.6, "std": 1.2},
    },
    "sampling": {"schedule": {"type": "core.shift_schedule", "shift": 3.0}, "guidance_scale": 3.0},
}
STAGES = {"autoencoder": 0.3, "text": 0.12, "generator": 0.58}
"""Shares of the time."""

CAPTIONS = 160
"""Captions of each emoji, drawn once."""

RECOLORED = 10
"""Recolored drawings of each object, drawn once."""

MAX_TOKENS = 40
SHAPES = {"64x64": (8, 8), "96x96": (12, 12), "128x128": (16, 16), "128x64": (8, 16), "64x128": (16, 8)}
"""Width x height in pixels -> rows and columns of the latent."""

SHAPE_PROBS = {"64x64": 0.6, "96x96": 0.12, "128x128": 0.18, "128x64": 0.05, "64x128": 0.05}
MEAN_TIME, STD_TIME, MIN_SIGMA = -1.6, 1.2, 0.05
SECOND_STYLE_PROB, COND_DROPOUT = 0.35, 0.1


@dataclass
class Clock:
    """The time of one stage: the share that has passed, and the factor of the learning rate.

    Args:
        end: seconds since the start of the script at which the stage ends.
        max_steps: ends the stage earlier, for `--smoke`.
    """

    end: float
    max_steps: int | None = None
    start: float = field(default_factory=time.monotonic)
    steps: int = 0

    def steps_left(self) -> Iterator[float]:
        """Iterate over the steps of the stage; each gives the factor of the learning rate."""
        while (share := self.share()) < 1:
            self.steps += 1
            yield min(1.0, self.steps / 100) * (1.0 if share < 0.35 else max(0.0, (1 - share) / 0.65))

    def share(self) -> float:
        """Return the share of the stage that has passed."""
        if self.max_steps is not None:
            return self.steps / self.max_steps
        return (time.monotonic() - self.start) / max(1e-6, self.end - self.start)


class Updates:
    """AdamW for vectors, Muon for matrices and convolutions, and a moving average of all weights.

    Args:
        groups: (weights, learning rate, whether Muon trains them).
        decay: of the average.
    """

    def __init__(self, groups: Sequence[tuple[list[nn.Parameter], float, bool]], decay: float = 0.999) -> None:
        self.groups = [group for group in groups if group[0]]
        self.weights: list[Tensor] = [weight for weights, _, _ in self.groups for weight in weights]
        adamw = [{"params": weights, "lr": lr, "peak": lr} for weights, lr, uses_muon in self.groups if not uses_muon]
        self.adamw = torch.optim.AdamW(adamw, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        self.momenta = {
            weight: torch.zeros_like(weight) for ws, _, uses_muon in self.groups if uses_muon for weight in ws
        }
        self.averages, self.decay, self.steps = [weight.detach().clone() for weight in self.weights], decay, 0

    @torch.no_grad()
    def step(self, lr_factor: float) -> None:
        """Clip the gradients, update weights and averages, and delete the gradients."""
        nn.utils.clip_grad_norm_(self.weights, 1.0, foreach=True)
        for group in self.adamw.param_groups:
            group["lr"] = group["peak"] * lr_factor
        self.adamw.step()
        for weights, lr, uses_muon in self.groups:
            if uses_muon:
                self._muon_step([weight for weight in weights if weight.grad is not None], lr * lr_factor)
        for weight in self.weights:
            weight.grad = None
        torch._foreach_lerp_(self.averages, self.weights, 1 - min(self.decay, (1 + self.steps) / (10 + self.steps)))
        self.steps += 1

    @torch.no_grad()
    def use_averages(self) -> None:
        """Put the averages in place of the weights."""
        torch._foreach_copy_(self.weights, self.averages)

    def _muon_step(self, weights: Sequence[nn.Parameter], lr: float) -> None:
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for weight in weights:
            by_shape.setdefault(weight.shape, []).append(weight)
        for same in by_shape.values():
            updates = []
            for weight in same:
                assert weight.grad is not None
                momentum = self.momenta[weight].lerp_(weight.grad, 0.05)
                updates.append(weight.grad.lerp(momentum, 0.95).flatten(1))
            stacked = torch.stack(updates)
            scale = 0.2 * lr * max(stacked.shape[-2:]) ** 0.5
            for weight, update in zip(same, zeropower_via_newtonschulz(stacked), strict=True):
                weight.mul_(1 - 0.05 * lr).add_(update.view_as(weight), alpha=-scale)


class Log:
    """A line on the terminal and a row of OUT/log.csv every few seconds."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w", newline="", encoding="utf-8")
        self.writer = csv.writer(self.file)
        self.writer.writerow(("stage", "seconds", "step", "loss", "items_per_second"))
        self.start = self.last = time.monotonic()
        self.total, self.count, self.items = torch.zeros(()), 0, 0

    def add(self, stage: str, step: int, loss: Tensor, items: int, seconds: float = 10.0) -> None:
        """Add a step; the loss is read from the device only when a line is written."""
        self.total = self.total.to(loss.device) + loss.detach()
        self.count, self.items = self.count + 1, self.items + items
        now = time.monotonic()
        if now - self.last >= seconds or step == 1:
            mean, rate = float(self.total) / self.count, self.items / max(1e-6, now - self.last)
            print(f"{now - self.start:6.1f} s  {stage} step {step}  loss {mean:.4f}  {rate:.0f} items/s", flush=True)
            self.writer.writerow((stage, f"{now - self.start:.1f}", step, f"{mean:.5f}", f"{rate:.1f}"))
            self.file.flush()
            self.last, self.total, self.count, self.items = now, torch.zeros(()), 0, 0


# ----------------------------------------------------------------------------------------------------------------- data


@dataclass
class Drawings:
    """Drawings (N, H, W, 3) uint8 by size and style, and which emoji have one."""

    pixels: dict[tuple[str, str], NDArray[np.uint8]]
    has_fluent: NDArray[np.bool_]


def load_drawings(font: Path | None) -> Drawings:
    """Load both styles at 64 px, and with a font the first style at the other sizes of `SHAPES`."""
    fluent, has_fluent = emoji_data.load_fluent_images()
    pixels = {("64x64", "noto"): emoji_data.load_images(), ("64x64", "fluent"): fluent}
    if font is not None:
        large = _draw_all(font)
        pixels["128x128", "noto"] = large
        pixels["96x96", "noto"] = emoji_data.resize(large, 96)
        for shape in ("128x64", "64x128"):
            for style in ("noto", "fluent"):
                pixels[shape, style] = _on_canvas(pixels["64x64", style], SHAPES[shape])
    return Drawings(pixels, has_fluent)


def _draw_all(font: Path) -> NDArray[np.uint8]:
    """Draw all emoji at 128 px; one that the font lacks is enlarged from 64 px."""
    face = ImageFont.truetype(str(font), 109, layout_engine=ImageFont.Layout.RAQM)
    drawn = []
    for record, small in zip(emoji_data.load_records(), emoji_data.load_images(), strict=True):
        canvas = Image.new("RGB", (136, 128), "white")
        characters = "".join(chr(int(part, 16)) for part in record["code"].split("-"))
        ImageDraw.Draw(canvas).text((0, 0), characters, font=face, embedded_color=True)
        image = np.asarray(canvas.crop((4, 0, 132, 128)))
        is_blank = (image < 250).mean() < 0.001
        drawn.append(emoji_data.resize(small[None], 128)[0] if is_blank else image)
    return np.stack(drawn)


def _on_canvas(images: NDArray[np.uint8], latent_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Center images of 64 px on a white canvas."""
    height, width = (8 * side for side in latent_size)
    canvas = np.full((len(images), height, width, 3), 255, np.uint8)
    top, left = (height - 64) // 2, (width - 64) // 2
    canvas[:, top : top + 64, left : left + 64] = images
    return canvas


def is_held_out_of_autoencoder() -> NDArray[np.bool_]:
    """Return the 5 % of emoji, whole families, that the autoencoder is measured on."""
    digests = (hashlib.sha256(("latents" + record["base"]).encode()).digest() for record in emoji_data.load_records())
    return np.array([digest[0] < 13 for digest in digests])


def as_tensor(images: NDArray[np.uint8]) -> Tensor:
    """Convert images (N, H, W, 3) to (N, 3, H, W) uint8."""
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).contiguous()


@dataclass
class Captions:
    """Token ids of captions, on the device.

    Attributes:
        ids: (R, K, L) of each record of the training split; the first half of K names no style, the third quarter the
            first one, the last the second.
        labels: (R,) index of the emoji.
        probs: (R,) sampling weight.
        color_ids: (M, 1, L) of recolored drawings.
        null_ids: (L,) of the empty caption.
    """

    ids: Tensor
    labels: Tensor
    probs: Tensor
    color_ids: Tensor
    null_ids: Tensor


def draw_captions(
    dataset: EmojiDataset, text: TextConditioner, count: int, is_smoke: bool
) -> tuple[Captions, NDArray[np.uint8]]:
    """Draw captions of all emoji, and recolored drawings with theirs; for a smoke test, of a few."""
    rng = random.Random(0)
    indices = range(40) if is_smoke else range(len(dataset))
    rows = []
    for index in indices:
        row = []
        for k in range(count):
            style = "" if k < count // 2 else "noto" if k < 3 * count // 4 else "fluent"
            end = f", {rng.choice(STYLE_NAMES[style])}" if style else ""
            row.append(text.token_ids(dataset._sample_caption(dataset.records()[index], rng) + end)[:MAX_TOKENS])
        rows.append(row)
    recolored, color_rows = [], []
    for index in range(len(dataset) // 2, len(dataset), 50 if is_smoke else 1):  # people come first, objects after them
        for _ in range(RECOLORED):
            found = dataset._sample_color(index, dataset.images()[index], rng)
            if found is not None:
                recolored.append(found[0])
                color_rows.append([text.token_ids(found[1])[:MAX_TOKENS]])
    labels = torch.tensor(dataset.values("label"))[list(indices)]
    probs = torch.tensor([dataset.weight(index) for index in indices])
    null_ids = _padded([[text.token_ids("")]])[0, 0]
    return Captions(_padded(rows), labels, probs, _padded(color_rows), null_ids), np.stack(recolored)


def _padded(rows: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    ids = torch.zeros(len(rows), len(rows[0]), MAX_TOKENS, dtype=torch.int16)
    for r, row in enumerate(rows):
        for k, one in enumerate(row):
            ids[r, k, : len(one)] = torch.tensor(one, dtype=torch.int16)
    return ids


# --------------------------------------------------------------------------------------------------------------- stages


def train_autoencoder(autoencoder: SmallAutoencoder, drawings: Drawings, clock: Clock, batch: int, log: Log) -> None:
    """Train the autoencoder on both styles and sizes, with noise on the latents and an averaged half of the batch."""
    device = autoencoder.mean.device
    kept = ~is_held_out_of_autoencoder()
    small = torch.cat(
        [
            as_tensor(drawings.pixels["64x64", "noto"][kept]),
            as_tensor(drawings.pixels["64x64", "fluent"][kept & drawings.has_fluent]),
        ]
    ).to(device)
    large = drawings.pixels.get(("128x128", "noto"))
    pools = [small] if large is None else [small, small, small, as_tensor(large[kept]).to(device)]
    ends = {"encoder.0.weight", f"encoder.{len(autoencoder.encoder) - 1}.weight"}
    ends.add(f"decoder.{len(autoencoder.decoder) - 1}.weight")
    named = list(autoencoder.named_parameters())
    inner = [weight for name, weight in named if weight.ndim == 4 and name not in ends]
    rest = [weight for name, weight in named if weight.ndim != 4 or name in ends]
    updates = Updates([(rest, 1.5e-3, False), (inner, 4e-3, True)], decay=0.998)
    for lr_factor in clock.steps_left():
        pool = pools[clock.steps % len(pools)]
        count = batch if pool is small else max(1, batch // 4)
        data = augment(pool[torch.randint(len(pool), (count,), device=device)])
        with torch.autocast(device.type, torch.bfloat16):
            raw = autoencoder.encoder(F.pixel_unshuffle(data, autoencoder.config.pixel_unshuffle_factor))
            latent = F.batch_norm(raw.float(), autoencoder.mean, autoencoder.variance, training=True, momentum=0.02)
            std = 0.02 + 0.33 * torch.rand(count, 1, 1, 1, device=device).square()
            error = autoencoder.decode(latent + std * torch.randn_like(latent)).float() - data
            part = slice((count + 2) // 3)
            coarse_error = autoencoder.decode(F.avg_pool2d(latent[part], 2)).float() - F.avg_pool2d(data[part], 2)
        gradient = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        coarse = coarse_error.abs().mean() + coarse_error.square().mean()
        loss = error.abs().mean() + 2 * error.square().mean() + 0.5 * gradient + 0.2 * coarse
        loss.backward()
        updates.step(lr_factor)
        log.add("autoencoder", clock.steps, loss, count)
    updates.use_averages()
    autoencoder.eval().requires_grad_(False)
    raw = encode(autoencoder, small, normalized=False)
    autoencoder.mean.copy_(raw.mean((0, 2, 3)))
    autoencoder.variance.copy_(raw.var((0, 2, 3)))


def augment(images: Tensor) -> Tensor:
    """Convert images (B, 3, H, W) uint8 to [-1, 1]; flip half, and rotate, scale and shift a third of them."""
    data = images.float() / 127.5 - 1
    count, device = len(data), data.device
    data = torch.where(torch.rand(count, 1, 1, 1, device=device) < 0.5, data.flip(-1), data)
    moved = max(1, count // 3)
    scale = torch.exp((2 * torch.rand(moved, device=device) - 1) * math.log(1.6))
    angle = 0.8 * (torch.rand(moved, device=device) - 0.5)
    matrix = torch.zeros(moved, 2, 3, device=device)
    matrix[:, 0, 0], matrix[:, 0, 1] = scale * angle.cos(), -scale * angle.sin()
    matrix[:, 1, 0], matrix[:, 1, 1] = scale * angle.sin(), scale * angle.cos()
    matrix[:, :, 2] = 0.5 * (torch.rand(moved, 2, device=device) - 0.5)
    grid = F.affine_grid(matrix, [moved, *data.shape[1:]], align_corners=False)
    # white, not black, comes in at the borders
    warped = F.grid_sample(data[:moved] - 1, grid, mode="bicubic", align_corners=False).add(1).clamp(-1, 1)
    return torch.cat([warped, data[moved:]])


@torch.no_grad()
def encode(autoencoder: SmallAutoencoder, images: Tensor, normalized: bool = True, chunk: int = 256) -> Tensor:
    """Encode images (N, 3, H, W) uint8 in chunks to latents, float32."""
    device, latents = autoencoder.mean.device, []
    for start in range(0, len(images), chunk):
        data = images[start : start + chunk].to(device).float() / 127.5 - 1
        with torch.autocast(device.type, torch.bfloat16):
            raw = autoencoder.encoder(F.pixel_unshuffle(data, autoencoder.config.pixel_unshuffle_factor)).float()
        latents.append(F.batch_norm(raw, autoencoder.mean, autoencoder.variance) if normalized else raw)
    return torch.cat(latents)


@torch.no_grad()
def reconstruction_psnr(autoencoder: SmallAutoencoder, images: NDArray[np.uint8], chunk: int = 64) -> float:
    """Return the mean PSNR in dB of images (N, H, W, 3) there and back, in 8 bits."""
    values = []
    for start in range(0, len(images), chunk):
        levels = as_tensor(images[start : start + chunk]).to(autoencoder.mean.device)
        back = autoencoder.decode(encode(autoencoder, levels)).add(1).mul(127.5).round().clamp(0, 255)
        mse = ((back - levels.float()) / 255).square().flatten(1).mean(1)
        values.append(-10 * mse.clamp_min(1e-10).log10())
    return float(torch.cat(values).mean())


class Batches:
    """Batches of token ids and latents, drawn on the device."""

    def __init__(self, captions: Captions, latents: dict[tuple[str, str], Tensor], colors: Tensor, has: Tensor) -> None:
        self.captions, self.latents, self.colors, self.has_fluent = captions, latents, colors, has
        self.device = has.device

    def draw(self, count: int, shape: str, dropout: float, color_share: float = 0.08) -> tuple[Tensor, Tensor, Tensor]:
        """Draw ids (B, L), latents (B, C, h, w), and whether each caption is a real one (B,)."""
        captions, device = self.captions, self.device
        row = torch.multinomial(captions.probs, count, replacement=True)
        num_captions = captions.ids.shape[1]
        k = torch.randint(num_captions, (count,), device=device)
        label = captions.labels[row]
        has_fluent = self.has_fluent[label] & ((shape, "fluent") in self.latents)
        drawn_second = torch.rand(count, device=device) < SECOND_STYLE_PROB
        # a caption that names a drawing which does not exist becomes one that names no style
        k = torch.where((k >= 3 * num_captions // 4) & ~has_fluent, k % (num_captions // 2), k)
        second = has_fluent & torch.where(k < num_captions // 2, drawn_second, k >= 3 * num_captions // 4)
        ids, latent = captions.ids[row, k], self.latents[shape, "noto"][label]
        if (shape, "fluent") in self.latents:
            latent = torch.where(second[:, None, None, None], self.latents[shape, "fluent"][label], latent)
        if shape == "64x64" and len(self.colors):
            recolored = int(count * color_share)
            index = torch.randint(len(self.colors), (recolored,), device=device)
            ids = torch.cat([captions.color_ids[index, 0], ids[recolored:]])
            latent = torch.cat([self.colors[index], latent[recolored:]])
        is_real = torch.rand(count, device=device) >= dropout
        return torch.where(is_real[:, None], ids, captions.null_ids).long(), latent, is_real


def latent_patches(latent: Tensor) -> Tensor:
    """Split latents (B, C, h, w) into patches of 2x2, (B, h w / 4, 4 C), which the text encoder predicts."""
    patches = latent.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5)
    return patches.flatten(3).flatten(1, 2)


def train_text(text: TextConditioner, batches: Batches, clock: Clock, batch: int, log: Log) -> None:
    """Train the text encoder to predict the latent of a caption, and to tell it from all others."""
    small = [latent for (shape, _), latent in batches.latents.items() if shape == "64x64"]
    bank = torch.cat([latent_patches(latent.float()).flatten(1) for latent in small])
    bank_squares, width = bank.square().mean(1), bank.shape[1]
    updates = Updates(text_groups(text, 1.5e-3, 1e-2, 3e-3), decay=0.998)
    for lr_factor in clock.steps_left():
        ids, latent, _ = batches.draw(batch, "64x64", 0.02, 0.05)
        target = latent_patches(latent.float()).flatten(1)
        with torch.autocast(batches.device.type, torch.bfloat16):
            predicted = text.predict_targets(text.encode_ids(ids, ids != 0)).float().flatten(1)
            products = (predicted @ bank.T).float() * (2 / width)
            target_products = (target @ bank.T).float() * (2 / width)
        error = (predicted - target).square().mean(1)
        distances = predicted.square().mean(1)[:, None] + bank_squares - products
        is_same = target.square().mean(1)[:, None] + bank_squares - target_products < 0.02
        logits = torch.cat([-10 * error[:, None], (-10 * distances).masked_fill(is_same, float("-inf"))], dim=1)
        loss = error.mean() + 0.2 * (logits.logsumexp(1) + 10 * error).mean()
        loss.backward()
        updates.step(lr_factor)
        log.add("text", clock.steps, loss, batch)
    updates.use_averages()


def text_groups(
    text: TextConditioner, lr: float, embedding_lr: float, muon_lr: float
) -> list[tuple[list[nn.Parameter], float, bool]]:
    """Return the groups of the text encoder: rare tokens need a larger learning rate."""
    named = list(text.named_parameters())
    excluded = text.no_muon() | {"position_embedding"}
    matrices = [weight for name, weight in named if weight.ndim == 2 and name not in excluded]
    rest = [w for n, w in named if n != "embedding.weight" and not any(w is matrix for matrix in matrices)]
    embedding = [weight for name, weight in named if name == "embedding.weight"]
    return [(rest, lr, False), (embedding, embedding_lr, False), (matrices, muon_lr, True)]


def train_generator(model: Model, text: TextConditioner, batches: Batches, clock: Clock, batch: int, log: Log) -> None:
    """Train backbone and head on all shapes, the text encoder at a third of its rate."""
    backbone, head = model.backbone, model.head
    assert isinstance(backbone, nn.Module) and isinstance(head, nn.Module)
    named = [*backbone.named_parameters(), *head.named_parameters()]
    excluded = {*backbone.no_muon(), *head.no_muon()}
    matrices = [w for n, w in named if w.ndim == 2 and n not in excluded and "embed" not in n]
    modulation = [w for n, w in named if "modulation" in n or "pooled_embed" in n]
    taken = {id(weight) for weight in (*matrices, *modulation)}
    rest = [weight for _, weight in named if id(weight) not in taken]
    groups = [(rest, 1.5e-3, False), (modulation, 3e-3, False), (matrices, 4e-3, True)]
    updates = Updates([*groups, *text_groups(text, 5e-4, 2e-3, 1e-3)], decay=0.9995)
    shapes = [shape for shape in SHAPES if (shape, "noto") in batches.latents]
    rng = random.Random(0)
    for lr_factor in clock.steps_left():
        shape = rng.choices(shapes, [SHAPE_PROBS[shape] for shape in shapes])[0]
        rows, columns = SHAPES[shape]
        count = max(1, batch * 64 // (rows * columns))
        ids, latent, is_real = batches.draw(count, shape, COND_DROPOUT)
        empty = model.tokenizer.patchify(latent.float())
        data = empty.values
        # more tokens: times nearer noise, as a larger drawing hides noise better
        shift = 0.5 * math.log(rows * columns / 64)
        t = torch.sigmoid(STD_TIME * torch.randn(count, device=batches.device) + MEAN_TIME - shift)
        x_t = torch.lerp(torch.randn_like(data), data, t[:, None, None])
        with torch.autocast(batches.device.type, torch.bfloat16):
            condition = text.encode_ids(ids, ids != 0)
            tokens = Tokens(x_t, empty.positions, empty.sizes)
            predicted = head(backbone(tokens, t, condition), tokens).float()
            prior = text.predict_targets(condition).float() if shape == "64x64" else None
        loss = ((predicted - data) / (1 - t[:, None, None]).clamp_min(MIN_SIGMA)).square().mean()
        total = loss
        if prior is not None:
            error = (prior - latent_patches(latent.float())).square().mean((1, 2))
            total = loss + 0.1 * (error * is_real).sum() / is_real.sum().clamp_min(1)
        total.backward()
        updates.step(lr_factor)
        log.add(f"generator {shape}", clock.steps, loss, count)
    updates.use_averages()


def main() -> int:
    """Train all stages, and write a model folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the log and the model")
    parser.add_argument("--seconds", type=float, default=470, help="time of everything (default: 470)")
    parser.add_argument("--font", type=Path, help="NotoColorEmoji.ttf, for sizes above 64 px")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--batch",
        type=int,
        default=256,
        help="drawings of 64 px a step of the generator; more steps do more than larger batches",
    )
    parser.add_argument("--smoke", action="store_true", help="three steps of each stage, to test this script")
    options = parser.parse_args()
    start, device = time.monotonic(), torch.device(options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    log, max_steps = Log(options.out / "log.csv"), 3 if options.smoke else None
    batch = 8 if options.smoke else options.batch

    recipe: Recipe = read_recipe(RECIPE, "train_on_gpu.py")
    model = build_model(recipe)
    text, autoencoder = model.conditioners["caption"], model.autoencoder
    assert isinstance(text, TextConditioner) and isinstance(autoencoder, SmallAutoencoder)
    dataset = EmojiDataset(EmojiDataset.Config(**{k: v for k, v in RECIPE["dataset"].items() if k != "type"}))  # type: ignore[attr-defined]
    text.fit(dataset.values("caption")[: 20000 if options.smoke else None])
    captions, recolored = draw_captions(dataset, text, 8 if options.smoke else CAPTIONS, options.smoke)
    drawings = load_drawings(options.font)
    model.to(device)

    ready = time.monotonic()
    left = options.seconds - (ready - start) - 10
    ends = np.cumsum(list(STAGES.values())) * left + ready
    train_autoencoder(autoencoder, drawings, Clock(float(ends[0]), max_steps), max(8, batch // 8), log)
    held_out = drawings.pixels["64x64", "noto"][is_held_out_of_autoencoder()]
    print(
        f"held-out reconstruction {reconstruction_psnr(autoencoder, held_out[: 8 if options.smoke else None]):.2f} dB"
    )

    limit = 400 if options.smoke else None
    latents = {key: encode(autoencoder, as_tensor(p[:limit])).bfloat16() for key, p in drawings.pixels.items()}
    on_device = Captions(*(value.to(device) for value in vars(captions).values()))
    colors = encode(autoencoder, as_tensor(recolored[:limit])).bfloat16()
    batches = Batches(on_device, latents, colors, torch.tensor(drawings.has_fluent, device=device))
    train_text(text, batches, Clock(float(ends[1]), max_steps), 4 * batch, log)
    if device.type == "cuda":
        model.backbone.compile_blocks(dynamic=False)  # type: ignore[union-attr]
    train_generator(model, text, batches, Clock(float(ends[2]), max_steps), batch, log)
    save_model(model, options.out / "model", dtype=torch.float16)
    print(f"wrote {options.out / 'model'} after {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
