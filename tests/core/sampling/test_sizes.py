"""Results of several sizes in one batch: each equals its own run and has its own size."""

from __future__ import annotations

import pytest
import torch
from core.sampling.test_generate import MODEL, generate_toy, model
from core.toy import Identity, Make, registry

from lumina_core.errors import ConfigError
from lumina_core.sampling.velocity import cfg_rescale

LENGTHS = (6, 3, 9, 3)


def make_requests(**more):
    return [{"word": "low", "seed": seed, "length": length, **more} for seed, length in enumerate(LENGTHS)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"guidance_scale": 1},
        {"guidance_scale": 3, "guidance_rescale": 0.7},
        {"cfg_batching": "sequential"},
        {"solver": "sde"},
        {"solver": "dpmpp", "steps": 4},
        {"rope_scaling": "ntk:train_size=6"},
        {"rope_scaling": "yarn:train_size=3"},
        {"rope_scaling": "time_aware:train_size=3", "base_sequence_length": 4},
        {"context_drop": "time_aware:window=[2,1,1]"},
        {"context_drop": "time_aware:window=[2,1,1]", "base_sequence_length": 3, "rope_scaling": "dype:train_size=6"},
    ],
)
def test_a_batch_of_several_lengths_equals_its_items_one_by_one(settings):
    together = generate_toy(*make_requests(**settings)).items()
    assert [item.shape for item in together] == [(2, length) for length in LENGTHS]
    for item, request in zip(together, make_requests(**settings), strict=True):
        assert item.numpy() == pytest.approx(generate_toy(request).data[0].numpy(), abs=2e-4)


def test_padding_has_no_effect_on_either_length():
    short = [
        generate_toy({"word": "low", "length": 3, "seed": 5}, {"word": "high", "length": n, "seed": n}) for n in (4, 9)
    ]
    first, second = (found.items()[0] for found in short)
    assert first.numpy() == pytest.approx(second.numpy(), abs=1e-4)
    assert not bool(short[1].data[0, :, 3:].any())


def test_step_states_have_the_sizes_of_their_items():
    callbacks = []
    found = generate_toy(*make_requests(), on_step=lambda at: callbacks.append(at.items()) or None)
    assert [item.shape[1] for item in callbacks[0]] == list(LENGTHS)
    assert all(torch.equal(last, item) for last, item in zip(callbacks[-1], found.items(), strict=True))


def test_adaptive_solvers_need_one_size():
    with pytest.raises(ConfigError, match="size: got 6, 3, 9 in one batch, expected one size"):
        generate_toy(*make_requests(solver="dopri5"))


def test_the_standard_deviation_of_a_padded_velocity_ignores_padding():
    strong, plain = torch.randn(2, 1, 5, 3)
    real = torch.tensor([[True, True, True, False, False]])
    padded = [velocity * real[..., None] for velocity in (strong, plain)]
    alone = cfg_rescale(strong[:, :3], plain[:, :3], 0.7)
    assert cfg_rescale(*padded, 0.7, real)[:, :3].numpy() == pytest.approx(alone.numpy(), abs=1e-5)


class Halves(Identity):
    """Two moments are one."""

    downsample_factor = (2,)

    def encode(self, data):
        return data.unflatten(2, (-1, 2)).mean(dim=3)

    def decode(self, latent):
        return latent.repeat_interleave(2, dim=2)


class Filling(Make):
    """Takes every length."""

    pads_to_valid_size = True


def test_a_task_that_rounds_sizes_up_returns_the_requested_lengths(monkeypatch):
    made = model()
    made.autoencoder, made.task = Halves(None), Make(None)
    with pytest.raises(ConfigError, match="expected a multiple of 2"):
        generate_toy({"word": "low", "length": 5}, of=made)
    made.task = Filling(None)
    five, six = (generate_toy({"word": "low", "length": length}, of=made).data for length in (5, 6))
    assert five.shape == (1, 2, 5) and torch.equal(five, six[:, :, :5])
    both = generate_toy({"word": "low", "length": 5}, {"word": "low", "length": 9, "seed": 1}, of=made).items()
    assert [item.shape[1] for item in both] == [5, 9]
    assert both[0].numpy() == pytest.approx(five[0].numpy(), abs=1e-4)


def test_items_of_one_size_have_no_mask():
    blank = []
    plain = MODEL.tokenizer.empty
    try:
        MODEL.tokenizer.empty = lambda *arguments: blank.append(plain(*arguments)) or blank[-1]
        generate_toy({"word": "low", "count": 2})
    finally:
        del MODEL.tokenizer.empty
    assert all(tokens.mask is None for tokens in blank) and registry()
