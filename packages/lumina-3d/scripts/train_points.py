"""Train a recipe of point clouds within a time limit: shapes drawn all the time, bfloat16, decay by the wall time.

    python packages/lumina-3d/scripts/train_points.py --seconds 400 --out runs/points --device cuda --batch 256
    python packages/lumina-3d/scripts/train_points.py --seconds 3300 --out runs/points --init 3d.points --lr-factor 0.5

The architecture, the optimizer and the saved folder are those of `lumina train 3d.points`. What differs: new shapes
replace the oldest ones of a pool, so that no shape is seen for long; the learning rate falls with the wall time, so
that the model is finished when the time is over, whatever the speed; on a GPU, processes draw the shapes in the
background, and noise and points are paired by a nearly optimal assignment (8 % above the exact cost) instead of
scipy's.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import multiprocessing as mp
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lumina_3d.families.captions import random_caption
from lumina_3d.families.shapes import FAMILIES, make_shape
from lumina_core.data.words import count_words, write_words
from lumina_core.device import autocast, resolve_dtype
from lumina_core.model import build_dataset, build_model
from lumina_core.model_dir import load_model, save_model
from lumina_core.plugins.loader import load_plugins
from lumina_core.recipe import Recipe
from lumina_core.training.optim import Muon, OptimizersContainer, build_optimizers
from lumina_core.types import Condition, Tokens

POOL, COUNT, LENGTH, CAPTIONS, CHUNK = 2048, 256, 24, 4, 50
REFERENCES = (0, 0, 0, 128, 0, 0, 0, 64)
"""Given points of each step, in turn: a quarter of the batches complete a partial cloud."""


def draw_shapes(worker: int, workers: int, first: int, chunk: int, vocabulary: bytes) -> Iterator[tuple[Any, Any]]:
    """Yield chunks of points (chunk, POOL, 3) and token ids of captions (chunk, CAPTIONS, LENGTH) without end."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=vocabulary)
    for start in itertools.count(first + worker * chunk, workers * chunk):
        points, ids = [], np.zeros((chunk, CAPTIONS, LENGTH), dtype=np.int32)
        for row, index in enumerate(range(start, start + chunk)):
            shape = make_shape(FAMILIES[index % len(FAMILIES)], index // len(FAMILIES), "train")
            rng = np.random.default_rng((5, index))
            points.append(2 * shape.mesh.sample(POOL, rng)[0])
            for k in range(CAPTIONS):
                tokens = [1, *processor.encode(random_caption(shape, rng))][:LENGTH]
                ids[row, k, : len(tokens)] = tokens
        yield np.stack(points).astype(np.float16), ids


def fill_queue(worker: int, workers: int, first: int, vocabulary: bytes, queue: Any) -> None:
    """Put all chunks of a worker into a queue, which blocks while it is full."""
    for chunk in draw_shapes(worker, workers, first, CHUNK, vocabulary):
        queue.put(chunk)


class Pool:
    """Clouds and captions on the device: new ones replace the oldest.

    Args:
        shapes: clouds that are kept.
        device: of the clouds.
        vocabulary: of the captions, a SentencePiece model.
        workers: processes that draw; 0: `refresh` draws a few shapes at each step.
        first: number of the first shape.
    """

    def __init__(self, shapes: int, device: torch.device, vocabulary: bytes, workers: int, first: int) -> None:
        self.drawn, self.workers = 0, workers
        self.points = torch.empty(shapes, POOL, 3, dtype=torch.float16, device=device)
        self.ids = torch.empty(shapes, CAPTIONS, LENGTH, dtype=torch.int32, device=device)
        if not workers:
            self.chunks = draw_shapes(0, 1, first, 8, vocabulary)
            return
        context = mp.get_context("spawn")
        self.queue = context.Queue(64)
        for worker in range(workers):
            arguments = (worker, workers, first, vocabulary, self.queue)
            context.Process(target=fill_queue, args=arguments, daemon=True).start()

    @property
    def filled(self) -> int:
        """Number of clouds that are there."""
        return min(self.drawn, len(self.points))

    def refresh(self, least: int = 0) -> None:
        """Add finished chunks, or draw one; wait until `least` shapes are there."""
        while True:
            is_waiting = self.drawn < least
            if self.workers:
                try:
                    points, ids = self.queue.get(timeout=60) if is_waiting else self.queue.get_nowait()
                except Empty:
                    return
            else:
                points, ids = next(self.chunks)
            rows = (self.drawn + torch.arange(len(points))) % len(self.points)
            self.points[rows] = torch.from_numpy(points).to(self.points.device)
            self.ids[rows] = torch.from_numpy(ids).to(self.ids.device)
            self.drawn += len(points)
            if not self.workers and not is_waiting:
                return


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


def in_bfloat16(optimizers: OptimizersContainer) -> None:
    """Replace Muon by torch's, of equal steps, which iterates in bfloat16 on a CPU too: a fourth of the time."""
    for index, one in enumerate(optimizers.optimizers):
        if isinstance(one, Muon):
            groups = [{k: group[k] for k in ("params", "lr", "peak_lr", "weight_decay")} for group in one.param_groups]
            optimizers.optimizers[index] = torch.optim.Muon(groups, adjust_lr_fn="match_rms_adamw")


@torch.no_grad()
def save(model: Any, parameters: list[Tensor], average: list[Tensor], folder: Path) -> None:
    """Write the model with averaged weights."""
    own = [parameter.detach().clone() for parameter in parameters]
    torch._foreach_copy_(parameters, average)
    save_model(model, folder, dtype=torch.float16)
    torch._foreach_copy_(parameters, own)


def make_parser(description: str, recipe: str, batch: int) -> argparse.ArgumentParser:
    """Return the options of a training within a time limit."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--recipe", default=recipe)
    parser.add_argument("--seconds", type=float, default=400)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--init", help="name or folder of a model to start from")
    parser.add_argument("--lr-factor", type=float, default=1.0, help="multiplies the learning rates of the recipe")
    parser.add_argument("--decay", type=float, default=0.6, help="last share of the time in which the rates fall to 0")
    parser.add_argument("--batch", type=int, default=batch, help="shapes of a step")
    parser.add_argument("--shapes", type=int, default=4000, help="shapes that are kept; new ones replace the oldest")
    parser.add_argument("--first", type=int, default=0, help="number of the first shape")
    return parser


def main() -> None:
    parser = make_parser(__doc__, "3d.points", 32)
    parser.add_argument("--workers", type=int, default=0, help="processes that draw shapes; 0: between the steps")
    parser.add_argument("--compile", action="store_true", help="compile the network (some minutes of one core)")
    train(parser.parse_args(), time.time())


def train(args: argparse.Namespace, start: float) -> None:
    """Train until the time is over, and save the average of the weights."""
    registry, device = load_plugins(), torch.device(args.device)
    precision = resolve_dtype("auto", device)
    recipe = Recipe.load(args.recipe, registry=registry)
    torch.manual_seed(recipe.training.seed)
    model: Any = build_model(recipe, registry) if args.init is None else load_model(args.init, registry)
    model.float().train()
    text = model.conditioners["caption"]
    if args.init is None:
        text.fit(build_dataset(recipe, registry).values("caption"))
    pool = Pool(args.shapes, device, bytes(text.vocabulary.numpy()), args.workers, args.first)
    null = torch.zeros(LENGTH, dtype=torch.int32)
    null[: len(text.token_ids(""))] = torch.tensor(text.token_ids(""), dtype=torch.int32)
    null, scale = null.to(device), model.autoencoder.config.scaling_factor
    model.to(device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in parameters]
    optimizers = build_optimizers(model, recipe.training)
    if device.type == "cpu":
        in_bfloat16(optimizers)

    def predict(x: Tensor, t: Tensor, ids: Tensor, given: Tensor | None) -> Tensor:
        encoded, reference = text.encode_ids(ids, ids > 0), None
        if given is not None:
            reference = Tokens(given, torch.zeros_like(given), ((given.shape[1],),) * len(x))
        condition = Condition(context=encoded.context, pooled=encoded.pooled, reference=reference)
        tokens = Tokens(x, torch.zeros_like(x), ((x.shape[1],),) * len(x))
        output: Tensor = model.head(model.backbone(tokens, t, condition), tokens)
        return output

    compiled = torch.compile(predict, dynamic=False) if args.compile else predict
    args.out.mkdir(parents=True, exist_ok=True)
    pool.refresh(least=min(1000 if args.workers else 200, args.shapes))
    begin, step, recent = time.time(), 0, 0.0

    with open(args.out / "log.csv", "w", newline="", encoding="utf-8") as file:
        log = csv.writer(file)
        log.writerow(["seconds", "step", "loss", "clouds_per_second", "shapes"])
        while (now := time.time()) < start + args.seconds - 10:
            pool.refresh()
            share = (now - begin) / max(1e-3, start + args.seconds - 10 - begin)
            warmup = min(1.0, (step + 1) / recipe.training.warmup_steps)
            optimizers.set_lr_factor(args.lr_factor * warmup * min(1.0, (1 - share) / args.decay))
            rows = torch.randint(pool.filled, (args.batch,), device=device)
            first = torch.randint(POOL, (args.batch, 1), device=device)
            columns = (first + torch.arange(COUNT + 512, device=device)) % POOL
            drawn = pool.points[rows[:, None], columns].float() * scale
            data, count = drawn[:, :COUNT], REFERENCES[step % len(REFERENCES)] if step > 50 else 0
            noise = torch.randn_like(data)
            if device.type == "cpu":
                noise = model.objective.coupling(noise, Tokens(data, torch.zeros_like(data), ((COUNT,),) * args.batch))
            else:
                noise = pair(noise, data, model.objective.coupling.config.mix)
            t = torch.sigmoid(torch.randn(args.batch, device=device) * 1.3 - 0.3)
            x = noise + t[:, None, None] * (data - noise)
            ids = pool.ids[rows, torch.randint(CAPTIONS, (args.batch,), device=device)]
            ids = torch.where(torch.rand(args.batch, 1, device=device) < recipe.training.cond_dropout, null, ids).long()
            given = half_space(drawn[:, COUNT:], count) if count else None
            with autocast(precision, device):
                prediction = (predict if count else compiled)(x, t, ids, given).float()
            loss = (((prediction - data) / (1 - t).clamp_min(0.05)[:, None, None]) ** 2).mean()
            optimizers.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, recipe.training.max_norm)
            optimizers.step()
            step, recent = step + 1, recent + float(loss.detach())
            decay = min(recipe.training.ema_decay, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(average, parameters, 1 - decay)
            if step % 20 == 0:
                speed = step * args.batch / (time.time() - begin)
                log.writerow([f"{now - start:.1f}", step, f"{recent / 20:.5f}", f"{speed:.1f}", pool.drawn])
                file.flush()
                print(f"{now - start:.0f} s, step {step}, loss {recent / 20:.4f}, {speed:.0f} clouds/s", flush=True)
                recent = 0.0
            if step % 200 == 0:
                save(model, parameters, average, args.out / "model")
    save(model, parameters, average, args.out / "model")
    captions = build_dataset(recipe, registry).values("caption")
    write_words(args.out / "model", count_words(str(caption) for caption in captions))


if __name__ == "__main__":
    main()
