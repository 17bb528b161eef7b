"""Position encodings as components: axial rotary, learned mixed rotary, and those of other packages."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from backbones import BACKBONES, flag_dit, make_condition, make_times, make_tokens, next_dit, randomize, seeded_randn
from core.toy import recipe, registry

from lumina_core.conditioning.ops import select
from lumina_core.errors import ConfigError
from lumina_core.model import build_model
from lumina_core.models.flag_dit import FlagDiTBackbone
from lumina_core.models.next_dit import NextDiTBackbone
from lumina_core.models.rope import AxialRope, MixedRope
from lumina_core.models.rope_scaling import NTKScaling, PositionInterpolation
from lumina_core.protocols import AttentionTransform
from lumina_core.types import Condition, stack_tokens

SIZES = {"head_dim": 8, "num_heads": 2, "num_layers": 2}
WITHOUT_CONTEXT = Condition(pooled=make_condition(1).pooled)


def mixed_rope(**options):
    torch.manual_seed(0)
    return MixedRope(MixedRope.Config(**{**SIZES, **options}))


def mixed_backbone():
    config = next_dit().config.model_copy(update={"rope_axes_dim": None, "rope_layout": "blocks"})
    return randomize(NextDiTBackbone(config, mixed_rope()))


def scores(encoding, positions, layer=0, query_heads=2):
    """Scores of random queries and keys in float64, computed pair by pair from the definition of a rotation."""
    q, k = seeded_randn((1, positions.shape[1], query_heads, 8), 1), seeded_randn((1, positions.shape[1], 2, 8), 2)
    transform = encoding(positions, encoding.frequencies())[layer]
    k = transform.key(k).repeat_interleave(query_heads // 2, dim=2)
    return torch.einsum("bnhd,bmhd->bhnm", transform.query(q), k)


@torch.no_grad()
def test_the_default_of_next_dit_is_axial_rope_with_the_rope_options():
    plain = next_dit()
    config = plain.config.model_copy(update={"rope_axes_dim": None, "rope_layout": "blocks"})
    rope = AxialRope(AxialRope.Config(axes_dim=(0, 4, 4), layout="interleaved", theta=config.rope_theta, **SIZES))
    explicit = randomize(NextDiTBackbone(config, rope))
    tokens = make_tokens(3, 4)
    got, expected = (m(tokens, make_times(1), make_condition(1)).hidden_states for m in (explicit, plain))
    assert torch.equal(got, expected)


@torch.no_grad()
@pytest.mark.parametrize("query_heads", [2, 4])
def test_mixed_rope_rotates_by_the_scalar_product_of_frequencies_and_position(query_heads):
    encoding, positions = mixed_rope(), seeded_randn((1, 5, 3), 3) * 4
    got = scores(encoding, positions, layer=1, query_heads=query_heads)
    q, k = seeded_randn((1, 5, query_heads, 8), 1), seeded_randn((1, 5, 2, 8), 2)
    for head in range(query_heads):
        key_head = head // (query_heads // 2)
        angles = positions[0].double() @ encoding.freqs[:, 1, key_head].double()
        turn = torch.polar(torch.ones_like(angles), angles)
        query, key = (
            torch.view_as_complex(x.double().unflatten(-1, (4, 2))) * turn for x in (q[0, :, head], k[0, :, key_head])
        )
        expected = (query[:, None] * key[None].conj()).real.sum(-1)
        assert torch.allclose(got[0, head].double(), expected, atol=1e-4)


@torch.no_grad()
def test_mixed_rope_depends_on_distances_only_also_on_diagonals():
    encoding, positions = mixed_rope(), make_tokens(3, 4).positions
    moved = positions + torch.tensor([0.0, 7.0, -3.0])
    assert torch.allclose(scores(encoding, positions), scores(encoding, moved), atol=1e-4)
    assert not torch.allclose(scores(encoding, positions), scores(encoding, positions * 2), atol=1e-2)
    swapped = positions[..., [0, 2, 1]]
    assert not torch.allclose(scores(encoding, positions), scores(encoding, swapped), atol=1e-2)


def test_first_mixed_frequencies_are_those_of_the_paper():
    freqs = mixed_rope(head_dim=16, theta=100.0).freqs.detach()
    assert not freqs[0].any()
    magnitudes = freqs[1:].square().sum(0).sqrt()
    assert torch.allclose(magnitudes, torch.tensor([100.0 ** -(4 * (k // 2) / 16) for k in range(8)]), atol=1e-5)
    # two orthogonal directions for each magnitude
    assert torch.allclose((freqs[1:, ..., ::2] * freqs[1:, ..., 1::2]).sum(0), torch.zeros(2, 2, 4), atol=1e-5)


def test_mixed_frequencies_are_trained_in_every_block_and_used_without_gradients_too():
    model, tokens = mixed_backbone(), make_tokens(3, 4)
    hidden = model(tokens, make_times(1), make_condition(1)).hidden_states
    hidden.square().mean().backward()
    gradient = model.position_encoding.freqs.grad[1:]
    assert bool((gradient.abs().amax(dim=(0, 2, 3)) > 0).all())
    with torch.inference_mode():
        assert torch.allclose(model(tokens, make_times(1), make_condition(1)).hidden_states, hidden, atol=1e-5)


@torch.no_grad()
def test_with_mixed_rope_a_batch_of_several_sizes_equals_its_items():
    model, items = mixed_backbone(), [make_tokens(3, 4, seed=1), make_tokens(2, 2, seed=2)]
    tokens = stack_tokens(items)
    for dropped in (False, True):
        outputs = []
        for batch, condition in ((tokens, make_condition(2)), *((i, None) for i in items)):
            number = len(outputs) - 1
            own = condition or Condition(
                make_condition(2).context[number, None], None, make_condition(2).pooled[number, None]
            )
            inputs = model.precompute(batch, own)
            if dropped:
                inputs = model.with_context_drop(inputs, model.make_token_pool(batch, own, (1, 2, 2)))
                inputs = model.set_dropped_blocks(inputs, (True, True))
            t = make_times(2) if condition else make_times(2)[number, None]
            outputs.append(batch.with_values(model(batch, t, own, precomputed=inputs).hidden_states))
        for together, alone in zip(outputs[0].items(), outputs[1:], strict=True):
            assert torch.allclose(together.values, alone.values, atol=1e-5)


@torch.no_grad()
def test_position_interpolation_of_mixed_rope_is_that_of_positions():
    model, tokens, train = mixed_backbone(), make_tokens(4, 6), make_tokens(2, 3)
    context = model.rope_context(tokens, train)
    freqs = PositionInterpolation(PositionInterpolation.Config())(model.frequencies(), context, 0.0)
    inputs = model.precompute(tokens, make_condition(1), freqs)
    nearer = replace(tokens, positions=tokens.positions / 2)
    got, expected = (
        model(tokens, make_times(1), make_condition(1), precomputed=inputs),
        model(nearer, make_times(1), make_condition(1)),
    )
    assert torch.allclose(got.hidden_states, expected.hidden_states, atol=1e-5)
    # methods by the index of a frequency stay between the trained and the interpolated ones, whatever the sign
    for trained, scaled in zip(
        model.frequencies(), NTKScaling(NTKScaling.Config())(model.frequencies(), context, 0.0), strict=True
    ):
        assert scaled.isfinite().all() and bool((scaled.abs() <= trained.abs() + 1e-9).all())
        assert bool((scaled * trained >= 0).all())


def test_a_recipe_names_the_position_encoding_and_its_weights_are_saved():
    options = recipe("word").model_dump(exclude_defaults=True)
    backbone = {k: v for k, v in options["backbone"].items() if not k.startswith("rope_")}
    options["backbone"] = {**backbone, "position_encoding": {"type": "core.mixed_rope", "axes": [0]}}
    made = type(recipe("word")).read(options, "test")
    assert ("position_encoding", "core.mixed_rope") in made.component_names()
    model = build_model(made, registry())
    config, freqs = model.backbone.config, model.state_dict()["backbone.position_encoding.freqs"]
    heads = config.num_kv_heads or config.num_heads
    assert freqs.shape == (3, config.num_layers, heads, config.head_dim // 2)
    assert freqs[0].any() and not freqs[1:].any()


def test_a_bare_name_or_two_specifications_of_a_position_encoding_are_errors():
    config = next_dit().config
    with pytest.raises(ConfigError, match=r"rope_axes_dim: got \(0, 4, 4\), expected none"):
        NextDiTBackbone(config, mixed_rope())
    with pytest.raises(ConfigError, match=r"rope_theta: got 500\.0, expected none"):
        FlagDiTBackbone(flag_dit(rope_theta=500.0).config, mixed_rope())
    named = config.read(
        {
            **config.model_dump(exclude={"rope_axes_dim", "rope_layout"}),
            "position_encoding": {"type": "core.mixed_rope"},
        },
        "test",
    )
    with pytest.raises(ConfigError, match="expected the component"):
        NextDiTBackbone(named)
    with pytest.raises(ConfigError, match=r"axes: got \[1, 1\]"):
        mixed_rope(axes=(1, 1))
    with pytest.raises(ConfigError, match="head_dim: got 7"):
        mixed_rope(head_dim=7)


@dataclass(frozen=True)
class Turn(AttentionTransform):
    """Turns all channels of values by the first coordinate, and outputs back, as an encoding of poses does."""

    angle: torch.Tensor

    def value(self, v):
        return self._turn(v, self.angle)

    def output(self, out):
        return self._turn(out, -self.angle)

    def _turn(self, x, angle):
        cos, sin = angle.cos(), angle.sin()
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class Turns(torch.nn.Module):
    theta = 10000.0

    def frequencies(self, device=None):
        return (torch.ones(1),) * 3

    def forward(self, positions, freqs):
        return (Turn(positions[:, :, :1, None] * freqs[0]),)


@torch.no_grad()
@pytest.mark.parametrize("build", BACKBONES.values(), ids=BACKBONES)
def test_an_encoding_may_transform_values_and_outputs(build):
    config = build().config
    options = (
        {"rope_axes_dim": None, "rope_layout": "blocks"}
        if "rope_axes_dim" in config.model_fields_set
        else {"position_ids": "time"}
    )
    model = randomize(type(build())(config.model_copy(update=options), Turns()))
    tokens = make_tokens(3, 4)

    def output(angle):
        positions = torch.zeros(1, 12, 3)
        positions[..., 0] = angle
        return model(replace(tokens, positions=positions), make_times(1), WITHOUT_CONTEXT).hidden_states

    same_pose = output(torch.zeros(12))
    # one pose for all is no pose: what values are turned by, outputs are turned back by
    assert torch.allclose(output(torch.full((12,), 0.7)), same_pose, atol=1e-5)
    different = torch.zeros(12)
    different[:6] = math.pi / 2
    assert (output(different) - same_pose).abs().max() > 1e-2


@torch.no_grad()
def test_frequencies_may_differ_by_item():
    model, tokens = mixed_backbone(), stack_tokens([make_tokens(2, 3, seed=1), make_tokens(2, 3, seed=2)])
    scaled = [tuple(rate / s for rate in model.frequencies()) for s in (1.0, 2.0)]
    freqs = tuple(torch.stack(axis)[:, None] for axis in zip(*scaled, strict=True))
    inputs = model.precompute(tokens, make_condition(2), freqs)
    together = model(tokens, make_times(2), make_condition(2), precomputed=inputs).hidden_states
    for item, own in enumerate(tokens.items()):
        condition = select(make_condition(2), torch.tensor([item]))
        alone = model.precompute(own, condition, scaled[item])
        expected = model(own, make_times(2)[item : item + 1], condition, precomputed=alone).hidden_states
        assert torch.allclose(together[item], expected[0], atol=1e-5)


def test_a_backbone_with_learned_frequencies_is_built_without_memory():
    with torch.device("meta"):
        model = mixed_rope(axes=(0, 1, 2))
    assert model.freqs.is_meta and model.freqs.shape == (3, 2, 2, 4)
