"""Golden cases of the flow: losses, path plans with their conversions, and time grids."""

from __future__ import annotations

import re
from typing import Any

import torch
from goldens_read import Golden, Unsupported, largest, worst
from torch import Tensor

from lumina_core.flow.loss import FlowMatching
from lumina_core.flow.path import (
    GVPPath,
    LinearPath,
    VPPath,
    compute_diffusion,
    compute_drift,
    convert_prediction,
    sample_x_t,
    velocity_target,
)
from lumina_core.flow.schedules import UniformTimeSampler, inverse_shift, shift_schedule
from lumina_core.types import Batch, Condition, Tokens, stack_tokens

CONVERSIONS = 0.1
"""The notes allow the conversions ten times the error of the rest: they count a tenth."""

NORM = r"norm=(\d+(?:\.\d+)?)"


def losses(golden: Golden) -> float:
    """The objective of a closed-form velocity, for items of one size and for a list of sizes."""
    computed = {name: got for prefix in ("", "list") for name, got in _computed(golden, prefix).items()}
    expected = golden.group("output")
    if not expected or not expected.keys() <= computed.keys():
        raise Unsupported
    return worst([(computed[name], tensor) for name, tensor in expected.items()])


def _computed(golden: Golden, prefix: str) -> dict[str, Tensor]:
    """What can be compared, by its name in the file: of items stored as one tensor, or as a list."""
    front = f"input.{prefix}." if prefix else "input."
    if f"{front}t" not in golden.tensors:
        return {}
    time = golden.tensors[f"{front}t"]
    a, x0, x1 = (golden.one_or_list(front + name) for name in ("a", "x0", "x1"))
    # one `a` for a tensor of items, one each for a list
    items = _items([a] * len(x1) if isinstance(a, Tensor) else a, list(x0), list(x1), time)
    if prefix or not (isinstance(x0, Tensor) and isinstance(x1, Tensor) and isinstance(a, Tensor)):
        return {f"{prefix}_loss".lstrip("_"): items}
    path = LinearPath(LinearPath.Config())
    x = sample_x_t(path, x0, x1, time)
    return {
        "loss": items, "xt": x, "ut": velocity_target(path, x0, x1, time), "model_output": closed(x, time, a)
    }  # fmt: skip


def _items(a: list[Tensor], x0: list[Tensor], x1: list[Tensor], time: Tensor) -> Tensor:
    """Each item's loss in one padded batch, its numbers as tokens of one number."""
    objective = FlowMatching(
        FlowMatching.Config(), LinearPath(LinearPath.Config()), UniformTimeSampler(UniformTimeSampler.Config())
    )
    tokens, noise = (stack_tokens([_flat(item) for item in items]) for items in (x1, x0))

    def predict(noisy: Tokens, when: Tensor | None, condition: Condition) -> Tensor:
        assert when is not None
        answer = torch.full_like(noisy.values, 7.0)  # in the padding too, where it must not count
        for row, (one, item) in enumerate(zip(noisy.items(), a, strict=True)):
            x_t = one.values.view(1, *x1[row].shape)
            answer[row, : item.numel()] = closed(x_t, when[row : row + 1], item).view(-1, 1)
        return answer

    return objective.per_sample_loss(predict, Batch(tokens, Condition()), time, noise.values)


def _flat(item: Tensor) -> Tokens:
    return Tokens(item.reshape(1, -1, 1), torch.zeros(1, item.numel(), 3), ((item.numel(),),))


def closed(x: Tensor, time: Tensor | float, a: Tensor) -> Tensor:
    """The closed-form velocity; time (B,), or one number for all items."""
    at = torch.as_tensor(time, dtype=x.dtype, device=x.device).view(-1, *[1] * (x.ndim - 1))
    return torch.sin(3 * at) * x + torch.cos(2 * at) * a - 0.5 * x**3 / (1 + x**2)


def plans(golden: Golden) -> float:
    """Compare every path of the file, relative to the size of the expected values."""
    match = re.search(NORM, golden.config.get("note", ""))
    norm = float(golden.config.get("norm", match[1] if match else 1.0))
    return largest([_plan(golden, name, text, norm) for name, text in golden.config["plans"].items()])


def path_of(text: str) -> LinearPath | GVPPath | VPPath:
    """The path of a published class and its arguments, such as `VPCPlan(sigma_min=0.1, sigma_max=20.0)`."""
    name, _, arguments = text.partition("(")
    if name == "VPCPlan":
        ends = {"sigma_min": 0.1, "sigma_max": 20.0}
        for place, argument in enumerate(filter(None, arguments.rstrip(") ").split(","))):
            key, _, value = argument.rpartition("=")
            ends[key.strip() or list(ends)[place]] = float(value)
        return VPPath(VPPath.Config(beta_min=ends["sigma_min"], beta_max=ends["sigma_max"]))
    if name not in ("ICPlan", "GVPCPlan"):
        raise Unsupported
    return LinearPath(LinearPath.Config()) if name == "ICPlan" else GVPPath(GVPPath.Config())


def _plan(golden: Golden, name: str, text: str, norm: float) -> float:
    path = path_of(text)
    values = _values(path, golden, norm)
    errors = []
    for key, expected in golden.group(f"output.{name}").items():
        if key not in values:
            raise Unsupported
        share = CONVERSIONS if "_from_" in key else 1.0
        scale = expected.abs().clamp_min(1)
        errors.append(share * worst([(values[key].reshape(expected.shape) / scale, expected / scale)]))
    return largest(errors)


def _values(path: LinearPath | GVPPath | VPPath, golden: Golden, norm: float) -> dict[str, Tensor]:
    time, x0, x1, velocity, score = (golden.tensors[f"input.{n}"] for n in ("t", "x0", "x1", "velocity", "score"))
    x = sample_x_t(path, x0, x1, time)
    forms: dict[str, Any] = {
        "SBDM": "sbdm", "constant": "constant", "sigma": "sigma", "linear": "linear", "decreasing": "decreasing",
        "inccreasing_decreasing": "increasing_decreasing",
    }  # fmt: skip
    found = {f"diffusion_{theirs}": compute_diffusion(path, x, time, ours, norm) for theirs, ours in forms.items()}
    drifted, variance = compute_drift(path, x, time)
    return found | {
        "alpha": path.alpha(time),
        "sigma": path.sigma(time),
        "d_alpha": path.d_alpha(time),
        "d_sigma": path.d_sigma(time),
        "d_alpha_alpha_ratio": path.d_log_alpha(time),
        "xt": x,
        "ut": velocity_target(path, x0, x1, time),
        "drift": drifted,
        "drift_diffusion": variance,
        "score_from_velocity": convert_prediction(path, velocity, x, time, "velocity", "score"),
        "noise_from_velocity": convert_prediction(path, velocity, x, time, "velocity", "noise"),
        "velocity_from_score": convert_prediction(path, score, x, time, "score", "velocity"),
    }


def grids(golden: Golden) -> float:
    """The published grids of points: shifted, within an interval, cut for a strength, or turned round (sd3)."""
    return worst(
        [(grid_of(options), golden.tensors[f"output.{options['name']}"].double()) for options in golden.config["grids"]]
    )


def grid_of(options: dict[str, Any]) -> Tensor:
    start, stop = float(options.get("t0", 0.0)), float(options.get("t1", 1.0))
    turned = bool(options.get("use_sd3"))  # from 1 (noise) to 0 (data): the same shift is the other map there
    ends = (stop, start) if turned else (start, stop)
    points = torch.linspace(*ends, options["num_steps"], dtype=torch.float64)
    shift = options.get("time_shifting_factor")
    if shift:
        points = (inverse_shift if turned else shift_schedule)(points, float(shift))
    strength = options.get("strength")
    return points if strength is None else points[int(options["num_steps"] * (1 - float(strength))) :]
