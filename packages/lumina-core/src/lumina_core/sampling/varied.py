"""Variations: results that begin from the noise that some data come from, with as much new noise as is wished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from lumina_core.errors import ConfigError
from lumina_core.model import Finder, Model
from lumina_core.request import Request
from lumina_core.sampling.back import invert
from lumina_core.sampling.given import Given
from lumina_core.types import Varied


def with_noise_of(model: Model, finder: Finder, requests: Sequence[Request], given: Given) -> tuple[Given, int]:
    """What is given, with the noise of the data that the requests vary; and the evaluations that it took.

    The data go to noise by the requests' own solver and steps, without guidance: that way back is the exact one. New
    noise e by a share s mixes as sqrt(1 - s^2) n + s e, which is as much noise as n.

    Raises:
        ConfigError: some of the requests vary data and others do not, noise is given as well, or it is refused.
    """
    ask = getattr(model.task, "varied", None)
    found: list[Varied | None] = [None if ask is None else ask(request) for request in requests]
    there = [one for one in found if one is not None]
    if not there:
        return given, 0
    if len(there) < len(found) or given.noise is not None:
        raise ConfigError("requests of one batch must all vary data, or none of them, and then no noise is given")
    rows = [one for one, request in zip(there, requests, strict=True) for _ in range(request.count)]
    asked = [
        request.model_copy(update={**one.said, "guidance": 1.0}) for one, request in zip(there, requests, strict=True)
    ]
    found_noise = invert(model, finder, asked, torch.stack([one.data for one in rows]))
    seeds = [request.seed + k for request in requests for k in range(request.count)]
    mixed = []
    for noise, one, seed in zip(found_noise.noise, rows, seeds, strict=True):
        new = torch.randn(noise.shape, generator=torch.Generator().manual_seed(seed)).to(noise)
        mixed.append((1 - one.fresh**2) ** 0.5 * noise + one.fresh * new)
    return replace(given, noise=torch.stack(mixed)), found_noise.evaluations
