"""Generation on canvases larger than trained: what is scaled, how often, and what is refused."""

from __future__ import annotations

import pytest
import torch
from core.sampling.test_generate import MODEL, ask, model

from lumina_core.errors import ConfigError
from lumina_core.models.rope import AxialRope


@pytest.fixture
def tables(monkeypatch):
    """Every rotary table that is made, by its first frequency."""
    made, plain = [], AxialRope.forward

    def watched(self, places, rates):
        made.append(float(rates[0][-1]))
        return plain(self, places, rates)

    monkeypatch.setattr(AxialRope, "forward", watched)
    return made


def way(rope_scaling, **more):
    return {"word": "low", "length": 12, "steps": 3, "solver": "midpoint", "rope_scaling": rope_scaling, **more}


@pytest.mark.parametrize("name", ["none", "interpolation", "ntk", "frequency_aware", "yarn"])
def test_tables_are_made_once_a_request_where_time_changes_nothing(tables, name):
    ask(way(f"{name}:train_size=6"))
    assert len(tables) == 1


@pytest.mark.parametrize("name", ["time_aware", "dype", "watershed"])
def test_tables_are_made_once_a_time_where_it_matters(tables, name):
    found = ask(way(f"{name}:train_size=6"))
    assert found.nfe == 6
    assert len(tables) == 1 + 6  # never more than once an evaluation, however many blocks there are


def test_the_frequencies_follow_the_time_of_the_grid(tables):
    ask(way("watershed:train_size=6,watershed=0.5", solver="euler", steps=4))
    own = float(MODEL.backbone.frequencies()[0][-1])
    early, late = own / 2, own * 2 ** -(6 / 8)
    assert tables[1:] == pytest.approx([early, early, late, late])


@pytest.mark.parametrize(
    "name",
    ["interpolation", "ntk:exact=true", "frequency_aware", "time_aware", "watershed", "yarn", "dype:method=yarn"],
)
def test_every_method_changes_a_large_canvas_and_none_does_not(name):
    separator = "," if ":" in name else ":"
    plain = ask(way(None)).data
    assert torch.equal(ask(way("none")).data, plain)
    assert float((ask(way(f"{name}{separator}train_size=2")).data - plain).abs().max()) > 1e-5


def test_at_the_trained_size_nothing_changes():
    small = {"word": "low", "steps": 3}
    assert torch.equal(ask({**small, "rope_scaling": "time_aware:train_size=6"}).data, ask(small).data)


def test_proportional_attention_is_the_usual_one_at_the_trained_count():
    usual = ask(way(None)).data
    assert ask(way(None, base_sequence_length=12)).data.numpy() == pytest.approx(usual.numpy(), abs=1e-4)
    assert float((ask(way(None, base_sequence_length=6)).data - usual).abs().max()) > 1e-4


def test_the_recipe_says_how_and_the_request_may_say_otherwise():
    rope_scaling = {"type": "core.interpolation", "train_size": 3}
    of = model(sampling={"steps": 2, "rope_scaling": rope_scaling, "base_sequence_length": 4})
    usual = ask({"word": "low"}, of=of)
    assert (usual.settings.rope_scaling, usual.settings.base_sequence_length) == ("core.interpolation", 4)
    # naming it alone keeps the recipe's options
    assert torch.equal(ask({"word": "low", "rope_scaling": "interpolation"}, of=of).data, usual.data)
    plain = ask({"word": "low", "rope_scaling": "none", "base_sequence_length": 0}, of=of)
    assert (plain.settings.rope_scaling, plain.settings.base_sequence_length) == ("none", None)
    assert torch.equal(plain.data, ask({"word": "low"}, of=model(sampling={"steps": 2})).data)


def test_an_item_is_the_same_in_every_company_on_a_large_canvas():
    asked = [way("time_aware:train_size=6", base_sequence_length=6) | {"word": word} for word in ("low", "high")]
    alone = torch.cat([ask(request).data for request in asked])
    assert ask(*asked).data.numpy() == pytest.approx(alone.numpy(), abs=1e-4)


def test_a_method_that_needs_the_trained_size_and_finds_none_says_so():
    with pytest.raises(ConfigError, match="expected the size of the training data"):
        ask(way("ntk"))
    with pytest.raises(ConfigError, match=r"rope_scaling\.train_size: got 2 sizes, expected 1"):
        ask(way("ntk:train_size=[3, 4]"))
    with pytest.raises(ConfigError, match="base_sequence_length: got 1, expected 2 or more, or 0 for off"):
        ask(way(None, base_sequence_length=1))


def test_a_backbone_without_positions_is_not_scaled():
    of = model()
    of.backbone = torch.nn.Linear(1, 1)
    with pytest.raises(ConfigError, match="expected one with rotary positions to scale"):
        ask(way("ntk:train_size=6"), of=of)


def test_context_drop_averages_most_at_noise_and_nothing_at_data(monkeypatch):
    from lumina_core.models.attention import Attention

    averaged, plain = [], Attention.forward

    def watched(self, x, by, mask, memory, scale=None, pooling=None):
        averaged.append(pooling is not None)
        return plain(self, x, by, mask, memory, scale, pooling)

    monkeypatch.setattr(Attention, "forward", watched)
    found = ask(way(None, solver="euler", steps=4, guidance_scale=1.0, context_drop="time_aware:window=[2, 1, 1]"))
    # two blocks; times 0, 1/4, 1/2, 3/4
    assert averaged == [True, True, True, True, True, False, False, False]
    assert found.settings.context_drop == "time_aware:window=[2, 1, 1]"


def test_context_drop_is_off_unless_asked_and_can_be_refused():
    plain = ask(way(None)).data
    of = model(
        sampling={"steps": 3, "guidance_scale": 2.0, "context_drop": {"type": "core.time_aware", "window": [2, 1, 1]}}
    )
    dropped = ask(way(None), of=of).data
    assert float((dropped - plain).abs().max()) > 1e-4
    assert torch.equal(ask(way(None, context_drop="none"), of=of).data, plain)
    both = ask(way("time_aware:train_size=6", base_sequence_length=6), of=of).data
    assert bool(both.isfinite().all())


def test_windows_of_rows_and_columns_lie_along_the_line_where_tokens_stand_in_one():
    asked = {"word": "low", "length": 12, "solver": "euler", "steps": 4}
    usual, line = (ask({**asked, "context_drop": f"time_aware{more}"}).data for more in ("", ":window=[2,1,1]"))
    assert torch.equal(usual, line)
    assert float((usual - ask({**asked, "context_drop": "none"}).data).abs().max()) > 1e-4


def test_a_step_cache_of_threshold_zero_changes_nothing_and_leaves_nothing_out():
    plain, cached = (
        ask(way(None, guidance_scale=2.0)),
        ask(way(None, guidance_scale=2.0, block_cache="teacache_like:threshold=0")),
    )
    assert torch.equal(cached.data, plain.data)
    assert plain.cached_nfe is None
    assert cached.cached_nfe == (0.0,)


def test_a_step_cache_leaves_out_what_it_says_and_evaluations_are_counted_as_asked(monkeypatch):
    from lumina_core.models.next_dit import NextDiTBlock

    asked, plain = [], NextDiTBlock.forward

    def watched(self, x, *rest):
        asked.append(len(x))
        return plain(self, x, *rest)

    monkeypatch.setattr(NextDiTBlock, "forward", watched)
    # all that is not asked is left out but for each third evaluation; two blocks, two halves
    found = ask(
        way(None, guidance_scale=2.0, steps=6, solver="euler", block_cache="teacache_like:threshold=1e9,max_skipped=2")
    )
    assert found.nfe == 6
    assert found.cached_nfe == (4.0,)
    assert asked == [2, 2] * 2
    assert found.settings.block_cache == "teacache_like:threshold=1e9,max_skipped=2"


def test_a_step_cache_makes_of_a_batch_what_it_makes_of_each_alone():
    words = [way(None, guidance_scale=2.0, steps=8, word=word, seed=k, block_cache="teacache_like:threshold=0.15")
             for k, word in enumerate(("low", "high", "low"))]  # fmt: skip
    together, alone = ask(*words), [ask(one) for one in words]
    assert len(set(together.cached_nfe)) > 1  # or nothing would be tried here
    assert min(together.cached_nfe) > 0
    assert max(together.cached_nfe) < together.nfe
    assert together.cached_nfe == tuple(one.cached_nfe[0] for one in alone)
    assert torch.allclose(together.data, torch.cat([one.data for one in alone]), atol=1e-4)


def test_a_step_cache_of_the_recipe_can_be_refused_and_goes_with_the_rest():
    of = model(
        sampling={"steps": 3, "guidance_scale": 2.0, "block_cache": {"type": "core.teacache_like", "threshold": 1e9}}
    )
    assert torch.equal(ask(way(None, block_cache="none"), of=of).data, ask(way(None)).data)
    found = ask(
        way("time_aware:train_size=6", base_sequence_length=6, context_drop="time_aware:window=[2, 1, 1]"), of=of
    )
    assert bool(found.data.isfinite().all())
    assert found.cached_nfe[0] > 0
    apart = ask(way(None, cfg_batching="sequential"), of=of)
    assert apart.cached_nfe == ask(way(None), of=of).cached_nfe
