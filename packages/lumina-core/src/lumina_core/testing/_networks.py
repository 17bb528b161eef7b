"""Checks of networks: conditioner, backbone and head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lumina_core.conditioning.ops import select
from lumina_core.errors import LuminaError
from lumina_core.protocols import Autoencoder, Backbone, Conditioner, Head, SupportsFit, SupportsLoss, Tokenizer
from lumina_core.testing._contract import (
    Contract,
    ViolationError,
    expect,
    expect_close,
    expect_equal,
    expect_finite,
    expect_shape,
    randn,
)
from lumina_core.testing._tiny_model import check_autoencoder_training, check_in_model, perturb_weights, preserve_state
from lumina_core.types import BackboneOutput, Condition, Size, Tokens, stack_tokens


def check_tokenizer(tokenizer: Tokenizer, latent: Tensor) -> None:
    """Try every line of the contract `Tokenizer`.

    Args:
        latent: (B, C, ...), of a size that it can cut; only its shape counts.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("Tokenizer", tokenizer)
    # every number once, so that a lost, doubled or misplaced one is seen
    numbered = torch.arange(1.0, latent.numel() + 1).reshape(latent.shape)
    size = tuple(latent.shape[2:])
    with contract.clause("patchify(latent) gives values (B, N, width), positions (B, N, 3), a size an item"):
        tokens = _check_format(tokenizer, numbered)
    with contract.clause("patchify(latent) loses and invents no number"):
        _check_numbers(tokens, numbered)
    with contract.clause("unpatchify(patchify(x)) is x, bit for bit"):
        expect_equal(tokenizer.unpatchify(tokens), numbered, "what comes back")
    with contract.clause("values under a False mask are zero"):
        hidden = torch.zeros(0) if tokens.mask is None else tokens.values[~tokens.mask]
        expect(not hidden.any(), f"{int(hidden.count_nonzero())} numbers under the mask are not zero")
    with contract.clause("empty(batch, size) gives zeros at the positions of patchify(latent)"):
        _check_empty(tokenizer.empty(len(latent), size), tokens)
    with contract.clause("noise poured into the tokens comes out as it went in: patchify(unpatchify(t)) is t"):
        noise = randn(*tokens.values.shape) * (1 if tokens.mask is None else tokens.mask[..., None])
        recovered = tokenizer.patchify(tokenizer.unpatchify(tokens.with_values(noise)))
        expect_equal(recovered.values, noise, "the values of the tokens")
    with contract.clause("it keeps the type of the numbers (float64, bfloat16)"):
        for dtype in (torch.float64, torch.bfloat16):
            expect_equal(
                tokenizer.unpatchify(tokenizer.patchify(numbered.to(dtype))),
                numbered.to(dtype),
                f"the latent in {dtype}",
            )
    with contract.clause("it has no weights, and the same latent gives the same tokens"):
        expect(not list(tokenizer.parameters()) if isinstance(tokenizer, nn.Module) else True, "it has weights")
        expect_equal(tokenizer.patchify(numbered).values, tokens.values, "the second time")
    with contract.clause("a batch of n is n singles"):
        for item in range(len(numbered)):
            single = tokenizer.patchify(numbered[item : item + 1])
            expect_equal(single.values, tokens.values[item : item + 1], f"item {item} alone")
    with contract.clause("a size that it cannot cut is refused with a ShapeError in words"):
        _check_invalid_size(tokenizer, size)
    check_in_model(contract, data=randn(*latent.shape), tokenizer=tokenizer)


def _check_format(tokenizer: Tokenizer, latent: Tensor) -> Tokens:
    before = latent.clone()
    tokens = tokenizer.patchify(latent)
    expect_equal(latent, before, "the latent that was handed over")
    expect(isinstance(tokens, Tokens), f"{type(tokens).__name__} instead of Tokens")
    batch = len(latent)
    expect_shape(tokens.values, (batch, None, tokenizer.width), "values")
    count = tokens.values.shape[1]
    expect(tokens.values.dtype == latent.dtype, f"values are {tokens.values.dtype} instead of {latent.dtype}")
    expect_shape(tokens.positions, (batch, count, 3), "positions")
    expect(tokens.positions.is_floating_point(), f"positions are {tokens.positions.dtype}, no floating numbers")
    expect_finite(tokens.positions, "the positions")
    size = tuple(latent.shape[2:])
    expect(tokens.sizes == (size,) * batch, f"sizes are {tokens.sizes} instead of {(size,) * batch}")
    if tokens.mask is not None:
        expect_shape(tokens.mask, (batch, count), "mask")
        expect(tokens.mask.dtype == torch.bool, f"the mask is {tokens.mask.dtype} instead of torch.bool")
    return tokens


def _check_numbers(tokens: Tokens, latent: Tensor) -> None:
    for item, numbers in enumerate(latent):
        values = tokens.values[item] if tokens.mask is None else tokens.values[item][tokens.mask[item]]
        got, expected = values.flatten().tolist(), numbers.flatten().tolist()
        missing, extra = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
        message = (
            f"item {item}: {len(got)} numbers of {len(expected)}, {len(missing)} are lost and {len(extra)} invented"
        )
        expect(len(got) == len(expected) and not missing and not extra, message)


def _check_empty(empty: Tokens, tokens: Tokens) -> None:
    expect(not empty.values.any(), "values that are not zero")
    expect_shape(empty.values, tuple(tokens.values.shape), "values")
    expect_equal(empty.positions, tokens.positions, "positions")
    expect(empty.sizes == tokens.sizes, f"sizes {empty.sizes} instead of {tokens.sizes}")
    expect(
        (empty.mask is None) == (tokens.mask is None), "a mask where patchify() gives none, or none where it gives one"
    )
    if empty.mask is not None and tokens.mask is not None:
        expect_equal(empty.mask, tokens.mask, "mask")


def _check_invalid_size(tokenizer: Tokenizer, valid_size: Size) -> None:
    invalid_sizes = [
        (*valid_size[:axis], valid_size[axis] + 1, *valid_size[axis + 1 :]) for axis in range(len(valid_size))
    ]
    for invalid_size in invalid_sizes:
        try:
            tokenizer.empty(1, invalid_size)
        except LuminaError:
            continue
        except Exception as error:
            raise ViolationError(f"{type(error).__name__} ({error}) for the size {invalid_size}") from error


def check_autoencoder(autoencoder: Autoencoder, data: Tensor, is_trained: bool = True) -> None:
    """Try every line of the contract `Autoencoder`.

    Args:
        data: (B, channels of data, ...), real data in [-1, 1] of a size that it can take, at least two items.
        is_trained: False: its weights are fresh, so that the latent's spread says nothing.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("Autoencoder", autoencoder)
    with contract.clause("the sample is data in [-1, 1], at least two items (this is about the sample, not the part)"):
        expect(len(data) > 1 and float(data.abs().max()) <= 1, f"{len(data)} items up to {float(data.abs().max()):.3g}")
    if isinstance(autoencoder, nn.Module):
        autoencoder.eval()
    with torch.no_grad():
        _check_codec(contract, autoencoder, data, is_trained)
    check_in_model(contract, data=data, autoencoder=autoencoder)
    if isinstance(autoencoder, nn.Module) and isinstance(autoencoder, SupportsLoss):
        check_autoencoder_training(contract, autoencoder, data)


def _check_codec(contract: Contract, autoencoder: Autoencoder, data: Tensor, is_trained: bool) -> None:
    with contract.clause("encode(data) gives (B, channels, each size divided by its downsample_factor)"):
        sizes = data.shape[2:]
        expect(
            len(autoencoder.downsample_factor) == len(sizes),
            f"a downsample_factor {autoencoder.downsample_factor} for data of the sizes {tuple(sizes)}",
        )
        latent = autoencoder.encode(data)
        latent_size = tuple(size // step for size, step in zip(sizes, autoencoder.downsample_factor, strict=True))
        expect_shape(latent, (len(data), autoencoder.channels, *latent_size), "the latent")
        expect_finite(latent, "the latent")
        expect(latent.dtype == data.dtype, f"the latent is {latent.dtype} instead of {data.dtype}")
    with contract.clause("decode(latent) gives data of the shape that was encoded"):
        decoded = autoencoder.decode(latent)
        expect_shape(decoded, tuple(data.shape), "what comes back")
        expect_finite(decoded, "what comes back")
    if is_trained:
        with contract.clause("a latent of about zero mean and unit variance: it owns every magic scale"):
            _check_statistics(latent)
        with contract.clause("decode undoes encode, as far as it can: what comes back is nearer than the data's mean"):
            error, variance = float((decoded - data).square().mean()), float(data.var())
            expect(error < variance, f"a mean squared error of {error:.3g} for data of the variance {variance:.3g}")
    with contract.clause("the same data give the same latent, without chance"):
        expect_equal(autoencoder.encode(data), latent, "the second time")
    with contract.clause("a batch of n is n singles"):
        for item in range(len(data)):
            expect_close(autoencoder.encode(data[item : item + 1])[0], latent[item], f"item {item} encoded alone")
            expect_close(autoencoder.decode(latent[item : item + 1])[0], decoded[item], f"item {item} decoded alone")


def _check_statistics(latent: Tensor) -> None:
    mean, std = float(latent.mean()), float(latent.std())
    # a sample is small and pixels are their own latent: only a forgotten scale is meant to be seen
    expect(0.25 < std < 2.5 and abs(mean) < 1.5, f"a mean of {mean:.3g} and a deviation of {std:.3g}")


LENGTHS = (5, 3, 4)
"""Tokens of the three items that networks are tried on; the shorter two are padded."""
PADDING_VALUE = 7.0
"""What stands under a False mask while a network is tried: if it counts, it is seen."""


def check_conditioner(conditioner: Conditioner, values: Sequence[Any], data: Tensor | None = None) -> None:
    """Try every line of the contract `Conditioner`. One that learns (`fit`) learns from these values first.

    Args:
        values: at least two things that can be said, best of different lengths.
        data: (B, channels, ...) with one item a value, where only data of its own fit it; else random numbers.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("Conditioner", conditioner)
    inputs = list(values)
    with contract.clause("there are at least two values (this is about the sample, not the part)"):
        expect(len(inputs) > 1, f"{len(inputs)} values")
    module = conditioner if isinstance(conditioner, nn.Module) else nn.Module()
    module.eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        if isinstance(conditioner, SupportsFit):
            with contract.clause("fit(values) takes all values that a data set has"):
                conditioner.fit(inputs)
        _check_encoding(contract, conditioner, inputs)
    rows = randn(len(inputs), 2, 6) if data is None else data
    check_in_model(contract, data=rows, values={"cond": inputs}, conditioners={"cond": conditioner})


def _check_encoding(contract: Contract, conditioner: Conditioner, inputs: list[Any]) -> None:
    with contract.clause(
        "encode(values) gives context (B, M, cross_attention_dim) and pooled (B, pooled_dim), or None for 0"
    ):
        condition = conditioner.encode(inputs)
        _check_fields(conditioner, condition, len(inputs))
    with contract.clause("the same values give the same condition, without chance"):
        repeated = conditioner.encode(inputs)
        for item in range(len(inputs)):
            _expect_same_condition(
                _select_item(repeated, item), _select_item(condition, item), f"{inputs[item]!r:.40} the second time"
            )
    with contract.clause("null_condition(batch) is its own silence: the same fields and widths, every item alike"):
        null_condition = conditioner.null_condition(3)
        _check_fields(conditioner, null_condition, 3)
        _expect_same_condition(
            select(null_condition, torch.tensor([2])), conditioner.null_condition(1), "the last of three silences"
        )
    singles = [conditioner.encode([value]) for value in inputs]
    longest = max(_context_length(single) for single in singles)
    shorter = [item for item, single in enumerate(singles) if _context_length(single) < longest]
    with contract.clause("a batch of n is n singles: an item depends on its own value alone"):
        for item in (item for item in range(len(inputs)) if item not in shorter):
            _expect_same_condition(_select_item(condition, item), singles[item], f"{inputs[item]!r:.40} in a batch")
    with contract.clause("padding never leaks: a short value beside longer ones says what it says alone"):
        for item in shorter:
            _expect_same_condition(
                _select_item(condition, item), singles[item], f"{inputs[item]!r:.40} beside longer ones"
            )


def _check_fields(conditioner: Conditioner, condition: Condition, batch: int) -> None:
    expect(isinstance(condition, Condition), f"{type(condition).__name__} instead of Condition")
    for name, tensor, dim in (
        ("context", condition.context, conditioner.cross_attention_dim),
        ("pooled", condition.pooled, conditioner.pooled_dim),
    ):
        expect(
            (tensor is not None) == bool(dim),
            f"{name} {'is there' if dim == 0 else 'is None'}, its width is {dim}",
        )
        if tensor is not None:
            expect_shape(tensor, (batch, None, dim) if name == "context" else (batch, dim), name)
            expect_finite(tensor, name)
    if condition.context_mask is not None:
        expect(condition.context is not None, "a context_mask without a context")
        expect_shape(condition.context_mask, (batch, *condition.context.shape[1:2]), "context_mask")  # type: ignore[union-attr]
        expect(condition.context_mask.dtype == torch.bool, f"context_mask is {condition.context_mask.dtype}, not bool")
        expect(bool(condition.context_mask.any(dim=1).all()), "an item whose every entry of the context is masked")
    if condition.reference is not None:
        expect(len(condition.reference.sizes) == batch, f"reference tokens of {len(condition.reference.sizes)} items")


def _select_item(condition: Condition, item: int) -> Condition:
    return select(condition, torch.tensor([item]))


def _context_length(single: Condition) -> int:
    if single.context is None:
        return 0
    return single.context.shape[1] if single.context_mask is None else int(single.context_mask.sum())


def _unmasked_context(row: Condition) -> Tensor | None:
    """The entries (M, W') of a row's memory that are not masked."""
    if row.context is None:
        return None
    return row.context[0] if row.context_mask is None else row.context[0][row.context_mask[0]]


def _expect_same_condition(got: Condition, expected: Condition, what: str) -> None:
    got_context, expected_context = _unmasked_context(got), _unmasked_context(expected)
    if got_context is not None and expected_context is not None:
        expect_close(got_context, expected_context, f"the context of {what}")
    if got.pooled is not None and expected.pooled is not None:
        expect_close(got.pooled, expected.pooled, f"the pooled condition of {what}")
    if got.reference is not None and expected.reference is not None:
        expect_close(got.reference.items()[0].values, expected.reference.items()[0].values, f"the reference of {what}")


def check_backbone(backbone: Backbone, tokens: Tokens | None = None, condition: Condition | None = None) -> None:
    """Try every line of the contract `Backbone`, with every weight moved from zero and put back afterwards.

    Args:
        tokens, condition: what it is asked; None: drawn by the widths in its `config` (token_dim,
            cross_attention_dim, pooled_dim), on one axis.

    Raises:
        ContractError: a line is broken.
    """
    contract, config = Contract("Backbone", backbone), getattr(backbone, "config", None)
    with contract.clause(
        "config says its hidden_size and the widths it was built for; modulation_dim what a head is told"
    ):
        dims = [int(getattr(config, what)) for what in ("token_dim", "cross_attention_dim", "pooled_dim")]
        expect(getattr(config, "hidden_size", 0) > 0, "no hidden_size in its config")
        expect(isinstance(getattr(backbone, "modulation_dim", None), int), "no modulation_dim")
    items = variable_length_tokens(dims[0]) if tokens is None else tokens.items()
    cond = _random_condition(len(items), dims[1], dims[2]) if condition is None else condition
    module = backbone if isinstance(backbone, nn.Module) else nn.Module()
    with preserve_state(module), torch.no_grad():
        perturb_weights(module.eval())
        _check_forward(contract, backbone, items, cond)
    data = randn(3, dims[0], 6)
    if condition is None and tokens is None and getattr(config, "time_conditioned", True):
        check_in_model(contract, data=data, backbone=backbone)


def variable_length_tokens(token_dim: int) -> list[Tokens]:
    """Three items of different lengths on the first axis."""
    positions = [torch.nn.functional.pad(torch.arange(float(length))[None, :, None], (0, 2)) for length in LENGTHS]
    return [
        Tokens(randn(1, length, token_dim, seed=length), position, ((length,),))
        for length, position in zip(LENGTHS, positions, strict=True)
    ]


def _random_condition(batch: int, cross_attention_dim: int, pooled_dim: int) -> Condition:
    context_mask = torch.ones(batch, 4, dtype=torch.bool)
    context_mask[0, 2:] = False
    return Condition(
        context=randn(batch, 4, cross_attention_dim, seed=11) if cross_attention_dim else None,
        context_mask=context_mask if cross_attention_dim else None,
        pooled=randn(batch, pooled_dim, seed=12) if pooled_dim else None,
    )


def _check_forward(contract: Contract, backbone: Backbone, items: list[Tokens], condition: Condition) -> None:
    tokens, hidden_size = stack_tokens(items), getattr(backbone, "config").hidden_size  # noqa: B009
    time_conditioned = getattr(getattr(backbone, "config"), "time_conditioned", True)  # noqa: B009
    time = torch.linspace(0.2, 0.8, len(items)) if time_conditioned else None
    with contract.clause(
        "tokens, time and condition give hidden states (B, N, hidden_size) and a modulation (B, A), or None"
    ):
        hidden = backbone(tokens, time, condition)
        expect(isinstance(hidden, BackboneOutput), f"{type(hidden).__name__} instead of BackboneOutput")
        expect_shape(hidden.hidden_states, (*tokens.values.shape[:2], hidden_size), "hidden_states")
        expect_finite(hidden.hidden_states, "the values")
    with contract.clause("the same question gives the same answer, without chance"):
        expect_equal(backbone(tokens, time, condition).hidden_states, hidden.hidden_states, "the second answer")
    with contract.clause("precompute(tokens, condition) spares work and changes nothing"):
        precomputed = backbone.precompute(tokens, condition)
        expect_close(
            backbone(tokens, time, condition, precomputed=precomputed).hidden_states,
            hidden.hidden_states,
            "the answer with it",
        )
    with contract.clause("a batch of n is n singles, and padding never leaks"):
        for item, item_tokens in enumerate(items):
            item_time = None if time is None else time[item : item + 1]
            single = backbone(item_tokens, item_time, select(condition, torch.tensor([item]))).hidden_states
            length = item_tokens.values.shape[1]
            expect_close(
                hidden.hidden_states[item : item + 1, :length], single, f"item {item}, {length} tokens long, in a batch"
            )
    with contract.clause("what stands under a False mask is never read, neither tokens nor context"):
        garbled = backbone(_garble_padding(tokens), time, _garble_context(condition)).hidden_states
        for item, item_tokens in enumerate(items):
            length = item_tokens.values.shape[1]
            expect_close(garbled[item, :length], hidden.hidden_states[item, :length], f"item {item} with other padding")
    with contract.clause("it mixes tokens: another first token changes what is said of the last"):
        values = items[0].values.clone()
        values[:, 0] += 1
        first_item = None if time is None else time[:1], select(condition, torch.tensor([0]))
        before, after = (
            backbone(items[0], *first_item).hidden_states,
            backbone(items[0].with_values(values), *first_item).hidden_states,
        )
        expect(not torch.equal(before[:, -1], after[:, -1]), "the same answer")


def _garble_padding(tokens: Tokens) -> Tokens:
    if tokens.mask is None:
        raise ViolationError("a batch of several lengths without a mask")
    return tokens.with_values(tokens.values.masked_fill(~tokens.mask[..., None], PADDING_VALUE))


def _garble_context(condition: Condition) -> Condition:
    if condition.context is None or condition.context_mask is None:
        return condition
    return replace(condition, context=condition.context.masked_fill(~condition.context_mask[..., None], PADDING_VALUE))


def check_head(head: Head, hidden_size: int | None = None, modulation_dim: int | None = None) -> None:
    """Try every line of the contract `Head`.

    Args:
        hidden_size, modulation_dim: of the backbone it reads; None: those in its `config` (hidden_size,
            modulation_dim). `config.token_dim` says how wide the tokens are, 1 where it is not there.

    Raises:
        ContractError: a line is broken.
    """
    contract, config = Contract("Head", head), getattr(head, "config", None)
    width_read = hidden_size or int(getattr(config, "hidden_size", 0))
    with contract.clause("its config says the width of what it reads, or the check is told (hidden_size)"):
        expect(width_read > 0, f"a width of {width_read}")
    tokens = stack_tokens(variable_length_tokens(int(getattr(config, "token_dim", 1)) or 1))
    modulation_size = getattr(config, "modulation_dim", 0) if modulation_dim is None else modulation_dim
    hidden = BackboneOutput(
        randn(*tokens.values.shape[:2], width_read),
        randn(len(tokens.sizes), modulation_size) if modulation_size else None,
    )
    module = head if isinstance(head, nn.Module) else nn.Module()
    with preserve_state(module), torch.no_grad():
        perturb_weights(module.eval())
        velocity = _check_output(contract, head, hidden, tokens)
    if velocity and modulation_size == width_read:  # the small backbone's modulation is as wide as itself
        check_in_model(contract, data=randn(3, tokens.values.shape[2], 6), head=head)


def _check_output(contract: Contract, head: Head, hidden: BackboneOutput, tokens: Tokens) -> bool:
    """Whether it answers a velocity a token."""
    with contract.clause("it answers a velocity (B, N, D), or one answer an item (B, ...)"):
        output = head(hidden, tokens)
        expect(isinstance(output, Tensor) and output.ndim >= 2, f"{type(output).__name__}, no answer an item")
        expect(len(output) == len(tokens.sizes), f"{len(output)} answers for {len(tokens.sizes)} items")
        expect_finite(output, "the answer")
    velocity = output.shape == tokens.values.shape
    with contract.clause("the same hidden gives the same answer, without chance"):
        expect_equal(head(hidden, tokens), output, "the second answer")
    assert tokens.mask is not None
    with contract.clause("the mask is kept: what stands under it changes no answer"):
        garbled = BackboneOutput(
            hidden.hidden_states.masked_fill(~tokens.mask[..., None], PADDING_VALUE), hidden.modulation
        )
        garbled_output = head(garbled, _garble_padding(tokens))
        compared = tokens.mask if velocity else torch.ones(len(output), dtype=torch.bool)
        expect_close(garbled_output[compared], output[compared], "an answer with other padding")
    with contract.clause("a batch of n is n singles"):
        for item, item_tokens in enumerate(tokens.items()):
            length, row = item_tokens.values.shape[1], slice(item, item + 1)
            modulation = None if hidden.modulation is None else hidden.modulation[row]
            single = head(BackboneOutput(hidden.hidden_states[row, :length], modulation), item_tokens)
            batched = output[row, :length] if velocity else output[row]
            expect_close(single, batched, f"item {item}, {length} tokens long, alone")
    return bool(velocity)
