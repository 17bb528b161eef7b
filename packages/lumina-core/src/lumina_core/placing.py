"""Where a model stands and in which number format it computes; and what to do where that format is too narrow."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lumina_core.config import nearest
from lumina_core.errors import ConfigError, LuminaError
from lumina_core.model import Model
from lumina_core.outside import Borrowed
from lumina_core.precision import resolve, usable
from lumina_core.sampling.generate import OnStep, Result
from lumina_core.sampling.seen import Seen

FORMATS = ("auto", "float32", "bfloat16", "float16")
"""Number formats that a user can name."""


@dataclass(frozen=True)
class Placing:
    """Where the parts of a model stand.

    Attributes:
        device: where it computes.
        dtype: of its weights; None: as they are stored, float16 as float32.
        offload: weights rest on the CPU, and each part stands on `device` only while it works.
        text_device: where conditioners stay; None: with the rest.
    """

    device: torch.device
    dtype: torch.dtype | None = None
    offload: bool = False
    text_device: torch.device | None = None

    @classmethod
    def read(cls, device: str, dtype: str | None, offload: bool, text_device: str | None) -> Placing:
        """As a user says it.

        Raises:
            ConfigError: there is no such device here, or no such format.
        """
        if dtype is not None and dtype not in FORMATS:
            raise ConfigError(f"there is no number format '{dtype}'{nearest(dtype, FORMATS)}")
        place = _device(device)
        kept = None if text_device is None else _device(text_device)
        format_ = None if dtype is None else torch.float16 if dtype == "float16" else resolve(dtype, place)
        return cls(place, format_, offload, kept)

    @property
    def resting(self) -> torch.device:
        """Where weights lie when nobody asks."""
        return torch.device("cpu") if self.offload else self.device

    def place(self, model: Model) -> Model:
        """Tell a model that lies at `resting` where to work."""
        if self.offload:
            model.offload(self.device)
        if self.text_device is not None:
            model.conditioners.to(self.text_device)
            for module in model.conditioners.modules():
                if isinstance(module, Borrowed):
                    module.stay(str(self.text_device))
        return model


def finite(model: Model, make: Callable[[OnStep | None], Result], on_step: OnStep | None) -> Result:
    """What `make` makes; in a wider format once more where float16 has overflowed.

    Raises:
        LuminaError: what came is no number, in a format that is wide enough.
    """
    narrow = model.dtype == torch.float16
    result = make(_watched(on_step) if narrow else on_step)
    if bool(torch.isfinite(result.data).all()):
        return result
    if not narrow:
        raise LuminaError("the model answered what is no number; its weights are broken, or the settings are extreme")
    wider = usable(torch.bfloat16, model.device)
    warnings.warn(f"float16 is too narrow for this model: it goes on in {str(wider)[6:]}", stacklevel=3)
    model.to(wider)
    return finite(model, make, on_step)


def _watched(on_step: OnStep | None) -> OnStep:
    """The same, but it stops the way at the first step that is no number."""

    def watch(seen: Seen) -> bool | Tensor | None:
        if not bool(torch.isfinite(seen.values).all()):
            return True
        return on_step(seen) if on_step is not None else None

    return watch


def _device(name: str) -> torch.device:
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without the device
        reason = str(error).splitlines()[0]
        raise ConfigError(f"the device '{name}' cannot be used here ({reason}); try --device cpu") from error
