"""What every request to a generator can say, whatever it generates; a task adds its own fields."""

from __future__ import annotations

from pydantic import Field

from lumina_core.config import Config


class Request(Config):
    """How to go from noise to data. What is left open is taken from the model's recipe."""

    seed: int = Field(0, ge=0, lt=2**62, description="the same seed, model and request give the same result")
    count: int = Field(1, ge=1, le=1024, description="how many results; their seeds are SEED, SEED + 1 and on")
    steps: int | None = Field(None, ge=1, le=1000, description="steps from noise to data; more is finer and slower")
    guidance: float | None = Field(
        None, ge=0, le=100, description="how strongly to follow what is said; 1 adds nothing, much more is crude"
    )
    solver: str | None = Field(
        None, title="NAME", description="how a step is gone: euler (fastest), midpoint, heun, rk4 (four times the work)"
    )
    extrapolation: str | None = Field(
        None,
        title="NAME",
        description="how positions are scaled on canvases larger than trained: none, interpolation, ntk, "
        "frequency_aware, time_aware, watershed, yarn, dype; with options: watershed:watershed=0.5,isotropic=true",
    )
    proportional: int | None = Field(
        None,
        ge=0,
        description="tokens in training: attention is sharpened where there are more, softened where fewer; 0: off",
    )
    grid: str | None = Field(
        None, title="NAME", description="how the steps are spread: uniform, or shift (more of them near noise)"
    )
