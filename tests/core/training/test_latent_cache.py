"""Kept latents: encoded once an item, in this run or in another, and with the numbers of a run that keeps none."""

from __future__ import annotations

import pytest
import torch
from core.toy import CHANNELS, recipe, registry
from torch import nn

from lumina_core.config import ComponentSpec
from lumina_core.errors import ConfigError
from lumina_core.model import build_dataset, build_model
from lumina_core.protocols import Autoencoder
from lumina_core.training.cache import DiskCache, LatentCache, latent_fingerprint, make_latent_cache, tensor_digest
from lumina_core.training.distributed import ProcessInfo
from lumina_core.training.optim import build_optimizers
from lumina_core.training.trainer import TrainStep, _make_dataloader

ALONE = ProcessInfo(0, 1, torch.device("cpu"))
CPU = torch.device("cpu")


class Encoder(nn.Module, Autoencoder):
    """A network whose latents have the channels of its data; counts the items that it encodes."""

    channels, downsample_factor = CHANNELS, (1,)

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.mix = nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1)
        self.encoded = 0
        self.requires_grad_(False)

    def encode(self, data):
        self.encoded += len(data)
        return torch.tanh(self.mix(data))

    def decode(self, latent):
        return latent


def trained(steps=4, **training):
    """Losses and weights of a short run, and how many items were encoded."""
    asked = recipe("label", steps=steps, **training)
    torch.manual_seed(0)
    model, dataset = build_model(asked, registry()), build_dataset(asked, registry())
    model.autoencoder = encoder = Encoder()
    stepper = TrainStep(model, asked.training, ALONE, build_optimizers(model, asked.training))
    losses = [stepper.step(number, raw).loss for number, raw in enumerate(_make_dataloader(model, dataset, 0, ALONE))]
    return losses, model.state_dict(), encoder.encoded


def test_a_run_that_keeps_latents_has_every_number_of_one_that_keeps_none(tmp_path):
    cache_dir = str(tmp_path / "cache")
    without, weights, often = trained(cache_latents=True, cache_bytes=0)
    kept, same, _ = trained(cache_latents=True)
    first, _, filled = trained(cache_latents=True, cache_dir=cache_dir)
    again, stored, none = trained(cache_latents=True, cache_dir=cache_dir, cache_bytes=0)
    assert without == kept == first == again
    assert all(torch.equal(weights[name], same[name]) and torch.equal(weights[name], stored[name]) for name in weights)
    assert often == filled > 0
    assert none == 0


def test_numbers_are_those_of_encoding_whole_batches_but_for_rounding():
    kept, _, _ = trained(cache_latents=True)
    plain, _, _ = trained()
    assert kept[0] == pytest.approx(plain[0], rel=1e-6)
    assert kept == pytest.approx(plain, rel=1e-3)


def test_an_item_met_again_is_not_encoded_again_and_one_that_differs_in_a_bit_is():
    encoder = Encoder()
    memory = LatentCache(encoder, 10**6)
    item = torch.randn(CHANNELS, 6)
    other = item.clone()
    other[0, 0] = torch.nextafter(other[0, 0], torch.tensor(9.0))
    latents = memory.encode([item, other, item.clone()], CPU)
    assert encoder.encoded == 2
    assert torch.equal(latents[0], latents[2])
    assert torch.equal(latents[1], encoder.encode(other[None]))


def test_nothing_is_kept_beyond_the_room():
    encoder = Encoder()
    items = [torch.randn(CHANNELS, 6) for _ in range(4)]
    memory = LatentCache(encoder, 2 * items[0].nbytes)
    memory.encode(items, CPU)
    memory.encode(items, CPU)
    assert encoder.encoded == 4 + 2
    assert memory.bytes_left == 0


def test_items_of_several_lengths_are_padded_as_without_a_memory():
    asked = recipe("label", cache_latents=True)
    mixed = asked.model_copy(update={"dataset": ComponentSpec(type=asked.dataset.type, mixed=True)})
    losses = []
    for keep in (True, False):
        training = mixed.training.model_copy(update={"cache_latents": keep})
        torch.manual_seed(0)
        model, dataset = build_model(mixed, registry()), build_dataset(mixed, registry())
        stepper = TrainStep(model, training, ALONE, build_optimizers(model, training))
        raws = list(_make_dataloader(model, dataset, 0, ALONE))
        losses.append([stepper.step(number, raw).loss for number, raw in enumerate(raws)])
    assert losses[0] == losses[1]


def test_an_autoencoder_that_is_trained_is_refused_with_what_to_do():
    with pytest.raises(ConfigError, match=r"add `autoencoder` to training\.freeze"):
        make_latent_cache(Encoder().requires_grad_(True), ComponentSpec(type="toy.encoder"), 1, None, "cpu None")


def test_other_weights_options_and_precisions_never_find_each_others_latents(tmp_path):
    use = ComponentSpec(type="toy.encoder")
    prints = {
        latent_fingerprint(Encoder(), use, "cpu None"),
        latent_fingerprint(Encoder(seed=1), use, "cpu None"),
        latent_fingerprint(Encoder(), ComponentSpec(type="toy.encoder", width=3), "cpu None"),
        latent_fingerprint(Encoder(), use, "cpu torch.bfloat16"),
    }
    assert len(prints) == 4
    assert latent_fingerprint(Encoder(), use, "cpu None") in prints
    item = torch.randn(CHANNELS, 6)
    for seed in (0, 1):
        encoder = Encoder(seed)
        memory = make_latent_cache(encoder, use, 0, DiskCache(tmp_path, 10**6), "cpu None")
        assert torch.equal(memory.encode([item], CPU)[0], encoder.encode(item[None]))


def test_content_tells_shapes_and_formats_apart():
    zeros = [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), torch.zeros(4, dtype=torch.bfloat16)]
    assert len({tensor_digest(one) for one in zeros}) == 4
    assert tensor_digest(torch.arange(6.0).view(2, 3).T) == tensor_digest(torch.tensor([[0.0, 3], [1, 4], [2, 5]]))
