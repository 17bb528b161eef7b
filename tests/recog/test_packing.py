"""Images alone, padded and packed give the same logits and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recog.images import network

from lumina_core.errors import ShapeError
from lumina_core.models.attention import Segments, sdpa
from lumina_core.types import Condition
from lumina_recog.classifier import padded_tokens
from lumina_recog.packing import first_fit, pack, packed_logits
from lumina_recog.patchify import Patchify

SIZES = [(1, 1), (8, 8), (24, 40), (40, 24), (64, 8), (33, 17), (24, 40), (16, 16)]


def images(sizes, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, *size, generator=generator) * 2 - 1 for size in sizes]


def single(net, one):
    return torch.cat([net(image[None]) for image in one])


def padded(net, one):
    tokens = padded_tokens(net.tokenizer, one)
    return net.head(net.backbone(tokens, None, Condition()), tokens)


@pytest.mark.parametrize("pooling", ["avg", "map"])
@pytest.mark.parametrize("rope", ["mixed", "axial"])
def test_logits_and_gradients_are_those_of_each_image_alone(pooling, rope):
    net, batch = network(pooling, rope), images(SIZES)
    weights = torch.randn(len(SIZES), 5, generator=torch.Generator().manual_seed(5))
    found = {}
    for name, run in (("single", single), ("padded", padded), ("packed", lambda n, b: n(b))):
        net.zero_grad()
        logits = run(net, batch)
        (logits * weights).sum().backward()
        found[name] = (logits.detach(), [p.grad.clone() for p in net.parameters()])
    for name in ("padded", "packed"):
        torch.testing.assert_close(found[name][0], found["single"][0], rtol=0, atol=1e-5)
        for one, other in zip(found[name][1], found["single"][1], strict=True):
            scale = max(1.0, float(other.abs().max()))
            torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=1e-5)


def test_two_hundred_images_in_any_order():
    net = network()
    generator = torch.Generator().manual_seed(0)
    sizes = [tuple(torch.randint(1, 70, (2,), generator=generator).tolist()) for _ in range(199)] + [(1, 1)]
    batch = images(sizes)
    order = torch.randperm(200, generator=generator).tolist()
    with torch.no_grad():
        expected = single(net, batch)
        torch.testing.assert_close(net(batch), expected, rtol=0, atol=1e-5)
        shuffled = net([batch[index] for index in order])
        torch.testing.assert_close(shuffled, expected[order], rtol=0, atol=1e-5)
        items = [net.tokenizer.patchify(image[None]) for image in batch]
        few = packed_logits(net.backbone, net.head, items, capacity=100)
        torch.testing.assert_close(few, expected, rtol=0, atol=1e-5)


def test_segments_do_not_see_each_other():
    q, k, v = torch.randn(3, 1, 2, 9, 4).unbind(0)
    segments = Segments((2, 2, 3))
    out = sdpa(q, k, v, segments, 0.5)
    for start, stop in ((0, 2), (2, 4), (4, 7)):
        rows = slice(start, stop)
        alone = sdpa(q[:, :, rows], k[:, :, rows], v[:, :, rows], None, 0.5)
        torch.testing.assert_close(out[:, :, rows], alone)
    assert not out[:, :, 7:].any()


def test_grouped_heads_in_segments():
    q, k, v = torch.randn(1, 4, 6, 4), torch.randn(1, 2, 6, 4), torch.randn(1, 2, 6, 4)
    out = sdpa(q, k, v, Segments((1, 5)), 0.5)
    torch.testing.assert_close(out[:, :, 1:], sdpa(q[:, :, 1:], k[:, :, 1:], v[:, :, 1:], None, 0.5))


@settings(max_examples=50)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=200))
def test_every_sequence_is_in_one_pack_that_it_fits(lengths):
    packs = first_fit(lengths, 400)
    assert sorted(index for one in packs for index in one) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in one) <= 400 for one in packs)


def test_packs_of_natural_sizes_waste_little():
    generator = torch.Generator().manual_seed(1)
    sides = torch.randint(4, 25, (2, 400), generator=generator)
    lengths = (sides[0] * sides[1]).tolist()
    packs = first_fit(lengths, 4096)
    waste = 1 - sum(lengths) / (4096 * len(packs))
    assert waste < 0.05


def test_a_pack_of_fixed_length_is_padded_with_zeros():
    tokenizer = Patchify(Patchify.Config(patch_size=8, channels=3))
    (one,) = pack([tokenizer.patchify(torch.randn(1, 3, 16, 24))], capacity=10, fixed_length=True)
    assert one.tokens.values.shape[1] == 10
    assert one.waste == pytest.approx(0.4)
    assert not one.tokens.values[:, 6:].any()


def test_nothing_is_cut_silently():
    with pytest.raises(ShapeError, match="image 1: got 30 tokens, expected 1 to 20"):
        first_fit([3, 30], 20)
    tokens = Patchify(Patchify.Config(patch_size=8, channels=3)).patchify(torch.randn(2, 3, 8, 8))
    with pytest.raises(ShapeError, match="image 0: got a batch of 2"):
        pack([tokens])


def test_stochastic_depth_draws_per_image_of_a_pack():
    net = network(drop_path_rate=0.5).train()
    torch.manual_seed(0)
    batch = [images([(16, 16)])[0]] * 64
    rows = net(batch)
    assert len({tuple(row.tolist()) for row in rows}) > 4
    net.eval()
    torch.testing.assert_close(net(batch)[0], net(batch)[63])
