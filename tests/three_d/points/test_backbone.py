"""Next-DiT over points: sets, any count by anchors, reference points."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lumina_3d.points import coordinates as c
from lumina_3d.points.backbone import PointNextDiT
from lumina_3d.points.tokenizer import PointSet
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.types import Condition, Tokens, stack_tokens

COUNT = 32


def make_backbone(**options) -> PointNextDiT:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_layers": 3, "num_heads": 2, "multiple_of": 8, "token_dim": 3, "train_count": COUNT}
    backbone = PointNextDiT(PointNextDiT.Config(**{**sizes, **options}))
    for parameter in backbone.parameters():  # layers that begin with zeros would hide mistakes
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return backbone.eval()


def make_tokens(count: int, seed: int = 0) -> Tokens:
    values = torch.randn(1, count, 3, generator=torch.Generator().manual_seed(seed))
    return PointSet(PointSet.Config(num_anchors=COUNT)).empty(1, (count,)).with_values(values)


def reference(count: int) -> Condition:
    values = torch.randn(1, count, 3, generator=torch.Generator().manual_seed(9))
    return Condition(reference=Tokens(values, torch.zeros(1, count, 3), ((count,),)))


def run(backbone: PointNextDiT, tokens: Tokens, condition: Condition | None = None) -> torch.Tensor:
    with torch.no_grad():
        return backbone(tokens, torch.full((len(tokens.sizes),), 0.3), condition or Condition()).hidden_states


@pytest.mark.parametrize("count", [5, COUNT, 200])
@pytest.mark.parametrize("condition", [Condition(), reference(7)])
def test_permuted_points_give_permuted_output(count, condition) -> None:
    backbone, tokens = make_backbone(), make_tokens(count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    permuted = Tokens(tokens.values[:, order], tokens.positions[:, order], tokens.sizes)
    assert torch.allclose(run(backbone, tokens, condition)[:, order], run(backbone, permuted, condition), atol=1e-5)


def test_a_batch_of_several_counts_equals_single_clouds() -> None:
    backbone, counts = make_backbone(), (17, COUNT, 300)
    clouds = [make_tokens(count, seed=count) for count in counts]
    batch = run(backbone, stack_tokens(clouds))
    for row, (count, cloud) in enumerate(zip(counts, clouds, strict=True)):
        assert torch.allclose(batch[row, :count], run(backbone, cloud)[0], atol=1e-5)


def test_anchors_are_computed_as_in_training_whatever_the_count() -> None:
    backbone, tokens = make_backbone(), make_tokens(300)
    alone = Tokens(tokens.values[:, :COUNT], tokens.positions[:, :COUNT], ((COUNT,),))
    assert torch.allclose(run(backbone, tokens)[:, :COUNT], run(backbone, alone), atol=1e-5)


def test_a_point_sees_the_anchors_and_itself_alone() -> None:
    backbone, tokens = make_backbone(), make_tokens(COUNT + 3)
    output = run(backbone, tokens)
    other = tokens.values.clone()
    other[:, -1] += 1
    changed = run(backbone, tokens.with_values(other))
    assert torch.allclose(output[:, :-1], changed[:, :-1], atol=1e-6)
    assert not torch.allclose(output[:, -1], changed[:, -1], atol=1e-3)


def test_a_point_at_an_anchor_is_nearly_computed_as_the_anchor() -> None:
    # it sees the anchor twice, among 32 keys: the difference to the anchor itself is small, but not zero
    backbone, tokens = make_backbone(), make_tokens(COUNT + 1)
    values = tokens.values.clone()
    values[:, -1] = values[:, 0]
    output = run(backbone, tokens.with_values(values))
    difference = (output[:, -1] - output[:, 0]).norm() / output[:, 0].norm()
    assert 0 < difference < 0.3


def test_chunks_do_not_change_the_result() -> None:
    backbone, tokens = make_backbone(), make_tokens(300)
    whole = run(backbone, tokens)
    backbone.config = backbone.config.model_copy(update={"chunk_size": 37})
    assert torch.allclose(run(backbone, tokens), whole, atol=1e-6)


def test_without_anchors_all_points_see_all_points() -> None:
    backbone, tokens = make_backbone(anchors=False), make_tokens(COUNT + 5)
    other = tokens.values.clone()
    other[:, -1] += 1
    assert not torch.allclose(run(backbone, tokens)[:, 0], run(backbone, tokens.with_values(other))[:, 0], atol=1e-5)


def test_reference_points_change_the_output_and_none_leave_it() -> None:
    backbone = make_backbone()
    for count in (COUNT, 100):
        tokens = make_tokens(count)
        plain = run(backbone, tokens)
        assert torch.equal(run(backbone, tokens, reference(0)), plain)
        assert not torch.allclose(run(backbone, tokens, reference(6)), plain, atol=1e-3)


def test_masked_reference_points_do_not_count() -> None:
    backbone, tokens, given = make_backbone(), make_tokens(100), reference(6).reference
    padded = Tokens(
        torch.cat([given.values, torch.zeros(1, 4, 3)], dim=1),
        torch.zeros(1, 10, 3),
        given.sizes,
        torch.tensor([[True] * 6 + [False] * 4]),
    )
    expected = run(backbone, tokens, Condition(reference=given))
    assert torch.allclose(run(backbone, tokens, Condition(reference=padded)), expected, atol=1e-5)


def test_settings_that_anchors_exclude_are_refused() -> None:
    backbone, tokens = make_backbone(), make_tokens(100)
    with pytest.raises(ConfigError, match="base_sequence_length"):
        backbone.precompute(tokens, Condition(), scale=0.3)
    with pytest.raises(ConfigError, match="block_cache"):
        backbone.with_block_cache(backbone.precompute(tokens, Condition()), None)
    with pytest.raises(ConfigError, match="context_drop"):
        backbone.make_token_pool(tokens, Condition(), (1, 1, 1))
    with pytest.raises(ConfigError, match="num_kv_heads"):
        make_backbone(num_kv_heads=1)
    with pytest.raises(ConfigError, match="position_encoding"):
        PointNextDiT.Config.read(
            {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "position_encoding": {"type": "core.axial_rope"}},
            "test",
        )
    with pytest.raises(ShapeError):
        run(backbone, replace(tokens, values=torch.zeros(1, 100, 4)))


def test_time_aware_features_go_from_interpolation_to_trained_low_frequencies() -> None:
    options = {"num_frequencies": 4, "min_frequency": 1.0}
    features = c.TimeAwareFourierFeatures(c.ScaledFourierConfig(**options))
    index, freqs = torch.arange(4.0), torch.tensor([[1.0, 2, 4, 8]])
    ratio = torch.tensor([16.0])  # 4 times as many points along a side of a surface

    def at(t: float) -> list[float]:
        return features.scaled(freqs, index, torch.tensor([t]), ratio)[0].tolist()

    # t = 0: k_t = 1, max(w_k 4^-k, w_k / 4)
    assert at(0) == pytest.approx([1, 2 / 4, 4 / 4, 8 / 4])
    # t = 1: k_t = 4, max(w_k 4^(-k/4), w_k / 4)
    assert at(1) == pytest.approx([1, 2 / 4**0.25, 4 / 4**0.5, 8 / 4**0.75])
    interpolated = c.InterpolatedFourierFeatures(c.ScaledFourierConfig(**options))
    assert interpolated.scaled(freqs, index, torch.tensor([0.5]), ratio)[0].tolist() == pytest.approx([0.25, 0.5, 1, 2])


def test_features_of_the_trained_count_are_the_plain_ones() -> None:
    points = torch.randn(2, 5, 3)
    plain = c.FourierFeatures(c.FourierFeatures.Config())(points, None, None)
    assert plain.shape == (2, 5, c.FourierFeatures(c.FourierFeatures.Config()).width(3))
    for kind in (c.InterpolatedFourierFeatures, c.TimeAwareFourierFeatures):
        features = kind(c.ScaledFourierConfig())
        assert torch.equal(features(points, torch.tensor([0.1, 0.9]), torch.ones(2)), plain)
        assert not torch.equal(features(points, torch.tensor([0.1, 0.9]), torch.full((2,), 8.0)), plain)
