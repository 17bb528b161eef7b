"""Training objective of a classifier: soft cross-entropy with mixing of images, position jitter and distillation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.protocols import Predict
from lumina_core.types import Batch, Loss, Tokens

Teacher = Callable[[Tokens], Tensor]
"""Clean tokens of a batch -> logits (B, K)."""


class DistillationConfig(Settings):
    """A teacher whose answers are part of the loss (Hinton et al., arXiv 1503.02531; hard labels: DeiT, 2012.12877)."""

    teacher: str = Field(description="model folder or installed model with the same tokenizer, or `timm:NAME`")
    weight: float = Field(0.5, ge=0, le=1, description="weight of the teacher's loss; the labels have the rest")
    temperature: float = Field(1.0, gt=0, description="temperature of soft distillation")
    kind: Literal["soft", "hard"] = Field("soft", description="the teacher's probabilities, or its first class alone")


class ClassificationObjective:
    """Cross-entropy of class logits for images of any sizes.

    Mixup and CutMix mix each image with another one of the same size in the batch: values of tokens are linear in the
    pixels, so that mixing tokens is mixing pixels; CutMix cuts along patches. An image without a partner of its size is
    left as it is. All random numbers come from the generators of the batch, so that a resumed training repeats them.
    """

    class Config(Settings):
        """Options of the loss."""

        label_smoothing: float = Field(0.0, ge=0, lt=1, description="probability spread evenly over all classes")
        mixup: float = Field(0.0, ge=0, description="alpha of mixup (arXiv 1710.09412); 0: none; DeiT: 0.8")
        cutmix: float = Field(0.0, ge=0, description="alpha of CutMix (arXiv 1905.04899); 0: none; DeiT: 1.0")
        mix_prob: float = Field(1.0, ge=0, le=1, description="share of batches that are mixed")
        position_jitter: float = Field(
            0.0,
            ge=0,
            le=2,
            description="largest factor, as a logarithm, by which the positions of an image are scaled "
            "along each axis in training",
        )
        binary: bool = Field(False, description="binary cross-entropy per class, as DeiT III")
        distillation: DistillationConfig | None = Field(
            None, description="loss of a teacher's answers; None: no teacher"
        )

    def __init__(self, config: Config) -> None:
        self.config = config
        self._teacher: Teacher | None = None

    def loss(self, predict: Predict, batch: Batch, generators: Sequence[torch.Generator]) -> Loss:
        """Compute the loss of a batch whose target holds class indices (B,); `accuracy` is a term.

        Raises:
            ConfigError: the batch has no target of this shape, or a class is outside the head's range.
        """
        target = batch.target
        if target is None or target.ndim != 1 or target.is_floating_point():
            got = "none" if target is None else f"{target.dtype} of shape {tuple(target.shape)}"
            raise ConfigError(f"batch.target: got {got}, expected class indices (B,). Use the task recog.classify.")
        tokens, partner, share = self._mix(batch.tokens, generators)
        jittered = jitter_positions(tokens, self.config.position_jitter, generators)
        with seeded(generators, tokens.values.device):
            logits = predict(jittered, None, batch.condition).float()
        num_classes = logits.shape[1]
        if int(target.min()) < 0 or int(target.max()) >= num_classes:
            raise ConfigError(
                f"batch.target: got classes {int(target.min())} to {int(target.max())}, expected 0 to "
                f"{num_classes - 1}. Set head.num_classes to the number of classes."
            )
        labels = F.one_hot(target.long(), num_classes).to(logits)
        labels = labels * share[:, None] + labels[partner] * (1 - share[:, None])
        total = self._classification_loss(logits, labels)
        distillation = self.config.distillation
        terms = {"accuracy": (logits.argmax(dim=1) == labels.argmax(dim=1)).float().mean().detach()}
        if distillation is not None:
            teacher_loss = self._distillation_loss(distillation, logits, tokens)
            total = total * (1 - distillation.weight) + teacher_loss * distillation.weight
            terms["distillation"] = teacher_loss.detach()
        return Loss(total, terms)

    def velocity(self, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Raise ConfigError: class logits have no velocity."""
        raise ConfigError("objective recog.classification: got a request to generate. It trains a classifier.")

    def _classification_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.config.label_smoothing
        labels = labels * (1 - smoothing) + smoothing / logits.shape[1]
        if self.config.binary:
            return F.binary_cross_entropy_with_logits(logits, labels)
        return F.cross_entropy(logits, labels)

    def _mix(self, tokens: Tokens, generators: Sequence[torch.Generator]) -> tuple[Tokens, Tensor, Tensor]:
        """Mix images; returns tokens, the index of each image's partner, and the share (B,) of the image itself."""
        config, values = self.config, tokens.values
        partner = same_size_partners(tokens).to(values.device)
        ones = torch.ones(len(values), device=values.device)
        alphas = [(name, alpha) for name, alpha in (("mixup", config.mixup), ("cutmix", config.cutmix)) if alpha]
        draws = torch.rand(2, generator=generators[0])
        if not alphas or float(draws[0]) >= config.mix_prob:
            return tokens, torch.arange(len(values), device=values.device), ones
        name, alpha = alphas[int(float(draws[1]) * len(alphas))]
        share = sample_beta(alpha, generators[0])
        if name == "mixup":
            mixed = values * share + values[partner] * (1 - share)
            return tokens.with_values(mixed), partner, ones * share
        box = cut_box(tokens, share, generators[0])
        real = tokens.mask_or_ones()
        mixed = torch.where(box[..., None], values[partner], values)
        shares = 1 - (box & real).sum(dim=1) / real.sum(dim=1)
        return tokens.with_values(mixed), partner, shares.to(values)

    def _distillation_loss(self, config: DistillationConfig, logits: Tensor, tokens: Tokens) -> Tensor:
        if self._teacher is None:
            self._teacher = load_teacher(config.teacher, logits.device)
        with torch.no_grad():
            teacher_logits = self._teacher(tokens).float()
        if teacher_logits.shape != logits.shape:
            raise ConfigError(
                f"distillation.teacher: got {teacher_logits.shape[1]} classes, expected {logits.shape[1]}. Choose a "
                "teacher of the same classes."
            )
        if config.kind == "hard":
            return F.cross_entropy(logits, teacher_logits.argmax(dim=1))
        scale = config.temperature
        return scale**2 * F.kl_div(
            (logits / scale).log_softmax(dim=1), (teacher_logits / scale).log_softmax(dim=1),
            reduction="batchmean", log_target=True,
        )  # fmt: skip


def jitter_positions(tokens: Tokens, amount: float, generators: Sequence[torch.Generator]) -> Tokens:
    """Scale the positions of each image by a random factor per axis, exp(-amount) to exp(amount).

    The coordinate jitter and rescaling of DINOv3 (arXiv 2508.10104); rotary embeddings do not depend on a shift.
    """
    if not amount:
        return tokens
    draws = torch.stack([torch.rand(2, generator=generator) for generator in generators])
    factors = ((2 * draws - 1) * amount).exp().to(tokens.positions)
    scale = torch.cat([torch.ones_like(factors[:, :1]), factors], dim=1)[:, None]
    return Tokens(tokens.values, tokens.positions * scale, tokens.sizes, tokens.mask)


def same_size_partners(tokens: Tokens) -> Tensor:
    """Return for each image the index of another image of its size: those of one size in reverse order."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for index, size in enumerate(tokens.sizes):
        by_size.setdefault(size, []).append(index)
    partner = torch.arange(len(tokens.sizes))
    for indices in by_size.values():
        partner[indices] = torch.tensor(indices[::-1])
    return partner


def sample_beta(alpha: float, generator: torch.Generator) -> float:
    """Draw from the beta distribution (alpha, alpha), from the generator alone (Johnk's method)."""
    while True:
        u, v = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        x, y = u ** (1 / alpha), v ** (1 / alpha)
        if 0 < x + y <= 1:
            return float(x / (x + y))


def cut_box(tokens: Tokens, share: float, generator: torch.Generator) -> Tensor:
    """Return the tokens (B, N) inside a random box of about 1 - share of each image's rows and columns."""
    places = tokens.positions[..., 1:]
    extents = places.amax(dim=1, keepdim=True) + 1
    side = math.sqrt(1 - share)
    center = torch.rand(2, generator=generator).to(places)
    low, high = ((center - side / 2) * extents).floor(), ((center + side / 2) * extents).floor()
    return ((places >= low) & (places < high)).all(dim=-1)


def tokens_to_images(tokens: Tokens, channels: int = 3) -> Tensor:
    """Put tokens of one size together as images (B, channels, H, W), for a teacher that reads pixels.

    Raises:
        ConfigError: the batch has several sizes.
    """
    if tokens.mask is not None or len(set(tokens.sizes)) > 1:
        raise ConfigError("distillation.teacher: got images of several sizes, expected one size per batch.")
    patch = math.isqrt(tokens.values.shape[2] // channels)
    height, width = tokens.sizes[0]
    rows, columns = -(-height // patch), -(-width // patch)
    if rows * columns != tokens.values.shape[1]:
        raise ConfigError("distillation.teacher: got enlarged patches, expected native ones. Remove max_tokens.")
    grid = tokens.values.transpose(1, 2).unflatten(2, (rows, columns))
    return F.pixel_shuffle(grid, patch)[..., :height, :width]


def load_teacher(name: str, device: torch.device) -> Teacher:
    """Load a frozen teacher: `timm:NAME`, or a model of this project with the same tokenizer.

    Raises:
        ConfigError: there is no such model.
    """
    if name.startswith("timm:"):
        from lumina_core.pretrained import require

        timm = require("timm", "lumina-recog[timm]", "recog.classification")
        try:
            network = timm.create_model(name.removeprefix("timm:"), pretrained=True).eval().to(device)
        except Exception as error:  # timm raises many types of errors
            raise ConfigError(f"distillation.teacher: cannot load {name} ({error}).") from error
        mean, std = (torch.tensor(network.default_cfg[key], device=device)[:, None, None] for key in ("mean", "std"))
        return lambda tokens: network((tokens_to_images(tokens) * 0.5 + 0.5 - mean) / std)
    if not Path(name).is_dir() and "." not in name:
        raise ConfigError(f"distillation.teacher: got {name}, expected a model folder, an installed model or timm:NAME")
    import lumina_core
    from lumina_core.types import Condition

    model: Any = lumina_core.load_model(name, device=device)
    return lambda tokens: model.predict(tokens, None, Condition())


@contextmanager
def seeded(generators: Sequence[torch.Generator], device: torch.device) -> Iterator[None]:
    """Make torch's own random numbers (dropout, stochastic depth) depend on the batch alone; restores their state."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generators[0])))
        yield
