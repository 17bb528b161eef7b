"""Inputs of a batch: items, conditions, noise, and initial data (image-to-image, inpainting)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lumina_core.conditioning.ops import batch_size, combine_regions, condition_to, mean_pool, select, stack
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.flow.path import sample_x_t
from lumina_core.flow.schedules import truncate_schedule
from lumina_core.model import Model
from lumina_core.protocols import GenerationTask
from lumina_core.request import Request
from lumina_core.sampling.velocity import InpaintConstraint
from lumina_core.types import Condition, InitData, RegionalPrompts, Size, Tokens, VariationInput, check_shape


@dataclass(frozen=True)
class Item:
    """One result to generate: a request with a count of 1, and the inputs that the task derives from it.

    Items with the same `request_number` come from one request; their conditions are encoded once.
    """

    request: Request
    request_number: int
    size: Size
    conditions: Mapping[str, Sequence[Any]]
    negative_conditions: Mapping[str, Sequence[Any]]
    init_data: InitData | None
    variation: VariationInput | None
    regions: RegionalPrompts | None


def expand_requests(task: GenerationTask, requests: Sequence[Request]) -> list[Item]:
    """Return one item per result; the k-th result of a request has its seed + k."""
    items = []
    for number, request in enumerate(requests):
        item = Item(
            request,
            number,
            task.size(request),
            task.conditions(request),
            task.negative_conditions(request),
            task.init_data(request),
            task.variation(request),
            task.regions(request),
        )
        items += [replace(item, request=one) for one in request.per_result()]
    return items


def request_index(items: Sequence[Item]) -> Tensor:
    """Return for each item (B,) the number of its request, counted within these items."""
    numbers: dict[int, int] = {}
    return torch.tensor([numbers.setdefault(item.request_number, len(numbers)) for item in items])


@dataclass(frozen=True)
class PrecomputedInputs:
    """Inputs that are passed in instead of being made from the requests.

    Conditions have one item for all results, one per request, or one per result. If a condition has a context and no
    pooled vector, and the model needs one, it is the mean of the context, as in the published models.

    Attributes:
        cond: condition, instead of the prompts.
        uncond: condition, instead of the negative prompts or the null condition; of any length.
        noise: latents to start from, (results, channels, ...), instead of noise sampled from the seeds.
        data: initial data, (1 or results, channels, ...) in [-1, 1].
        strength: amount of change to `data`, in 0..1; 1 keeps nothing of it.
        guide_model: model of the same tokens that replaces the null condition (autoguidance, arXiv 2406.02507).
    """

    cond: Condition | None = None
    uncond: Condition | None = None
    noise: Tensor | None = None
    data: Tensor | None = None
    strength: float = 1.0
    guide_model: Model | None = None

    def per_result(self, items: Sequence[Item]) -> PrecomputedInputs:
        """Expand conditions to one item per result.

        Raises:
            ConfigError: a condition has another number of items.
            ShapeError: noise or data have another number of items.
        """
        index = request_index(items)
        if self.noise is not None and len(self.noise) != len(items):
            raise ShapeError(f"noise: got {len(self.noise)} latents, expected {len(items)}, one per result.")
        if self.data is not None and len(self.data) not in (1, len(items)):
            raise ShapeError(f"initial data: got {len(self.data)} items, expected 1, or {len(items)}, one per result.")
        return replace(self, cond=_expand(self.cond, index), uncond=_expand(self.uncond, index))

    def rows(self, index: Sequence[int]) -> PrecomputedInputs:
        """Select the inputs of some results; the conditions have one item per result."""
        rows = torch.tensor(index)
        return replace(
            self,
            cond=None if self.cond is None else select(self.cond, rows),
            uncond=None if self.uncond is None else select(self.uncond, rows),
            noise=None if self.noise is None else self.noise[rows],
            data=self.data if self.data is None or len(self.data) == 1 else self.data[rows],
        )


NO_INPUTS = PrecomputedInputs()


def _expand(condition: Condition | None, index: Tensor) -> Condition | None:
    if condition is None:
        return None
    num_items = 1 if condition == Condition() else batch_size(condition)
    num_requests = int(index[-1]) + 1
    rows = {1: torch.zeros_like(index), num_requests: index, len(index): torch.arange(len(index))}
    if num_items not in rows:
        raise ConfigError(
            f"inputs: got a condition of {num_items} items, expected 1, one per request ({num_requests}) or one per "
            f"result ({len(index)})."
        )
    return select(condition, rows[num_items])


def encode_cond(model: Model, items: Sequence[Item], inputs: PrecomputedInputs) -> Condition:
    """Return the condition of a batch."""
    if inputs.cond is not None:
        return _adapt_condition(model, inputs.cond)
    return _encode_fields(model, [item.conditions for item in items], request_index(items))


def encode_uncond(model: Model, items: Sequence[Item], inputs: PrecomputedInputs) -> Condition:
    """Return the condition that guidance leads away from: negative prompts, or the null condition."""
    if inputs.uncond is not None:
        return _adapt_condition(model, inputs.uncond)
    return _encode_fields(model, [item.negative_conditions for item in items], request_index(items))


def _adapt_condition(model: Model, condition: Condition) -> Condition:
    """Move a condition to the model, and add the pooled vector that the model needs."""
    pooled_dim = sum(conditioner.pooled_dim for conditioner in model.conditioners_by_field.values())
    context = condition.context
    if condition.pooled is None and context is not None and pooled_dim == context.shape[-1]:
        condition = replace(condition, pooled=mean_pool(context.float(), condition.context_mask))
    return condition_to(condition, model.device, model.dtype)


def _encode_fields(model: Model, field_sets: Sequence[Mapping[str, Sequence[Any]]], index: Tensor) -> Condition:
    """Encode the fields of each request once."""
    by_request = list(dict(zip(index.tolist(), field_sets, strict=True)).values())
    fields = {field for field_set in by_request for field in field_set}
    missing = [field for field in fields if any(field not in field_set for field_set in by_request)]
    if missing:
        raise ConfigError(f"{missing[0]}: got a value for some requests of a batch, expected one for all or for none.")
    values = {field: [value for field_set in by_request for value in field_set[field]] for field in sorted(fields)}
    return select(model.encode_condition(values, len(by_request)), index)


def apply_regional_prompts(
    model: Model, items: Sequence[Item], cond: Condition, uncond: Condition | None, padded_size: Size
) -> tuple[Condition, Condition | None]:
    """Add the regional prompts of a batch to its conditions; unchanged without regional prompts.

    Args:
        model: the model.
        items: the results to generate.
        cond: condition of the batch.
        uncond: second condition of guidance; None: no guidance.
        padded_size: size of the generated data, the same for all items.
    """
    if all(item.regions is None for item in items):
        return cond, uncond
    rows = [torch.tensor([row]) for row in range(len(items))]
    conds = [_regional_condition(model, select(cond, row), items[int(row)].regions, padded_size) for row in rows]
    share = torch.tensor([item.regions is not None and item.regions.share_pooled for item in items])
    if uncond is not None and uncond.pooled is not None and cond.pooled is not None:
        # as published, for the items with this option alone
        pooled = torch.where(share.to(cond.pooled.device)[:, None], cond.pooled, uncond.pooled)
        uncond = replace(uncond, pooled=pooled)
    return stack(conds), uncond


def _regional_condition(model: Model, cond: Condition, regions: RegionalPrompts | None, size: Size) -> Condition:
    if regions is None:
        return cond
    weights = _token_weights(model, regions.weights, size)
    encoded = model.encode_condition(regions.conds, len(weights))
    region_conds = [select(encoded, torch.tensor([region])) for region in range(len(weights))]
    return combine_regions(region_conds, weights, cond)


def _token_weights(model: Model, weights: Tensor, size: Size) -> Tensor:
    """Average weights (R, ...) over the data of each token: (R, N)."""
    padded = _pad_to_size(weights[:, None], size)[:, 0]
    for axis, factor in enumerate(model.autoencoder.downsample_factor, start=1):
        padded = padded.unflatten(axis, (-1, factor)).mean(dim=axis + 1)
    latent = padded[:, None].expand(-1, model.autoencoder.channels, *padded.shape[1:])
    return model.tokenizer.patchify(latent).values.mean(dim=2)


class NoiseSampler:
    """Source of standard normal noise for tokens (B, N, D), each item's from the generator of its seed; padding is 0.

    Noise is sampled on the CPU: neither the device nor the other items of a batch change it.

    Args:
        tokens: empty tokens on the CPU.
        seeds: one seed per item.
        device: device of the noise.
    """

    def __init__(self, tokens: Tokens, seeds: Sequence[int], device: torch.device) -> None:
        self.device, length = device, tokens.values.shape[1]
        self.lengths = [length] * len(seeds) if tokens.mask is None else tokens.mask.sum(dim=1).tolist()
        self.padded_length, self.token_dim = length, tokens.values.shape[2]
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self) -> Tensor:
        """Draw (B, N, D) noise."""
        noise = [
            F.pad(torch.randn(length, self.token_dim, generator=generator), (0, 0, 0, self.padded_length - length))
            for length, generator in zip(self.lengths, self.generators, strict=True)
        ]
        return torch.stack(noise).to(self.device, non_blocking=True)


def initial_noise(model: Model, inputs: PrecomputedInputs, sampler: NoiseSampler) -> Tensor:
    """Return the noise (B, N, D) that sampling starts from.

    Raises:
        ConfigError: the passed noise is not finite.
        ShapeError: the passed noise has another size or number of items.
    """
    noise = sampler()
    if inputs.noise is None:
        return noise
    values = model.tokenizer.patchify(inputs.noise.float().to(model.device)).values
    check_values(values, noise.shape, "noise")
    return values


def check_values(values: Tensor, shape: Sequence[int], what: str) -> None:
    """Raise ShapeError unless tokens have a shape, ConfigError unless they are finite."""
    check_shape(values, shape, f"{what} as tokens")
    num_nonfinite = int((~values.isfinite()).sum())
    if num_nonfinite:
        raise ConfigError(f"{what}: got {num_nonfinite} of {values.numel()} values that are NaN or infinite.")


def batch_init_data(items: Sequence[Item], inputs: PrecomputedInputs, get_size: Callable[[], Size]) -> InitData | None:
    """Return the initial data of a batch, (1 or B, channels, ...); None for noise alone.

    Args:
        items: the results to generate.
        inputs: inputs that are passed in.
        get_size: returns the size of all results, or raises if there are several.

    Raises:
        ConfigError: the items differ in strength, or only some have initial data.
        ShapeError: the data has another size than the results.
    """
    if inputs.data is not None:
        init_data: InitData | None = InitData(inputs.data.float(), inputs.strength)
    else:
        per_item = [item.init_data for item in items]
        if any(init is not None for init in per_item):
            get_size()  # data of several sizes cannot be stacked
        init_data = _stack_init_data(per_item)
    if init_data is not None:
        check_shape(init_data.data, (None, None, *get_size()), "initial data")
        truncate_schedule(torch.zeros(1), init_data.strength)  # checks the strength before anything is computed
    return init_data


def _stack_init_data(per_item: Sequence[InitData | None]) -> InitData | None:
    rows = [item for item in per_item if item is not None]
    if not rows:
        return None
    first = rows[0]
    if len(rows) < len(per_item) or any(row.strength != first.strength for row in rows):
        raise ConfigError("strength: got several values in one batch, expected initial data of one strength, or none.")
    if all(row is first for row in rows):
        return replace(
            first, data=first.data[None], keep_mask=None if first.keep_mask is None else first.keep_mask[None]
        )
    data = torch.stack([row.data for row in rows])
    if all(row.keep_mask is None for row in rows):
        return replace(first, data=data)
    masks = [torch.zeros_like(row.data[0]) if row.keep_mask is None else row.keep_mask for row in rows]
    return replace(first, data=data, keep_mask=torch.stack(masks))


@dataclass(frozen=True)
class InitialState:
    """Start of sampling.

    Attributes:
        x: (B, N, D) at the first time.
        schedule: times from there on.
        constraint: fixed values (inpainting); None: none.
        init_data: data whose preserved region replaces the result's; None: none.
    """

    x: Tensor
    schedule: Tensor
    constraint: InpaintConstraint | None = None
    init_data: InitData | None = None

    def constrain_values(self, values: Tensor, time: float) -> Tensor:
        """Replace the fixed values in (B, N, D) at a time."""
        return values if self.constraint is None else self.constraint.constrain_values(values, time)

    def blend_kept(self, data: Tensor) -> Tensor:
        """Replace the preserved region of decoded data (B, channels, ...) by the initial data."""
        if self.init_data is None or self.init_data.keep_mask is None:
            return data
        keep_mask, source = self.init_data.keep_mask[:, None].to(data.device), self.init_data.data.to(data.device)
        # products with exactly 1 and exactly 0, so that preserved data are exact
        return keep_mask * source + (1 - keep_mask) * data


def init_state(model: Model, init_data: InitData | None, size: Size, schedule: Tensor, noise: Tensor) -> InitialState:
    """Mix noise and initial data by the strength.

    Args:
        model: the model.
        init_data: initial data, padded to `size` by repeating its border; None: noise alone.
        size: size of the generated data.
        schedule: (steps + 1,) times.
        noise: (B, N, D).

    Raises:
        ConfigError: the objective has no probability path.
    """
    if init_data is None:
        return InitialState(noise, schedule)
    if model.path is None:
        raise ConfigError(
            f"objective: got {model.recipe.objective.type}, which has no probability path, expected one with a path "
            "for initial data."
        )
    remaining = truncate_schedule(schedule, init_data.strength)
    data = _encode_tokens(model, _pad_to_size(init_data.data, size), noise)
    x = sample_x_t(model.path, noise, data, noise.new_full((len(noise),), float(remaining[0])))
    constraint = None
    if init_data.keep_mask is not None:
        mask = _token_keep_mask(model, init_data.keep_mask, size, noise.device)
        constraint = InpaintConstraint(model.path, noise, data, mask)
    if len(remaining) == 1:  # strength 0: the data are unchanged
        init_data = replace(init_data, keep_mask=torch.ones_like(init_data.data[:, 0]))
    return InitialState(x, remaining, constraint, init_data)


def _encode_tokens(model: Model, data: Tensor, noise: Tensor) -> Tensor:
    with model.onload("autoencoder"):
        latent = model.encode_data(data.to(model.device, torch.float32)).float()
    values = model.tokenizer.patchify(latent).values
    if len(values) == 1:
        values = values.expand(len(noise), -1, -1)
    check_values(values, noise.shape, "initial data")
    return values


def _token_keep_mask(model: Model, keep_mask: Tensor, size: Size, device: torch.device) -> Tensor:
    """Return (B, N, D) bool, True for tokens whose data are preserved completely."""
    padding = [(0, side - actual) for side, actual in zip(size, keep_mask.shape[1:], strict=True)]
    mask = F.pad(keep_mask, [edge for pair in reversed(padding) for edge in pair])
    for axis, factor in enumerate(model.autoencoder.downsample_factor, start=1):
        mask = mask.unflatten(axis, (-1, factor)).amin(dim=axis + 1)
    latent = mask[:, None].expand(-1, model.autoencoder.channels, *mask.shape[1:])
    return model.tokenizer.patchify(latent).values.to(device) == 1


def _pad_to_size(data: Tensor, size: Size) -> Tensor:
    """Pad (B, channels, ...) to a size by repeating the border."""
    padding = [(0, side - actual) for side, actual in zip(size, data.shape[2:], strict=True)]
    edges = [edge for pair in reversed(padding) for edge in pair]
    return F.pad(data, edges, mode="replicate") if any(edges) else data
