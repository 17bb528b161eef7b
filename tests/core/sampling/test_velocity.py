"""Generation at sizes larger than in training: scaling, number of computed tables, and errors."""

from __future__ import annotations

import pytest
import torch
from core.sampling.test_generate import MODEL, generate_toy, model

from lumina_core.errors import ConfigError
from lumina_core.models.rope import AxialRope


@pytest.fixture
def tables(monkeypatch):
    """Record the first frequency of every computed rotary table."""
    made, plain = [], AxialRope.forward

    def watched(self, coordinates, rates):
        made.append(float(rates[0][-1]))
        return plain(self, coordinates, rates)

    monkeypatch.setattr(AxialRope, "forward", watched)
    return made


def make_request(rope_scaling, **more):
    return {"word": "low", "length": 12, "steps": 3, "solver": "midpoint", "rope_scaling": rope_scaling, **more}


@pytest.mark.parametrize("name", ["none", "interpolation", "ntk", "frequency_aware", "yarn"])
def test_rope_tables_are_computed_once_per_request_if_time_independent(tables, name):
    generate_toy(make_request(f"{name}:train_size=6"))
    assert len(tables) == 1


@pytest.mark.parametrize("name", ["time_aware", "dype", "watershed"])
def test_rope_tables_are_computed_once_per_time_if_time_dependent(tables, name):
    found = generate_toy(make_request(f"{name}:train_size=6"))
    assert found.nfe == 6
    assert len(tables) == 1 + 6  # never more than once an evaluation, however many blocks there are


def test_the_frequencies_follow_the_time_of_the_grid(tables):
    generate_toy(make_request("watershed:train_size=6,watershed=0.5", solver="euler", steps=4))
    own = float(MODEL.backbone.frequencies()[0][-1])
    early, late = own / 2, own * 2 ** -(6 / 8)
    assert tables[1:] == pytest.approx([early, early, late, late])


@pytest.mark.parametrize(
    "name",
    ["interpolation", "ntk:exact=true", "frequency_aware", "time_aware", "watershed", "yarn", "dype:method=yarn"],
)
def test_every_scaling_method_changes_a_large_size_and_none_does_not(name):
    separator = "," if ":" in name else ":"
    plain = generate_toy(make_request(None)).data
    assert torch.equal(generate_toy(make_request("none")).data, plain)
    assert float((generate_toy(make_request(f"{name}{separator}train_size=2")).data - plain).abs().max()) > 1e-5


def test_at_the_training_size_rope_scaling_changes_nothing():
    small = {"word": "low", "steps": 3}
    assert torch.equal(
        generate_toy({**small, "rope_scaling": "time_aware:train_size=6"}).data, generate_toy(small).data
    )


def test_proportional_attention_is_plain_attention_at_the_training_length():
    usual = generate_toy(make_request(None)).data
    assert generate_toy(make_request(None, base_sequence_length=12)).data.numpy() == pytest.approx(
        usual.numpy(), abs=1e-4
    )
    assert float((generate_toy(make_request(None, base_sequence_length=6)).data - usual).abs().max()) > 1e-4


def test_the_request_overrides_the_rope_scaling_of_the_recipe():
    rope_scaling = {"type": "core.interpolation", "train_size": 3}
    of = model(sampling={"steps": 2, "rope_scaling": rope_scaling, "base_sequence_length": 4})
    usual = generate_toy({"word": "low"}, of=of)
    assert (usual.settings.rope_scaling, usual.settings.base_sequence_length) == ("core.interpolation", 4)
    # naming it alone keeps the recipe's options
    assert torch.equal(generate_toy({"word": "low", "rope_scaling": "interpolation"}, of=of).data, usual.data)
    plain = generate_toy({"word": "low", "rope_scaling": "none", "base_sequence_length": 0}, of=of)
    assert (plain.settings.rope_scaling, plain.settings.base_sequence_length) == ("none", None)
    assert torch.equal(plain.data, generate_toy({"word": "low"}, of=model(sampling={"steps": 2})).data)


def test_an_item_of_a_large_size_does_not_depend_on_the_rest_of_its_batch():
    requests = [
        make_request("time_aware:train_size=6", base_sequence_length=6) | {"word": word} for word in ("low", "high")
    ]
    alone = torch.cat([generate_toy(request).data for request in requests])
    assert generate_toy(*requests).data.numpy() == pytest.approx(alone.numpy(), abs=1e-4)


def test_a_missing_training_size_is_reported():
    with pytest.raises(ConfigError, match="expected the size of the training data"):
        generate_toy(make_request("ntk"))
    with pytest.raises(ConfigError, match=r"rope_scaling\.train_size: got 2 sizes, expected 1"):
        generate_toy(make_request("ntk:train_size=[3, 4]"))
    with pytest.raises(ConfigError, match="base_sequence_length: got 1, expected 2 or more, or 0 for off"):
        generate_toy(make_request(None, base_sequence_length=1))


def test_a_backbone_without_positions_is_not_scaled():
    of = model()
    of.backbone = torch.nn.Linear(1, 1)
    with pytest.raises(ConfigError, match="expected one with rotary positions to scale"):
        generate_toy(make_request("ntk:train_size=6"), of=of)


def test_context_drop_averages_most_at_noise_and_nothing_at_data(monkeypatch):
    from lumina_core.models.attention import Attention

    averaged, plain = [], Attention.forward

    def watched(self, x, by, mask, memory, scale=None, pooling=None):
        averaged.append(pooling is not None)
        return plain(self, x, by, mask, memory, scale, pooling)

    monkeypatch.setattr(Attention, "forward", watched)
    found = generate_toy(
        make_request(None, solver="euler", steps=4, guidance_scale=1.0, context_drop="time_aware:window=[2, 1, 1]")
    )
    # two blocks; times 0, 1/4, 1/2, 3/4
    assert averaged == [True, True, True, True, True, False, False, False]
    assert found.settings.context_drop == "time_aware:window=[2, 1, 1]"


def test_context_drop_is_off_by_default_and_a_request_can_disable_it():
    plain = generate_toy(make_request(None)).data
    of = model(
        sampling={"steps": 3, "guidance_scale": 2.0, "context_drop": {"type": "core.time_aware", "window": [2, 1, 1]}}
    )
    dropped = generate_toy(make_request(None), of=of).data
    assert float((dropped - plain).abs().max()) > 1e-4
    assert torch.equal(generate_toy(make_request(None, context_drop="none"), of=of).data, plain)
    both = generate_toy(make_request("time_aware:train_size=6", base_sequence_length=6), of=of).data
    assert bool(both.isfinite().all())


def test_windows_of_a_sequence_lie_along_its_only_axis():
    requests = {"word": "low", "length": 12, "solver": "euler", "steps": 4}
    usual, line = (
        generate_toy({**requests, "context_drop": f"time_aware{more}"}).data for more in ("", ":window=[2,1,1]")
    )
    assert torch.equal(usual, line)
    assert float((usual - generate_toy({**requests, "context_drop": "none"}).data).abs().max()) > 1e-4


def test_a_block_cache_with_threshold_zero_skips_and_changes_nothing():
    plain, cached = (
        generate_toy(make_request(None, guidance_scale=2.0)),
        generate_toy(make_request(None, guidance_scale=2.0, block_cache="teacache_like:threshold=0")),
    )
    assert torch.equal(cached.data, plain.data)
    assert plain.cached_nfe is None
    assert cached.cached_nfe == (0.0,)


def test_a_block_cache_skips_blocks_and_counts_requested_evaluations(monkeypatch):
    from lumina_core.models.next_dit import NextDiTBlock

    requests, plain = [], NextDiTBlock.forward

    def watched(self, x, *rest):
        requests.append(len(x))
        return plain(self, x, *rest)

    monkeypatch.setattr(NextDiTBlock, "forward", watched)
    # every third evaluation runs the blocks, the others are skipped; two blocks, two halves
    found = generate_toy(
        make_request(
            None, guidance_scale=2.0, steps=6, solver="euler", block_cache="teacache_like:threshold=1e9,max_skipped=2"
        )
    )
    assert found.nfe == 6
    assert found.cached_nfe == (4.0,)
    assert requests == [2, 2] * 2
    assert found.settings.block_cache == "teacache_like:threshold=1e9,max_skipped=2"


def test_a_block_cache_gives_a_batch_the_results_of_its_items():
    words = [
        make_request(None, guidance_scale=2.0, steps=8, word=word, seed=k, block_cache="teacache_like:threshold=0.15")
        for k, word in enumerate(("low", "high", "low"))
    ]
    together, alone = generate_toy(*words), [generate_toy(one) for one in words]
    assert len(set(together.cached_nfe)) > 1  # or nothing would be tried here
    assert min(together.cached_nfe) > 0
    assert max(together.cached_nfe) < together.nfe
    assert together.cached_nfe == tuple(one.cached_nfe[0] for one in alone)
    assert torch.allclose(together.data, torch.cat([one.data for one in alone]), atol=1e-4)


def test_a_request_can_disable_the_block_cache_of_the_recipe_and_it_combines_with_other_options():
    of = model(
        sampling={"steps": 3, "guidance_scale": 2.0, "block_cache": {"type": "core.teacache_like", "threshold": 1e9}}
    )
    assert torch.equal(
        generate_toy(make_request(None, block_cache="none"), of=of).data, generate_toy(make_request(None)).data
    )
    found = generate_toy(
        make_request("time_aware:train_size=6", base_sequence_length=6, context_drop="time_aware:window=[2, 1, 1]"),
        of=of,
    )
    assert bool(found.data.isfinite().all())
    assert found.cached_nfe[0] > 0
    apart = generate_toy(make_request(None, cfg_batching="sequential"), of=of)
    assert apart.cached_nfe == generate_toy(make_request(None), of=of).cached_nfe
