"""Contract checks of networks: tokenizer, autoencoder, conditioner, backbone, head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from lumina_core.conditioning.ops import select
from lumina_core.errors import LuminaError
from lumina_core.protocols import (
    Autoencoder,
    Backbone,
    Conditioner,
    Head,
    SupportsFit,
    SupportsLoss,
    Tokenizer,
    options_of,
)
from lumina_core.testing._contract import (
    Contract,
    ViolationError,
    expect,
    expect_close,
    expect_equal,
    expect_tensor,
    expect_unchanged,
    randn,
)
from lumina_core.testing._tiny_model import check_autoencoder_training, check_in_model, perturb_weights, preserve_state
from lumina_core.types import BackboneOutput, Condition, Tokens, stack_tokens

LENGTHS = (5, 3, 4)
"""Numbers of tokens of the three items that networks are checked on; the shorter two are padded."""
PADDING_VALUE = 7.0
"""Value under a False mask; a network that reads it gives another output."""


def check_tokenizer(tokenizer: Tokenizer, latent: Tensor) -> None:
    """Check every clause of `Tokenizer`.

    Args:
        tokenizer: the tokenizer.
        latent: (B, C, ...) of a valid size; only its shape matters.

    Raises:
        ContractError: a clause is violated.
    """
    contract, size = Contract("Tokenizer", tokenizer), tuple(latent.shape[2:])
    # every number once, so that a lost, doubled or misplaced one is found
    numbered = torch.arange(1.0, latent.numel() + 1).reshape(latent.shape)
    with contract.clause("patchify(latent) returns values (B, N, width), positions (B, N, 3), a size per item"):
        with expect_unchanged(latent=numbered):
            tokens = tokenizer.patchify(numbered)
        _check_tokens(tokens, numbered, tokenizer.width)
    with contract.clause("patchify(latent) keeps every number exactly once"):
        for item, expected in enumerate(numbered.flatten(1)):
            values = tokens.values[item] if tokens.mask is None else tokens.values[item][tokens.mask[item]]
            missing, extra = set(expected.tolist()) - set(values.flatten().tolist()), values.numel() - expected.numel()
            expect(not missing and not extra, f"item {item} with {len(missing)} lost and {extra} added numbers")
    with contract.clause("unpatchify(patchify(x)) is x, bitwise"):
        expect_equal(tokenizer.unpatchify(tokens), numbered, "the latent")
    with contract.clause("values under a False mask are zero"):
        hidden = torch.zeros(0) if tokens.mask is None else tokens.values[~tokens.mask]
        expect(not hidden.any(), f"{int(hidden.count_nonzero())} other numbers")
    with contract.clause("empty(batch, size) returns zeros with the positions, sizes and mask of patchify(latent)"):
        empty = tokenizer.empty(len(latent), size)
        expect_equal(empty.values, torch.zeros_like(tokens.values, dtype=empty.values.dtype), "the values")
        expect_equal(empty.positions, tokens.positions, "the positions")
        expect(empty.sizes == tokens.sizes, f"sizes {empty.sizes} instead of {tokens.sizes}")
        masks = [torch.ones(len(latent), 1) if t.mask is None else t.mask for t in (empty, tokens)]
        expect_equal(masks[0], masks[1], "the mask")
    with contract.clause("patchify(unpatchify(t)) is t for any values of the tokens"):
        noise = randn(*tokens.values.shape) * (1 if tokens.mask is None else tokens.mask[..., None])
        recovered = tokenizer.patchify(tokenizer.unpatchify(tokens.with_values(noise)))
        expect_equal(recovered.values, noise, "the values")
    with contract.clause("the dtype is kept (float64, bfloat16)"):
        for dtype in (torch.float64, torch.bfloat16):
            converted = numbered.to(dtype)
            expect_equal(tokenizer.unpatchify(tokenizer.patchify(converted)), converted, f"the latent in {dtype}")
    with contract.clause("it has no weights, and the same latent gives the same tokens"):
        expect(not isinstance(tokenizer, nn.Module) or not list(tokenizer.parameters()), "weights")
        expect_equal(tokenizer.patchify(numbered).values, tokens.values, "the second result")
    with contract.clause("a batch of n is n singles"):
        for item in range(len(numbered)):
            single = tokenizer.patchify(numbered[item : item + 1])
            expect_equal(single.values, tokens.values[item : item + 1], f"item {item} alone")
    with contract.clause("an invalid size raises a ShapeError"):
        for axis in range(len(size)):
            invalid = (*size[:axis], size[axis] + 1, *size[axis + 1 :])
            try:
                tokenizer.empty(1, invalid)
            except LuminaError:
                continue
            except Exception as error:
                raise ViolationError(f"{type(error).__name__} ({error}) for the size {invalid}") from error
    check_in_model(contract, data=randn(*latent.shape), tokenizer=tokenizer)


def _check_tokens(tokens: Any, latent: Tensor, width: int) -> None:
    expect(isinstance(tokens, Tokens), f"{type(tokens).__name__} instead of Tokens")
    batch, size = len(latent), tuple(latent.shape[2:])
    expect_tensor(tokens.values, (batch, None, width), "values", latent.dtype)
    count = tokens.values.shape[1]
    expect_tensor(tokens.positions, (batch, count, 3), "positions")
    expect(tokens.positions.is_floating_point(), f"positions of {tokens.positions.dtype}")
    expect(tokens.sizes == (size,) * batch, f"sizes {tokens.sizes} instead of {(size,) * batch}")
    if tokens.mask is not None:
        expect_tensor(tokens.mask, (batch, count), "mask", torch.bool)


def check_autoencoder(autoencoder: Autoencoder, data: Tensor, is_trained: bool = True) -> None:
    """Check every clause of `Autoencoder`.

    Args:
        autoencoder: the autoencoder.
        data: (B, channels, ...), real data in [-1, 1] of a valid size, at least two items.
        is_trained: False for fresh weights, whose latent has any variance.

    Raises:
        ContractError: a clause is violated.
    """
    contract = Contract("Autoencoder", autoencoder)
    with contract.clause("the sample is data in [-1, 1], at least two items (a clause of the sample)"):
        expect(len(data) > 1 and float(data.abs().max()) <= 1, f"{len(data)} items up to {float(data.abs().max()):.3g}")
    if isinstance(autoencoder, nn.Module):
        autoencoder.eval()
    with torch.no_grad():
        _check_codec(contract, autoencoder, data, is_trained)
    check_in_model(contract, data=data, autoencoder=autoencoder)
    if isinstance(autoencoder, nn.Module) and isinstance(autoencoder, SupportsLoss):
        check_autoencoder_training(contract, autoencoder, data)


def _check_codec(contract: Contract, autoencoder: Autoencoder, data: Tensor, is_trained: bool) -> None:
    with contract.clause("encode(data) returns (B, channels, each size divided by its downsample_factor)"):
        sizes, factors = tuple(data.shape[2:]), autoencoder.downsample_factor
        expect(len(factors) == len(sizes), f"a downsample_factor {factors} for data of the size {sizes}")
        latent = autoencoder.encode(data)
        latent_size = tuple(size // factor for size, factor in zip(sizes, factors, strict=True))
        expect_tensor(latent, (len(data), autoencoder.channels, *latent_size), "the latent", data.dtype)
    with contract.clause("decode(latent) returns data of the encoded shape"):
        decoded = autoencoder.decode(latent)
        expect_tensor(decoded, tuple(data.shape), "the decoded data")
    if is_trained:
        with contract.clause("the latent has about zero mean and unit variance"):
            mean, std = float(latent.mean()), float(latent.std())
            # samples are small, and pixels are their own latent: only a missing scale is to be found
            expect(0.25 < std < 2.5 and abs(mean) < 1.5, f"a mean of {mean:.3g} and a deviation of {std:.3g}")
        with contract.clause("decode undoes encode: the decoded data are nearer to the data than their mean"):
            error, variance = float((decoded - data).square().mean()), float(data.var())
            expect(error < variance, f"a mean squared error of {error:.3g} for data of the variance {variance:.3g}")
    with contract.clause("the same data give the same latent, without random numbers"):
        expect_equal(autoencoder.encode(data), latent, "the second latent")
    with contract.clause("a batch of n is n singles"):
        for item in range(len(data)):
            expect_close(autoencoder.encode(data[item : item + 1])[0], latent[item], f"item {item} encoded alone")
            expect_close(autoencoder.decode(latent[item : item + 1])[0], decoded[item], f"item {item} decoded alone")


def check_conditioner(conditioner: Conditioner, values: Sequence[Any], data: Tensor | None = None) -> None:
    """Check every clause of `Conditioner`; one with `fit` is fitted to the values first.

    Args:
        conditioner: the conditioner.
        values: at least two valid values, if possible of different lengths.
        data: (B, channels, ...), one item per value, if only such data fit the conditioner.

    Raises:
        ContractError: a clause is violated.
    """
    contract, inputs = Contract("Conditioner", conditioner), list(values)
    with contract.clause("there are at least two values (a clause of the sample)"):
        expect(len(inputs) > 1, f"{len(inputs)} values")
    if isinstance(conditioner, nn.Module):
        conditioner.eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        if isinstance(conditioner, SupportsFit):
            with contract.clause("fit(values) accepts all values of a data set"):
                conditioner.fit(inputs)
        _check_encoding(contract, conditioner, inputs)
    rows = randn(len(inputs), 2, 6) if data is None else data
    check_in_model(contract, data=rows, values={"cond": inputs}, conditioners={"cond": conditioner})


def _check_encoding(contract: Contract, conditioner: Conditioner, inputs: list[Any]) -> None:
    with contract.clause(
        "encode(values) returns context (B, M, cross_attention_dim) and pooled (B, pooled_dim), or None for width 0"
    ):
        condition = conditioner.encode(inputs)
        _check_condition(conditioner, condition, len(inputs))
    with contract.clause("the same values give the same condition, without random numbers"):
        repeated = conditioner.encode(inputs)
        for item, value in enumerate(inputs):
            _expect_same_row(_row(repeated, item), _row(condition, item), f"{value!r:.40} the second time")
    with contract.clause("null_condition(batch) has the same fields and widths, every item alike"):
        null_condition = conditioner.null_condition(3)
        _check_condition(conditioner, null_condition, 3)
        _expect_same_row(_row(null_condition, 2), conditioner.null_condition(1), "the last of three null conditions")
    singles = [conditioner.encode([value]) for value in inputs]
    lengths = [_context_length(single) for single in singles]
    for is_short, requirement in (
        (False, "a batch of n is n singles: an item depends on its own value alone"),
        (True, "padding never leaks: a short value in a batch with longer ones is encoded as alone"),
    ):
        with contract.clause(requirement):
            for item, single in enumerate(singles):
                if (lengths[item] < max(lengths)) == is_short:
                    _expect_same_row(_row(condition, item), single, f"{inputs[item]!r:.40} in a batch")


def _check_condition(conditioner: Conditioner, condition: Any, batch: int) -> None:
    expect(isinstance(condition, Condition), f"{type(condition).__name__} instead of Condition")
    context_shape = (batch, None, conditioner.cross_attention_dim)
    for name, tensor, shape in (
        ("context", condition.context, context_shape),
        ("pooled", condition.pooled, (batch, conditioner.pooled_dim)),
    ):
        expect((tensor is None) == (shape[-1] == 0), f"{name} {type(tensor).__name__} for the width {shape[-1]}")
        if tensor is not None:
            expect_tensor(tensor, shape, name)
    if condition.context_mask is not None:
        expect(condition.context is not None, "a context_mask without a context")
        expect_tensor(condition.context_mask, (batch, condition.context.shape[1]), "context_mask", torch.bool)
        expect(bool(condition.context_mask.any(dim=1).all()), "an item whose context is masked entirely")
    if condition.reference is not None:
        expect(len(condition.reference.sizes) == batch, f"reference tokens of {len(condition.reference.sizes)} items")


def _row(condition: Condition, item: int) -> Condition:
    return select(condition, torch.tensor([item]))


def _context_length(single: Condition) -> int:
    if single.context is None:
        return 0
    return single.context.shape[1] if single.context_mask is None else int(single.context_mask.sum())


def _unmasked_context(row: Condition) -> Tensor:
    if row.context is None:
        return torch.zeros(0)
    return row.context[0] if row.context_mask is None else row.context[0][row.context_mask[0]]


def _expect_same_row(got: Condition, expected: Condition, what: str) -> None:
    expect_close(_unmasked_context(got), _unmasked_context(expected), f"the context of {what}")
    if got.pooled is not None and expected.pooled is not None:
        expect_close(got.pooled, expected.pooled, f"the pooled condition of {what}")
    if got.reference is not None and expected.reference is not None:
        expect_close(got.reference.items()[0].values, expected.reference.items()[0].values, f"the reference of {what}")


def check_backbone(backbone: Backbone, tokens: Tokens | None = None, condition: Condition | None = None) -> None:
    """Check every clause of `Backbone`, with noise on every weight; the weights are restored afterwards.

    Args:
        backbone: the backbone.
        tokens: input tokens; None: random ones of the width in its `config` (token_dim), on one axis.
        condition: condition; None: random ones of the widths in its `config` (cross_attention_dim, pooled_dim).

    Raises:
        ContractError: a clause is violated.
    """
    contract, module = Contract("Backbone", backbone), cast(Any, backbone)
    with contract.clause("it is a module with modulation_dim; config has hidden_size and the widths of its inputs"):
        config = module.config
        dims = [int(config.token_dim), int(config.cross_attention_dim), int(config.pooled_dim)]
        expect(config.hidden_size > 0, f"a hidden_size of {config.hidden_size}")
        expect(isinstance(module, nn.Module) and isinstance(module.modulation_dim, int), type(backbone).__name__)
    items = variable_length_tokens(dims[0]) if tokens is None else tokens.items()
    cond = _random_condition(len(items), dims[1], dims[2]) if condition is None else condition
    time_conditioned = bool(getattr(config, "time_conditioned", True))
    time = torch.linspace(0.2, 0.8, len(items)) if time_conditioned else None
    with preserve_state(module), torch.no_grad():
        perturb_weights(module.eval())
        _check_forward(contract, module, items, cond, time)
    if condition is None and tokens is None and time_conditioned:
        check_in_model(contract, data=randn(3, dims[0], 6), backbone=backbone)


def variable_length_tokens(token_dim: int) -> list[Tokens]:
    """Return three items of different lengths on the first axis."""
    items = []
    for length in LENGTHS:
        positions = torch.nn.functional.pad(torch.arange(float(length))[None, :, None], (0, 2))
        items.append(Tokens(randn(1, length, token_dim, seed=length), positions, ((length,),)))
    return items


def _random_condition(batch: int, cross_attention_dim: int, pooled_dim: int) -> Condition:
    context_mask = torch.ones(batch, 4, dtype=torch.bool)
    context_mask[0, 2:] = False
    return Condition(
        context=randn(batch, 4, cross_attention_dim, seed=11) if cross_attention_dim else None,
        context_mask=context_mask if cross_attention_dim else None,
        pooled=randn(batch, pooled_dim, seed=12) if pooled_dim else None,
    )


def _check_forward(
    contract: Contract, backbone: Any, items: list[Tokens], condition: Condition, time: Tensor | None
) -> None:
    tokens = stack_tokens(items)
    with contract.clause("tokens, time and condition give hidden_states (B, N, hidden_size)"):
        output = backbone(tokens, time, condition)
        expect(isinstance(output, BackboneOutput), f"{type(output).__name__} instead of BackboneOutput")
        hidden = output.hidden_states
        expect_tensor(hidden, (*tokens.values.shape[:2], backbone.config.hidden_size), "hidden_states")
    with contract.clause("the same input gives the same output, without random numbers"):
        expect_equal(backbone(tokens, time, condition).hidden_states, hidden, "the second output")
    with contract.clause("precompute(tokens, condition) changes no output"):
        precomputed = backbone.precompute(tokens, condition)
        expect_close(backbone(tokens, time, condition, precomputed=precomputed).hidden_states, hidden, "the output")
    with contract.clause("a batch of n is n singles, and padding never leaks"):
        for item, item_tokens in enumerate(items):
            item_time = None if time is None else time[item : item + 1]
            single, length = backbone(item_tokens, item_time, _row(condition, item)), item_tokens.values.shape[1]
            what = f"item {item}, {length} tokens long, in a batch"
            expect_close(hidden[item : item + 1, :length], single.hidden_states, what)
    with contract.clause("values under a False mask are never read, neither tokens nor context"):
        garbled = backbone(_garble_padding(tokens), time, _garble_context(condition)).hidden_states
        for item, item_tokens in enumerate(items):
            length = item_tokens.values.shape[1]
            expect_close(garbled[item, :length], hidden[item, :length], f"item {item} with other padding")
    with contract.clause("it mixes tokens: another first token changes the output at the last"):
        first, first_time = items[0], None if time is None else time[:1]
        values = first.values.clone()
        values[:, 0] += 1
        before, after = (backbone(t, first_time, _row(condition, 0)) for t in (first, first.with_values(values)))
        same = torch.equal(before.hidden_states[:, -1], after.hidden_states[:, -1])
        expect(not same, "the same output")


def _garble_padding(tokens: Tokens) -> Tokens:
    if tokens.mask is None:
        raise ViolationError("a batch of several lengths without a mask")
    return tokens.with_values(tokens.values.masked_fill(~tokens.mask[..., None], PADDING_VALUE))


def _garble_context(condition: Condition) -> Condition:
    if condition.context is None or condition.context_mask is None:
        return condition
    return replace(condition, context=condition.context.masked_fill(~condition.context_mask[..., None], PADDING_VALUE))


def check_head(head: Head, hidden_size: int | None = None, modulation_dim: int | None = None) -> None:
    """Check every clause of `Head`.

    Args:
        head: the head.
        hidden_size: width of the backbone; None: that in its `config`.
        modulation_dim: width of the backbone's modulation; None: that in its `config`, 0 without one. The width of
            the tokens is `config.token_dim`, 1 without one.

    Raises:
        ContractError: a clause is violated.
    """
    contract, options = Contract("Head", head), options_of(head)
    width = hidden_size or options.get("hidden_size", 0)
    with contract.clause("its config has hidden_size, or the argument hidden_size is set"):
        expect(width > 0, f"a width of {width}")
    tokens = stack_tokens(variable_length_tokens(options.get("token_dim", 1) or 1))
    modulation_width = options.get("modulation_dim", 0) if modulation_dim is None else modulation_dim
    modulation = randn(len(tokens.sizes), modulation_width) if modulation_width else None
    hidden = BackboneOutput(randn(*tokens.values.shape[:2], width), modulation)
    module = head if isinstance(head, nn.Module) else nn.Module()
    with preserve_state(module), torch.no_grad():
        perturb_weights(module.eval())
        is_velocity = _check_output(contract, head, hidden, tokens)
    if is_velocity and modulation_width == width:  # the modulation of the tiny backbone is as wide as its hidden states
        check_in_model(contract, data=randn(3, tokens.values.shape[2], 6), head=head)


def _check_output(contract: Contract, head: Head, hidden: BackboneOutput, tokens: Tokens) -> bool:
    """Check the output of a head, and return whether it is a velocity."""
    with contract.clause("it returns a velocity (B, N, D), or one output per item (B, ...)"):
        output = head(hidden, tokens)
        expect(isinstance(output, Tensor) and output.ndim >= 2, f"{type(output).__name__}")
        expect_tensor(output, (len(tokens.sizes), *output.shape[1:]), "the output")
    is_velocity = output.shape == tokens.values.shape
    with contract.clause("the same hidden states give the same output, without random numbers"):
        expect_equal(head(hidden, tokens), output, "the second output")
    assert tokens.mask is not None
    with contract.clause("values under a False mask change no output"):
        garbled = hidden.hidden_states.masked_fill(~tokens.mask[..., None], PADDING_VALUE)
        garbled_output = head(BackboneOutput(garbled, hidden.modulation), _garble_padding(tokens))
        compared = tokens.mask if is_velocity else torch.ones(len(output), dtype=torch.bool)
        expect_close(garbled_output[compared], output[compared], "an output with other padding")
    with contract.clause("a batch of n is n singles"):
        for item, item_tokens in enumerate(tokens.items()):
            length, row = item_tokens.values.shape[1], slice(item, item + 1)
            modulation = None if hidden.modulation is None else hidden.modulation[row]
            single = head(BackboneOutput(hidden.hidden_states[row, :length], modulation), item_tokens)
            batched = output[row, :length] if is_velocity else output[row]
            expect_close(single, batched, f"item {item}, {length} tokens long, alone")
    return bool(is_velocity)
