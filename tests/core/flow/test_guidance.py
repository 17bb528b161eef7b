"""Guidance: a line through two velocities."""

from __future__ import annotations

import pytest
import torch

from lumina_core.flow.guidance import cfg, cfg_rescale, in_interval

SAID, SILENT = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.randn(2, 3, 4)


def test_a_scale_of_one_is_exactly_what_was_said():
    assert torch.equal(cfg(SAID, SILENT, 1), SAID)
    assert torch.equal(cfg(SAID, SILENT, 1.0, slice(0, 2)), SAID)


def test_a_scale_of_zero_is_silence():
    assert cfg(SAID, SILENT, 0.0).numpy() == pytest.approx(SILENT.numpy(), abs=1e-6)


@pytest.mark.parametrize("scale", [0.5, 3.0, 7.5])
def test_guidance_strengthens_the_difference_from_silence(scale):
    assert cfg(SAID, SILENT, scale).numpy() == pytest.approx((SILENT + scale * (SAID - SILENT)).numpy(), abs=1e-4)


def test_only_some_numbers_are_guided_and_the_others_stay_as_said():
    mixed = cfg(SAID, SILENT, 4.0, slice(0, 3))
    assert torch.equal(mixed[..., :3], cfg(SAID, SILENT, 4.0)[..., :3])
    assert torch.equal(mixed[..., 3], SAID[..., 3])


def test_what_was_said_is_left_as_it_was():
    before = SAID.clone()
    cfg(SAID, SILENT, 4.0, slice(0, 3))
    assert torch.equal(SAID, before)


def test_rescaling_gives_each_item_the_spread_of_what_was_said_alone():
    said, strong = torch.randn(2, 5, 3), torch.randn(2, 5, 3) * torch.tensor([4.0, 9.0]).view(2, 1, 1)
    full = cfg_rescale(strong, said, 1.0)
    assert torch.allclose(full.std(dim=(1, 2)), said.std(dim=(1, 2)))
    assert torch.equal(cfg_rescale(strong, said, 0.0), strong)
    assert torch.allclose(cfg_rescale(strong, said, 0.25), 0.25 * full + 0.75 * strong, atol=1e-6)
    assert bool(cfg_rescale(torch.zeros(1, 4, 1), torch.zeros(1, 4, 1), 0.7).isfinite().all())


def test_an_interval_includes_its_ends():
    assert [in_interval(time, (0.2, 0.6)) for time in (0.1, 0.2, 0.6, 0.7)] == [False, True, True, False]
    assert in_interval(0.0, None)
