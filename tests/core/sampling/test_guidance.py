"""Guidance: the combination of two velocities, its rescaling, channels and interval."""

from __future__ import annotations

import pytest
import torch

from lumina_core.sampling.velocity import GuidanceConfig, cfg, cfg_rescale

COND, UNCOND = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.randn(2, 3, 4)


def test_a_scale_of_one_is_exactly_the_conditional_velocity():
    assert torch.equal(cfg(COND, UNCOND, 1), COND)


def test_a_scale_of_zero_is_the_unconditional_velocity():
    assert cfg(COND, UNCOND, 0.0).numpy() == pytest.approx(UNCOND.numpy(), abs=1e-6)


@pytest.mark.parametrize("scale", [0.5, 3.0, 7.5])
def test_guidance_scales_the_difference_of_the_velocities(scale):
    assert cfg(COND, UNCOND, scale).numpy() == pytest.approx((UNCOND + scale * (COND - UNCOND)).numpy(), abs=1e-4)


def test_guidance_of_some_channels_leaves_the_others_conditional():
    before = COND.clone()
    mixed = GuidanceConfig(scale=4.0, dims=slice(0, 3)).combine(COND, UNCOND, None)
    assert torch.equal(mixed[..., :3], cfg(COND, UNCOND, 4.0)[..., :3])
    assert torch.equal(mixed[..., 3], COND[..., 3])
    assert torch.equal(COND, before)


def test_rescaling_restores_the_conditional_standard_deviation_of_each_item():
    cond, strong = torch.randn(2, 5, 3), torch.randn(2, 5, 3) * torch.tensor([4.0, 9.0]).view(2, 1, 1)
    full = cfg_rescale(strong, cond, 1.0)
    assert torch.allclose(full.std(dim=(1, 2)), cond.std(dim=(1, 2)))
    assert torch.equal(cfg_rescale(strong, cond, 0.0), strong)
    assert torch.allclose(cfg_rescale(strong, cond, 0.25), 0.25 * full + 0.75 * strong, atol=1e-6)
    assert bool(cfg_rescale(torch.zeros(1, 4, 1), torch.zeros(1, 4, 1), 0.7).isfinite().all())


def test_an_interval_includes_its_ends():
    guidance = GuidanceConfig(scale=2.0, interval=(0.2, 0.6))
    assert [guidance.is_on(time) for time in (0.1, 0.2, 0.6, 0.7)] == [False, True, True, False]
    assert GuidanceConfig(scale=2.0).is_on(0.0) and not GuidanceConfig(scale=1.0).is_on(0.0)
