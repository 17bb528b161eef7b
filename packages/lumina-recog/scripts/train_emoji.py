"""Train the classifier of emoji within a time limit, on several drawing styles, with a teacher's features.

    python packages/lumina-recog/scripts/build_styles.py --out runs/styles
    python packages/lumina-recog/scripts/train_emoji.py --styles runs/styles --seconds 1800 --out runs/emoji

It begins with the blocks of a generator, and a head that is fitted to their features of augmented images: a new head
costs hundreds of steps, and one that was fitted to plain images has large errors on augmented ones. Each step draws a
batch of one size: emoji at random places, scales, angles and colors on random backgrounds, small ones on a canvas among
them. The loss is that of the subgroup and of the group, and the distance of projected features to those that a frozen
EfficientNet-Lite0 has of Noto's drawing of the same concept, whatever the style. The learning rate falls with the wall
time. Twemoji is no part of the training: it stays the new style.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from init_from_generator import fit_head
from torch import Tensor, nn

import lumina_core
from lumina_core.device import autocast, resolve_dtype
from lumina_core.metrics.efficientnet_lite0 import efficientnet_lite0
from lumina_core.model import build_model
from lumina_core.model_dir import save_model
from lumina_core.plugins.loader import load_plugins
from lumina_core.recipe import Recipe
from lumina_core.training.optim import Muon, OptimizersContainer, build_optimizers
from lumina_core.types import Condition, Tokens
from lumina_recog.datasets import emoji_data
from lumina_recog.from_generator import fold_time
from lumina_recog.objective import cut_box, jitter_positions

SMALL_SIZES = (
    *[(32, 32)] * 6, *[(40, 40)] * 2, *[(48, 48)] * 2, (64, 64), (24, 24), (24, 48), (48, 24), (16, 64), (64, 16),
)  # fmt: skip
"""Height and width of the batches of the first part, each equally frequent: a step costs a fourth of one of 64x64."""
SIZES = (
    *[(64, 64)] * 4, *[(32, 32)] * 2, (48, 48), (24, 24), *[(96, 96)] * 2, *[(128, 128)] * 2, (32, 64), (64, 32),
    (24, 96), (96, 24), (32, 128), (128, 32),
)  # fmt: skip
"""Height and width of the batches of the last part."""
CANVASES = ((64, 64), (64, 64), (96, 96), (192, 192))
"""Height and width of batches with small emoji on a canvas."""
SMALL_SHARE, CANVAS_PROB, MIX_PROB, PLAIN_PROB, BALANCE = 0.25, 0.2, 0.15, 0.6, 0.6
TEACHER_SIDE, TARGET_DIM = 128, 128


class Drawings:
    """Training concepts in several styles, as premultiplied RGBA in [0, 1] at 64 and 32 pixels."""

    def __init__(self, folder: Path, split: str = "train") -> None:
        records = emoji_data.load_records()
        wanted = np.array([record["split"] == split for record in records])
        images, concepts = [], []
        for name in ("noto", *sorted(path.stem for path in folder.glob("*.npz"))):
            drawings, is_drawn = emoji_data.load_images("noto"), wanted
            if name != "noto":
                with np.load(folder / f"{name}.npz") as pack:
                    drawings, is_drawn = pack["images"], wanted & pack["available"]
            chosen = np.flatnonzero(is_drawn)
            images.append(drawings[chosen])
            concepts.append(chosen)
            print(f"{name}: {len(chosen)} drawings", flush=True)
        pixels = torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2)
        self.concepts = torch.from_numpy(np.concatenate(concepts))
        self.large, self.small = pixels, F.avg_pool2d(premultiply(pixels), 2)
        names = emoji_data.class_names()
        classes = [names.index(f"{record['group']}/{record['subgroup']}") for record in records]
        self.labels = torch.tensor(classes)[self.concepts]
        groups = [name.partition("/")[0] for name in names]
        group_of = torch.tensor([list(dict.fromkeys(groups)).index(group) for group in groups])[self.labels]
        self.weights = torch.bincount(group_of).float()[group_of] ** -BALANCE

    def batch(self, num_tokens: int, sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, bool]:
        """Draw the rows (B,) and images (B, 3, H, W) of a batch of about `num_tokens`, and whether it has canvases."""
        is_canvas = float(torch.rand(())) < CANVAS_PROB
        choices = CANVASES if is_canvas else sizes
        size = choices[int(torch.randint(len(choices), ()))]
        count = num_tokens // min(144, math.ceil(size[0] / 8) * math.ceil(size[1] / 8))
        rows = torch.multinomial(self.weights, min(128, max(32, count)))
        return rows, self.draw(rows, size, is_canvas), is_canvas

    def draw(self, rows: Tensor, size: tuple[int, int], is_canvas: bool) -> Tensor:
        """Draw images (B, 3, H, W) in [-1, 1] of some rows."""
        count, (height, width) = len(rows), size
        background = random_backgrounds(count, size, is_canvas)
        scale = torch.rand(count) * 0.3 + 0.25 if is_canvas else torch.rand(count) * 0.45 + 0.6
        plain = torch.rand(count) < (0 if is_canvas else PLAIN_PROB)
        scale = torch.where(plain, 1.0, scale)
        background[plain] = 1.0
        side, stretch = min(height, width), (torch.rand(count) * 0.6 - 0.3).exp()
        fills = (torch.rand(count) < 0.6) | plain
        extent_y = torch.where(fills & (not is_canvas), height * scale, side * scale * stretch.sqrt())
        extent_x = torch.where(fills & (not is_canvas), width * scale, side * scale / stretch.sqrt())
        angle = torch.where(plain, 0.0, torch.randn(count) * 0.15)
        flip = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
        # places of the middle, in which (nearly) all of the drawing is inside
        room_y, room_x = (height - extent_y) / 2, (width - extent_x) / 2
        y = (torch.rand(count) * 2 - 1) * room_y.abs() * torch.where(plain, 0.0, 1.0)
        x = (torch.rand(count) * 2 - 1) * room_x.abs() * torch.where(plain, 0.0, 1.0)
        cos, sin = angle.cos(), angle.sin()
        # from places of the image in [-1, 1] to places of the drawing in [-1, 1]
        matrix = torch.stack(
            [
                torch.stack([flip * cos * width / extent_x, flip * sin * height / extent_x,
                             -flip * (cos * 2 * x + sin * 2 * y) / extent_x], dim=1),
                torch.stack([-sin * width / extent_y, cos * height / extent_y,
                             (sin * 2 * x - cos * 2 * y) / extent_y], dim=1),
            ],
            dim=1,
        )  # fmt: skip
        grid = F.affine_grid(matrix, [count, 4, height, width], align_corners=False)
        is_small = float((extent_y * extent_x).mean()) < 40**2
        source = self.small[rows] if is_small else premultiply(self.large[rows])
        drawing = F.grid_sample(source, grid, align_corners=False)
        colors, alpha = drawing[:, :3], drawing[:, 3:]
        colors = torch.where(plain[:, None, None, None], colors, jitter_colors(colors, alpha))
        image = background * (1 - alpha) + colors
        return image.clamp(0, 1) * 2 - 1


def premultiply(pixels: Tensor) -> Tensor:
    """Convert RGBA (B, 4, H, W) uint8 to premultiplied colors and alpha in [0, 1]."""
    values = pixels.float() / 255
    return torch.cat([values[:, :3] * values[:, 3:], values[:, 3:]], dim=1)


def jitter_colors(colors: Tensor, alpha: Tensor) -> Tensor:
    """Change saturation, hue and brightness of premultiplied colors (B, 3, H, W)."""
    count = len(colors)
    saturation = torch.where(torch.rand(count) < 0.1, 0.0, torch.rand(count) * 1.1 + 0.5)[:, None, None]
    mixing = torch.eye(3) * saturation + (1 - saturation) / 3
    mixing = (torch.eye(3) + torch.randn(count, 3, 3) * 0.12) @ mixing * (torch.rand(count, 1, 1) * 0.5 + 0.75)
    shift = (torch.rand(count, 1, 1) * 0.3 - 0.15).expand(-1, 3, 1)
    changed = torch.baddbmm(shift * alpha.flatten(2), mixing, colors.flatten(2)).view_as(colors)
    return torch.minimum(changed.clamp_min(0), alpha)


def random_backgrounds(count: int, size: tuple[int, int], is_canvas: bool) -> Tensor:
    """Draw backgrounds (B, 3, H, W) in [0, 1]: white, of one color, gradients, or clutter of blocks and blobs."""
    height, width = size
    background = torch.ones(count, 3, height, width)
    shares = torch.tensor((0.1, 0.35, 0.1, 0.45) if is_canvas else (0.6, 0.2, 0.1, 0.1))
    kinds = torch.multinomial(shares, count, replacement=True)
    for row, kind in enumerate(kinds.tolist()):
        cells = (1, 1, 2, int(torch.randint(3, 9, ())))[kind]
        is_smooth = kind == 2 or float(torch.rand(())) < 0.2
        if kind:
            small = torch.rand(1, 3, cells, cells)
            background[row] = F.interpolate(small, size, mode="bilinear" if is_smooth else "nearest")[0]
    return background


@torch.inference_mode()
def teacher_targets(side: int) -> Tensor:
    """Return for each concept the normalized principal components (N, TARGET_DIM) of the teacher's features of Noto."""
    network = efficientnet_lite0(side, "cpu", "train_emoji.py", "lumina-image[metrics]")
    pixels = premultiply(torch.from_numpy(emoji_data.load_images("noto")).permute(0, 3, 1, 2))
    white = ((pixels[:, :3] + 1 - pixels[:, 3:]) * 255).round().to(torch.uint8)
    features = torch.cat([network(part).float() for part in white.split(64)])
    is_train = torch.tensor([record["split"] == "train" for record in emoji_data.load_records()])
    mean = features[is_train].mean(dim=0)
    _, values, axes = torch.linalg.svd(features[is_train] - mean, full_matrices=False)
    # the square root of the usual whitening: weak components count, but less
    return F.normalize((features - mean) @ axes[:TARGET_DIM].T / values[:TARGET_DIM].sqrt(), dim=1).clone()


def fit_first_head(
    model: Any, projection: nn.Linear, drawings: Drawings, targets: Tensor, args: argparse.Namespace
) -> None:
    """Fit head (logistic regression) and projection (ridge regression) to features of the untrained blocks."""
    features, rows = [], []
    precision = resolve_dtype("auto", torch.device("cpu"))
    with torch.no_grad():
        while sum(map(len, rows)) < args.fit_images:
            some, images, _ = drawings.batch(args.tokens, (*SMALL_SIZES, *SIZES))
            with autocast(precision, torch.device("cpu")):
                states = model.backbone(model.tokenizer.patchify(images), None, Condition()).hidden_states
            features.append(model.head.pool(states.float(), None))
            rows.append(some)
    inputs, chosen = torch.cat(features), torch.cat(rows)
    print(f"features of {len(inputs)} images", flush=True)
    fit_head(model, inputs, drawings.labels[chosen], args.fit_weight_decay)
    with torch.no_grad():
        normed = inputs * model.head.norm.weight + model.head.norm.bias
        wanted = targets[drawings.concepts[chosen]]
        gram = normed.T @ normed + 0.01 * len(normed) * torch.eye(normed.shape[1])
        projection.weight.copy_(torch.linalg.solve(gram, normed.T @ (wanted - wanted.mean(dim=0))).T)
        projection.bias.copy_(wanted.mean(dim=0))
        accuracy = (model.head.linear(normed).argmax(dim=1) == drawings.labels[chosen]).float().mean()
    print(f"fitted: accuracy of classes {float(accuracy):.3f}", flush=True)


def in_bfloat16(optimizers: OptimizersContainer) -> OptimizersContainer:
    """Replace Muon by torch's, of equal steps, which iterates in bfloat16: a fourth of the time on this CPU."""
    for index, one in enumerate(optimizers.optimizers):
        if isinstance(one, Muon):
            groups = [{k: group[k] for k in ("params", "lr", "peak_lr", "weight_decay")} for group in one.param_groups]
            optimizers.optimizers[index] = torch.optim.Muon(groups, adjust_lr_fn="match_rms_adamw")
    return optimizers


class Losses:
    """Losses of a batch: subgroup, group and distance to the teacher."""

    def __init__(self, model: Any, projection: nn.Linear, smoothing: float) -> None:
        self.model, self.projection, self.smoothing = model, projection, smoothing
        self.group_index, groups = model.task.groups(model.head.config.num_classes)
        self.member = F.one_hot(self.group_index, len(groups)).float()

    def __call__(self, tokens: Tokens, labels: Tensor, embedded: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return three losses, and the groups (B,) that the model names; labels (B, K) and targets may be mixed."""
        with autocast(resolve_dtype("auto", torch.device("cpu")), torch.device("cpu")):
            states = self.model.backbone(tokens, None, Condition()).hidden_states
        pooled = self.model.head.pool(states.float(), None)
        log_probabilities = self.model.head.classify(pooled).float().log_softmax(dim=1)
        smooth = labels * (1 - self.smoothing) + self.smoothing / labels.shape[1]
        class_loss = -(smooth * log_probabilities).sum(dim=1).mean()
        log_groups = (log_probabilities.exp() @ self.member).clamp_min(1e-7).log()
        group_loss = -((smooth @ self.member) * log_groups).sum(dim=1).mean()
        distance = 1 - F.cosine_similarity(self.projection(pooled), embedded).mean()
        return class_loss, group_loss, distance, log_groups.argmax(dim=1)


def mix(tokens: Tokens, labels: Tensor, embedded: Tensor) -> tuple[Tokens, Tensor, Tensor]:
    """Mix the images of a batch in reverse order: mixup or CutMix, by turns at random."""
    kept = float(np.random.beta(0.6, 0.6))
    values, own = tokens.values, torch.full((len(labels), 1), kept)
    if float(torch.rand(())) < 0.5:
        values = values * kept + values.flip(0) * (1 - kept)
    else:
        box = cut_box(tokens, kept, torch.default_generator)
        values, own = torch.where(box[..., None], values.flip(0), values), 1 - box.float().mean(dim=1, keepdim=True)
    labels, embedded = (one * own + one.flip(0) * (1 - own) for one in (labels, embedded))
    return tokens.with_values(values), labels, F.normalize(embedded, dim=1)


def main() -> None:
    train(make_parser().parse_args(), time.time())


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--styles", type=Path, required=True, help="folder of build_styles.py")
    parser.add_argument("--recipe", default="recog.emoji")
    parser.add_argument("--generator", default="image.emoji", help="model to begin with")
    parser.add_argument("--init", help="folder of a classifier to begin with instead")
    parser.add_argument("--fit-images", type=int, default=14000, help="images that the first head is fitted to")
    parser.add_argument("--fit-weight-decay", type=float, default=1e-3, help="penalty of the first head's weights")
    parser.add_argument("--seconds", type=float, default=3300)
    parser.add_argument("--tokens", type=int, default=2560, help="tokens of a batch, of 32 to 128 images")
    parser.add_argument("--decay", type=float, default=0.7, help="last share of the time in which the rates fall to 0")
    parser.add_argument("--distillation", type=float, default=2.0, help="weight of the distance to the teacher")
    parser.add_argument("--targets", type=Path, help="file that keeps the teacher's features for the next run")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def load_targets(file: Path | None) -> Tensor:
    """Return the teacher's targets, from a file if it exists."""
    if file is not None and file.exists():
        stored: Tensor = torch.load(file)
        return stored
    targets = teacher_targets(TEACHER_SIDE)
    if file is not None:
        torch.save(targets, file)
    return targets


def start_model(
    model: Any, projection: nn.Linear, drawings: Drawings, targets: Tensor, args: argparse.Namespace
) -> None:
    """Give the model its first weights: those of --init, or of the generator with a head that is fitted to them."""
    if args.init is not None:
        model.load_state_dict(lumina_core.load_model(args.init).state_dict())
        return
    weights, own = fold_time(lumina_core.load_model(args.generator)), model.state_dict()
    model.load_state_dict({name: tensor for name, tensor in weights.items() if name in own}, strict=False)
    fit_first_head(model, projection, drawings, targets, args)


def train(
    args: argparse.Namespace,
    start: float,
    first_weights: Callable[[Any, nn.Linear, Drawings, Tensor, argparse.Namespace], None] = start_model,
    use_average: Callable[[Any, int], None] | None = None,
) -> None:
    """Train until the time is over; every 200 steps and at the end, save the model with averaged weights.

    Args:
        args: options of the command line.
        start: time at which the limit began.
        first_weights: function that gives the model its first weights, or other blocks.
        use_average: called with the model and the step instead of saving.
    """
    registry = load_plugins()
    recipe = Recipe.load(args.recipe, registry=registry)
    training, end = recipe.training, start + args.seconds - 10
    torch.manual_seed(training.seed)
    model: Any = build_model(recipe, registry).train()
    drawings, targets = Drawings(args.styles), load_targets(args.targets)
    projection = nn.Linear(model.backbone.config.hidden_size, TARGET_DIM)
    first_weights(model, projection, drawings, targets, args)
    losses = Losses(model, projection, recipe.objective.options.get("label_smoothing", 0.0))
    parameters = [p for p in model.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in parameters]
    optimizers = in_bfloat16(build_optimizers(model, training))
    of_projection = torch.optim.AdamW(projection.parameters(), lr=2e-3)
    args.out.mkdir(parents=True, exist_ok=True)
    begin, step, sums = time.time(), 0, np.zeros(4)

    @torch.no_grad()
    def save() -> None:
        """Write the model with averaged weights."""
        own = [p.detach().clone() for p in parameters]
        torch._foreach_copy_(parameters, average)
        if use_average is None:
            save_model(model, args.out / "model", registry, torch.float16)
        else:
            use_average(model, step)
        torch._foreach_copy_(parameters, own)

    with open(args.out / "log.csv", "w", newline="", encoding="utf-8") as file:
        log = csv.writer(file)
        log.writerow(["seconds", "step", "class_loss", "group_loss", "teacher_distance", "group_accuracy"])
        while (now := time.time()) < end:
            share = (now - begin) / max(1e-3, end - begin)
            factor = min(1.0, (step + 1) / training.warmup_steps) * min(1.0, (1 - share) / args.decay)
            optimizers.set_lr_factor(factor)
            of_projection.param_groups[0]["lr"] = 2e-3 * factor
            rows, images, is_canvas = drawings.batch(args.tokens, SMALL_SIZES if share < SMALL_SHARE else SIZES)
            tokens, embedded = model.tokenizer.patchify(images), targets[drawings.concepts[rows]]
            labels = F.one_hot(drawings.labels[rows], len(losses.group_index)).float()
            if float(torch.rand(())) < MIX_PROB and not is_canvas:
                tokens, labels, embedded = mix(tokens, labels, embedded)
            tokens = jitter_positions(tokens, 0.2, [torch.default_generator] * len(rows))
            class_loss, group_loss, distance, named = losses(tokens, labels, embedded)
            optimizers.zero_grad()
            of_projection.zero_grad()
            (class_loss + group_loss + args.distillation * distance).backward()
            torch.nn.utils.clip_grad_norm_(parameters, training.max_norm)
            optimizers.step()
            of_projection.step()
            step += 1
            with torch.no_grad():
                torch._foreach_lerp_(average, parameters, 1 - min(training.ema_decay, (1 + step) / (10 + step)))
            accuracy = (named == losses.group_index[drawings.labels[rows]]).float().mean()
            sums += [float(value.detach()) for value in (class_loss, group_loss, distance, accuracy)]
            if step % 25 == 0:
                log.writerow([f"{now - start:.1f}", step, *(f"{value / 25:.4f}" for value in sums)])
                file.flush()
                print(f"{now - start:.0f} s, step {step}, " + " ".join(f"{v / 25:.3f}" for v in sums), flush=True)
                sums[:] = 0
            if step % 200 == 0:
                save()
    save()
    print(f"{step} steps, written to {args.out}")


if __name__ == "__main__":
    main()
