"""Sampling settings that requests of all tasks have; a task adds its own fields."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from lumina_core.config import Config


def check_guidance_name(value: str | None) -> str | None:
    """Return the name of a guidance function.

    Raises:
        ValueError: the value is a number, which other programs call guidance.
    """
    if value is not None and re.fullmatch(r"\s*[-+]?[\d.,]+(e[-+]?\d+)?\s*", value):
        raise ValueError(f"got the number {value}, expected the name of a function. Set guidance_scale={value.strip()}")
    return value


class Request(Config):
    """Sampling settings of a request. A setting that is None has the default of the model's recipe."""

    results_field: ClassVar[str] = "count"
    """Field with the number of results. A task whose data has a count of its own (points) names another one."""
    optional_argument: ClassVar[str | None] = None
    """Field that is the argument of the command, and of a pipeline's call, though it may be left out."""

    seed: int = Field(0, ge=0, lt=2**62, description="seed; the same seed, model and request give the same result")
    count: int = Field(1, ge=1, le=1024, description="number of results, with the seeds SEED, SEED + 1 and so on")
    steps: int | None = Field(None, ge=1, le=1000, description="number of solver steps; more: less error, more time")
    nfe: int | None = Field(
        None, ge=1, le=100000, description="maximum number of network evaluations, in place of a number of steps"
    )
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=100,
        description="guidance scale; 1: no guidance, larger: closer to the prompt, too large: oversaturated",
    )
    guidance: str | None = Field(None, title="NAME", description="guidance function: cfg, or one of a plugin")
    guidance_interval: tuple[float, float] | None = Field(
        None,
        title="FROM,TO",
        description="first and last time with guidance, noise is 0 and data 1; for example 0.1,0.8",
    )
    guidance_rescale: float | None = Field(
        None,
        ge=0,
        le=1,
        description="fraction by which the guided velocity is rescaled to the conditional standard deviation; "
        "about 0.7 against oversaturation",
    )
    cfg_batching: Literal["auto", "batched", "sequential"] | None = Field(
        None,
        title="MODE",
        description="both passes of guidance in one batch (batched), or one after the other in half the memory "
        "(sequential); auto: batched if it fits",
    )
    guide_model: str | None = Field(
        None,
        title="MODEL",
        json_schema_extra={"default": "none"},
        description="weaker model (less trained, or smaller) in place of the unconditional pass of guidance "
        "(autoguidance)",
    )
    solver: str | None = Field(
        None,
        title="NAME",
        description="ODE solver: euler, adams or dpmpp (one evaluation per step), midpoint or heun (two), heun3, rk4, "
        "dopri5 (adaptive steps), sde (stochastic); with options: dopri5:rtol=1e-4",
    )
    rope_scaling: str | None = Field(
        None,
        title="NAME",
        description="RoPE scaling for sizes larger than trained: none, interpolation, ntk, frequency_aware, "
        "time_aware, watershed, yarn, dype; with options: watershed:watershed=0.5,isotropic=true",
    )
    context_drop: str | None = Field(
        None,
        title="NAME",
        description="spatial averaging of keys and values: time_aware (most near noise), none; with options: "
        "time_aware:max_fraction=0.75,keep_blocks=spread",
    )
    block_cache: str | None = Field(
        None,
        title="NAME",
        description="reuse of block outputs between steps that change little: teacache_like, none; with options: "
        "teacache_like:threshold=0.2",
    )
    base_sequence_length: int | None = Field(
        None,
        ge=0,
        description="tokens in training, for proportional attention: attention is sharper for more tokens and softer "
        "for fewer; 0: off",
    )
    max_token_ratio: int | None = Field(
        None,
        ge=1,
        title="RATIO",
        json_schema_extra={"default": "64"},
        description="maximum ratio of the request's tokens to those in training; larger requests are an error",
    )
    schedule: str | None = Field(
        None,
        title="NAME",
        description="schedule of times: uniform, shift or rational (more steps near noise), sigmoid, fitted (to this "
        "model), custom:values=[0,0.3,1]",
    )

    @classmethod
    def argument_field(cls) -> str | None:
        """Return the field that is the argument of the command: the required one, or `optional_argument`."""
        required = next((name for name, info in cls.model_fields.items() if info.is_required()), None)
        return required or cls.optional_argument

    @property
    def num_results(self) -> int:
        """Number of results."""
        number: int = getattr(self, self.results_field)
        return number

    def per_result(self) -> Sequence[Request]:
        """Return one request per result, with consecutive seeds."""
        copies = [{"seed": self.seed + k, self.results_field: 1} for k in range(self.num_results)]
        return [self.model_copy(update=update) for update in copies]

    @field_validator("guidance")
    @classmethod
    def _check_guidance(cls, value: str | None) -> str | None:
        return check_guidance_name(value)

    @field_validator("guidance_interval", mode="before")
    @classmethod
    def _parse_interval(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            start, end = (float(part) for part in value.split(","))
        except ValueError as error:  # also another count of numbers
            raise ValueError(f"got {value!r}, expected two numbers FROM,TO, for example 0.1,0.8") from error
        return start, end

    @field_validator("guidance_interval")
    @classmethod
    def _check_interval(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 <= value[0] < value[1] <= 1:
            raise ValueError(f"got {value[0]:g},{value[1]:g}, expected 0 <= FROM < TO <= 1")
        return value
