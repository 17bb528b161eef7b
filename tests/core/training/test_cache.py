"""Cache of frozen networks: each value is computed once, with the numbers of a training without a cache."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from core.toy import CHANNELS, Words, recipe, registry
from core.training.test_trainer import make_trainer
from torch import nn

from lumina_core.config import ComponentSpec
from lumina_core.errors import ConfigError
from lumina_core.model import build_model
from lumina_core.protocols import Autoencoder, Conditioner
from lumina_core.training import trainer as trainer_module
from lumina_core.training.cache import (
    Cache,
    CachedConditioner,
    LatentCache,
    cache_conditioners,
    encode_batch_size,
    latent_fingerprint,
    tensor_digest,
)
from lumina_core.types import Condition, Tokens

CPU = torch.device("cpu")
FROZEN = {"freeze": ["conditioners.word"], "cond_dropout": 0.3, "gradient_accumulation_steps": 2}


def tensors(value):
    return {"value": torch.full((2,), float(value))}


# ---- the cache itself


def test_all_missing_values_are_computed_in_one_call_and_equal_keys_once():
    cache, calls = Cache(10**6), []

    def compute(indices):
        calls.append(indices)
        return [tensors(index) for index in indices]

    cache.get_or_compute("n", ["b"], lambda indices: [tensors(7)])
    found = cache.get_or_compute("n", ["a", "b", "a", None, "c", None], compute)
    assert calls == [[0, 3, 4, 5]]
    assert [float(entry["value"][0]) for entry in found] == [0, 7, 0, 3, 4, 5]
    cache.get_or_compute("n", ["a", "b", "c"], compute)
    assert len(calls) == 1


def test_namespaces_are_separate():
    cache = Cache(10**6)
    cache.get_or_compute("one", ["a"], lambda indices: [tensors(1)])
    (entry,) = cache.get_or_compute("two", ["a"], lambda indices: [tensors(2)])
    assert float(entry["value"][0]) == 2


def test_memory_is_never_exceeded():
    cache, calls = Cache(20), []  # an entry has 8 bytes: two fit
    for _ in range(3):
        cache.get_or_compute("n", ["a", "b", "c"], lambda i: calls.extend(i) or [tensors(index) for index in i])
    assert Counter(calls) == {0: 1, 1: 1, 2: 3}
    assert cache.memory_left == 4


def test_a_full_folder_gets_nothing_more_and_results_are_the_same(tmp_path):
    cache = Cache(0, tmp_path, 1200)
    found = cache.get_or_compute("n", [f"{k:064}" for k in range(5)], lambda i: [tensors(index) for index in i])
    files = list(tmp_path.rglob("*.safetensors"))
    assert len(found) == 5 and 0 < len(files) < 5
    assert sum(file.stat().st_size for file in files) <= 1200
    assert Cache(0, tmp_path, 1200).disk_left < 1200


def test_a_truncated_file_is_computed_again(tmp_path):
    Cache(0, tmp_path, 10**6).get_or_compute("n", ["a"], lambda indices: [tensors(1)])
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:40])
    (entry,) = Cache(0, tmp_path, 10**6).get_or_compute("n", ["a"], lambda indices: [tensors(1)])
    assert torch.equal(entry["value"], tensors(1)["value"])


def test_a_path_that_cannot_be_a_folder_is_one_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"training\.cache_dir: got .*cache, expected a folder"):
        Cache(0, tmp_path / "file" / "cache", 1)


def test_missing_items_are_encoded_in_batches_except_on_a_cpu():
    assert encode_batch_size(CPU) == 1
    assert encode_batch_size(torch.device("cuda", 0)) > 1


# ---- conditions


class CountingConditioner(Conditioner):
    """Frozen conditioner without weights that records what it encodes."""

    cross_attention_dim, pooled_dim, cacheable = 2, 0, True

    def __init__(self, fingerprint="a" * 64):
        self.encoded, self._fingerprint = [], fingerprint

    def fingerprint(self):
        return self._fingerprint

    def encode(self, values):
        self.encoded.append(list(values))
        lengths = [len(v if isinstance(v, str) else repr(v)) for v in values]
        mask = torch.tensor([[k < length for k in range(max(lengths))] for length in lengths])
        context = torch.tensor(lengths)[:, None, None] * torch.ones(1, max(lengths), 2)
        return Condition(context=context * mask[..., None], context_mask=mask)

    def null_condition(self, batch):
        self.encoded.append(None)
        return Condition(context=torch.zeros(batch, 1, 2))


def conditions_are_equal(first, second):
    return torch.equal(first.context, second.context) and torch.equal(first.context_mask, second.context_mask)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_a_batch_has_its_order_and_no_padding_of_other_items(batch_size):
    values = ["a", "bbb", "a", "cc", "ddd"]
    conditioner = CountingConditioner()
    cached = CachedConditioner(conditioner, Cache(10**6), "word", batch_size)
    assert conditions_are_equal(cached.encode(values), CountingConditioner().encode(values))
    calls = {1: [1, 1, 1, 1], 2: [2, 2], 64: [4]}[batch_size]
    assert [len(batch) for batch in conditioner.encoded] == calls
    assert cached.encode(["cc"]).context.shape == (1, 2, 2)
    assert len(conditioner.encoded) == len(calls)


def test_equal_values_of_different_types_have_their_own_conditions():
    context = CachedConditioner(CountingConditioner(), Cache(1000), "word").encode([1, True, 1.0]).context
    assert context[:, 0, 0].tolist() == [1.0, 4.0, 3.0]


def test_values_without_a_key_are_encoded_every_time():
    conditioner, image = CountingConditioner(), torch.zeros(2)
    cached = CachedConditioner(conditioner, Cache(1000), "image")
    cached.encode([image, image])
    cached.encode([image])
    assert len(conditioner.encoded) == 3


def test_the_null_condition_is_computed_once_even_without_memory():
    conditioner = CountingConditioner()
    cached = CachedConditioner(conditioner, Cache(0), "word")
    assert cached.null_condition(4).context.shape == (4, 1, 2)
    assert cached.null_condition(2).context.shape == (2, 1, 2)
    assert conditioner.encoded == [None]


def test_reference_tokens_are_cached(tmp_path):
    class WithReference(CountingConditioner):
        def encode(self, values):
            self.encoded.append(list(values))
            shape = (len(values), 3, 2)
            tokens = Tokens(torch.ones(shape), torch.zeros(len(values), 3, 3), ((1, 3),) * len(values))
            return Condition(reference=tokens)

    for expected in ([["a"], ["b"]], []):
        conditioner = WithReference()
        condition = CachedConditioner(conditioner, Cache(0, tmp_path, 10**6), "word").encode(["a", "b"])
        assert condition.reference.sizes == ((1, 3), (1, 3)) and condition.reference.values.shape == (2, 3, 2)
        assert conditioner.encoded == expected


def test_only_slow_frozen_conditioners_get_the_cache():
    def wrapped(model):
        return isinstance(cache_conditioners(model.conditioners_by_field, Cache(1000))["word"], CachedConditioner)

    assert not wrapped(build_model(recipe("costly"), registry()))
    assert not wrapped(build_model(recipe("word"), registry()).requires_grad_(False))
    assert wrapped(build_model(recipe("costly"), registry()).requires_grad_(False))


def test_a_second_training_finds_all_conditions_on_disk(tmp_path):
    def cached():
        return CachedConditioner(CountingConditioner(), Cache(10**6, tmp_path / "cache", 10**6), "word")

    first = cached()
    condition, null = first.encode(["red", "a longer text"]), first.null_condition(2)
    later = cached()
    assert conditions_are_equal(later.encode(["red", "a longer text"]), condition)
    assert torch.equal(later.null_condition(2).context, null.context)
    assert later.conditioner.encoded == []


def test_other_weights_or_options_find_nothing_on_disk(tmp_path):
    for fingerprint in ("a" * 64, "b" * 64):
        cached = CachedConditioner(CountingConditioner(fingerprint), Cache(0, tmp_path, 10**6), "word")
        cached.encode(["red"])
        assert cached.conditioner.encoded == [["red"]]


# ---- latents


class Encoder(nn.Module, Autoencoder):
    """Network whose latents have the channels of its data; counts calls and items."""

    channels, downsample_factor = CHANNELS, (1,)

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.mix = nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1)
        self.num_items, self.num_calls = 0, 0
        self.requires_grad_(False)

    def encode(self, data):
        self.num_items, self.num_calls = self.num_items + len(data), self.num_calls + 1
        return torch.tanh(self.mix(data))

    def decode(self, latent):
        return latent


SPEC = ComponentSpec(type="toy.encoder")


def latent_cache(encoder, cache=None, batch_size=1):
    return LatentCache(encoder, SPEC, cache or Cache(10**6), "cpu None", batch_size)


def test_an_item_is_encoded_once_and_one_that_differs_in_a_bit_separately():
    encoder, item = Encoder(), torch.randn(CHANNELS, 6)
    other = item.clone()
    other[0, 0] = torch.nextafter(other[0, 0], torch.tensor(9.0))
    latents = latent_cache(encoder).encode([item, other, item.clone()], CPU)
    assert encoder.num_items == 2
    assert torch.equal(latents[0], latents[2])
    assert torch.equal(latents[1], encoder.encode(other[None]))


def test_missing_items_of_one_size_are_encoded_together():
    encoder = Encoder()
    items = [torch.randn(CHANNELS, 6 - k % 2) for k in range(7)]
    latents = latent_cache(encoder, batch_size=64).encode(items, CPU)
    assert (encoder.num_items, encoder.num_calls) == (7, 2)
    for item, latent in zip(items, latents, strict=True):
        assert latent.numpy() == pytest.approx(encoder.encode(item[None]).numpy(), abs=1e-6)


def test_a_trained_autoencoder_is_refused_with_what_to_do():
    with pytest.raises(ConfigError, match=r"Add `autoencoder` to training\.freeze"):
        latent_cache(Encoder().requires_grad_(True))


def test_other_weights_options_and_precisions_have_other_fingerprints(tmp_path):
    fingerprints = {
        latent_fingerprint(Encoder(), SPEC, "cpu None"),
        latent_fingerprint(Encoder(seed=1), SPEC, "cpu None"),
        latent_fingerprint(Encoder(), ComponentSpec(type="toy.encoder", width=3), "cpu None"),
        latent_fingerprint(Encoder(), SPEC, "cpu torch.bfloat16"),
    }
    assert len(fingerprints) == 4
    assert latent_fingerprint(Encoder(), SPEC, "cpu None") in fingerprints
    item = torch.randn(CHANNELS, 6)
    for seed in (0, 1):
        encoder = Encoder(seed)
        latents = latent_cache(encoder, Cache(0, tmp_path, 10**6)).encode([item], CPU)
        assert torch.equal(latents[0], encoder.encode(item[None]))


def test_a_digest_depends_on_shape_and_dtype():
    zeros = [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), torch.zeros(4, dtype=torch.bfloat16)]
    assert len({tensor_digest(one) for one in zeros}) == 4
    assert tensor_digest(torch.arange(6.0).view(2, 3).T) == tensor_digest(torch.tensor([[0.0, 3], [1, 4], [2, 5]]))


# ---- in a training


def run_steps(out, toy_recipe):
    """Return losses and the model of a training."""
    with make_trainer(out, toy_recipe) as trainer:
        return [trainer.train_step(batch).loss for batch in trainer.batches()], trainer.model


def test_the_cache_of_conditions_changes_no_number_and_every_value_is_encoded_once(tmp_path):
    losses, model = run_steps(tmp_path / "1", recipe("costly", **FROZEN))
    without, other = run_steps(tmp_path / "2", recipe("costly", cache_bytes=0, **FROZEN))
    counts, counts_without = (Counter(one.conditioners["word"].read) for one in (model, other))
    assert losses == without
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert set(counts.values()) == {1} and max(counts_without.values()) > 1
    assert set(counts) == set(counts_without)
    plain, _ = run_steps(tmp_path / "3", recipe("word", **FROZEN))
    assert losses == pytest.approx(plain, rel=1e-5)


def test_a_cache_on_disk_changes_no_number(tmp_path, monkeypatch):
    monkeypatch.setattr(Words, "fingerprint", lambda self: "c" * 64)
    cache_dir = str(tmp_path / "cache")
    plain, _ = run_steps(tmp_path / "1", recipe("costly", **FROZEN))
    first, model = run_steps(tmp_path / "2", recipe("costly", cache_dir=cache_dir, **FROZEN))
    second, again = run_steps(tmp_path / "3", recipe("costly", cache_dir=cache_dir, **FROZEN))
    assert first == plain == second
    assert model.conditioners["word"].read and not again.conditioners["word"].read


@pytest.mark.parametrize("mixed", [False, True])
def test_the_cache_of_latents_changes_no_number(tmp_path, monkeypatch, mixed):
    build = trainer_module.build_model

    def build_with_encoder(*args):
        model = build(*args)
        model.autoencoder = Encoder()
        return model

    monkeypatch.setattr(trainer_module, "build_model", build_with_encoder)
    results = {}
    for name, settings in {
        "plain": {"cache_latents": False},
        "no memory": {"cache_bytes": 0},
        "memory": {},
        "disk": {"cache_dir": str(tmp_path / "cache")},
        "disk again": {"cache_dir": str(tmp_path / "cache"), "cache_bytes": 0},
    }.items():
        toy_recipe = recipe("label", {"mixed": mixed}, steps=4, **{"cache_latents": True, **settings})
        results[name] = run_steps(tmp_path / name, toy_recipe)
    losses, model = results["no memory"]
    for name in ("memory", "disk", "disk again"):
        assert results[name][0] == losses
        assert all(torch.equal(t, results[name][1].state_dict()[n]) for n, t in model.state_dict().items())
    assert losses == pytest.approx(results["plain"][0], rel=1e-3)
    assert results["disk again"][1].autoencoder.num_items == 0 < results["disk"][1].autoencoder.num_items
