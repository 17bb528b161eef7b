"""Train a recipe of views within a time limit: shapes rendered all the time, bfloat16, decay by the wall time.

    python packages/lumina-3d/scripts/train_views.py --seconds 7200 --out runs/views --init 3d.views --lr-factor 0.5

The architecture, the optimizer and the saved folder are those of `lumina train 3d.views`. What differs: new shapes
replace the oldest ones of a pool, so that no shape is seen for long; all objects of a step have as many generated and
as many given views, so that nothing is padded; the learning rate falls with the wall time, so that the model is
finished when the time is over, whatever the speed. Before that, `--words` trains the text encoder alone to tell
classes, attributes and main colours from captions, without pictures. Needs embreex.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from train_points import in_bfloat16, make_parser, save

from lumina_3d.families.captions import random_caption
from lumina_3d.families.shapes import ATTRIBUTES, COLORS, FAMILIES, make_shape
from lumina_3d.views.camera_encoding import CameraBatch
from lumina_3d.views.scenes import random_cameras, random_rig, render_views
from lumina_core.conditioning.ops import join
from lumina_core.data.words import count_words, write_words
from lumina_core.device import autocast, resolve_dtype
from lumina_core.model import build_dataset, build_model
from lumina_core.model_dir import load_model, matching_weights
from lumina_core.plugins.loader import load_plugins
from lumina_core.recipe import Recipe
from lumina_core.training.optim import build_optimizers

PICTURES, LENGTH, CAPTIONS, POSITIONS = 14, 32, 4, 16
VIEWS = ((2, 0), (4, 1), (2, 0), (4, 1), (2, 0), (4, 2), (2, 0), (4, 1), (4, 0), (3, 3), (2, 0), (4, 1))
"""Generated and given views of each step, in turn; without a given one, fewer views are of more shapes."""
CAPTION_DROPOUT, CAPTION_DROPOUT_GIVEN, POSE_DROPOUT = 0.12, 0.5, 0.04


def draw_shapes(first: int, size: int, vocabulary: bytes) -> Iterator[tuple[Any, ...]]:
    """Yield without end: pictures (14, size, size, 4) uint8, poses (14, 3, 4), focal length, token ids of captions."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=vocabulary)
    for index in itertools.count(first):
        shape = make_shape(FAMILIES[index % len(FAMILIES)], index // len(FAMILIES), "train")
        rng = np.random.default_rng((9, index))
        cameras = random_cameras(random_rig(rng), PICTURES, rng)
        rgba = render_views(shape.mesh, cameras, size).astype(np.float32)
        alpha = rgba[..., 3:] / 255
        rgba[..., :3] = np.round(rgba[..., :3] * alpha + 255 * (1 - alpha))
        ids = np.zeros((CAPTIONS, LENGTH), dtype=np.int32)
        for row in ids:
            tokens = [1, *processor.encode(random_caption(shape, rng))][:LENGTH]
            row[: len(tokens)] = tokens
        yield rgba.astype(np.uint8), np.stack([camera.pose[:3] for camera in cameras]), cameras[0].focal, ids


class Pool:
    """Pictures, cameras and captions of shapes: new ones replace the oldest."""

    def __init__(self, shapes: int, size: int, vocabulary: bytes, first: int) -> None:
        self.drawn, self.shapes = 0, draw_shapes(first, size, vocabulary)
        self.pictures = torch.empty(shapes, PICTURES, size, size, 4, dtype=torch.uint8)
        self.poses = torch.empty(shapes, PICTURES, 3, 4)
        self.focals = torch.empty(shapes)
        self.ids = torch.empty(shapes, CAPTIONS, LENGTH, dtype=torch.int32)

    @property
    def filled(self) -> int:
        """Number of shapes that are there."""
        return min(self.drawn, len(self.pictures))

    def refresh(self) -> None:
        """Draw one shape."""
        pictures, poses, focal, ids = next(self.shapes)
        row = self.drawn % len(self.pictures)
        self.pictures[row], self.poses[row] = torch.from_numpy(pictures), torch.from_numpy(poses).float()
        self.focals[row], self.ids[row] = focal, torch.from_numpy(ids)
        self.drawn += 1


def main() -> None:
    parser = make_parser(__doc__, "3d.views", 8)
    parser.add_argument("--new-shapes", type=int, default=2, help="steps between two new shapes")
    parser.add_argument("--steps", type=int, help="end after so many steps, whatever the time")
    parser.add_argument(
        "--words", type=float, default=0, help="seconds in which the text encoder learns the words first"
    )
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args(), time.time())


def train(args: argparse.Namespace, start: float) -> None:
    """Train until the time is over, and save the average of the weights."""
    registry, device = load_plugins(), torch.device(args.device)
    precision = resolve_dtype("auto", device)
    recipe = Recipe.load(args.recipe, registry=registry)
    torch.manual_seed(args.seed)
    model: Any = build_model(recipe, registry)
    if args.init is not None:
        model.load_state_dict(matching_weights(model, load_model(args.init, registry).state_dict()), strict=False)
    model.float().train()
    text, views = model.conditioners_by_field["caption"], model.conditioners_by_field["cameras"]
    if args.init is None or args.words:
        text.fit(build_dataset(recipe, registry).values("caption"))
    if args.words:
        learn_words(text, args.words)
    pool = Pool(args.shapes, model.task.config.image_size, bytes(text.vocabulary.numpy()), args.first)
    null = torch.zeros(LENGTH, dtype=torch.int32)
    null[: len(text.token_ids(""))] = torch.tensor(text.token_ids(""), dtype=torch.int32)
    model.to(device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in parameters]
    optimizers = build_optimizers(model, recipe.training)
    if device.type == "cpu":
        in_bfloat16(optimizers)
    time_sampler = model.objective.time_sampler.config
    args.out.mkdir(parents=True, exist_ok=True)
    while pool.filled < min(200, args.shapes):
        pool.refresh()
    begin, step, seen, recent = time.time(), 0, 0, 0.0

    with open(args.out / "log.csv", "w", newline="", encoding="utf-8") as file:
        log = csv.writer(file)
        log.writerow(["seconds", "step", "loss", "views_per_second", "shapes"])
        while (now := time.time()) < start + args.seconds - 10 if args.steps is None else step < args.steps:
            if step % args.new_shapes == 0 or pool.filled < 1000:
                pool.refresh()
            share = (
                (now - begin) / max(1e-3, start + args.seconds - 10 - begin)
                if args.steps is None
                else step / args.steps
            )
            warmup = min(1.0, (step + 1) / recipe.training.warmup_steps)
            optimizers.set_lr_factor(args.lr_factor * warmup * min(1.0, (1 - share) / args.decay))
            generated, given = VIEWS[step % len(VIEWS)]
            batch, count = args.batch if given else args.batch * 4 // generated, generated + given
            rows = torch.randint(pool.filled, (batch,))
            chosen = torch.rand(batch, PICTURES).argsort(1)[:, :count]
            data = (pool.pictures[rows[:, None], chosen].float() / 127.5 - 1).permute(0, 4, 1, 2, 3).to(device)
            known = (torch.rand(batch, 1) >= POSE_DROPOUT).float().expand(-1, count)
            focals = pool.focals[rows][:, None, None].expand(-1, count, 2)
            cameras = CameraBatch(pool.poses[rows[:, None], chosen], focals, known).to(device)
            positions = torch.rand(batch, POSITIONS).argsort(1)[:, :count].float().to(device)
            ids = pool.ids[rows, torch.randint(CAPTIONS, (batch,))]
            dropped = torch.rand(batch, 1) < (CAPTION_DROPOUT_GIVEN if given else CAPTION_DROPOUT)
            ids = torch.where(dropped, null, ids).long()
            ids = ids[:, : int((ids > 0).sum(1).max())].to(device)
            tokens = model.tokenizer.patchify(data[:, :, :generated].contiguous())
            t = torch.sigmoid(torch.randn(batch, device=device) * time_sampler.std + time_sampler.mean)[:, None, None]
            noise = torch.randn_like(tokens.values)
            x = tokens.with_values(noise + t * (tokens.values - noise))
            with autocast(precision, device):
                encoded = views.encode_tensors(
                    part(cameras, slice(0, generated)),
                    part(cameras, slice(generated, None)) if given else None,
                    positions,
                    data[:, :, generated:].contiguous() if given else None,
                )
                condition = join([text.encode_ids(ids, ids > 0), encoded])
                prediction = model.head(model.backbone(x, t[:, 0, 0], condition), x).float()
            loss = (((prediction - tokens.values) / (1 - t).clamp_min(0.05)) ** 2).mean()
            optimizers.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, recipe.training.max_norm)
            optimizers.step()
            step, seen, recent = step + 1, seen + batch * generated, recent + float(loss.detach())
            decay = min(recipe.training.ema_decay, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(average, parameters, 1 - decay)
            if step % 48 == 0:
                speed, passed = seen / (time.time() - begin), time.time() - start
                log.writerow([f"{passed:.1f}", step, f"{recent / 48:.5f}", f"{speed:.1f}", pool.drawn])
                file.flush()
                print(f"{passed:.0f} s, step {step}, loss {recent / 48:.4f}, {speed:.0f} views/s", flush=True)
                recent = 0.0
            if step % 480 == 0:
                save(model, parameters, average, args.out / "model")
    save(model, parameters, average, args.out / "model")
    captions = build_dataset(recipe, registry).values("caption")
    write_words(args.out / "model", count_words(str(caption) for caption in captions))


def learn_words(text: Any, seconds: float, batch: int = 128) -> None:
    """Train a text encoder to tell class, attributes and colour of the main part from captions without pictures."""
    names = [(family, name) for family in FAMILIES for name in ATTRIBUTES[family]]
    sizes = [len(FAMILIES), len(COLORS), *(len(ATTRIBUTES[family][name]) for family, name in names)]
    width = text.config.num_latents * text.config.context_dim
    # what a caption leaves out cannot be told: the loss of those ends at their share
    heads = nn.ModuleList(nn.Linear(size, sum(sizes)) for size in (width, text.config.hidden_size))
    nn.init.normal_(text.embedding.weight, std=0.02)
    optimizer = torch.optim.AdamW([*text.parameters(), *heads.parameters()], lr=1e-3, betas=(0.9, 0.98))
    begin = time.time()
    for step in itertools.count():
        left = 1 - (time.time() - begin) / seconds
        if left <= 0:
            return
        captions, labels = [], []
        for index in range(step * batch, (step + 1) * batch):
            shape = make_shape(FAMILIES[index % len(FAMILIES)], index // len(FAMILIES), "train")
            captions.append(random_caption(shape, np.random.default_rng((10, index))))
            colour = tuple(COLORS).index(shape.colors[0])
            row = [ATTRIBUTES[f][n].index(shape.attributes[n]) if f == shape.family else -100 for f, n in names]
            labels.append([shape.label, colour, *row])
        encoded, targets = text.encode(captions), torch.tensor(labels)
        loss = torch.zeros(())
        for head, features in zip(heads, (encoded.context.flatten(1), encoded.pooled), strict=True):
            for column, scores in enumerate(head(features).split(sizes, dim=1)):
                loss = loss + nn.functional.cross_entropy(scores, targets[:, column], reduction="sum") / batch
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, 2 * left)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            right = float((head(features).split(sizes, dim=1)[1].argmax(1) == targets[:, 1]).float().mean())
            print(
                f"{time.time() - begin:.0f} s, words, loss {float(loss.detach()):.3f}, colours right {right:.2f}",
                flush=True,
            )


def part(cameras: CameraBatch, chosen: slice) -> CameraBatch:
    """Return some of the views."""
    return CameraBatch(cameras.poses[:, chosen], cameras.focals[:, chosen], cameras.known[:, chosen])


if __name__ == "__main__":
    main()
