"""Features on disk: the same numbers, found by content alone, bounded, and never read half-written."""

from __future__ import annotations

import pytest
import torch
from core.toy import Words, recipe, registry
from core.training.test_condition_cache import ALONE, FROZEN

from lumina_core.errors import ConfigError
from lumina_core.model import build_dataset, build_model
from lumina_core.protocols import Conditioner
from lumina_core.training.cache import CachedConditioner, DiskCache
from lumina_core.training.optim import build_optimizers
from lumina_core.training.trainer import TrainStep, _make_dataloader, freeze
from lumina_core.types import Condition


class Reader(Conditioner):
    """A costly conditioner with a fingerprint that counts what it reads."""

    cross_attention_dim, pooled_dim, cacheable = 2, 0, True

    def __init__(self, fingerprint="a" * 64):
        self.requested, self._fingerprint = [], fingerprint

    def fingerprint(self):
        return self._fingerprint

    def encode(self, values):
        self.requested.append(list(values))
        real = torch.tensor([[True, len(v) > 3] for v in values])
        return Condition(context=torch.tensor([[[float(len(v)), 0.1]] * 2 for v in values]), context_mask=real)

    def null_condition(self, batch):
        self.requested.append(None)
        return Condition(context=torch.zeros(batch, 1, 2))


def cached(folder, reader, room=10**6):
    return CachedConditioner(reader, 10**6, DiskCache(folder, room))


def same(first, second):
    return torch.equal(first.context, second.context) and torch.equal(first.context_mask, second.context_mask)


def test_a_second_run_reads_nothing_and_hears_the_same(tmp_path):
    first = cached(tmp_path / "cache", Reader())
    said, silence = first.encode(["red", "a longer text"]), first.null_condition(2)
    later = cached(tmp_path / "cache", Reader())
    assert same(later.encode(["red", "a longer text"]), said)
    assert torch.equal(later.null_condition(2).context, silence.context)
    assert later.conditioner.requested == []


def test_other_weights_or_options_find_nothing(tmp_path):
    cached(tmp_path, Reader()).encode(["red"])
    other = cached(tmp_path, Reader("b" * 64))
    other.encode(["red"])
    assert other.conditioner.requested == [["red"]]


def test_a_file_that_is_cut_short_is_read_again(tmp_path):
    said = cached(tmp_path, Reader()).encode(["red"])
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:40])
    later = cached(tmp_path, Reader())
    assert same(later.encode(["red"]), said) and later.conditioner.requested == [["red"]]


def test_a_full_cache_takes_nothing_more_and_the_run_goes_on(tmp_path):
    reader = cached(tmp_path, Reader(), room=1500)
    said = [reader.encode([text]) for text in ("a", "bb", "ccc", "dddd")]
    assert len(said) == 4 and 0 < len(list(tmp_path.rglob("*.safetensors"))) < 4
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) <= 1500
    assert DiskCache(tmp_path, 1500).bytes_left < 1500


def test_a_place_that_cannot_be_a_folder_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"training\.cache_dir .* cannot be used"):
        DiskCache(tmp_path / "file" / "cache", 1)


def test_a_training_with_a_disk_cache_has_the_losses_of_one_without(tmp_path, monkeypatch):
    monkeypatch.setattr(Words, "fingerprint", lambda self: "c" * 64, raising=False)

    def losses(**more):
        asked = recipe("costly", **FROZEN, **more)
        torch.manual_seed(0)
        model, dataset = build_model(asked, registry()), build_dataset(asked, registry())
        freeze(model, asked.training.freeze)
        stepper = TrainStep(model, asked.training, ALONE, build_optimizers(model, asked.training))
        losses = [
            stepper.step(number, raw).loss for number, raw in enumerate(_make_dataloader(model, dataset, 0, ALONE))
        ]
        return losses, len(model.conditioners["word"].read)

    plain, _ = losses()
    first, read = losses(cache_dir=str(tmp_path / "cache"))
    second, again = losses(cache_dir=str(tmp_path / "cache"))
    assert first == plain == second
    assert read > 0 and again == 0
