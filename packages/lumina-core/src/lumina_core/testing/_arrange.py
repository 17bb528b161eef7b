"""Checks of what rearranges and squeezes data: tokenizer and autoencoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lumina_core.errors import LuminaError
from lumina_core.parts import Autoencoder, Tokenizer
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
from lumina_core.testing._whole import check_rebuilding, check_whole
from lumina_core.types import Extent, Tokens


def check_tokenizer(tokenizer: Tokenizer, latent: Tensor) -> None:
    """Try every line of the contract `Tokenizer`.

    Args:
        latent: (B, C, ...), of a size that it can cut; only its shape counts.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("Tokenizer", tokenizer)
    # every number once, so that a lost, doubled or misplaced one is seen
    marked = torch.arange(1.0, latent.numel() + 1).reshape(latent.shape)
    extent = tuple(latent.shape[2:])
    with contract.line("tokens(latent) gives values (B, N, width), positions (B, N, 3), an extent an item"):
        tokens = _formed(tokenizer, marked)
    with contract.line("tokens(latent) loses and invents no number"):
        _check_numbers(tokens, marked)
    with contract.line("latent(tokens(x)) is x, bit for bit"):
        want_same(tokenizer.latent(tokens), marked, "what comes back")
    with contract.line("values under a False mask are zero"):
        hidden = torch.zeros(0) if tokens.mask is None else tokens.values[~tokens.mask]
        want(not hidden.any(), f"{int(hidden.count_nonzero())} numbers under the mask are not zero")
    with contract.line("blank(batch, extent) gives zeros at the places of tokens(latent)"):
        _check_places(tokenizer.blank(len(latent), extent), tokens)
    with contract.line("noise poured into the tokens comes out as it went in: tokens(latent(t)) is t"):
        noise = drawn(*tokens.values.shape) * (1 if tokens.mask is None else tokens.mask[..., None])
        again = tokenizer.tokens(tokenizer.latent(tokens.with_values(noise)))
        want_same(again.values, noise, "the values of the tokens")
    with contract.line("it keeps the type of the numbers (float64, bfloat16)"):
        for dtype in (torch.float64, torch.bfloat16):
            want_same(tokenizer.latent(tokenizer.tokens(marked.to(dtype))), marked.to(dtype), f"the latent in {dtype}")
    with contract.line("it has no weights, and the same latent gives the same tokens"):
        want(not list(tokenizer.parameters()) if isinstance(tokenizer, nn.Module) else True, "it has weights")
        want_same(tokenizer.tokens(marked).values, tokens.values, "the second time")
    with contract.line("a batch of n is n singles"):
        for item in range(len(marked)):
            alone = tokenizer.tokens(marked[item : item + 1])
            want_same(alone.values, tokens.values[item : item + 1], f"item {item} alone")
    with contract.line("an extent that it cannot cut is refused with a ShapeError in words"):
        _check_refusal(tokenizer, extent)
    check_whole(contract, data=drawn(*latent.shape), tokenizer=tokenizer)


def _formed(tokenizer: Tokenizer, latent: Tensor) -> Tokens:
    before = latent.clone()
    tokens = tokenizer.tokens(latent)
    want_same(latent, before, "the latent that was handed over")
    want(isinstance(tokens, Tokens), f"{type(tokens).__name__} instead of Tokens")
    batch = len(latent)
    want_shape(tokens.values, (batch, None, tokenizer.width), "values")
    count = tokens.values.shape[1]
    want(tokens.values.dtype == latent.dtype, f"values are {tokens.values.dtype} instead of {latent.dtype}")
    want_shape(tokens.positions, (batch, count, 3), "positions")
    want(tokens.positions.is_floating_point(), f"positions are {tokens.positions.dtype}, no floating numbers")
    want_finite(tokens.positions, "the positions")
    extent = tuple(latent.shape[2:])
    want(tokens.extents == (extent,) * batch, f"extents are {tokens.extents} instead of {(extent,) * batch}")
    if tokens.mask is not None:
        want_shape(tokens.mask, (batch, count), "mask")
        want(tokens.mask.dtype == torch.bool, f"the mask is {tokens.mask.dtype} instead of torch.bool")
    return tokens


def _check_numbers(tokens: Tokens, latent: Tensor) -> None:
    for item, numbers in enumerate(latent):
        values = tokens.values[item] if tokens.mask is None else tokens.values[item][tokens.mask[item]]
        came, wanted = values.flatten().tolist(), numbers.flatten().tolist()
        lost, invented = sorted(set(wanted) - set(came)), sorted(set(came) - set(wanted))
        said = f"item {item}: {len(came)} numbers of {len(wanted)}, {len(lost)} are lost and {len(invented)} invented"
        want(len(came) == len(wanted) and not lost and not invented, said)


def _check_places(blank: Tokens, tokens: Tokens) -> None:
    want(not blank.values.any(), "values that are not zero")
    want_shape(blank.values, tuple(tokens.values.shape), "values")
    want_same(blank.positions, tokens.positions, "positions")
    want(blank.extents == tokens.extents, f"extents {blank.extents} instead of {tokens.extents}")
    want((blank.mask is None) == (tokens.mask is None), "a mask where tokens() gives none, or none where it gives one")
    if blank.mask is not None and tokens.mask is not None:
        want_same(blank.mask, tokens.mask, "mask")


def _check_refusal(tokenizer: Tokenizer, extent: Extent) -> None:
    wrong = [(*extent[:axis], extent[axis] + 1, *extent[axis + 1 :]) for axis in range(len(extent))]
    for size in wrong:
        try:
            tokenizer.blank(1, size)
        except LuminaError:
            continue
        except Exception as error:
            raise BrokenError(f"{type(error).__name__} ({error}) for the extent {size}") from error


def check_autoencoder(autoencoder: Autoencoder, data: Tensor, trained: bool = True) -> None:
    """Try every line of the contract `Autoencoder`.

    Args:
        data: (B, channels of data, ...), real data in [-1, 1] of a size that it can take, at least two items.
        trained: False: its weights are fresh, so that the latent's spread says nothing.

    Raises:
        ContractError: a line is broken.
    """
    contract = Contract("Autoencoder", autoencoder)
    with contract.line("the sample is data in [-1, 1], at least two items (this is about the sample, not the part)"):
        want(len(data) > 1 and float(data.abs().max()) <= 1, f"{len(data)} items up to {float(data.abs().max()):.3g}")
    if isinstance(autoencoder, nn.Module):
        autoencoder.eval()
    with torch.no_grad():
        _check_codec(contract, autoencoder, data, trained)
    check_whole(contract, data=data, autoencoder=autoencoder)
    if isinstance(autoencoder, nn.Module) and hasattr(autoencoder, "loss"):
        check_rebuilding(contract, autoencoder, data)


def _check_codec(contract: Contract, autoencoder: Autoencoder, data: Tensor, trained: bool) -> None:
    with contract.line("encode(data) gives (B, channels, each size divided by its stride)"):
        sizes = data.shape[2:]
        want(
            len(autoencoder.stride) == len(sizes), f"a stride {autoencoder.stride} for data of the sizes {tuple(sizes)}"
        )
        latent = autoencoder.encode(data)
        cut = tuple(size // step for size, step in zip(sizes, autoencoder.stride, strict=True))
        want_shape(latent, (len(data), autoencoder.channels, *cut), "the latent")
        want_finite(latent, "the latent")
        want(latent.dtype == data.dtype, f"the latent is {latent.dtype} instead of {data.dtype}")
    with contract.line("decode(latent) gives data of the shape that was encoded"):
        back = autoencoder.decode(latent)
        want_shape(back, tuple(data.shape), "what comes back")
        want_finite(back, "what comes back")
    if trained:
        with contract.line("a latent of about zero mean and unit variance: it owns every magic scale"):
            _check_spread(latent)
        with contract.line("decode undoes encode, as far as it can: what comes back is nearer than the data's mean"):
            error, spread = float((back - data).square().mean()), float(data.var())
            want(error < spread, f"a mean squared error of {error:.3g} for data of the variance {spread:.3g}")
    with contract.line("the same data give the same latent, without chance"):
        want_same(autoencoder.encode(data), latent, "the second time")
    with contract.line("a batch of n is n singles"):
        for item in range(len(data)):
            want_close(autoencoder.encode(data[item : item + 1])[0], latent[item], f"item {item} encoded alone")
            want_close(autoencoder.decode(latent[item : item + 1])[0], back[item], f"item {item} decoded alone")


def _check_spread(latent: Tensor) -> None:
    mean, spread = float(latent.mean()), float(latent.std())
    # a sample is small and pixels are their own latent: only a forgotten scale is meant to be seen
    want(0.25 < spread < 2.5 and abs(mean) < 1.5, f"a mean of {mean:.3g} and a deviation of {spread:.3g}")
