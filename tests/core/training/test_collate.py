"""Batches: the same from any number of workers, padded only where needed, null conditions where dropped."""

from __future__ import annotations

import pytest
import torch
from core.toy import LENGTH, recipe, registry
from torch.utils.data import DataLoader

from lumina_core.errors import ConfigError
from lumina_core.model import build_dataset, build_model
from lumina_core.training.dataloader import (
    EpochSampler,
    StepDataset,
    collate,
    encode_to_tokens,
    make_sampler,
)


def build(conditioner="label", dataset=None, **training):
    torch.manual_seed(0)
    toy_recipe = recipe(conditioner, dataset, **training)
    return build_model(toy_recipe, registry()), build_dataset(toy_recipe, registry())


def read(model, dataset, count=5):
    return StepDataset.of_model(dataset, model)[EpochSampler([1.0] * len(dataset), 0).step_keys(0, count)]


def generators(raw_batch):
    return [key.torch_generator() for key in raw_batch.keys]


def batches(model, dataset, num_workers=0, rank=0, world_size=1, stop=5):
    order = make_sampler(dataset, 0)
    sampler = [order.step_keys(step, 4)[rank::world_size] for step in range(1, stop)]
    return list(
        DataLoader(StepDataset.of_model(dataset, model), sampler=sampler, batch_size=None, num_workers=num_workers)
    )


@pytest.mark.parametrize("mixed", [False, True])
def test_worker_processes_read_the_same_batches(mixed):
    model, dataset = build("word", {"mixed": mixed})
    first, second = (batches(model, dataset, num_workers) for num_workers in (0, 2))
    assert len(first) == len(second) == 4
    for one, other in zip(first, second, strict=True):
        assert one.keys == other.keys
        assert one.values == other.values
        assert all(torch.equal(a, b) for a, b in zip(one.data, other.data, strict=True))


def test_two_processes_read_the_step_of_one():
    model, dataset = build()
    halves = [batches(model, dataset, rank=rank, world_size=2) for rank in (0, 1)]
    for one, *two in zip(batches(model, dataset), *halves, strict=True):
        assert set(one.keys) == {key for half in two for key in half.keys}


def test_data_of_one_size_has_no_mask_and_of_several_sizes_has_the_right_one():
    model, dataset = build()
    assert encode_to_tokens(model, read(model, dataset).data).mask is None
    model, dataset = build(dataset={"mixed": True})
    raw_batch = read(model, dataset)
    tokens = encode_to_tokens(model, raw_batch.data)
    assert tokens.mask.sum(1).tolist() == [item.shape[-1] for item in raw_batch.data]
    assert tokens.values.shape[1] == LENGTH
    assert not bool(tokens.values[~tokens.mask].any())


@pytest.mark.parametrize("conditioner", ["label", "word"])
def test_dropped_conditions_are_null_conditions(conditioner):
    model, dataset = build(conditioner)
    raw_batch = read(model, dataset)
    batch, null = collate(model, raw_batch, generators(raw_batch), 1.0), model.null_condition(5)
    for name in ("context", "pooled"):
        found, expected = getattr(batch.condition, name), getattr(null, name)
        if expected is None:
            assert found is None
        else:
            # a dropped condition is padded to the longest of the batch
            assert torch.equal(found[:, : expected.shape[1]], expected)
    if batch.condition.context_mask is not None:
        assert batch.condition.context_mask.sum(1).tolist() == [1] * 5


def test_without_dropout_every_condition_is_encoded():
    model, dataset = build()
    raw_batch = read(model, dataset)
    batch = collate(model, raw_batch, generators(raw_batch), 0.0)
    assert torch.equal(batch.condition.pooled, model.encode_condition(raw_batch.values, 5).pooled)


def test_the_share_of_dropped_conditions_is_that_of_the_recipe():
    model, dataset = build()
    raw_batch = read(model, dataset, 1500)
    batch = collate(model, raw_batch, generators(raw_batch), 0.3)
    is_null = (batch.condition.pooled == model.null_condition(1).pooled).all(1)
    assert float(is_null.float().mean()) == pytest.approx(0.3, abs=0.04)


def test_whether_an_item_is_dropped_does_not_depend_on_its_neighbours():
    model, dataset = build()
    raw_batch = read(model, dataset, 12)
    together = collate(model, raw_batch, generators(raw_batch), 0.5).condition.pooled
    parts = [raw_batch.microbatch(slice(k, k + 3)) for k in range(0, 12, 3)]
    separate = torch.cat([collate(model, part, generators(part), 0.5).condition.pooled for part in parts])
    assert torch.equal(separate, together)


def test_a_missing_field_is_named_with_the_fields_of_the_data():
    model, dataset = build("word")
    dataset.get = lambda index, rng: {"signal": torch.zeros(2, LENGTH), "caption": "low"}
    with pytest.raises(ConfigError, match=r"got the fields signal, caption, expected signal, word\. Add 'word'"):
        read(model, dataset)


def test_generation_has_no_target():
    model, dataset = build()
    raw_batch = read(model, dataset)
    assert collate(model, raw_batch, generators(raw_batch), 0.1).target is None
