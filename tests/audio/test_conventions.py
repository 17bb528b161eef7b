"""The released sound models' own path, draw of times, grid and network times."""

from __future__ import annotations

import pytest
import torch

from lumina_audio.published.conventions import (
    Float32Grid,
    Thousandths,
    TracePath,
    WholeTimeFlagDiT,
    from_whole,
    to_whole,
)
from lumina_core.errors import ConfigError
from lumina_core.flow.path import mix, velocity_between
from lumina_core.nn.flag_dit import FlagDiT
from lumina_core.types import Condition, Tokens

SIZES = {"width": 16, "depth": 1, "heads": 2, "token_width": 3}


def test_every_whole_time_comes_back():
    whole = torch.arange(1000)
    assert torch.equal(to_whole(from_whole(whole)), whole.float())
    assert torch.allclose(from_whole(whole), whole / 1000)


def test_the_rounding_of_the_grid_decides_what_the_network_is_told():
    """float32's linspace has 0.2 a little smaller; a grid in float64 would be told 200 (NOTES 8.2)."""
    assert to_whole(Float32Grid(Float32Grid.Config())(25))[:6].tolist() == [0, 40, 80, 120, 160, 199]
    with pytest.raises(ConfigError, match="at least 1 step"):
        Float32Grid(Float32Grid.Config())(0)


def test_a_trace_of_noise_is_left_at_data():
    path = TracePath(TracePath.Config(sigma_min=0.1))
    noise, data, time = torch.tensor([[4.0]]), torch.tensor([[2.0]]), torch.tensor([1.0])
    assert mix(path, noise, data, time).item() == pytest.approx(2.4)
    assert velocity_between(path, noise, data, torch.tensor([0.3])).item() == pytest.approx(2 - 0.9 * 4)


def test_drawn_times_are_whole_thousandths_of_each_items_own_generator():
    draw = Thousandths(Thousandths.Config())
    generators = [torch.Generator().manual_seed(seed) for seed in range(50)]
    times = draw(generators)
    assert torch.allclose(times * 1000, (times * 1000).round(), atol=1e-3)
    assert len(set(times.tolist())) > 40
    assert draw([torch.Generator().manual_seed(7)])[0] == times[7]


def test_the_backbone_is_told_whole_thousandths_and_places_are_pressed_together():
    torch.manual_seed(0)
    plain = FlagDiT(FlagDiT.Config(**SIZES))
    torch.nn.init.normal_(plain.blocks[0].modulation.weight)
    theirs = WholeTimeFlagDiT(WholeTimeFlagDiT.Config(**SIZES))
    theirs.load_state_dict(plain.state_dict())
    tokens = Tokens(torch.randn(1, 5, 3), torch.zeros(1, 5, 3), ((5,),))
    got = theirs(tokens, torch.tensor([0.2049]), Condition()).values
    wanted = plain(tokens, torch.tensor([204.0]), Condition()).values
    assert torch.equal(got, wanted)
    half = WholeTimeFlagDiT(WholeTimeFlagDiT.Config(**SIZES, stretch=2)).frequencies()[0]
    assert torch.equal(half, plain.frequencies()[0] / 2)
