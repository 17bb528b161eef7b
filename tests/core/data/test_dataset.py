import random

import pytest
import torch

from lumina_core.data.dataset import as_dataset
from lumina_core.errors import ConfigError
from lumina_core.evaluation.eval_set import make_eval_set
from lumina_core.protocols import Dataset, EvalSet


class Squares(torch.utils.data.Dataset):
    """A plain PyTorch data set of dicts."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"signal": torch.full((1, 3), index / 4), "word": "even" if index % 2 == 0 else "odd"}


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter([{"word": "a"}])


class Minimal(Dataset):
    def __len__(self):
        return 2

    def get(self, index, rng):
        return {"signal": torch.full((1, 3), 0.5 * index), "label": index}


def test_a_plain_pytorch_dataset_of_dicts_is_adapted():
    dataset = as_dataset(Squares())
    assert len(dataset) == 4 and dataset.get(3, random.Random(0))["word"] == "odd"
    assert dataset.values("word") == ["even", "odd"]


def test_a_list_of_dicts_is_adapted_and_a_core_dataset_stays_itself():
    assert as_dataset([{"word": "a"}, {"word": "b"}]).values("word") == ["a", "b"]
    minimal = Minimal()
    assert as_dataset(minimal) is minimal


@pytest.mark.parametrize("invalid", [7, iter([{"word": "a"}]), Stream()])
def test_what_has_no_length_or_index_is_refused(invalid):
    with pytest.raises(ConfigError, match=f"dataset: got {type(invalid).__name__}, expected"):
        as_dataset(invalid)


def test_items_that_are_no_dicts_and_unknown_fields_are_refused():
    with pytest.raises(ConfigError, match=r"dataset\[0\]: got tuple, expected a dict"):
        as_dataset([(torch.zeros(1), 3)]).get(0, random.Random(0))
    with pytest.raises(ConfigError, match=r"dataset\[0\]: got the fields signal, word, expected 'caption'"):
        as_dataset(Squares()).values("caption")


def test_two_methods_are_enough_for_a_dataset():
    dataset = Minimal()
    assert dataset.weight(0) == 1 and dataset.sizes() == () and dataset.read_groups() == ()
    assert not dataset.variable_size and dataset.eval_set() is None
    with pytest.raises(ConfigError, match=r"Minimal.values: got 'label', expected a field"):
        dataset.values("label")


def test_a_dataset_without_its_own_eval_set_is_evaluated_on_every_example():
    eval_set = make_eval_set(Minimal(), "signal")
    assert isinstance(eval_set, EvalSet) and list(eval_set.indices("all")) == [0, 1]
    assert eval_set.fields(1, None) == {"label": 1} and torch.equal(eval_set.reference(1), torch.full((1, 3), 0.5))
    assert eval_set.groups(1) == {"label": "1"}
