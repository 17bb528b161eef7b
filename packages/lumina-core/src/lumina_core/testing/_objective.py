"""Check of an objective: its loss under the mask, its chance, and the way back to a velocity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lumina_core.errors import LuminaError
from lumina_core.parts import Objective
from lumina_core.testing._contract import (
    Contract,
    drawn,
    generators,
    other_chance,
    want,
    want_close,
    want_finite,
    want_same,
    want_shape,
)
from lumina_core.testing._network import FAR, ragged
from lumina_core.testing._whole import check_whole
from lumina_core.types import Batch, Condition, Loss, Tokens, stack_tokens

WIDTH = 4


class _Answers(nn.Module):
    """A network for the objective to teach: one matrix. Remembers what it was asked."""

    def __init__(self, hidden: float = 0.0) -> None:
        super().__init__()
        self.matrix = nn.Parameter(drawn(WIDTH, WIDTH, seed=3))
        self.asked: list[tuple[Tokens, Tensor | None]] = []
        self._hidden = hidden

    def forward(self, tokens: Tokens, time: Tensor | None, condition: Condition) -> Tensor:
        self.asked.append((tokens, time))
        answer = tokens.values @ self.matrix
        return answer if tokens.mask is None else answer.masked_fill(~tokens.mask[..., None], self._hidden)


def check_objective(objective: Objective) -> None:
    """Try every line of the contract `Objective`.

    One that compares data instead of tokens (it has `rebuild`) is only asked for that; one from which nothing can be
    generated refuses `velocity` with a LuminaError.

    Raises:
        ContractError: a line is broken.
    """
    contract, rebuild = Contract("Objective", objective), getattr(objective, "rebuild", None)
    if rebuild is not None:
        _check_rebuild(contract, rebuild)
        return
    plain = Batch(Tokens(drawn(3, 5, WIDTH), torch.zeros(3, 5, 3), ((5,),) * 3), Condition())
    _check_loss(contract, objective, plain)
    _check_mask(contract, objective)
    if _check_velocity(contract, objective):
        check_whole(contract, data=drawn(3, 2, 6), objective=objective)


def _check_loss(contract: Contract, objective: Objective, batch: Batch) -> None:
    with contract.line("loss(predict, batch, generators) gives a finite number and terms to log without gradient"):
        teaches = _Answers()
        loss = objective.loss(teaches, batch, generators(3))
        want(isinstance(loss, Loss), f"{type(loss).__name__} instead of Loss")
        want_shape(loss.total, (), "total")
        want_finite(loss.total, "total")
        bound = [name for name, term in loss.terms.items() if term.requires_grad]
        want(not bound, f"terms that hold a gradient: {', '.join(bound)}")
    with contract.line("its gradient reaches what predicts"):
        loss.total.backward()  # type: ignore[no-untyped-call]
        gradient = teaches.matrix.grad
        want(gradient is not None and bool(gradient.any()), "no gradient")
        want_finite(teaches.matrix.grad if gradient is None else gradient, "the gradient")
    with contract.line("all chance comes from the generators: the same ones give the same loss"), other_chance(5):
        want_same(objective.loss(_Answers(), batch, generators(3)).total, loss.total, "the loss")
    with contract.line("what is drawn for an item depends on its own generator, not on its neighbours"):
        alone, single = _Answers(), Batch(next(iter(batch.tokens.items())), Condition())
        objective.loss(alone, single, generators(1))
        for (together, _), (apart, _) in zip(teaches.asked, alone.asked, strict=True):
            want_close(together.values[:1], apart.values, "what is asked of the first item alone", within=1e-6)


def _check_mask(contract: Contract, objective: Objective) -> None:
    batch = Batch(stack_tokens(ragged(WIDTH)), Condition())
    with contract.line(
        "the mask is kept: what is answered under it costs nothing (or masked tokens are refused in words)"
    ):
        try:
            loss = objective.loss(_Answers(), batch, generators(3)).total
        except LuminaError:
            return
        other = objective.loss(_Answers(hidden=FAR), batch, generators(3)).total
        want_close(other, loss, "the loss with other answers under the mask", within=1e-6)
    with contract.line("padding never leaks: an item is asked the same in a batch of longer ones as alone"):
        together, item = _Answers(), batch.tokens.items()[1]
        objective.loss(together, batch, generators(3))
        alone = _Answers()
        objective.loss(alone, Batch(item, Condition()), generators(1, seed=1))
        length = item.values.shape[1]
        for (padded, _), (apart, _) in zip(together.asked, alone.asked, strict=True):
            want_close(padded.values[1:2, :length], apart.values, "what is asked of the shorter item", within=1e-6)


def _check_velocity(contract: Contract, objective: Objective) -> bool:
    """Whether something can be generated by it."""
    answer, x, time = drawn(3, 5, WIDTH), drawn(3, 5, WIDTH, seed=4), torch.tensor([0.1, 0.5, 0.9])
    with contract.line("velocity(prediction, x, time) gives (B, N, D), an item's own (or is refused in words)"):
        try:
            came = objective.velocity(answer, x, time)
        except LuminaError:
            return False
        want_shape(came, (3, 5, WIDTH), "the velocity")
        want_finite(came, "the velocity")
        want_close(objective.velocity(answer[1:2], x[1:2], time[1:2]), came[1:2], "an item's velocity alone")
    return True


def _check_rebuild(contract: Contract, rebuild: Any) -> None:
    with contract.line("rebuild(autoencoder, data, generators) gives the autoencoder's own loss, as it comes"):
        loss = rebuild(_Rebuilt(), drawn(3, 2, 6), generators(3))
        want(isinstance(loss, Loss), f"{type(loss).__name__} instead of Loss")
        want_shape(loss.total, (), "total")
        want_finite(loss.total, "total")


class _Rebuilt:
    """As much of an autoencoder as an objective that rebuilds data needs."""

    def loss(self, data: Tensor, generators: Sequence[torch.Generator]) -> Loss:
        return Loss(data.square().mean())
