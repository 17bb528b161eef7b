"""Several data sets as one: each by its weight, each with its own examples, found by name like any part."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from core import toy

from lumina_core.data.dataset import MixtureDataset
from lumina_core.errors import ConfigError, PluginError
from lumina_core.model import build_dataset
from lumina_core.protocols import Dataset
from lumina_core.recipe import read_recipe
from lumina_core.training.dataloader import make_sampler


class Numbers(Dataset):
    """Examples 0..count-1 under a name, the later ones heavier."""

    def __init__(self, name, count, size=None, read_groups=None):
        self.name, self.count = name, count
        if size is not None:
            self.variable_size = True
            self.size = lambda index, rng: size
        if read_groups is not None:
            self.read_groups = lambda: read_groups

    def __len__(self):
        return self.count

    def get(self, index, rng):
        return {"value": f"{self.name}{index}", "drawn": rng.random()}

    def values(self, field):
        return [f"{self.name}{index}" for index in range(self.count)] + ["shared"]

    def weight(self, index):
        return 1.0 + index


def mixed(datasets, *weights):
    uses = [{"type": "x.y", **({} if weight is None else {"weight": weight})} for weight in weights]
    return MixtureDataset(MixtureDataset.Config.read({"dataset": uses}, "test"), datasets)


def test_examples_come_from_their_data_set_with_its_random_numbers():
    both = mixed([Numbers("a", 3), Numbers("b", 2)], None, None)
    read = [both.get(index, random.Random(7)) for index in range(len(both))]
    assert [one["value"] for one in read] == ["a0", "a1", "a2", "b0", "b1"]
    assert {one["drawn"] for one in read} == {random.Random(7).random()}
    assert both.values("value") == ["a0", "a1", "a2", "shared", "b0", "b1"]


def test_weights_are_shares_of_the_draws_whatever_the_sizes():
    both = mixed([Numbers("a", 30), Numbers("b", 3)], 1, 3)
    order = make_sampler(both, 0)
    drawn = [both.get(d.index, d.python_rng())["value"] for step in range(330) for d in order.step_keys(step, 10)]
    assert Counter(value[0] for value in drawn)["b"] / len(drawn) == pytest.approx(0.75, abs=0.02)
    assert Counter(drawn)["b2"] / Counter(drawn)["b0"] == pytest.approx(3, abs=0.1)  # its own weights are 3 to 1


def test_without_weights_examples_have_their_own_weights():
    both = mixed([Numbers("a", 3), Numbers("b", 2)], None, None)
    assert [both.weight(index) for index in range(5)] == [1, 2, 3, 1, 2]


def test_a_weight_for_only_some_data_sets_is_refused():
    with pytest.raises(ConfigError, match=r"got none for x\.y, expected one for every data set or for none"):
        mixed([Numbers("a", 3), Numbers("b", 2)], 1, None)


def test_sizes_and_read_groups_are_those_of_the_data_sets():
    both = mixed([Numbers("a", 2, size=(4, 8), read_groups=[2]), Numbers("b", 3)], None, None)
    assert [both.size(index, random.Random(0)) for index in range(5)] == [(4, 8), (4, 8), (), (), ()]
    assert both.read_groups() == [2, 1, 1, 1]
    assert mixed([Numbers("a", 2)], None).read_groups() == []
    assert both.variable_size and not mixed([Numbers("b", 3)], None).variable_size


def test_empty_data_sets_are_refused():
    with pytest.raises(ConfigError, match=r"the data set x\.y has no examples"):
        mixed([Numbers("a", 2), Numbers("b", 0)], None, None)
    with pytest.raises(ConfigError, match="at least 1 item"):
        mixed([])
    with pytest.raises(ConfigError, match="greater than 0"):
        mixed([Numbers("a", 2)], 0)


def test_a_recipe_names_the_data_sets_like_any_component():
    values = toy.values()
    signals = values["dataset"]
    values["dataset"] = {"type": "core.mixture", "dataset": [{**signals, "weight": 2}, {**signals, "weight": 1}]}
    recipe = read_recipe(values, "test")
    dataset = build_dataset(recipe, toy.registry())
    assert len(dataset) == 2 * len(dataset.datasets[0])
    assert recipe.component_names().count(("dataset", "toy.signals")) == 2
    values["dataset"]["dataset"][1] = {"type": "toy.signal"}
    with pytest.raises(PluginError, match=r"did you mean 'toy\.signals'"):
        build_dataset(read_recipe(values, "test"), toy.registry())
