"""Flow matching with Next-DiT: the public API of the core.

Every name below is imported on first use, so that `import lumina_core` loads neither torch nor pydantic.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from lumina_core.dit2d import FlagDiT as FlagDiT
    from lumina_core.dit2d import NextDiT as NextDiT
    from lumina_core.evaluation.evaluate import evaluate as evaluate
    from lumina_core.flow import schedules as schedules
    from lumina_core.flow.solvers import integrate as integrate
    from lumina_core.model_dir import load_model as load_model
    from lumina_core.plugins.loader import register as register
    from lumina_core.prediction import predict as predict
    from lumina_core.recipe import Recipe as Recipe
    from lumina_core.sampling.pipeline import Pipeline as Pipeline
    from lumina_core.training.callbacks import TrainCallback as TrainCallback
    from lumina_core.training.trainer import Trainer as Trainer
    from lumina_core.types import Condition as Condition
    from lumina_core.types import Tokens as Tokens

__version__ = "0.1.0"

hookimpl = pluggy.HookimplMarker("lumina")
"""Mark a plugin's function as the implementation of a hook, see `lumina_core.plugins.hookspecs`."""

_EXPORTS = {
    "Condition": "lumina_core.types:Condition",
    "FlagDiT": "lumina_core.dit2d:FlagDiT",
    "NextDiT": "lumina_core.dit2d:NextDiT",
    "Pipeline": "lumina_core.sampling.pipeline:Pipeline",
    "Recipe": "lumina_core.recipe:Recipe",
    "Tokens": "lumina_core.types:Tokens",
    "TrainCallback": "lumina_core.training.callbacks:TrainCallback",
    "Trainer": "lumina_core.training.trainer:Trainer",
    "evaluate": "lumina_core.evaluation.evaluate:evaluate",
    "integrate": "lumina_core.flow.solvers:integrate",
    "load_model": "lumina_core.model_dir:load_model",
    "predict": "lumina_core.prediction:predict",
    "register": "lumina_core.plugins.loader:register",
    "schedules": "lumina_core.flow.schedules",
}
"""Import string of each public name: `module:attribute`, or `module`."""

__all__ = [
    "Condition",
    "FlagDiT",
    "NextDiT",
    "Pipeline",
    "Recipe",
    "Tokens",
    "TrainCallback",
    "Trainer",
    "__version__",
    "evaluate",
    "hookimpl",
    "integrate",
    "load_model",
    "predict",
    "register",
    "schedules",
]


def __getattr__(name: str) -> Any:
    target = _EXPORTS.get(name)
    if target is None:
        raise AttributeError(f"module 'lumina_core' has no attribute {name!r}")
    module, _, attribute = target.partition(":")
    value = importlib.import_module(module)
    globals()[name] = value if not attribute else getattr(value, attribute)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
