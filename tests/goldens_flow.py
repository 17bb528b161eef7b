"""Golden cases of the flow: losses, path plans with their conversions, and time grids."""

from __future__ import annotations

import re
from typing import Any

import torch
from goldens_read import Golden, Unsupported, worst
from torch import Tensor

from lumina_core.flow.diffusion import diffusion, drift
from lumina_core.flow.objective import FlowMatching
from lumina_core.flow.path import GVP, VP, Linear, convert, mix, velocity_between
from lumina_core.flow.times import Uniform, toward_noise
from lumina_core.types import Batch, Condition, Tokens

CONVERSIONS = 0.1
"""The notes allow the conversions ten times the error of the rest: they count a tenth."""


def losses(golden: Golden) -> float:
    """The objective of a closed-form velocity, for one size and for a list of sizes."""
    pairs: list[tuple[Tensor, Tensor]] = []
    a, x0, x1, time = (golden.tensors[f"input.{name}"] for name in ("a", "x0", "x1", "t"))
    pairs.append((_items(a, x0, x1, time), golden.tensors["output.loss"]))
    path = Linear(Linear.Config())
    x = mix(path, x0, x1, time)
    for name, got in (("xt", x), ("ut", velocity_between(path, x0, x1, time)), ("model_output", _closed(x, time, a))):
        if f"output.{name}" in golden.tensors:
            pairs.append((got, golden.tensors[f"output.{name}"]))
    if "output.list_loss" in golden.tensors:
        parts = [golden.one_or_list(f"input.list.{name}") for name in ("a", "x0", "x1")]
        times = golden.tensors["input.list.t"]
        listed = [
            _items(a, x0[None], x1[None], times[k : k + 1]) for k, (a, x0, x1) in enumerate(zip(*parts, strict=True))
        ]
        pairs.append((torch.cat(listed), golden.tensors["output.list_loss"]))
    return worst(pairs)


def _items(a: Tensor, x0: Tensor, x1: Tensor, time: Tensor) -> Tensor:
    """Each item's loss, its numbers as tokens of one number."""
    objective = FlowMatching(FlowMatching.Config(), Linear(Linear.Config()), Uniform(Uniform.Config()))
    values = x1.flatten(1)[..., None]
    tokens = Tokens(values, torch.zeros(*values.shape[:2], 3), ((values.shape[1],),) * len(values))

    def predict(noisy: Tokens, when: Tensor | None, condition: Condition) -> Tensor:
        assert when is not None
        return _closed(noisy.values[..., 0].view_as(x1), when, a).flatten(1)[..., None]

    return objective.items(predict, Batch(tokens, Condition()), time, x0.flatten(1)[..., None])


def _closed(x: Tensor, time: Tensor, a: Tensor) -> Tensor:
    at = time.view(-1, *[1] * (x.ndim - 1))
    return torch.sin(3 * at) * x + torch.cos(2 * at) * a - 0.5 * x**3 / (1 + x**2)


def plans(golden: Golden) -> float:
    """Every plan of the file, relative to the size of what is wanted."""
    norm = float(next(iter(re.findall(r"norm=([\d.]+)", golden.config.get("note", ""))), 1.0))
    found = [_plan(golden, name, text, norm) for name, text in golden.config["plans"].items()]
    return max(found)


def _path(name: str, text: str) -> Linear | GVP | VP:
    if name == "VP":
        ends = {key: float(value) for key, value in re.findall(r"(sigma_m\w+)=([\d.]+)", text)}
        return VP(VP.Config(beta_min=ends.get("sigma_min", 0.1), beta_max=ends.get("sigma_max", 20.0)))
    if name not in ("Linear", "GVP"):
        raise Unsupported
    return Linear(Linear.Config()) if name == "Linear" else GVP(GVP.Config())


def _plan(golden: Golden, name: str, text: str, norm: float) -> float:
    path = _path(name, text)
    values = _values(path, golden, norm)
    errors = []
    for key, wanted in golden.group(f"output.{name}").items():
        if key not in values:
            raise Unsupported
        share = CONVERSIONS if "_from_" in key else 1.0
        got = values[key].reshape(wanted.shape)
        errors.append(share * float(((got - wanted).abs() / wanted.abs().clamp_min(1)).max()))
    return max(errors)


def _values(path: Linear | GVP | VP, golden: Golden, norm: float) -> dict[str, Tensor]:
    time, x0, x1, velocity, score = (golden.tensors[f"input.{n}"] for n in ("t", "x0", "x1", "velocity", "score"))
    x = mix(path, x0, x1, time)
    forms: dict[str, Any] = {
        "SBDM": "sbdm", "constant": "constant", "sigma": "sigma", "linear": "linear", "decreasing": "decreasing",
        "inccreasing_decreasing": "increasing_decreasing",
    }  # fmt: skip
    found = {f"diffusion_{theirs}": diffusion(path, x, time, ours, norm) for theirs, ours in forms.items()}
    drifted, variance = drift(path, x, time)
    return found | {
        "alpha": path.alpha(time),
        "sigma": path.sigma(time),
        "d_alpha": path.alpha_slope(time),
        "d_sigma": path.sigma_slope(time),
        "d_alpha_alpha_ratio": path.log_alpha_slope(time),
        "xt": x,
        "ut": velocity_between(path, x0, x1, time),
        "drift": drifted,
        "drift_diffusion": variance,
        "score_from_velocity": convert(path, velocity, x, time, "velocity", "score"),
        "noise_from_velocity": convert(path, velocity, x, time, "velocity", "noise"),
        "velocity_from_score": convert(path, score, x, time, "score", "velocity"),
    }


def grids(golden: Golden) -> float:
    """The published grids of points: shifted, within an interval, cut for a strength, or turned round (sd3)."""
    return worst(
        [(_grid(asked), golden.tensors[f"output.{asked['name']}"].double()) for asked in golden.config["grids"]]
    )


def _grid(asked: dict[str, Any]) -> Tensor:
    start, stop = float(asked.get("t0", 0.0)), float(asked.get("t1", 1.0))
    points = torch.linspace(start, stop, asked["num_steps"], dtype=torch.float64)
    shift = asked.get("time_shifting_factor")
    shifted = toward_noise(points, float(shift)) if shift else points
    # the sd3 convention runs from 1 (noise) to 0 (data)
    turned = 1 - shifted if asked.get("use_sd3") else shifted
    strength = asked.get("strength")
    return turned if strength is None else turned[int(asked["num_steps"] * (1 - float(strength))) :]
