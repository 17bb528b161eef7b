"""Features on disk: the same numbers, found by content alone, bounded, and never read half-written."""

from __future__ import annotations

import pytest
import torch
from core.toy import Words, recipe, registry
from core.train.test_features import ALONE, FROZEN

from lumina_core.errors import ConfigError
from lumina_core.model import build_dataset, build_model
from lumina_core.train.features import Remembered
from lumina_core.train.loop import _reader, freeze
from lumina_core.train.optimizer import make_optimizers
from lumina_core.train.shelf import Shelf
from lumina_core.train.step import Stepper
from lumina_core.types import Condition


class Reader:
    """A costly conditioner with a fingerprint that counts what it reads."""

    memory_width, summary_width, costly = 2, 0, True

    def __init__(self, fingerprint="a" * 64):
        self.asked, self._fingerprint = [], fingerprint

    def fingerprint(self):
        return self._fingerprint

    def encode(self, values):
        self.asked.append(list(values))
        real = torch.tensor([[True, len(v) > 3] for v in values])
        return Condition(memory=torch.tensor([[[float(len(v)), 0.1]] * 2 for v in values]), memory_mask=real)

    def nothing(self, batch):
        self.asked.append(None)
        return Condition(memory=torch.zeros(batch, 1, 2))


def shelved(folder, reader, room=10**6):
    return Remembered(reader, 10**6, Shelf(folder, room))


def same(first, second):
    return torch.equal(first.memory, second.memory) and torch.equal(first.memory_mask, second.memory_mask)


def test_a_second_run_reads_nothing_and_hears_the_same(tmp_path):
    first = shelved(tmp_path / "shelf", Reader())
    said, silence = first.encode(["red", "a longer text"]), first.nothing(2)
    later = shelved(tmp_path / "shelf", Reader())
    assert same(later.encode(["red", "a longer text"]), said)
    assert torch.equal(later.nothing(2).memory, silence.memory)
    assert later.conditioner.asked == []


def test_other_weights_or_options_find_nothing(tmp_path):
    shelved(tmp_path, Reader()).encode(["red"])
    other = shelved(tmp_path, Reader("b" * 64))
    other.encode(["red"])
    assert other.conditioner.asked == [["red"]]


def test_a_file_that_is_cut_short_is_read_again(tmp_path):
    said = shelved(tmp_path, Reader()).encode(["red"])
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:40])
    later = shelved(tmp_path, Reader())
    assert same(later.encode(["red"]), said) and later.conditioner.asked == [["red"]]


def test_a_full_shelf_takes_nothing_more_and_the_run_goes_on(tmp_path):
    reader = shelved(tmp_path, Reader(), room=1500)
    said = [reader.encode([text]) for text in ("a", "bb", "ccc", "dddd")]
    assert len(said) == 4 and 0 < len(list(tmp_path.rglob("*.safetensors"))) < 4
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) <= 1500
    assert Shelf(tmp_path, 1500).room < 1500


def test_a_place_that_cannot_be_a_folder_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"training\.cache_folder .* cannot be used"):
        Shelf(tmp_path / "file" / "shelf", 1)


def test_a_training_with_a_shelf_has_the_losses_of_one_without(tmp_path, monkeypatch):
    monkeypatch.setattr(Words, "fingerprint", lambda self: "c" * 64, raising=False)

    def losses(**more):
        asked = recipe("costly", **FROZEN, **more)
        torch.manual_seed(0)
        model, dataset = build_model(asked, registry()), build_dataset(asked, registry())
        freeze(model, asked.training.freeze)
        stepper = Stepper(model, asked.training, ALONE, make_optimizers(model, asked.training))
        losses = [stepper.step(number, raw).loss for number, raw in enumerate(_reader(model, dataset, 0, ALONE))]
        return losses, len(model.conditioners["word"].read)

    plain, _ = losses()
    first, read = losses(cache_folder=str(tmp_path / "shelf"))
    second, again = losses(cache_folder=str(tmp_path / "shelf"))
    assert first == plain == second
    assert read > 0 and again == 0
