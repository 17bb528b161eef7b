"""How a request goes from noise to data: its settings, filled up from the recipe, and the parts that they name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lumina_core.config import Use, named
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.fitting import ContextDrop, StepCache
from lumina_core.flow.solver import AnySolver, fitting_steps
from lumina_core.model import Finder, Model, build
from lumina_core.parts import Extrapolation, Grid
from lumina_core.request import Request
from lumina_core.sampling.motion import Guiding, Scaled
from lumina_core.types import Extent, Tokens


@dataclass(frozen=True)
class Settings:
    """How the way from noise to data was gone, in full; None: not in use."""

    steps: int | None
    solver: str
    grid: str | None
    guidance: float
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float | None = None
    extrapolation: str | None = None
    proportional: int | None = None
    context_drop: str | None = None
    step_cache: str | None = None


@dataclass(frozen=True)
class Way:
    """The parts of a way, ready to go.

    Attributes:
        limit: evaluations that a solver may ask for which chooses its own steps; None: any number.
    """

    settings: Settings
    solver: AnySolver
    grid: Tensor
    guiding: Guiding
    scaled: Scaled
    limit: int | None


def way_of(model: Model, finder: Finder, request: Request) -> Way:
    """The way of a request.

    Raises:
        ConfigError: settings are out of range, contradict each other, or the model cannot do them.
        PluginError: a part is not there.
    """
    solver, name = _solver(model, finder, request)
    use, grid, limit = _grid(model, finder, request, solver, name)
    guiding, free = _guiding(model, request), hasattr(solver, "solve")
    scaling, proportional = _extrapolation(model, request), _proportional(model, request)
    drop, cache = _drop(model, request), _cache(model, request)
    settings = Settings(
        steps=None if free else len(grid) - 1,
        solver=name,
        grid=None if free else _told(request.grid, use),
        guidance=guiding.scale,
        guidance_interval=guiding.interval,
        guidance_rescale=guiding.rescale or None,
        extrapolation=None if scaling is None else _told(request.extrapolation, scaling),
        proportional=proportional,
        context_drop=None if drop is None else _told(request.context_drop, drop),
        step_cache=None if cache is None else _told(request.step_cache, cache),
    )
    return Way(settings, solver, grid, guiding, _scaled(model, finder, request, proportional), limit)


def agreed(request: Request) -> tuple[Any, ...]:
    """All in which requests of one batch must agree, whatever their sizes."""
    return tuple(getattr(request, field) for field in Request.model_fields if field not in ("seed", "count"))


def blank_tokens(model: Model, extent: Extent, batch: int) -> Tokens:
    """Tokens of zeros at the places of data of this extent, on the CPU.

    Raises:
        ConfigError: the model cannot do this extent; the message names the nearest that it can.
    """
    stride = model.autoencoder.stride
    uneven = [(side, step) for side, step in zip(extent, stride, strict=True) if side % step]
    if uneven:
        side, step = uneven[0]
        raise ConfigError(
            f"a side of {side} is no multiple of the autoencoder's {step}; try {max(1, round(side / step)) * step}"
        )
    try:
        return model.tokenizer.blank(batch, tuple(side // step for side, step in zip(extent, stride, strict=True)))
    except ShapeError as error:
        asked = " x ".join(map(str, extent))
        latent = f" (a latent is {' x '.join(map(str, stride))} times smaller)" if any(s > 1 for s in stride) else ""
        raise ConfigError(f"this model cannot do {asked}: {error}{latent}") from error


def _solver(model: Model, finder: Finder, request: Request) -> tuple[AnySolver, str]:
    said = request.solver if request.solver is not None else model.recipe.sampling.solver
    use = named(said)
    part = finder.find("solver", use.use)
    if not hasattr(part, "Config"):
        if use.options:
            raise ConfigError(f"the solver {use.use} takes no options; got {', '.join(use.options)}")
        return part, use.use  # a plain function
    path = getattr(getattr(model.objective, "config", None), "path", None)
    made: AnySolver = build(finder, "solver", use, **({} if path is None else {"path": path}))
    return made, said


def _grid(
    model: Model, finder: Finder, request: Request, solver: AnySolver, name: str
) -> tuple[Use, Tensor, int | None]:
    """The grid's name, the grid, and the evaluations allowed to a solver that chooses its own steps."""
    usual, budget, limit = model.recipe.sampling, request.evaluations, None
    if budget is not None and request.steps is not None:
        raise ConfigError("steps and evaluations were both given; one follows from the other, give one of them")
    # draws and grids are one kind of part; on the command line `shift` means the grid
    use = chosen(request.grid, usual.grid, "_grid")
    if use.use.endswith("fitted_grid") and not use.options:
        use = Use(use=use.use, values=list(usual.fitted))
    grid: Grid = build(finder, "times", use)
    steps = request.steps or getattr(grid, "steps", None) or usual.steps
    if budget is not None and hasattr(solver, "solve"):
        limit = budget
    elif budget is not None:
        steps = fitting_steps(solver, budget, name)
    return use, grid(steps), limit


def _guiding(model: Model, request: Request) -> Guiding:
    usual = model.recipe.sampling
    channels = usual.guidance_channels
    # the numbers of a token are ordered by channel first
    width = model.tokenizer.width // model.autoencoder.channels
    return Guiding(
        usual.guidance if request.guidance is None else request.guidance,
        None if channels is None else slice(0, channels * width),
        usual.guidance_rescale if request.guidance_rescale is None else request.guidance_rescale,
        usual.guidance_interval if request.guidance_interval is None else request.guidance_interval,
        usual.guidance_split if request.guidance_split is None else request.guidance_split,
    )


def chosen(said: str | None, usual: Use, ending: str = "") -> Use:
    """The part that a request names, or the recipe's; the recipe's options serve where only its name is said."""
    if said is None:
        return usual
    use = named(said)
    if not use.use.endswith(ending):
        use = use.model_copy(update={"use": use.use + ending})
    same = use.use in (usual.use, usual.use.rpartition(".")[2])
    return usual if same and not use.options else use


def _told(said: str | None, use: Use) -> str:
    """A part's name, with the options that the request gave it: what is recorded must lead to the same result."""
    return use.use if said is None or ":" not in said else f"{use.use}:{said.partition(':')[2]}"


def _extrapolation(model: Model, request: Request) -> Use | None:
    usual = model.recipe.sampling.extrapolation
    return usual if request.extrapolation is None else chosen(request.extrapolation, usual or Use(use="core.none"))


def _drop(model: Model, request: Request) -> Use | None:
    usual = model.recipe.sampling.context_drop
    if request.context_drop == "none":
        return None
    return usual if request.context_drop is None else chosen(request.context_drop, usual or Use(use="core.time_aware"))


def _cache(model: Model, request: Request) -> Use | None:
    usual = model.recipe.sampling.step_cache
    if request.step_cache == "none":
        return None
    return usual if request.step_cache is None else chosen(request.step_cache, usual or Use(use="core.residual"))


def _proportional(model: Model, request: Request) -> int | None:
    asked = model.recipe.sampling.proportional if request.proportional is None else request.proportional
    if asked == 1:
        raise ConfigError(
            "proportional: 1 token in training has no logarithm to divide by; wanted 2 or more, or 0 for off"
        )
    return asked or None


def _scaled(model: Model, finder: Finder, request: Request, proportional: int | None) -> Scaled:
    """What fits attention to the canvas of a request, beside that of training."""
    use, asked = _extrapolation(model, request), _drop(model, request)
    drop: ContextDrop | None = None if asked is None else build(finder, "context_drop", asked)
    remembering = _cache(model, request)
    cache: StepCache | None = None if remembering is None else build(finder, "step_cache", remembering)
    if use is None:
        return Scaled(proportional=proportional, drop=drop, cache=cache)
    part: Extrapolation = build(finder, "extrapolation", use)
    sides = _trained(model, part, len(model.task.extent(request)))
    return Scaled(part, None if sides is None else blank_tokens(model, sides, 1), proportional, drop, cache)


def _trained(model: Model, part: Extrapolation, sides: int) -> Extent | None:
    if part.trained is None:
        known = getattr(model.task, "trained", None)
        return None if known is None else known()
    told = part.trained * sides if len(part.trained) == 1 else part.trained
    if len(told) != sides:
        raise ConfigError(f"extrapolation: trained has {len(told)} sizes; this model's data has {sides}")
    return told
