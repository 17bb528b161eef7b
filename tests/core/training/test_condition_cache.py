"""Frozen features: read once a value, and with the same numbers as without a memory."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from core.toy import recipe, registry

from lumina_core.model import build_dataset, build_model
from lumina_core.protocols import Conditioner
from lumina_core.training.cache import CachedConditioner, cache_conditioners
from lumina_core.training.distributed import ProcessInfo
from lumina_core.training.optim import build_optimizers
from lumina_core.training.trainer import TrainStep, _make_dataloader, freeze
from lumina_core.types import Condition

ALONE = ProcessInfo(0, 1, torch.device("cpu"))
FROZEN = {"freeze": ["conditioners.word"], "cond_dropout": 0.3, "gradient_accumulation_steps": 2}


def trained(asked):
    """Losses of a short run, its weights, and how often each value was read."""
    torch.manual_seed(0)
    model, dataset = build_model(asked, registry()), build_dataset(asked, registry())
    freeze(model, asked.training.freeze)
    stepper = TrainStep(model, asked.training, ALONE, build_optimizers(model, asked.training))
    losses = [stepper.step(number, raw).loss for number, raw in enumerate(_make_dataloader(model, dataset, 0, ALONE))]
    return losses, model.state_dict(), Counter(model.conditioners["word"].read)


class Reader(Conditioner):
    """A conditioner without weights that remembers what it was asked."""

    cross_attention_dim, pooled_dim, cacheable = 2, 0, True

    def __init__(self):
        self.requested = []

    def encode(self, values):
        self.requested.append(list(values))
        return Condition(context=torch.tensor([[[float(len(repr(v))), 1.0]] for v in values]))

    def null_condition(self, batch):
        self.requested.append(None)
        return Condition(context=torch.zeros(batch, 1, 2))


def test_a_memory_changes_no_number_and_reads_every_value_once():
    with_memory, weights, counts = trained(recipe("costly", **FROZEN))
    without, same, often = trained(recipe("costly", cache_bytes=0, **FROZEN))
    assert with_memory == without
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert set(counts.values()) == {1}
    assert max(often.values()) > 1
    assert set(counts) == set(often)


def test_numbers_are_those_of_reading_whole_batches_but_for_rounding():
    with_memory, _, _ = trained(recipe("costly", **FROZEN))
    plain, _, _ = trained(recipe("word", **FROZEN))
    assert with_memory == pytest.approx(plain, rel=1e-5)


def test_only_costly_conditioners_that_stand_still_are_remembered():
    moving = build_model(recipe("costly"), registry())
    assert not isinstance(cache_conditioners(moving.conditioners_by_field, 1000)["word"], CachedConditioner)
    cheap = build_model(recipe("word"), registry()).requires_grad_(False)
    assert not isinstance(cache_conditioners(cheap.conditioners_by_field, 1000)["word"], CachedConditioner)
    frozen = build_model(recipe("costly"), registry()).requires_grad_(False)
    assert isinstance(cache_conditioners(frozen.conditioners_by_field, 1000)["word"], CachedConditioner)


def test_a_batch_is_put_together_in_its_order_from_values_read_alone():
    reader = Reader()
    memory = CachedConditioner(reader, 1000).encode(["a", "bbb", "a", "cc"]).context
    assert memory[:, 0, 0].tolist() == [3.0, 5.0, 3.0, 4.0]
    assert reader.requested == [["a"], ["bbb"], ["cc"]]


def test_what_is_kept_never_exceeds_its_room():
    reader = Reader()
    kept = CachedConditioner(reader, max_bytes=20)  # a condition takes 8 bytes: two find room
    for _ in range(3):
        kept.encode(["a", "b", "c"])
    assert Counter(value for (value,) in reader.requested) == {"a": 1, "b": 1, "c": 3}
    assert kept.bytes_left == 4


def test_several_memories_share_the_room():
    both = cache_conditioners({"one": Reader(), "two": Reader()}, 100)
    assert [conditioner.bytes_left for conditioner in both.values()] == [50, 50]


def test_values_that_are_equal_but_of_another_type_are_told_apart():
    memory = CachedConditioner(Reader(), 1000).encode([1, True, 1.0]).context
    assert memory[:, 0, 0].tolist() == [1.0, 4.0, 3.0]


def test_values_that_cannot_be_compared_are_read_every_time():
    reader, picture = Reader(), torch.zeros(2)
    kept = CachedConditioner(reader, 1000)
    kept.encode([picture, picture])
    kept.encode([picture])
    assert len(reader.requested) == 3


def test_silence_is_made_once():
    reader = Reader()
    kept = CachedConditioner(reader, 0)
    assert kept.null_condition(4).context.shape == (4, 1, 2)
    assert kept.null_condition(2).context.shape == (2, 1, 2)
    assert reader.requested == [None]
