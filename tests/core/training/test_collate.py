"""Batches: the same from any number of readers, padded only where needed, and silent where a condition is dropped."""

from __future__ import annotations

import pytest
import torch
from core.toy import LENGTH, recipe, registry

from lumina_core.errors import ConfigError
from lumina_core.model import build_dataset, build_model
from lumina_core.training.dataloader import EpochSampler, StepDataset, collate, encode_to_tokens
from lumina_core.training.distributed import ProcessInfo
from lumina_core.training.trainer import _make_dataloader

ALONE = ProcessInfo(0, 1, torch.device("cpu"))


def made(conditioner="label", dataset=None, **training):
    torch.manual_seed(0)
    asked = recipe(conditioner, dataset, **training)
    return build_model(asked, registry()), build_dataset(asked, registry())


def read(model, dataset, count=5):
    examples = StepDataset(dataset, "signal", list(model.conditioners_by_field))
    return examples[EpochSampler([1.0] * len(dataset), 0).step_keys(0, count)]


def generators(raw):
    return [draw.torch_generator() for draw in raw.keys]


@pytest.mark.parametrize("mixed", [False, True])
def test_reading_in_other_processes_gives_the_same_batches(mixed):
    steps = []
    for workers in (0, 2):
        model, dataset = made("word", {"mixed": mixed}, num_workers=workers, steps=5)
        steps.append(list(_make_dataloader(model, dataset, 1, ALONE)))
    assert len(steps[0]) == 4
    for one, other in zip(*steps, strict=True):
        assert one.keys == other.keys
        assert one.values == other.values
        assert all(torch.equal(a, b) for a, b in zip(one.data, other.data, strict=True))


def test_two_processes_read_the_step_of_one():
    model, dataset = made()
    whole = list(_make_dataloader(model, dataset, 0, ALONE))
    halves = [list(_make_dataloader(model, dataset, 0, ProcessInfo(rank, 2, ALONE.device))) for rank in (0, 1)]
    for one, *two in zip(whole, *halves, strict=True):
        assert set(one.keys) == {draw for half in two for draw in half.keys}


def test_a_batch_that_cannot_be_shared_is_refused():
    model, dataset = made(global_batch_size=5)
    with pytest.raises(ConfigError, match="5 cannot be shared by 2 processes"):
        _make_dataloader(model, dataset, 0, ProcessInfo(0, 2, ALONE.device))


def test_data_of_one_size_has_no_mask_and_of_several_sizes_has_the_right_one():
    model, dataset = made()
    assert encode_to_tokens(model, read(model, dataset).data).mask is None
    model, dataset = made(dataset={"mixed": True})
    raw = read(model, dataset)
    tokens = encode_to_tokens(model, raw.data)
    assert tokens.mask.sum(1).tolist() == [item.shape[-1] for item in raw.data]
    assert tokens.values.shape[1] == LENGTH
    assert not bool(tokens.values[~tokens.mask].any())


@pytest.mark.parametrize("conditioner", ["label", "word"])
def test_with_all_conditions_dropped_nothing_is_said(conditioner):
    model, dataset = made(conditioner)
    raw = read(model, dataset)
    batch, silence = collate(model, raw, generators(raw), 1.0), model.null_condition(5)
    for door in ("context", "pooled"):
        told, wanted = getattr(batch.condition, door), getattr(silence, door)
        if wanted is None:
            assert told is None
        else:
            # the dropped ones are as long as the longest that was said, behind a mask
            assert torch.equal(told[:, : wanted.shape[1]], wanted)
    if batch.condition.context_mask is not None:
        assert batch.condition.context_mask.sum(1).tolist() == [1] * 5


def test_with_none_dropped_all_is_said():
    model, dataset = made()
    raw = read(model, dataset)
    batch = collate(model, raw, generators(raw), 0.0)
    assert torch.equal(batch.condition.pooled, model.encode_condition(raw.values, 5).pooled)


def test_the_share_that_is_dropped_is_the_one_asked_for():
    model, dataset = made()
    raw = read(model, dataset, 1500)
    batch = collate(model, raw, generators(raw), 0.3)
    silent = (batch.condition.pooled == model.null_condition(1).pooled).all(1)
    assert float(silent.float().mean()) == pytest.approx(0.3, abs=0.04)


def test_whether_an_item_is_dropped_does_not_depend_on_its_company():
    model, dataset = made()
    raw = read(model, dataset, 12)
    whole = collate(model, raw, generators(raw), 0.5).condition.pooled
    parts = [raw.microbatch(slice(k, k + 3)) for k in range(0, 12, 3)]
    assert torch.equal(torch.cat([collate(model, p, generators(p), 0.5).condition.pooled for p in parts]), whole)


def test_a_field_that_the_data_lacks_is_named():
    _, dataset = made()
    with pytest.raises(ConfigError, match="no field 'caption'; they have: signal, label, word"):
        StepDataset(dataset, "signal", ["caption"])[EpochSampler([1.0], 0).step_keys(0, 1)]
