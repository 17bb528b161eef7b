"""Checks of networks: conditioner, backbone and head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lumina_core.conditions import select
from lumina_core.parts import Backbone, Conditioner, Head
from lumina_core.testing._contract import (
    BrokenError,
    Contract,
    drawn,
    want,
    want_close,
    want_finite,
    want_same,
    want_shape,
)
from lumina_core.testing._whole import awake, check_whole, undisturbed
from lumina_core.types import Condition, Hidden, Tokens, stack_tokens

LENGTHS = (5, 3, 4)
"""Tokens of the three items that networks are tried on; the shorter two are padded."""
FAR = 7.0
"""What stands under a False mask while a network is tried: if it counts, it is seen."""


def check_conditioner(conditioner: Conditioner, values: Sequence[Any], data: Tensor | None = None) -> None:
    """Try every line of the contract `Conditioner`. One that learns (`learn`) learns from these values first.

    Args:
        values: at least two things that can be said, best of different lengths.
        data: (B, channels, ...) with one item a value, where only data of its own fit it; else random numbers.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("Conditioner", conditioner)
    said = list(values)
    with contract.line("there are at least two values (this is about the sample, not the part)"):
        want(len(said) > 1, f"{len(said)} values")
    module = conditioner if isinstance(conditioner, nn.Module) else nn.Module()
    module.eval()
    learner: Any = conditioner
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        if hasattr(learner, "learn"):
            with contract.line("learn(values) takes all values that a data set has"):
                learner.learn(said)
        _check_saying(contract, conditioner, said)
    rows = drawn(len(said), 2, 6) if data is None else data
    check_whole(contract, data=rows, values={"said": said}, conditioners={"said": conditioner})


def _check_saying(contract: Contract, conditioner: Conditioner, said: list[Any]) -> None:
    with contract.line(
        "encode(values) gives memory (B, M, memory_width) and summary (B, summary_width), or None for 0"
    ):
        condition = conditioner.encode(said)
        _check_doors(conditioner, condition, len(said))
    with contract.line("the same values give the same condition, without chance"):
        again = conditioner.encode(said)
        for item in range(len(said)):
            _want_said(_row(again, item), _row(condition, item), f"{said[item]!r:.40} the second time")
    with contract.line("nothing(batch) is its own silence: the same doors and widths, every item alike"):
        silent = conditioner.nothing(3)
        _check_doors(conditioner, silent, 3)
        _want_said(select(silent, torch.tensor([2])), conditioner.nothing(1), "the last of three silences")
    singles = [conditioner.encode([value]) for value in said]
    longest = max(_length(single) for single in singles)
    shorter = [item for item, single in enumerate(singles) if _length(single) < longest]
    with contract.line("a batch of n is n singles: an item depends on its own value alone"):
        for item in (item for item in range(len(said)) if item not in shorter):
            _want_said(_row(condition, item), singles[item], f"{said[item]!r:.40} in a batch")
    with contract.line("padding never leaks: a short value beside longer ones says what it says alone"):
        for item in shorter:
            _want_said(_row(condition, item), singles[item], f"{said[item]!r:.40} beside longer ones")


def _check_doors(conditioner: Conditioner, condition: Condition, batch: int) -> None:
    want(isinstance(condition, Condition), f"{type(condition).__name__} instead of Condition")
    for name, tensor, width in (
        ("memory", condition.memory, conditioner.memory_width),
        ("summary", condition.summary, conditioner.summary_width),
    ):
        want(
            (tensor is not None) == bool(width),
            f"{name} {'is there' if width == 0 else 'is None'}, its width is {width}",
        )
        if tensor is not None:
            want_shape(tensor, (batch, None, width) if name == "memory" else (batch, width), name)
            want_finite(tensor, name)
    if condition.memory_mask is not None:
        want(condition.memory is not None, "a memory_mask without a memory")
        want_shape(condition.memory_mask, (batch, *condition.memory.shape[1:2]), "memory_mask")  # type: ignore[union-attr]
        want(condition.memory_mask.dtype == torch.bool, f"memory_mask is {condition.memory_mask.dtype}, not bool")
        want(bool(condition.memory_mask.any(dim=1).all()), "an item whose every entry of the memory is masked")
    if condition.context is not None:
        want(len(condition.context.extents) == batch, f"context tokens of {len(condition.context.extents)} items")


def _row(condition: Condition, item: int) -> Condition:
    return select(condition, torch.tensor([item]))


def _length(single: Condition) -> int:
    if single.memory is None:
        return 0
    return single.memory.shape[1] if single.memory_mask is None else int(single.memory_mask.sum())


def _real(row: Condition) -> Tensor | None:
    """The entries (M, W') of a row's memory that are not masked."""
    if row.memory is None:
        return None
    return row.memory[0] if row.memory_mask is None else row.memory[0][row.memory_mask[0]]


def _want_said(came: Condition, wanted: Condition, what: str) -> None:
    entries, others = _real(came), _real(wanted)
    if entries is not None and others is not None:
        want_close(entries, others, f"the memory of {what}")
    if came.summary is not None and wanted.summary is not None:
        want_close(came.summary, wanted.summary, f"the summary of {what}")
    if came.context is not None and wanted.context is not None:
        want_close(came.context.items()[0].values, wanted.context.items()[0].values, f"the context of {what}")


def check_backbone(backbone: Backbone, tokens: Tokens | None = None, condition: Condition | None = None) -> None:
    """Try every line of the contract `Backbone`, with every weight moved from zero and put back afterwards.

    Args:
        tokens, condition: what it is asked; None: drawn by the widths in its `config` (token_width, memory_width,
            summary_width), on one axis.

    Raises:
        ContractError: a line is broken.
    """
    contract, settings = Contract("Backbone", backbone), getattr(backbone, "config", None)
    with contract.line("config says its width and the widths it was built for; modulation_width what a head is told"):
        widths = [int(getattr(settings, f"{what}_width")) for what in ("token", "memory", "summary")]
        want(getattr(settings, "width", 0) > 0, "no width in its config")
        want(isinstance(getattr(backbone, "modulation_width", None), int), "no modulation_width")
    items = ragged(widths[0]) if tokens is None else tokens.items()
    said = _said(len(items), widths[1], widths[2]) if condition is None else condition
    module = backbone if isinstance(backbone, nn.Module) else nn.Module()
    with undisturbed(module), torch.no_grad():
        awake(module.eval())
        _check_mixing(contract, backbone, items, said)
    data = drawn(3, widths[0], 6)
    if condition is None and tokens is None and getattr(settings, "timed", True):
        check_whole(contract, data=data, backbone=backbone)


def ragged(width: int) -> list[Tokens]:
    """Three items of different lengths on the first axis."""
    places = [torch.nn.functional.pad(torch.arange(float(length))[None, :, None], (0, 2)) for length in LENGTHS]
    return [
        Tokens(drawn(1, length, width, seed=length), place, ((length,),))
        for length, place in zip(LENGTHS, places, strict=True)
    ]


def _said(batch: int, memory: int, summary: int) -> Condition:
    real = torch.ones(batch, 4, dtype=torch.bool)
    real[0, 2:] = False
    return Condition(
        memory=drawn(batch, 4, memory, seed=11) if memory else None,
        memory_mask=real if memory else None,
        summary=drawn(batch, summary, seed=12) if summary else None,
    )


def _check_mixing(contract: Contract, backbone: Backbone, items: list[Tokens], said: Condition) -> None:
    tokens, width = stack_tokens(items), getattr(backbone, "config").width  # noqa: B009
    timed = getattr(getattr(backbone, "config"), "timed", True)  # noqa: B009
    time = torch.linspace(0.2, 0.8, len(items)) if timed else None
    with contract.line("tokens, time and condition give hidden values (B, N, width) and a modulation (B, A), or None"):
        hidden = backbone(tokens, time, said)
        want(isinstance(hidden, Hidden), f"{type(hidden).__name__} instead of Hidden")
        want_shape(hidden.values, (*tokens.values.shape[:2], width), "values")
        want_finite(hidden.values, "the values")
    with contract.line("the same question gives the same answer, without chance"):
        want_same(backbone(tokens, time, said).values, hidden.values, "the second answer")
    with contract.line("prepare(tokens, condition) spares work and changes nothing"):
        prepared = backbone.prepare(tokens, said)
        want_close(backbone(tokens, time, said, prepared=prepared).values, hidden.values, "the answer with it")
    with contract.line("a batch of n is n singles, and padding never leaks"):
        for item, alone in enumerate(items):
            when = None if time is None else time[item : item + 1]
            single = backbone(alone, when, select(said, torch.tensor([item]))).values
            length = alone.values.shape[1]
            want_close(
                hidden.values[item : item + 1, :length], single, f"item {item}, {length} tokens long, in a batch"
            )
    with contract.line("what stands under a False mask is never read, neither tokens nor memory"):
        other = backbone(_garbled(tokens), time, _forgotten(said)).values
        for item, alone in enumerate(items):
            length = alone.values.shape[1]
            want_close(other[item, :length], hidden.values[item, :length], f"item {item} with other padding")
    with contract.line("it mixes tokens: another first token changes what is said of the last"):
        values = items[0].values.clone()
        values[:, 0] += 1
        first = None if time is None else time[:1], select(said, torch.tensor([0]))
        here, there = backbone(items[0], *first).values, backbone(items[0].with_values(values), *first).values
        want(not torch.equal(here[:, -1], there[:, -1]), "the same answer")


def _garbled(tokens: Tokens) -> Tokens:
    if tokens.mask is None:
        raise BrokenError("a batch of several lengths without a mask")
    return tokens.with_values(tokens.values.masked_fill(~tokens.mask[..., None], FAR))


def _forgotten(said: Condition) -> Condition:
    if said.memory is None or said.memory_mask is None:
        return said
    return replace(said, memory=said.memory.masked_fill(~said.memory_mask[..., None], FAR))


def check_head(head: Head, hidden_width: int | None = None, modulation_width: int | None = None) -> None:
    """Try every line of the contract `Head`.

    Args:
        hidden_width, modulation_width: of the backbone it reads; None: those in its `config` (width,
            modulation_width). `config.token_width` says how wide the tokens are, 1 where it is not there.

    Raises:
        ContractError: a line is broken.
    """
    contract, settings = Contract("Head", head), getattr(head, "config", None)
    width = hidden_width or int(getattr(settings, "width", 0))
    with contract.line("its config says the width of what it reads, or the check is told (hidden_width)"):
        want(width > 0, f"a width of {width}")
    tokens = stack_tokens(ragged(int(getattr(settings, "token_width", 1)) or 1))
    told = getattr(settings, "modulation_width", 0) if modulation_width is None else modulation_width
    hidden = Hidden(drawn(*tokens.values.shape[:2], width), drawn(len(tokens.extents), told) if told else None)
    module = head if isinstance(head, nn.Module) else nn.Module()
    with undisturbed(module), torch.no_grad():
        awake(module.eval())
        velocity = _check_reading(contract, head, hidden, tokens)
    if velocity and told == width:  # the small backbone's modulation is as wide as itself
        check_whole(contract, data=drawn(3, tokens.values.shape[2], 6), head=head)


def _check_reading(contract: Contract, head: Head, hidden: Hidden, tokens: Tokens) -> bool:
    """Whether it answers a velocity a token."""
    with contract.line("it answers a velocity (B, N, D), or one answer an item (B, ...)"):
        answer = head(hidden, tokens)
        want(isinstance(answer, Tensor) and answer.ndim >= 2, f"{type(answer).__name__}, no answer an item")
        want(len(answer) == len(tokens.extents), f"{len(answer)} answers for {len(tokens.extents)} items")
        want_finite(answer, "the answer")
    velocity = answer.shape == tokens.values.shape
    with contract.line("the same hidden gives the same answer, without chance"):
        want_same(head(hidden, tokens), answer, "the second answer")
    assert tokens.mask is not None
    with contract.line("the mask is kept: what stands under it changes no answer"):
        other = Hidden(hidden.values.masked_fill(~tokens.mask[..., None], FAR), hidden.modulation)
        again = head(other, _garbled(tokens))
        chosen = tokens.mask if velocity else torch.ones(len(answer), dtype=torch.bool)
        want_close(again[chosen], answer[chosen], "an answer with other padding")
    with contract.line("a batch of n is n singles"):
        for item, alone in enumerate(tokens.items()):
            length, row = alone.values.shape[1], slice(item, item + 1)
            told = None if hidden.modulation is None else hidden.modulation[row]
            single = head(Hidden(hidden.values[row, :length], told), alone)
            whole = answer[row, :length] if velocity else answer[row]
            want_close(single, whole, f"item {item}, {length} tokens long, alone")
    return bool(velocity)
