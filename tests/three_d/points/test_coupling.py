"""Mixed transport: an exact assignment after a part of the noise is exchanged."""

from __future__ import annotations

import itertools

import torch

from lumina_3d.points.coupling import MixedTransport
from lumina_core.flow.coupling import OptimalTransportCoupling
from lumina_core.types import Tokens


def cloud(batch: int, count: int, mask: torch.Tensor | None = None) -> Tokens:
    values = torch.randn(batch, count, 3, generator=torch.Generator().manual_seed(1))
    return Tokens(
        values if mask is None else values * mask[..., None], torch.zeros(batch, count, 3), ((count,),) * batch, mask
    )


def noise(batch: int, count: int) -> torch.Tensor:
    return torch.randn(batch, count, 3, generator=torch.Generator().manual_seed(2))


def test_mix_zero_is_the_cheapest_of_all_assignments() -> None:
    tokens, start = cloud(1, 5), noise(1, 5)
    coupled = MixedTransport(MixedTransport.Config(mix=0))(start, tokens)
    costs = {
        order: float((start[0, list(order)] - tokens.values[0]).square().sum())
        for order in itertools.permutations(range(5))
    }
    assert torch.equal(coupled[0], start[0, list(min(costs, key=costs.get))])
    exact = OptimalTransportCoupling(OptimalTransportCoupling.Config(scope="set"))(start, tokens)
    assert torch.equal(coupled, exact)


def test_the_noise_of_a_cloud_is_permuted_and_repeatable() -> None:
    tokens, start = cloud(2, 40), noise(2, 40)
    coupling = MixedTransport(MixedTransport.Config(mix=0.3))
    coupled = coupling(start, tokens)
    assert torch.equal(coupled, coupling(start, tokens))
    for before, after in zip(start, coupled, strict=True):
        assert {tuple(row) for row in before.tolist()} == {tuple(row) for row in after.tolist()}
    # a cloud does not depend on the others
    alone = coupling(start[1:], Tokens(tokens.values[1:], tokens.positions[1:], tokens.sizes[1:]))
    assert torch.equal(alone[0], coupled[1])


def test_cost_rises_from_exact_to_independent_pairs() -> None:
    tokens, start = cloud(4, 100), noise(4, 100)

    def cost(mix: float) -> float:
        return float((MixedTransport(MixedTransport.Config(mix=mix))(start, tokens) - tokens.values).square().mean())

    costs = [cost(mix) for mix in (0, 0.1, 0.5, 1)]
    assert costs == sorted(costs)
    # with mix = 1 the noise of the next point is compared: pairs are independent
    assert costs[3] > 0.8 * float((start - tokens.values).square().mean())


def test_padding_stays_zero() -> None:
    mask = torch.tensor([[True] * 6 + [False] * 4, [True] * 10])
    tokens = cloud(2, 10, mask)
    coupled = MixedTransport(MixedTransport.Config())(noise(2, 10) * mask[..., None], tokens)
    assert not coupled[0, 6:].any()
    assert coupled[0, :6].abs().sum(dim=1).gt(0).all()
