"""A data set of sets: N points per item, another N for each, without any grid."""

from __future__ import annotations

import random

import pytest
import torch

from lumina_core.data.dataset import MixtureDataset
from lumina_core.errors import ConfigError
from lumina_core.evaluation.eval_set import make_eval_set
from lumina_core.protocols import Dataset
from lumina_core.testing import check_dataset
from lumina_core.testing._tiny_model import tiny_model
from lumina_core.training.dataloader import StepDataset, check_data_sizes, collate, make_sampler

COUNTS = (3, 5, 4)


class PointSets(Dataset):
    """Points (2, N) on a circle; the number of points depends on the index."""

    variable_size = True

    def __len__(self):
        return 9

    def get(self, index, rng):
        angles = 2 * torch.pi * (torch.arange(COUNTS[index % 3]) / COUNTS[index % 3] + rng.random())
        return {"data": torch.stack([angles.cos(), angles.sin()]), "cond": index}

    def size(self, index, rng):
        return (COUNTS[index % 3],)

    def sizes(self):
        return [(count,) for count in COUNTS]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return tiny_model(torch.zeros(2, 2, 4))


def batch_of(model, indices_per_step):
    sampler = make_sampler(PointSets(), 0)
    return StepDataset(PointSets(), "data", ["cond"])[sampler.step_keys(0, indices_per_step)]


def test_the_kit_accepts_sets_of_several_sizes():
    check_dataset(PointSets(), "data")


def test_sets_of_several_sizes_are_padded_and_masked_in_one_batch(model):
    raw = batch_of(model, 9)
    batch = collate(model, raw, [torch.Generator().manual_seed(n) for n in range(9)], 0.0)
    assert sorted(batch.tokens.sizes) == sorted((COUNTS[n % 3],) for n in range(9))
    counts = torch.tensor([size[0] for size in batch.tokens.sizes])
    assert batch.tokens.mask is not None and torch.equal(batch.tokens.mask.sum(1), counts)
    assert not batch.tokens.values[~batch.tokens.mask].any()
    for item, data in enumerate(raw.data):  # a point is a token
        assert torch.equal(batch.tokens.values[item, : data.shape[1]], data.T)


def test_sets_of_one_size_share_a_batch_where_possible():
    dataset = PointSets()
    sampler = make_sampler(dataset, 0)
    batches = [sampler.step_keys(step, 3) for step in range(3)]
    sizes = [{dataset.size(key.index, random.Random(0)) for key in batch} for batch in batches]
    assert all(len(one) == 1 for one in sizes) and {one.pop() for one in sizes} == {(3,), (4,), (5,)}


def test_every_size_is_checked_against_the_model_and_kept_by_a_mixture(model):
    check_data_sizes(model, PointSets())
    config = MixtureDataset.Config.read({"dataset": [{"type": "x.y"}, {"type": "x.y"}]}, "test")
    mixture = MixtureDataset(config, [PointSets(), PointSets()])
    assert mixture.variable_size and mixture.sizes() == [(3,), (5,), (4,)]
    assert mixture.size(10, random.Random(0)) == (5,)


def test_sets_are_evaluated_as_they_are():
    eval_set = make_eval_set(PointSets(), "data")
    assert [eval_set.reference(index).shape[1] for index in range(3)] == [*COUNTS]
    with pytest.raises(ConfigError, match="expected 'points'"):
        make_eval_set(PointSets(), "points").reference(0)
