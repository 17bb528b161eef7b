"""Path, time sampler, schedule and timesteps of the released audio models."""

from __future__ import annotations

import pytest
import torch

from lumina_audio.formats.components import (
    CFMPath,
    DiscreteTimeFlagDiT,
    DiscreteTimeSampler,
    Float32Schedule,
    from_timestep,
    to_timestep,
)
from lumina_core.errors import ConfigError
from lumina_core.flow.path import sample_x_t, velocity_target
from lumina_core.models.flag_dit import FlagDiTBackbone
from lumina_core.types import Condition, Tokens

SIZES = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "token_dim": 3}


def test_every_whole_time_comes_back():
    whole = torch.arange(1000)
    assert torch.equal(to_timestep(from_timestep(whole)), whole.float())
    assert torch.allclose(from_timestep(whole), whole / 1000)


def test_the_rounding_of_the_grid_decides_what_the_network_is_told():
    """float32's linspace has 0.2 a little smaller; a grid in float64 would be told 200 (NOTES 8.2)."""
    assert to_timestep(Float32Schedule(Float32Schedule.Config())(25))[:6].tolist() == [0, 40, 80, 120, 160, 199]
    with pytest.raises(ConfigError, match=r"steps: got .*, expected at least 1"):
        Float32Schedule(Float32Schedule.Config())(0)


def test_a_trace_of_noise_is_left_at_data():
    path = CFMPath(CFMPath.Config(sigma_min=0.1))
    noise, data, time = torch.tensor([[4.0]]), torch.tensor([[2.0]]), torch.tensor([1.0])
    assert sample_x_t(path, noise, data, time).item() == pytest.approx(2.4)
    assert velocity_target(path, noise, data, torch.tensor([0.3])).item() == pytest.approx(2 - 0.9 * 4)


def test_drawn_times_are_whole_thousandths_of_each_items_own_generator():
    draw = DiscreteTimeSampler(DiscreteTimeSampler.Config())
    generators = [torch.Generator().manual_seed(seed) for seed in range(50)]
    times = draw(generators)
    assert torch.allclose(times * 1000, (times * 1000).round(), atol=1e-3)
    assert len(set(times.tolist())) > 40
    assert draw([torch.Generator().manual_seed(7)])[0] == times[7]


def test_the_backbone_is_told_whole_thousandths_and_places_are_pressed_together():
    torch.manual_seed(0)
    plain = FlagDiTBackbone(FlagDiTBackbone.Config(**SIZES))
    torch.nn.init.normal_(plain.blocks[0].modulation.weight)
    theirs = DiscreteTimeFlagDiT(DiscreteTimeFlagDiT.Config(**SIZES))
    theirs.load_state_dict(plain.state_dict())
    tokens = Tokens(torch.randn(1, 5, 3), torch.zeros(1, 5, 3), ((5,),))
    got = theirs(tokens, torch.tensor([0.2049]), Condition()).hidden_states
    wanted = plain(tokens, torch.tensor([204.0]), Condition()).hidden_states
    assert torch.equal(got, wanted)
    half = DiscreteTimeFlagDiT(DiscreteTimeFlagDiT.Config(**SIZES, rope_scaling_factor=2)).frequencies()[0]
    assert torch.equal(half, plain.frequencies()[0] / 2)


def test_intermediate_features_take_the_same_time_as_the_forward_pass():
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "multiple_of": 16, "token_dim": 6}
    model = DiscreteTimeFlagDiT(DiscreteTimeFlagDiT.Config(**sizes))
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens, t = Tokens(torch.randn(1, 3, 6), torch.zeros(1, 3, 3), ((3,),)), torch.tensor([0.37])
    expected = model(tokens, t, Condition()).hidden_states
    assert torch.allclose(model.forward_intermediates(tokens, t, Condition(), indices=1)[0], expected)
