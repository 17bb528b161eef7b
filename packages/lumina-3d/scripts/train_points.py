"""Train a recipe of point clouds within a time limit, on a GPU: all data on the device, pairs assigned there.

    python packages/lumina-3d/scripts/train_points.py --seconds 400 --out runs/points --device cuda

The architecture, the optimizer and the saved folder are those of `lumina train 3d.points`. What differs: processes draw
the shapes in the background, so that training begins with the first thousand; noise and points are paired by a nearly
optimal assignment on the device (8 % above the exact cost) instead of scipy's; the learning rate falls with the wall
time, so that the model is finished when the time is over, whatever the speed.
"""

from __future__ import annotations

import argparse
import csv
import math
import multiprocessing as mp
import time
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lumina_3d.families.captions import random_caption
from lumina_3d.families.shapes import FAMILIES, make_shape
from lumina_core.data.words import count_words, write_words
from lumina_core.model import build_dataset, build_model
from lumina_core.model_dir import save_model
from lumina_core.plugins.loader import load_plugins
from lumina_core.recipe import Recipe
from lumina_core.training.optim import build_optimizers
from lumina_core.types import Condition, Tokens

POOL, COUNT, LENGTH, CAPTIONS, CHUNK = 2048, 256, 24, 4, 50
REFERENCES = (0, 0, 0, 128, 0, 0, 0, 64)
"""Given points of each step, in turn: a quarter of the batches complete a partial cloud."""


def draw_shapes(worker: int, workers: int, shapes: int, vocabulary: bytes, queue: Any) -> None:
    """Put chunks of (points, token ids of captions) into a queue."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=vocabulary)
    for start in range(worker * CHUNK, shapes, workers * CHUNK):
        points, ids = [], np.zeros((min(CHUNK, shapes - start), CAPTIONS, LENGTH), dtype=np.int32)
        for row, index in enumerate(range(start, min(start + CHUNK, shapes))):
            shape = make_shape(FAMILIES[index % len(FAMILIES)], index // len(FAMILIES), "train")
            rng = np.random.default_rng((5, index))
            points.append(2 * shape.mesh.sample(POOL, rng)[0])
            for k in range(CAPTIONS):
                tokens = [1, *processor.encode(random_caption(shape, rng))][:LENGTH]
                ids[row, k, : len(tokens)] = tokens
        queue.put((np.stack(points).astype(np.float16), ids))


class Pool:
    """Clouds and captions on the device, filled in the background."""

    def __init__(self, shapes: int, device: torch.device, vocabulary: bytes, workers: int) -> None:
        context = mp.get_context("spawn")
        self.queue, self.filled, self.device = context.Queue(64), 0, device
        self.points = torch.empty(shapes, POOL, 3, dtype=torch.float16, device=device)
        self.ids = torch.empty(shapes, CAPTIONS, LENGTH, dtype=torch.int32, device=device)
        for worker in range(workers):
            arguments = (worker, workers, shapes, vocabulary, self.queue)
            context.Process(target=draw_shapes, args=arguments, daemon=True).start()

    def refresh(self, least: int = 0) -> None:
        """Add finished chunks; wait until `least` shapes are there."""
        while self.filled < len(self.points):
            try:
                points, ids = self.queue.get(timeout=60) if self.filled < least else self.queue.get_nowait()
            except Empty:
                return
            rows = slice(self.filled, self.filled + len(points))
            self.points[rows], self.ids[rows] = torch.from_numpy(points), torch.from_numpy(ids)
            self.filled = rows.stop


def pair(noise: Tensor, data: Tensor, mix: float, epsilon: float = 0.08) -> Tensor:
    """Permute noise (B, N, 3) to points (B, N, 3) at nearly the least cost, as `3d.mixed_transport` does exactly.

    Sinkhorn scaling of exp(-cost / epsilon), rounding by mutually best pairs, and exchanges of random pairs.
    """
    batch, count = noise.shape[:2]
    compared = math.sqrt(1 - mix) * noise + math.sqrt(mix) * noise.roll(1, dims=1)
    cost = (data**2).sum(-1, keepdim=True) + (compared**2).sum(-1)[:, None] - 2 * data @ compared.mT
    reduced = cost - cost.amin(2, keepdim=True)
    log_kernel = -(reduced - reduced.amin(1, keepdim=True)) / epsilon
    kernel, v = log_kernel.exp().clamp_min(1e-30), torch.ones(batch, count, 1, device=noise.device)
    for _ in range(25):
        u = 1 / (kernel @ v).clamp_min(1e-30)
        v = 1 / (kernel.mT @ u).clamp_min(1e-30)
    score = log_kernel + u.log() + v.log().mT
    order = torch.full((batch, count), -1, device=noise.device)
    index = torch.arange(count, device=noise.device)
    for _ in range(12):
        column, row = score.argmax(2), score.argmax(1)
        order = torch.where((row.gather(1, column) == index) & (order < 0), column, order)
        taken = torch.zeros(batch, count + 1, dtype=torch.bool, device=noise.device)
        taken = taken.scatter(1, torch.where(order < 0, count, order), True)[:, :count]
        score = score.masked_fill((order >= 0)[:, :, None], -1e9).masked_fill(taken[:, None], -1e9)
    free_rows, free_columns = ((mask).to(torch.int8).argsort(dim=1, stable=True) for mask in (order >= 0, taken))
    at_free_rows = order.gather(1, free_rows)
    order = order.scatter(1, free_rows, torch.where(at_free_rows < 0, free_columns, at_free_rows))
    flat, half = cost.flatten(1), count // 2
    for _ in range(20):
        shuffled = torch.rand(batch, count, device=noise.device).argsort(1)
        i, j = shuffled[:, :half], shuffled[:, half : 2 * half]
        of_i, of_j = order.gather(1, i), order.gather(1, j)
        now = flat.gather(1, i * count + of_i) + flat.gather(1, j * count + of_j)
        better = flat.gather(1, i * count + of_j) + flat.gather(1, j * count + of_i) < now
        order = order.scatter(1, i, torch.where(better, of_j, of_i)).scatter(1, j, torch.where(better, of_i, of_j))
    return noise.gather(1, order[..., None].expand(-1, -1, 3))


def half_space(others: Tensor, count: int) -> Tensor:
    """Draw `count` points of each cloud (B, 512, 3) on one side of a random plane through its middle."""
    along = (others @ torch.randn(len(others), 3, 1, device=others.device))[..., 0]
    chosen = along.topk(256, dim=1).indices[:, torch.randperm(256, device=others.device)[:count]]
    return others.gather(1, chosen[..., None].expand(-1, -1, 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="3d.points")
    parser.add_argument("--seconds", type=float, default=400)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--shapes", type=int, default=40000)
    parser.add_argument("--workers", type=int, default=2)
    train(parser.parse_args(), time.time())


def train(args: argparse.Namespace, start: float) -> None:
    """Train until the time is over, and save the average of the weights."""
    registry, device = load_plugins(), torch.device(args.device)
    recipe = Recipe.load(args.recipe, registry=registry)
    torch.manual_seed(recipe.training.seed)
    model: Any = build_model(recipe, registry)
    text = model.conditioners["caption"]
    text.fit(build_dataset(recipe, registry).values("caption"))
    pool = Pool(args.shapes, device, bytes(text.vocabulary.numpy()), args.workers)
    null = torch.zeros(LENGTH, dtype=torch.int32)
    null[: len(text.token_ids(""))] = torch.tensor(text.token_ids(""), dtype=torch.int32)
    null, scale = null.to(device), model.autoencoder.config.scaling_factor
    model.to(device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in parameters]
    optimizers = build_optimizers(model, recipe.training)

    def predict(x: Tensor, t: Tensor, ids: Tensor, given: Tensor | None) -> Tensor:
        encoded, reference = text.encode_ids(ids, ids > 0), None
        if given is not None:
            reference = Tokens(given, torch.zeros_like(given), ((given.shape[1],),) * len(x))
        condition = Condition(context=encoded.context, pooled=encoded.pooled, reference=reference)
        tokens = Tokens(x, torch.zeros_like(x), ((x.shape[1],),) * len(x))
        output: Tensor = model.head(model.backbone(tokens, t, condition), tokens)
        return output

    compiled = torch.compile(predict, dynamic=False) if device.type == "cuda" else predict
    args.out.mkdir(parents=True, exist_ok=True)
    pool.refresh(least=min(1000, args.shapes))
    begin, step = time.time(), 0
    with open(args.out / "log.csv", "w", newline="", encoding="utf-8") as file:
        log = csv.writer(file)
        log.writerow(["seconds", "step", "loss", "clouds_per_second", "shapes"])
        while (now := time.time()) < start + args.seconds - 10:
            pool.refresh()
            share = (now - begin) / max(1e-3, start + args.seconds - 10 - begin)
            optimizers.set_lr_factor(min(1.0, (step + 1) / recipe.training.warmup_steps) * min(1.0, (1 - share) / 0.6))
            rows = torch.randint(pool.filled, (args.batch,), device=device)
            first = torch.randint(POOL, (args.batch, 1), device=device)
            columns = (first + torch.arange(COUNT + 512, device=device)) % POOL
            drawn = pool.points[rows[:, None], columns].float() * scale
            data, count = drawn[:, :COUNT], REFERENCES[step % len(REFERENCES)] if step > 50 else 0
            noise = pair(torch.randn_like(data), data, model.objective.coupling.config.mix)
            t = torch.sigmoid(torch.randn(args.batch, device=device) * 1.3 - 0.3)
            x = noise + t[:, None, None] * (data - noise)
            ids = pool.ids[rows, torch.randint(CAPTIONS, (args.batch,), device=device)]
            ids = torch.where(torch.rand(args.batch, 1, device=device) < recipe.training.cond_dropout, null, ids).long()
            given = half_space(drawn[:, COUNT:], count) if count else None
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                prediction = (predict if count else compiled)(x, t, ids, given).float()
            loss = (((prediction - data) / (1 - t).clamp_min(0.05)[:, None, None]) ** 2).mean()
            optimizers.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, recipe.training.max_norm)
            optimizers.step()
            step += 1
            decay = min(recipe.training.ema_decay, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(average, parameters, 1 - decay)
            if step % 20 == 0:
                speed = step * args.batch / (time.time() - begin)
                log.writerow([f"{now - start:.1f}", step, f"{float(loss.detach()):.5f}", f"{speed:.0f}", pool.filled])
                file.flush()
                print(
                    f"{now - start:.0f} s, step {step}, loss {float(loss.detach()):.4f}, {speed:.0f} clouds/s",
                    flush=True,
                )
    with torch.no_grad():
        for parameter, mean in zip(parameters, average, strict=True):
            parameter.copy_(mean)
    save_model(model, args.out / "model", registry, torch.float16)
    captions = build_dataset(recipe, registry).values("caption")
    write_words(args.out / "model", count_words(str(caption) for caption in captions))


if __name__ == "__main__":
    main()
