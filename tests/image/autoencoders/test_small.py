"""Small autoencoders reconstruct images and have latents of unit variance."""

from __future__ import annotations

import pytest
import torch

from lumina_core.errors import ShapeError
from lumina_core.tokenizers import IdentityAutoencoder
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


@pytest.mark.parametrize(("factor", "num_downsamples"), [(2, 0), (2, 2), (4, 1)])
def test_pixel_unshuffle_multiplies_the_downsampling_factor(factor, num_downsamples):
    part = small(pixel_unshuffle_factor=factor, num_downsamples=num_downsamples, latent_channels=5)
    total = factor * 2**num_downsamples
    latent = part.encode(torch.zeros(2, 3, 16, 24))
    assert part.downsample_factor == (total, total)
    assert latent.shape == (2, 5, 16 // total, 24 // total)
    assert part.decode(latent).shape == (2, 3, 16, 24)


def test_the_decoder_may_have_more_blocks_than_the_encoder():
    plain, deeper = small(num_downsamples=1), small(num_downsamples=1, num_decoder_blocks=3)
    assert len(deeper.encoder) == len(plain.encoder)
    assert len(deeper.decoder) == len(plain.decoder) + 2 * 2


def test_weighted_terms_add_up_to_the_total_loss():
    part = small(num_downsamples=1, gradient_weight=0.5, downsample_weight=0.25)
    loss = part.loss(discs(4), generators(0, 4))
    terms = {name: float(value) for name, value in loss.terms.items()}
    expected = terms["l1"] + terms["mse"] + 0.5 * terms["gradient"] + 0.25 * terms["downsample"]
    assert set(terms) == {"l1", "mse", "gradient", "downsample"}
    assert float(loss.total.detach()) == pytest.approx(expected, rel=1e-5)


def test_the_noise_of_an_item_depends_on_its_generator_alone():
    part = small(num_downsamples=1, latent_noise_std=0.1, max_latent_noise_std=0.9)
    together = [part._sample_noise(torch.Size((4, 8, 8)), g) for g in generators(3, 6)]
    alone = part._sample_noise(torch.Size((4, 8, 8)), generators(3, 6)[4])
    stds = torch.stack([noise.std() for noise in together])
    assert torch.equal(alone, together[4])
    assert 0.05 < stds.min() < 0.5 < stds.max() < 1.0


def test_muon_trains_neither_the_first_nor_the_last_convolution():
    autoencoder = SmallAutoencoder(SmallAutoencoder.Config(latent_channels=3, base_channels=8))
    names = dict(autoencoder.named_parameters())
    shapes = sorted(tuple(names[name].shape[:2]) for name in autoencoder.no_muon())
    assert shapes == [(3, 8), (3, 32), (8, 3)]
