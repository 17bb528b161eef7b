"""Small autoencoders reconstruct images and have latents of unit variance."""

from __future__ import annotations

import pytest
import torch

from lumina_core.errors import ShapeError
from lumina_image.autoencoders.pixel import IdentityAutoencoder
from lumina_image.autoencoders.small import SmallAutoencoder


def generators(seed: int, count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 * seed + place) for place in range(count)]


def small(**options: int) -> SmallAutoencoder:
    torch.manual_seed(0)
    return SmallAutoencoder(SmallAutoencoder.Config(**{"base_channels": 16, **options}))


def discs(count: int, side: int = 16) -> torch.Tensor:
    """Discs of random colour, place and size on white."""
    draw = torch.Generator().manual_seed(1)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    centre = torch.rand(count, 2, 1, 1, generator=draw) * side
    radius = 3 + torch.rand(count, 1, 1, generator=draw) * 4
    inside = (rows - centre[:, 0]) ** 2 + (columns - centre[:, 1]) ** 2 < radius**2
    colour = torch.rand(count, 3, 1, 1, generator=draw) * 2 - 1
    return torch.where(inside[:, None], colour, torch.ones(()))


def test_pixels_are_their_own_latent():
    pixels = IdentityAutoencoder(IdentityAutoencoder.Config())
    data = torch.randn(2, 3, 5, 7)
    assert torch.equal(pixels.decode(pixels.encode(data)), data)
    assert (pixels.channels, pixels.downsample_factor) == (3, (1, 1))


@pytest.mark.parametrize("num_downsamples", [0, 1, 3])
def test_the_stride_is_two_to_the_halvings(num_downsamples):
    part = small(num_downsamples=num_downsamples, latent_channels=5)
    stride = 2**num_downsamples
    assert part.downsample_factor == (stride, stride)
    latent = part.encode(torch.zeros(2, 3, 16, 24))
    assert latent.shape == (2, 5, 16 // stride, 24 // stride)
    assert part.decode(latent).shape == (2, 3, 16, 24)


def test_a_short_training_reconstructs_images_and_has_latents_of_unit_variance():
    part = small(num_downsamples=1, latent_channels=4)
    data = discs(64)
    optimizer = torch.optim.Adam(part.parameters(), lr=2e-3)
    for step in range(60):
        batch = data[torch.arange(16) + 16 * (step % 4)]
        optimizer.zero_grad()
        part.loss(batch, generators(step, len(batch))).total.backward()
        optimizer.step()
    with torch.no_grad():
        latent = part.encode(data)
        error = (part.decode(latent) - data).square().mean()
    assert error < 0.35 * data.var()
    assert latent.mean((0, 2, 3)).abs().max() < 0.35
    assert (latent.var((0, 2, 3)) - 1).abs().max() < 0.4


def test_encoding_does_not_move_the_running_scale_even_in_training_mode():
    part = small().train()
    before = part.variance.clone()
    part.encode(discs(4))
    assert torch.equal(part.variance, before)
    part.loss(discs(4), generators(0, 4))
    assert not torch.equal(part.variance, before)


def test_the_scale_travels_with_the_weights():
    first, second = small(), small()
    first.loss(discs(4), generators(0, 4))
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.encode(discs(4)), first.encode(discs(4)))


def test_an_unsupported_size_is_refused_with_the_next_larger_one():
    with pytest.raises(ShapeError, match=r"18x20.*multiples of 4.*20x20"):
        small(num_downsamples=2).encode(torch.zeros(1, 3, 18, 20))
