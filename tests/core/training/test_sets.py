"""Data that is a set of N points: no order, no grid, another N in every example."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from core import toy
from core.test_prediction import make_trainer_with
from core.training.test_trainer import rows

from lumina_core.config import Config
from lumina_core.model_dir import load_model
from lumina_core.plugins.loader import Candidate, load_from
from lumina_core.plugins.registry import PluginSource
from lumina_core.protocols import Dataset, Tokenizer
from lumina_core.recipe import read_recipe
from lumina_core.sampling.generate import generate_batch
from lumina_core.types import Tokens

pytest.importorskip("scipy")
COUNTS = (5, 6, 9)


class Points(Tokenizer):
    """Tokenizer: a set (B, C, N) -> N tokens without an order, all at position 0."""

    class Config(Config):
        channels: int = toy.CHANNELS

    def __init__(self, config):
        self.width = config.channels

    def patchify(self, latent):
        return self.empty(len(latent), (latent.shape[2],)).with_values(latent.transpose(1, 2).contiguous())

    def unpatchify(self, tokens):
        return tokens.values.transpose(1, 2)

    def empty(self, batch, size):
        (count,) = size
        return Tokens(torch.zeros(batch, count, self.width), torch.zeros(batch, count, 3), (size,) * batch)


class Circles(Dataset):
    """Data set: N points on a circle, in any order."""

    variable_size = True

    class Config(Config):
        pass

    def __init__(self, config):
        self.config = config

    def __len__(self):
        return 90

    def get(self, index, rng):
        angles = torch.tensor([rng.random() * 2 * math.pi for _ in range(COUNTS[index % 3])])
        return {"signal": torch.stack([angles.cos(), angles.sin()])}

    def size(self, index, rng):
        return (COUNTS[index % 3],)

    def sizes(self):
        return [(count,) for count in COUNTS]


@pytest.fixture(scope="module")
def registry():
    sources = {"core": "lumina_core.components", "toy": "core.toy"}
    found = load_from(
        [
            Candidate(PluginSource(n, f"lumina-{n}", "0"), (), lambda m=m: __import__(m, fromlist=["_"]))
            for n, m in sources.items()
        ],
        strict=True,
    )
    found.add_component("tokenizer", "toy.points", Points)
    found.add_component("dataset", "toy.circles", Circles)
    return found


@pytest.fixture(scope="module")
def trained(registry, tmp_path_factory):
    plain = copy.deepcopy(toy.values(steps=120, global_batch_size=15, lr=1e-2, ema_decay=0.9))
    plain |= {"dataset": {"type": "toy.circles"}, "tokenizer": {"type": "toy.points"}, "conditioners": []}
    plain["objective"]["coupling"] = {"type": "core.optimal_transport", "scope": "set"}
    plain["sampling"] = {"steps": 5}
    trainer = make_trainer_with(registry, tmp_path_factory.mktemp("sets"), read_recipe(plain, "sets"))
    batches = list(trainer.batches())
    return trainer.train(), batches


def test_batches_hold_sets_of_one_count_where_possible(trained):
    _, batches = trained
    counts = [{item.shape[-1] for item in batch.data} for batch in batches]
    assert sum(len(found) == 1 for found in counts) >= len(counts) * 2 // 3
    assert set().union(*counts) == set(COUNTS)


def test_a_training_on_sets_learns(trained):
    model_dir, _ = trained
    losses = [float(row["loss"]) for row in rows(model_dir.parent)]
    assert sum(losses[-30:]) < 0.85 * sum(losses[:30])


def test_a_generated_set_has_the_requested_count_alone_and_in_a_batch(registry, trained):
    model = load_model(trained[0], registry)
    requests = [toy.ToyRequest(length=count, seed=count) for count in (5, 9, 12)]
    items = generate_batch(model, registry, requests).items()
    assert [tuple(item.shape) for item in items] == [(2, 5), (2, 9), (2, 12)]
    alone = generate_batch(model, registry, requests[:1]).items()[0]
    assert items[0].numpy() == pytest.approx(alone.numpy(), abs=1e-4)


def test_the_velocity_of_a_set_follows_a_permutation_of_its_points(registry, trained):
    model = load_model(trained[0], registry)
    tokens = model.tokenizer.patchify(torch.randn(1, 2, 7, generator=torch.Generator().manual_seed(0)))
    order, t = torch.tensor([3, 0, 6, 1, 5, 2, 4]), torch.tensor([0.4])
    with torch.inference_mode():
        velocity = model.velocity(tokens, t, model.null_condition(1))
        permuted = model.velocity(tokens.with_values(tokens.values[:, order]), t, model.null_condition(1))
    assert permuted.numpy() == pytest.approx(velocity[:, order].numpy(), abs=1e-5)
