"""What features hear: sounds as their files would keep them, at the rate that a feature wants."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torchaudio.functional import resample

from lumina_core.config import Config as Settings
from lumina_core.errors import ShapeError


class AudioFeatureConfig(Settings):
    """What all features of sounds are told."""

    sample_rate: int = Field(16000, ge=1000, le=192000, description="samples a second of the sounds that are judged")


def prepare(items: Sequence[Tensor], sample_rate: int, target_rate: int) -> list[Tensor]:
    """Sounds (1, S) in about [-1, 1] at `rate` -> (1, S') at the rate `wanted`, clipped as a file would clip them.

    Raises:
        ShapeError: one is no sound of one channel, or has no samples.
    """
    for item in items:
        if item.ndim != 2 or item.shape[0] != 1 or not item.shape[1]:
            raise ShapeError(f"metrics of sounds compare (1, samples); this model makes {tuple(item.shape)}")
    clipped = [item.detach().float().cpu().nan_to_num().clamp(-1, 1) for item in items]
    return clipped if sample_rate == target_rate else [resample(item, sample_rate, target_rate) for item in clipped]


def pad_to_multiple(waveform: Tensor, multiple: int, min_multiples: int = 1) -> Tensor:
    """(B, 1, S) with silence behind, so that S is a multiple, and at least `least` of them."""
    length = max(-(-waveform.shape[-1] // multiple), min_multiples) * multiple
    return F.pad(waveform, (0, length - waveform.shape[-1]))
