"""Data that is there before the way begins: where it enters, how its known part is held, and how it comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumina_core.errors import ConfigError
from lumina_core.flow.path import sample_x_t, velocity_target
from lumina_core.flow.schedules import truncate_schedule
from lumina_core.model import Model
from lumina_core.protocols import ProbPath, Velocity
from lumina_core.request import Request
from lumina_core.sampling.inputs import PrecomputedInputs, check_values
from lumina_core.types import InitData, Size, check_shape


def collect_init_data(
    model: Model, requests: Sequence[Request], inputs: PrecomputedInputs, get_size: Callable[[], Size]
) -> InitData | None:
    """What the results begin from, as a batch of one for all or of one a result; None: of noise alone.

    Args:
        extent: gives the one size of all results, or refuses; asked only where there is something to begin from.

    Raises:
        ConfigError: some of the requests begin from data and others do not, or with another strength.
        ShapeError: the data is of another size than was asked for.
    """
    init_data = _init_from_inputs(inputs) or _init_from_requests(model, requests, get_size)
    if init_data is not None:
        check_shape(init_data.data, (None, None, *get_size()), "the data to begin from")
        truncate_schedule(
            torch.zeros(1), init_data.strength
        )  # refuses what lies outside 0..1 before anything is computed
    return init_data


def round_up_size(model: Model, size: Size) -> Size:
    """The smallest sizes from `extent` on that this model's autoencoder and tokenizer can cut."""
    patch_size = model.tokenizer.patch_size or (1,) * len(size)
    steps = [factor * cells for factor, cells in zip(model.autoencoder.downsample_factor, patch_size, strict=True)]
    return tuple(-(-side // step) * step for side, step in zip(size, steps, strict=True))


@dataclass(frozen=True)
class InitialState:
    """Where a way begins, what of it is held, and how its end becomes data.

    Attributes:
        x: (B, N, D) to begin with.
        grid: times that are still to go.
        hold: what is known of x at every time; None: nothing.
        known: what is laid over the data in the end; None: nothing.
    """

    x: Tensor
    schedule: Tensor
    constraint: InpaintConstraint | None = None
    init_data: InitData | None = None

    def constrain_velocity(self, velocity: Velocity) -> Velocity:
        """The velocity of the way: where x is known, that of its own path."""
        return velocity if self.constraint is None else _ConstrainedVelocity(velocity, self.constraint)

    def constrain_values(self, values: Tensor, time: float) -> Tensor:
        """Values of a step, what is known of them exactly where it belongs at this time."""
        return values if self.constraint is None else self.constraint.constrain_values(values, time)

    def blend_kept(self, data: Tensor) -> Tensor:
        """(B, channels, ...) as it was decoded, in the size of what was there, with the kept part of that."""
        if self.init_data is None or self.init_data.keep_mask is None:
            return data
        keep_mask, source = (
            tensor.to(data.device) for tensor in (self.init_data.keep_mask[:, None], self.init_data.data)
        )
        # a product with exactly 1, and one with exactly 0: not a digit is lost
        return keep_mask * source + (1 - keep_mask) * data


class InpaintConstraint:
    """The known numbers of tokens: each lies on the path between its own noise and its own data, all the way.

    After RePaint (arXiv 2201.09865), which puts the known part in at every step; on a flow it keeps its first noise, so
    that it moves along one straight line, and the velocity there is known as well. Solvers of any order see it so.
    """

    def __init__(self, path: ProbPath, noise: Tensor, data: Tensor, mask: Tensor) -> None:
        self.path, self.noise, self.data, self.mask = path, noise, data, mask

    def constrain_velocity(self, velocity: Tensor, time: Tensor) -> Tensor:
        """A velocity (B, N, D) at time (B,), the known numbers' own where they are known."""
        return torch.where(self.mask, velocity_target(self.path, self.noise, self.data, time), velocity)

    def constrain_values(self, values: Tensor, time: float) -> Tensor:
        """Values (B, N, D) with the known numbers where they are at this time."""
        t = values.new_full((len(values),), time)
        return torch.where(self.mask, sample_x_t(self.path, self.noise, self.data, t), values)


class _ConstrainedVelocity:
    """A velocity under which known numbers go their own way."""

    def __init__(self, velocity: Velocity, constraint: InpaintConstraint) -> None:
        self.velocity, self.constraint = velocity, constraint
        self._set_time: Callable[[float], None] | None = getattr(velocity, "set_time", None)

    def set_time(self, t: float) -> None:
        """Told the time before it is asked."""
        if self._set_time is not None:
            self._set_time(t)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.constraint.constrain_velocity(self.velocity(x, t), t)


def init_state(model: Model, init_data: InitData | None, size: Size, schedule: Tensor, noise: Tensor) -> InitialState:
    """Noise alone, or data with as much noise as its strength says.

    Args:
        extent: sizes that the model can cut; data is filled up to them by repeating its border.
        noise: (B, N, D).

    Raises:
        ConfigError: the objective names no path.
    """
    if init_data is None:
        return InitialState(noise, schedule)
    path: ProbPath | None = getattr(model.objective, "path", None)
    if path is None:
        raise ConfigError("this model's objective names no path, so nobody knows how data and noise are mixed on it")
    remaining = truncate_schedule(schedule, init_data.strength)
    data = _encode_tokens(model, _pad_to_size(init_data.data, size), noise)
    x = sample_x_t(path, noise, data, noise.new_full((len(noise),), float(remaining[0])))
    constraint = (
        None
        if init_data.keep_mask is None
        else InpaintConstraint(path, noise, data, _token_keep_mask(model, init_data.keep_mask, size, noise.device))
    )
    if len(remaining) == 1:  # nothing is to change
        init_data = replace(init_data, keep_mask=torch.ones_like(init_data.data[:, 0]))
    return InitialState(x, remaining, constraint, init_data)


def _encode_tokens(model: Model, data: Tensor, noise: Tensor) -> Tensor:
    module = model.autoencoder if isinstance(model.autoencoder, nn.Module) else nn.Module()
    dtype = next((parameter.dtype for parameter in module.parameters()), torch.float32)
    with model.onload("autoencoder"):
        latent = model.autoencoder.encode(data.to(model.device, dtype)).float()
    values = model.tokenizer.patchify(latent).values
    if len(values) == 1:
        values = values.expand(len(noise), -1, -1)
    check_values(values, noise.shape, "the given data")
    return values


def _token_keep_mask(model: Model, keep_mask: Tensor, size: Size, device: torch.device) -> Tensor:
    """(B, N, D) bool: numbers of tokens that stand for kept places alone."""
    padding = [(0, side - actual) for side, actual in zip(size, keep_mask.shape[1:], strict=True)]
    mask = F.pad(keep_mask, [edge for pair in reversed(padding) for edge in pair])
    for axis, factor in enumerate(model.autoencoder.downsample_factor, start=1):
        mask = mask.unflatten(axis, (-1, factor)).amin(dim=axis + 1)
    latent = mask[:, None].expand(-1, model.autoencoder.channels, *mask.shape[1:])
    return model.tokenizer.patchify(latent).values.to(device) == 1


def _pad_to_size(data: Tensor, size: Size) -> Tensor:
    padding = [(0, side - actual) for side, actual in zip(size, data.shape[2:], strict=True)]
    edges = [edge for pair in reversed(padding) for edge in pair]
    return F.pad(data, edges, mode="replicate") if any(edges) else data


def _init_from_inputs(inputs: PrecomputedInputs) -> InitData | None:
    return None if inputs.data is None else InitData(inputs.data.float(), inputs.strength)


def _init_from_requests(model: Model, requests: Sequence[Request], get_size: Callable[[], Size]) -> InitData | None:
    per_request = [model.generation_task.init_data(request) for request in requests]
    present = [item for item in per_request if item is not None]
    if not present:
        return None
    if len(present) < len(per_request) or any(item.strength != present[0].strength for item in present):
        raise ConfigError("requests of one batch must all begin from data, with one strength, or none of them")
    get_size()  # refuses several sizes
    if all(item is present[0] for item in present):
        return replace(
            present[0], data=present[0].data[None], keep_mask=None if (k := present[0].keep_mask) is None else k[None]
        )
    rows = [item for item, request in zip(present, requests, strict=True) for _ in range(request.count)]
    data = torch.stack([item.data for item in rows])
    if all(item.keep_mask is None for item in rows):
        return replace(rows[0], data=data)
    return replace(rows[0], data=data, keep_mask=torch.stack([_keep_mask_or_zeros(item) for item in rows]))


def _keep_mask_or_zeros(init_data: InitData) -> Tensor:
    return torch.zeros_like(init_data.data[0]) if init_data.keep_mask is None else init_data.keep_mask
