"""One step: what was read -> loss -> gradients -> moved weights. Knows no file and no clock."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lumina_core.model import Model
from lumina_core.parts import Predict
from lumina_core.precision import autocast, resolve
from lumina_core.recipe import Training
from lumina_core.train import distributed
from lumina_core.train.batch import Raw, make_batch
from lumina_core.train.distributed import Place
from lumina_core.train.features import remembered
from lumina_core.train.optimizer import Optimizers, share_of_rate
from lumina_core.train.watch import blame


class Losses(nn.Module):
    """What is shared among processes: everything with a gradient happens inside its forward."""

    def __init__(self, model: Model, training: Training, place: Place) -> None:
        super().__init__()
        self.model, self.drop = model, training.drop
        self.dtype, self.device_of = resolve(training.precision, place.device), place.device
        self.speakers = remembered(model.speakers, training.cache_bytes)
        self._predict = compiled(model.predict, place.device) if training.compile else model.predict

    def forward(self, raw: Raw, plain: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of the items, and its terms; `plain`: not compiled, so that layers can be watched."""
        generators = [draw.torch() for draw in raw.draws]
        rebuild = getattr(self.model.objective, "rebuild", None)
        with autocast(self.dtype, self.device_of):
            if rebuild is not None:
                rebuilt = rebuild(self.model.autoencoder, torch.stack(raw.data).to(self.device_of), generators)
                return rebuilt.total, rebuilt.terms
            batch = make_batch(self.model, raw, generators, self.drop, self.speakers)
            predict = self.model.predict if plain else self._predict
            loss = self.model.objective.loss(predict, batch, generators)
        return loss.total, loss.terms


def compiled(predict: Predict, device: torch.device) -> Predict:
    """The compiled form of a prediction; itself where this machine has nothing to compile with."""
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
        warnings.warn("no C++ compiler found: training without torch.compile, which is slower", stacklevel=2)
        return predict
    found: Predict = torch.compile(predict, dynamic=False)
    return found


@dataclass(frozen=True)
class Report:
    """What one step says of itself."""

    loss: float
    gradient: float
    terms: dict[str, float]


class Stepper:
    """Moves a model's weights one batch at a time, and the average of its weights with them."""

    def __init__(self, model: Model, training: Training, place: Place, optimizers: Optimizers) -> None:
        self.model, self.training, self.place, self.optimizers = model, training, place, optimizers
        self.losses = distributed.shared(Losses(model, training, place), place)
        self.trained = [p for p in model.parameters() if p.requires_grad]

    def step(self, number: int, raw: Raw) -> Report:
        """Carry out step `number` (0 the first) on this process's share of the batch.

        Raises:
            LuminaError: the loss or the gradient is not a number; the message names the first layer that made it so.
        """
        self.optimizers.set_share(share_of_rate(number, self.training))
        loss, terms = self._gradients(raw)
        norm = nn.utils.clip_grad_norm_(self.trained, self.training.clip, foreach=True)
        if not bool(torch.isfinite(loss + norm)):
            raise blame(self.model, lambda: self.losses(raw, plain=True), number)
        self.optimizers.step()
        self.optimizers.clear()
        return Report(float(loss), float(norm), {name: float(value) for name, value in terms.items()})

    def _gradients(self, raw: Raw) -> tuple[Tensor, dict[str, Tensor]]:
        parts = min(self.training.accumulate, len(raw.draws))
        rows = [slice(k * len(raw.draws) // parts, (k + 1) * len(raw.draws) // parts) for k in range(parts)]
        total, terms = torch.zeros((), device=self.place.device), dict[str, Tensor]()
        for part in rows:
            share = (part.stop - part.start) / len(raw.draws)
            loss, said = self.losses(raw.part(part))
            (loss * share).backward()
            total = total + loss.detach() * share
            terms = {name: terms.get(name, 0) + value * share for name, value in said.items()}
        return distributed.mean(total, self.place), terms


class Average:
    """The running average of the weights (EMA), with the published warm-up-free form made usable on short runs.

    The share that is kept grows as (1 + n) / (10 + n) up to `kept`, so that early noise is forgotten.
    """

    def __init__(self, model: Model, kept: float) -> None:
        self.kept = kept
        self.weights = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: Model, number: int) -> None:
        """Take in the weights after step `number` (0 the first)."""
        kept = min(self.kept, (1 + number) / (10 + number))
        current = dict(model.named_parameters())
        torch._foreach_lerp_(list(self.weights.values()), [current[name] for name in self.weights], 1 - kept)

    def state(self, model: Model) -> dict[str, Tensor]:
        """A whole state dict of the model with the averaged weights in it."""
        return {**model.state_dict(), **self.weights}
