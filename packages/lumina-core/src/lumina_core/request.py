"""What every request to a generator can say, whatever it generates; a task adds its own fields."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from lumina_core.config import Config


class Request(Config):
    """How to go from noise to data. What is left open is taken from the model's recipe."""

    seed: int = Field(0, ge=0, lt=2**62, description="the same seed, model and request give the same result")
    count: int = Field(1, ge=1, le=1024, description="how many results; their seeds are SEED, SEED + 1 and on")
    steps: int | None = Field(None, ge=1, le=1000, description="steps from noise to data; more is finer and slower")
    nfe: int | None = Field(
        None, ge=1, le=100000, description="at most so many evaluations of the network, instead of a number of steps"
    )
    guidance_scale: float | None = Field(
        None, ge=0, le=100, description="how strongly to follow what is said; 1 adds nothing, much more is crude"
    )
    guidance: str | None = Field(
        None, title="NAME", description="guidance function: cfg, or one of a plugin"
    )
    guidance_interval: tuple[float, float] | None = Field(
        None, title="FROM,TO", description="guide only between these times, noise is 0 and data 1; for example 0.1,0.8"
    )
    guidance_rescale: float | None = Field(
        None, ge=0, le=1, description="how far guidance gives up its stronger contrast; about 0.7 where colours burn"
    )
    cfg_batching: Literal["auto", "batched", "sequential"] | None = Field(
        None,
        title="HOW",
        description="both halves of guidance in one batch, or one after the other in half the memory; auto: as it fits",
    )
    guide_model: str | None = Field(
        None,
        title="MODEL",
        json_schema_extra={"default": "none"},
        description="a weaker model (less trained, or smaller) that guidance leads away from, instead of from silence "
        "(autoguidance)",
    )
    solver: str | None = Field(
        None,
        title="NAME",
        description="how a step is gone: euler, adams or dpmpp (one evaluation), midpoint or heun (two), heun3, rk4, "
        "dopri5 (its own steps), sde (with noise); with options: dopri5:rtol=1e-4",
    )
    rope_scaling: str | None = Field(
        None,
        title="NAME",
        description="how positions are scaled on canvases larger than trained: none, interpolation, ntk, "
        "frequency_aware, time_aware, watershed, yarn, dype; with options: watershed:watershed=0.5,isotropic=true",
    )
    context_drop: str | None = Field(
        None,
        title="NAME",
        description="time_aware: keys and values averaged over space, most at the beginning; none: off; with options: "
        "time_aware:max_fraction=0.75,keep_blocks=spread",
    )
    block_cache: str | None = Field(
        None,
        title="NAME",
        description="teacache_like: blocks are not asked again where little has changed since they were; none: off; with "
        "options: teacache_like:threshold=0.2",
    )
    base_sequence_length: int | None = Field(
        None,
        ge=0,
        description="tokens in training: attention is sharpened where there are more, softened where fewer; 0: off",
    )
    max_token_ratio: int | None = Field(
        None,
        ge=1,
        title="TIMES",
        json_schema_extra={"default": "64"},
        description="more times the tokens of training than this are refused",
    )
    schedule: str | None = Field(
        None,
        title="NAME",
        description="how the steps are spread: uniform, shift or rational (more near noise), sigmoid, fitted (to this "
        "model), custom:values=[0,0.3,1]",
    )

    @field_validator("guidance_interval", mode="before")
    @classmethod
    def _parse_interval(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            start, end = (float(part) for part in value.split(","))
        except ValueError as error:  # another number of them is one too
            raise ValueError("an interval is FROM,TO, for example 0.1,0.8") from error
        return start, end

    @field_validator("guidance_interval")
    @classmethod
    def _check_interval(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 <= value[0] < value[1] <= 1:
            raise ValueError("an interval goes from a time to a later one, both in 0..1")
        return value
