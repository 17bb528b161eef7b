"""One step: what was read -> loss -> gradients -> moved weights. Knows no file and no clock."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from lumina_core.train.latents import kept_latents
from lumina_core.train.optimizer import Optimizers, share_of_rate
from lumina_core.train.shelf import Shelf
from lumina_core.train.watch import blame
from lumina_core.types import Condition, Loss, Tokens

Rebuild = Callable[[Any, Tensor, Sequence[torch.Generator]], Loss]
"""An objective's `rebuild`: (autoencoder, data of one size, one generator an item) -> the mean loss."""


class Losses(nn.Module):
    """What is shared among processes: everything with a gradient happens inside its forward."""

    def __init__(self, model: Model, training: Training, place: Place) -> None:
        super().__init__()
        self.model, self.drop = model, training.drop
        self.dtype, self.device_of = resolve(training.precision, place.device), place.device
        where = training.cache_folder
        shelf = None if where is None else Shelf(Path(where), training.cache_folder_bytes, place.device)
        self.speakers = remembered(model.speakers, training.cache_bytes, shelf)
        self.latents = (
            kept_latents(
                model.autoencoder, model.recipe.autoencoder, training.cache_bytes, shelf,
                f"{place.device.type} {self.dtype}",
            )
            if training.keep_latents else None
        )  # fmt: skip
        self._predict = Compiled(model.predict, place.device) if training.compile else model.predict

    def forward(self, raw: Raw, plain: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of the items, and its terms; `plain`: not compiled, so that layers can be watched."""
        generators = [draw.torch() for draw in raw.draws]
        rebuild = getattr(self.model.objective, "rebuild", None)
        with autocast(self.dtype, self.device_of):
            if rebuild is not None:
                return self._rebuilt(rebuild, raw, generators)
            batch = make_batch(self.model, raw, generators, self.drop, self.speakers, self.latents)
            predict = self.model.predict if plain else self._predict
            loss = self.model.objective.loss(predict, batch, generators)
        return loss.total, loss.terms

    def _rebuilt(
        self, rebuild: Rebuild, raw: Raw, generators: list[torch.Generator]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over the items, which are rebuilt together where they have one size."""
        sizes: dict[torch.Size, list[int]] = {}
        for place, item in enumerate(raw.data):
            sizes.setdefault(item.shape, []).append(place)
        total, terms = torch.zeros((), device=self.device_of), dict[str, Tensor]()
        for places in sizes.values():
            data = torch.stack([raw.data[place] for place in places]).to(self.device_of)
            said = rebuild(self.model.autoencoder, data, [generators[place] for place in places])
            share = len(places) / len(raw.data)
            total = total + said.total * share
            terms = {name: terms.get(name, 0) + value * share for name, value in said.terms.items()}
        return total, terms


class Compiled:
    """A prediction, compiled: for the first number of tokens exactly, and once more for all others together.

    A graph for each of many sizes would take minutes each, and past a handful of them torch compiles no more.
    """

    def __init__(self, predict: Predict, device: torch.device) -> None:
        self._exact, self._any = compiled(predict, device), compiled(predict, device, dynamic=True)
        self._first: int | None = None

    def __call__(self, tokens: Tokens, time: Tensor | None, condition: Condition) -> Tensor:
        """As the prediction itself."""
        count = tokens.values.shape[1]
        self._first = self._first or count
        return (self._exact if count == self._first else self._any)(tokens, time, condition)


def compiled(predict: Predict, device: torch.device, dynamic: bool = False) -> Predict:
    """The compiled form of a prediction; itself where this machine has nothing to compile with."""
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
        warnings.warn("no C++ compiler found: training without torch.compile, which is slower", stacklevel=2)
        return predict
    found: Predict = torch.compile(predict, dynamic=dynamic)
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
