"""What a batch is told: said by its requests, or handed over ready-made (conditions, noise)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lumina_core.conditioning.ops import combine_regions, condition_to, mean_pool, select, stack
from lumina_core.errors import ConfigError
from lumina_core.model import Model
from lumina_core.request import Request
from lumina_core.types import Condition, RegionalPrompts, Size, Tokens, check_shape


@dataclass(frozen=True)
class PrecomputedInputs:
    """What is not made from the requests but handed over.

    Conditions are of one item for all results, of one a request, or of one a result (requests one after another, each
    with its `count`). A memory without the summary that its model wants gets its mean, as in the published models.

    Attributes:
        said: instead of what the requests say.
        silent: instead of their negatives, or of silence; of any length, whatever the length of the other.
        noise: latents to begin from, (results, channels, ...), instead of those drawn by the seeds.
        data: data to begin from, (1 or results, channels, ...) in [-1, 1], with as much noise as `strength` says.
        strength: of the change to `data`, in 0..1; 1 keeps nothing of it.
        weaker: a model of the same tokens whose answer to the same words takes silence's place (autoguidance, arXiv
            2406.02507).
    """

    cond: Condition | None = None
    uncond: Condition | None = None
    noise: Tensor | None = None
    data: Tensor | None = None
    strength: float = 1.0
    guide_model: Model | None = None


NO_INPUTS = PrecomputedInputs()


def encode_cond(model: Model, requests: Sequence[Request], inputs: PrecomputedInputs) -> Condition:
    """What is said of all results.

    Raises:
        ConfigError: what is given is for another number of results.
    """
    return _select_condition(
        model,
        inputs.cond,
        lambda: _encode_fields(model, model.generation_task.conditions, requests),
        _request_index(requests),
    )


def encode_uncond(model: Model, requests: Sequence[Request], inputs: PrecomputedInputs) -> Condition:
    """What all results stay away from: their negatives, or silence.

    Raises:
        ConfigError: what is given is for another number of results.
    """
    return _select_condition(
        model,
        inputs.uncond,
        lambda: _encode_fields(model, model.generation_task.negative_conditions, requests),
        _request_index(requests),
    )


class NoiseSampler:
    """Standard normal noise for tokens (B, N, D), each item's from the generator of its own seed; zeros for padding.

    Drawn on the CPU: neither the device nor the neighbours of a batch change it.

    Args:
        places: blank tokens on the CPU.
    """

    def __init__(self, tokens: Tokens, seeds: Sequence[int], device: torch.device) -> None:
        self.device, length = device, tokens.values.shape[1]
        self.lengths = [length] * len(seeds) if tokens.mask is None else tokens.mask.sum(dim=1).tolist()
        self.padded_length, self.token_dim = length, tokens.values.shape[2]
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self) -> Tensor:
        """(B, N, D), other numbers each time."""
        noise = [
            F.pad(torch.randn(length, self.token_dim, generator=generator), (0, 0, 0, self.padded_length - length))
            for length, generator in zip(self.lengths, self.generators, strict=True)
        ]
        return torch.stack(noise).to(self.device, non_blocking=True)


def initial_noise(model: Model, inputs: PrecomputedInputs, sampler: NoiseSampler) -> Tensor:
    """What the way begins from: the given noise, or the first draw.

    Raises:
        ConfigError: not every value is a number.
        ShapeError: the given latents are of another size or number.
    """
    noise = sampler()
    if inputs.noise is None:
        return noise
    values = model.tokenizer.patchify(inputs.noise.float().to(model.device)).values
    check_values(values, noise.shape, "the given noise")
    return values


def check_values(values: Tensor, shape: Sequence[int], what: str) -> None:
    """Raise ShapeError unless given tokens have that shape, ConfigError unless they are numbers throughout."""
    check_shape(values, shape, f"{what}, cut into tokens,")
    num_nonfinite = int((~values.isfinite()).sum())
    if num_nonfinite:
        raise ConfigError(f"{num_nonfinite} of the {values.numel()} values of {what} are no numbers (NaN or infinite)")


def _request_index(requests: Sequence[Request]) -> Tensor:
    return torch.tensor([row for row, request in enumerate(requests) for _ in range(request.count)])


def _select_condition(
    model: Model, condition: Condition | None, encode: Callable[[], Condition], index: Tensor
) -> Condition:
    if condition is None:
        return select(encode(), index)
    num_items = _batch_size(condition)
    num_requests = int(index[-1]) + 1
    rows = {1: torch.zeros_like(index), num_requests: index, len(index): torch.arange(len(index))}
    if num_items not in rows:
        raise ConfigError(
            f"a condition of {num_items} items was given; wanted 1, one a request ({num_requests}) or one a result "
            f"({len(index)})"
        )
    return condition_to(select(_with_pooled(model, condition), rows[num_items]), model.device, model.dtype)


def _with_pooled(model: Model, condition: Condition) -> Condition:
    pooled_dim = sum(conditioner.pooled_dim for conditioner in model.conditioners_by_field.values())
    if condition.pooled is not None or condition.context is None or pooled_dim != condition.context.shape[-1]:
        return condition
    mean = mean_pool(condition.context.float(), condition.context_mask)
    return replace(condition, pooled=mean)


def _batch_size(condition: Condition) -> int:
    tensors = (condition.context, condition.pooled, None if condition.reference is None else condition.reference.values)
    return next((len(tensor) for tensor in tensors if tensor is not None), 1)


def _encode_fields(
    model: Model, get_fields: Callable[[Any], Mapping[str, Sequence[Any]]], requests: Sequence[Request]
) -> Condition:
    field_sets = [get_fields(request) for request in requests]
    fields = {field for field_set in field_sets for field in field_set}
    missing = [field for field in fields if any(field not in field_set for field_set in field_sets)]
    if missing:
        raise ConfigError(f"requests of one batch must all say something for '{missing[0]}', or none of them")
    values = {field: [value for field_set in field_sets for value in field_set[field]] for field in sorted(fields)}
    return model.encode_condition(values, len(requests))


def apply_regional_prompts(
    model: Model, requests: Sequence[Request], cond: Condition, uncond: Condition | None, get_size: Callable[[], Size]
) -> tuple[Condition, Condition | None]:
    """The conditions of a batch, with what its requests say of regions; unchanged where none does.

    Args:
        said, silent: of all results, requests one after another.
        extent: gives the one size of what is made, or refuses; asked only where there are regions.
    """
    per_request = [model.generation_task.regions(request) for request in requests]
    if all(regions is None for regions in per_request):
        return cond, uncond
    conditions, row = [], 0
    for request, regions in zip(requests, per_request, strict=True):
        rows = torch.arange(row, row + request.count)
        conditions.append(_regional_condition(model, select(cond, rows), regions, get_size()))
        row += request.count
    if uncond is not None and any(regions is not None and regions.share_pooled for regions in per_request):
        uncond = replace(uncond, pooled=cond.pooled)
    return stack(conditions), uncond


def _regional_condition(model: Model, cond: Condition, regions: RegionalPrompts | None, size: Size) -> Condition:
    if regions is None:
        return cond
    weights = _token_weights(model, regions.weights, size)
    encoded, count = model.encode_condition(regions.conds, len(weights)), _num_items(cond)
    region_conds = [select(encoded, torch.full((count,), region)) for region in range(len(weights))]
    return combine_regions(region_conds, weights, cond)


def _token_weights(model: Model, weights: Tensor, size: Size) -> Tensor:
    """(R, ...) over the data's places -> (R, N): the mean over the places that a token stands for."""
    padding = [(0, side - actual) for side, actual in zip(size, weights.shape[1:], strict=True)]
    edges = [edge for pair in reversed(padding) for edge in pair]
    padded = F.pad(weights[:, None], edges, mode="replicate")[:, 0] if any(edges) else weights
    for axis, factor in enumerate(model.autoencoder.downsample_factor, start=1):
        padded = padded.unflatten(axis, (-1, factor)).mean(dim=axis + 1)
    latent = padded[:, None].expand(-1, model.autoencoder.channels, *padded.shape[1:])
    return model.tokenizer.patchify(latent).values.mean(dim=2)


def _num_items(condition: Condition) -> int:
    return next(len(tensor) for tensor in (condition.context, condition.pooled) if tensor is not None)
