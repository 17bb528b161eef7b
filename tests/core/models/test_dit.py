"""Contracts of both backbones: batches equal their items, padding has no effect, all code paths agree."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from backbones import BACKBONES, flag_dit, make_condition, make_times, make_tokens, next_dit, seeded_randn

from lumina_core.conditioning.ops import select, stack
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.models.attention import proportional_attn_scale
from lumina_core.models.dit import proportional_scale
from lumina_core.models.flag_dit import FlagDiTBackbone
from lumina_core.models.heads import VelocityHead
from lumina_core.types import Condition, Tokens, stack_tokens

both = pytest.mark.parametrize("build", BACKBONES.values(), ids=BACKBONES)


def mixed() -> tuple[Tokens, Condition]:
    """Three images of different sizes, and captions of different lengths."""
    items = [make_tokens(3, 4, seed=1), make_tokens(2, 2, seed=2), make_tokens(1, 5, seed=3)]
    real = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0]]).bool()
    return stack_tokens(items), replace(make_condition(3), context_mask=real)


def item(condition: Condition, place: int) -> Condition:
    """The condition of one item, without padding."""
    real = condition.context_mask[place]
    return Condition(context=condition.context[place : place + 1, real], pooled=condition.pooled[place : place + 1])


@both
@pytest.mark.parametrize("backend", ["fused", "matmul"])
@torch.no_grad()
def test_a_batch_of_different_sizes_equals_its_items_one_by_one(build, backend):
    model = build(attn_backend=backend)
    tokens, condition = mixed()
    together = tokens.with_values(model(tokens, make_times(3), condition).hidden_states).items()
    for place, alone in enumerate(tokens.items()):
        expected = model(alone, make_times(3)[place : place + 1], item(condition, place)).hidden_states
        assert torch.allclose(together[place].values, expected, atol=1e-5)


@both
@torch.no_grad()
def test_proportional_attention_counts_each_items_own_tokens(build):
    model = build()
    tokens, condition = mixed()
    scale = proportional_scale(tokens, None, 3, 8)
    prepared = model.precompute(tokens, condition, scale=scale)
    together = tokens.with_values(model(tokens, make_times(3), condition, precomputed=prepared).hidden_states).items()
    for place, alone in enumerate(tokens.items()):
        own = item(condition, place)
        ready = model.precompute(alone, own, scale=proportional_scale(alone, None, 3, 8))
        expected = model(alone, make_times(3)[place : place + 1], own, precomputed=ready).hidden_states
        assert torch.allclose(together[place].values, expected, atol=1e-5)
        plain = model(alone, make_times(3)[place : place + 1], own).hidden_states
        assert float((plain - expected).abs().max()) > 1e-4


def test_the_published_scale_counts_padding_too():
    tokens = mixed()[0]
    assert proportional_scale(tokens, None, 3, 8, count_padding=True) == proportional_attn_scale(12, 3, 8)
    assert proportional_scale(make_tokens(2, 3), make_tokens(1, 2), 3, 8) == proportional_attn_scale(8, 3, 8)


@both
@pytest.mark.parametrize("backend", ["fused", "matmul"])
@torch.no_grad()
def test_values_under_masks_change_no_bit(build, backend):
    model = build(attn_backend=backend)
    tokens, condition = mixed()
    changed_tokens = tokens.with_values(tokens.values.masked_fill(~tokens.mask[..., None], 1e3))
    changed_condition = replace(
        condition, context=condition.context.masked_fill(~condition.context_mask[..., None], -1e3)
    )
    expected, got = (
        model(tokens, make_times(3), condition).hidden_states,
        model(changed_tokens, make_times(3), changed_condition).hidden_states,
    )
    assert torch.equal(got[tokens.mask], expected[tokens.mask])


@both
@torch.no_grad()
def test_precomputed_inputs_give_the_same_bits(build):
    model = build()
    tokens, condition = mixed()
    prepared = model.precompute(tokens, condition)
    for time in (make_times(3), make_times(3) / 2):
        expected = model(tokens, time, condition)
        got = model(tokens, time, condition, precomputed=prepared)
        assert torch.equal(got.hidden_states, expected.hidden_states)
        assert torch.equal(got.modulation, expected.modulation)


@both
def test_without_padding_no_mask_exists(build):
    prepared = build().precompute(stack_tokens([make_tokens(2, 3), make_tokens(3, 2)]), make_condition(2))
    assert prepared.mask is None
    assert all(memory.mask is None for memory in prepared.cross_kvs)


@both
def test_a_new_model_predicts_exactly_zero(build):
    model = type(build())(build().config)  # with its initial weights
    head = VelocityHead(VelocityHead.Config(hidden_size=32, token_dim=6, modulation_dim=model.modulation_dim))
    tokens = make_tokens(3, 3, batch=2)
    answer = head(model(tokens, make_times(2), make_condition(2)), tokens)
    assert torch.equal(answer, torch.zeros(2, 9, 6))


@both
def test_gradient_checkpointing_keeps_gradients(build):
    once, twice = build(), build(gradient_checkpointing=True)
    tokens, condition = mixed()
    for model in (once, twice):
        model(tokens, make_times(3), condition).hidden_states.square().mean().backward()
    for (name, ours), theirs in zip(once.named_parameters(), twice.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-7), name


@both
def test_a_model_compiles_as_one_graph_with_the_same_numbers(build):
    torch._dynamo.reset()
    model = build(num_layers=1)
    tokens, condition = mixed()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    got, expected = compiled(tokens, make_times(3), condition), model(tokens, make_times(3), condition)
    assert torch.allclose(got.hidden_states, expected.hidden_states, atol=1e-5)
    with torch.no_grad():
        got = compiled(tokens, make_times(3), condition, precomputed=model.precompute(tokens, condition))
    assert torch.allclose(got.hidden_states, expected.hidden_states, atol=1e-5)


@both
def test_outputs_are_the_same_with_and_without_gradients(build):
    model = build()
    tokens, condition = mixed()
    with_gradients = model(tokens, make_times(3), condition).hidden_states
    with torch.inference_mode():
        without = model(tokens, make_times(3), condition).hidden_states
    assert torch.allclose(without, with_gradients, atol=1e-5)


@both
@torch.no_grad()
def test_an_all_masked_context_equals_no_cross_attention(build):
    model = build()
    tokens, condition = make_tokens(2, 3, batch=2), make_condition(2)
    all_masked = replace(condition, context_mask=torch.tensor([[True] * 5, [False] * 5]))
    got = model(tokens, make_times(2), all_masked).hidden_states
    for block in model.blocks:
        block.attention.gate.zero_()  # the output without cross-attention
    expected = model(tokens, make_times(2), condition).hidden_states
    assert got.isfinite().all()
    assert torch.allclose(got[1], expected[1], atol=1e-5)


@both
@torch.no_grad()
def test_without_time_there_is_no_modulation_and_the_context_still_matters(build):
    model = build(time_conditioned=False, pooled_dim=0)
    tokens = make_tokens(2, 3, batch=2)
    hidden = model(tokens, None, Condition())
    assert hidden.modulation is None
    assert not any("modulation" in name or name.startswith("time_embed") for name, _ in model.named_parameters())
    with_context = model(tokens, None, Condition(context=make_condition(2).context)).hidden_states
    assert (with_context - hidden.hidden_states).abs().max() > 1e-2


@both
@torch.no_grad()
def test_time_pooled_and_context_each_matter(build):
    model = build()
    tokens, condition = make_tokens(2, 3), make_condition(1)
    base = model(tokens, torch.tensor([0.3]), condition).hidden_states
    others = [
        model(tokens, torch.tensor([0.7]), condition),
        model(tokens, torch.tensor([0.3]), replace(condition, pooled=-condition.pooled)),
        model(tokens, torch.tensor([0.3]), replace(condition, context=-condition.context)),
        model(tokens, torch.tensor([0.3]), replace(condition, pooled=None)),
    ]
    assert all((other.hidden_states - base).abs().max() > 1e-2 for other in others)


@both
@torch.no_grad()
def test_reference_tokens_are_attended_to_but_not_returned(build):
    model = build()
    tokens, condition = make_tokens(2, 3), make_condition(1)
    alone = model(tokens, make_times(1), condition).hidden_states
    with_reference = model(tokens, make_times(1), replace(condition, reference=make_tokens(2, 2, seed=5))).hidden_states
    assert with_reference.shape == alone.shape
    assert (with_reference - alone).abs().max() > 1e-2


@both
@torch.no_grad()
def test_padding_between_tokens_and_reference_changes_nothing(build):
    model = build()
    context = make_tokens(2, 2, batch=2, seed=5)
    tokens = stack_tokens([make_tokens(3, 4, seed=1), make_tokens(2, 2, seed=2)])
    got = model(tokens, make_times(2), replace(make_condition(2), reference=context)).hidden_states[1:, :4]
    second = Condition(make_condition(2).context[1:], None, make_condition(2).pooled[1:], context.items()[1])
    expected = model(make_tokens(2, 2, seed=2), make_times(2)[1:], second).hidden_states
    assert torch.allclose(got, expected, atol=1e-5)


@both
def test_wrong_widths_are_an_error(build):
    model = build()
    tokens, condition = make_tokens(2, 3), make_condition(1)
    wide = tokens.with_values(seeded_randn((1, 6, 7)))
    for bad_tokens, bad, word in (
        (wide, condition, r"^tokens: got .*7\)"),
        (tokens, replace(condition, context=seeded_randn((1, 5, 13))), r"context: got .*13\)"),
        (tokens, replace(condition, pooled=seeded_randn((1, 11))), r"pooled condition: got .*11\)"),
        (tokens, replace(condition, reference=wide), r"reference tokens: got .*7\)"),
    ):
        with pytest.raises(ShapeError, match=word):
            model(bad_tokens, make_times(1), bad)
    with pytest.raises(ShapeError, match="takes no context"):
        build(cross_attention_dim=0)(tokens, make_times(1), condition)
    with pytest.raises(ShapeError, match="time"):
        model(tokens, None, condition)


@both
@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"num_heads": 5}, "multiple of num_heads 5"),
        ({"num_kv_heads": 3}, "num_kv_heads 3"),
        ({"token_dim": 0}, "token_dim: got 0"),
        ({"pooled_embed": "add"}, "modulation 32"),
    ],
)
def test_sizes_that_do_not_fit_are_an_error(build, options, word):
    with pytest.raises(ConfigError, match=word):
        build(**options)


@both
@torch.no_grad()
def test_pooled_embed_add_adds_the_pooled_condition_to_the_time_embedding(build):
    model = build(pooled_embed="add", pooled_dim=32)
    tokens, summary = make_tokens(2, 2), seeded_randn((1, 32), 3)
    hidden = model(tokens, make_times(1), Condition(pooled=summary))
    bare = model(tokens, make_times(1), Condition())
    assert torch.allclose(hidden.modulation, bare.modulation + summary, atol=1e-6)


@both
@torch.no_grad()
def test_autocast_stays_near_float32(build):
    model = build()
    tokens, condition = make_tokens(3, 3), make_condition(1)
    expected = model(tokens, make_times(1), condition).hidden_states
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = model(tokens, make_times(1), condition).hidden_states
    assert (got - expected).norm() < 0.05 * expected.norm()


def test_flag_dit_and_next_dit_have_different_parameters():
    assert type(flag_dit()) is FlagDiTBackbone
    assert {name for name, _ in flag_dit().named_parameters()} != {name for name, _ in next_dit().named_parameters()}


@both
@torch.no_grad()
def test_intermediates_are_the_outputs_of_the_blocks_in_the_order_of_the_indices(build):
    model = build(num_layers=3)
    tokens, condition = make_tokens(2, 3), replace(make_condition(1), reference=make_tokens(2, 2, seed=5))
    outputs: list[torch.Tensor] = []
    handles = [
        block.register_forward_hook(lambda _, __, output: outputs.append(output[:, :6])) for block in model.blocks
    ]
    final = model(tokens, make_times(1), condition).hidden_states
    assert torch.equal(outputs[-1], final)
    for handle in handles:
        handle.remove()
    for indices, expected in ((None, [0, 1, 2]), (2, [1, 2]), ([2, 0], [2, 0]), ([-1, 1], [2, 1]), ([], [])):
        got = model.forward_intermediates(tokens, make_times(1), condition, indices=indices)
        assert len(got) == len(expected)
        assert all(torch.equal(one, outputs[index]) for one, index in zip(got, expected, strict=True))
    normed = model.forward_intermediates(tokens, make_times(1), condition, indices=[1], norm=True)[0]
    centred = outputs[1] - outputs[1].mean(-1, keepdim=True)
    assert torch.allclose(normed, centred / centred.square().mean(-1, keepdim=True).sqrt(), atol=1e-4)
    with pytest.raises(ShapeError, match="indices: got 3, expected blocks from 0 to 2"):
        model.forward_intermediates(tokens, make_times(1), condition, indices=[3])


@torch.no_grad()
def test_blocks_after_the_last_intermediate_do_not_run():
    model, ran = next_dit(num_layers=3), []
    for number, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    model.forward_intermediates(make_tokens(2, 2), make_times(1), make_condition(1), indices=[1])
    assert ran == [0, 1]


@both
def test_compiled_blocks_share_one_graph_and_keep_numbers_and_names(build):
    torch._dynamo.reset()
    model, graphs = build(num_layers=3), []
    names = list(model.state_dict())
    tokens, condition = mixed()
    expected = model(tokens, make_times(3), condition).hidden_states.detach()

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model.compile_blocks(backend=backend, fullgraph=True)
    assert torch.allclose(model(tokens, make_times(3), condition).hidden_states, expected, atol=1e-5)
    assert len(graphs) == 1
    assert list(model.state_dict()) == names


@both
def test_muon_leaves_out_first_layers_and_modulations_by_name(build):
    model = build(token_condition_dim=3)
    named = {name for name, parameter in model.named_parameters() if parameter.ndim == 2}
    left_out = {name for name in model.no_muon() if name in named}
    assert left_out == {
        "embed.weight", "token_condition_embed.weight", "blocks.0.modulation.weight", "blocks.1.modulation.weight",
    }  # fmt: skip
    assert model.no_weight_decay() == set()


def rays(tokens: Tokens, seed: int = 4) -> torch.Tensor:
    return seeded_randn((len(tokens.sizes), tokens.values.shape[1], 3), seed)


@both
def test_a_new_model_ignores_its_token_condition_and_learns_to_use_it(build):
    model = build(token_condition_dim=3)
    torch.nn.init.zeros_(model.token_condition_embed.weight)  # as a new model has it
    tokens = make_tokens(2, 3)
    condition = replace(make_condition(1), token_condition=rays(tokens))
    plain = model(tokens, make_times(1), make_condition(1)).hidden_states
    with_rays = model(tokens, make_times(1), condition).hidden_states
    assert torch.equal(with_rays, plain)
    with_rays.square().mean().backward()
    assert model.token_condition_embed.weight.grad.abs().max() > 1e-4
    assert not type(model)(model.config).token_condition_embed.weight.any()


@both
@torch.no_grad()
def test_a_token_condition_moves_with_its_token_and_zeros_have_no_effect(build):
    model = build(token_condition_dim=3, **({"position_ids": "time"} if build is flag_dit else {}))
    tokens = make_tokens(2, 3)
    condition = replace(make_condition(1), token_condition=rays(tokens))
    out = model(tokens, make_times(1), condition).hidden_states
    assert (out - model(tokens, make_times(1), make_condition(1)).hidden_states).abs().max() > 1e-2
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    moved = replace(tokens, values=tokens.values[:, order], positions=tokens.positions[:, order])
    got = model(moved, make_times(1), replace(condition, token_condition=condition.token_condition[:, order]))
    assert torch.allclose(got.hidden_states, out[:, order], atol=1e-5)
    zeros = replace(condition, token_condition=torch.zeros_like(condition.token_condition))
    assert torch.equal(
        model(tokens, make_times(1), zeros).hidden_states, model(tokens, make_times(1), make_condition(1)).hidden_states
    )


@both
@pytest.mark.parametrize("dropped", [False, True], ids=["all keys", "averaged keys"])
@torch.no_grad()
def test_a_batch_with_reference_tokens_and_token_conditions_equals_its_items(build, dropped):
    """Some items have a reference, others none; sizes of tokens and references differ; padding is noise."""
    model = build(token_condition_dim=3)
    items = [make_tokens(3, 4, seed=1), make_tokens(2, 2, seed=2), make_tokens(1, 5, seed=3)]
    references = [make_tokens(2, 2, seed=5), None, make_tokens(1, 3, seed=6)]
    conditions = [
        replace(
            select(make_condition(3), torch.tensor([k])),
            reference=reference,
            token_condition=None if k == 1 else rays(item, k),
        )
        for k, (item, reference) in enumerate(zip(items, references, strict=True))
    ]
    tokens, condition = stack_tokens(items), stack(conditions)
    assert condition.reference.mask.sum(1).tolist() == [4, 0, 3]
    loud = condition.reference.values.masked_fill(~condition.reference.mask[..., None], 1e3)
    condition = replace(
        condition, reference=condition.reference.with_values(loud),
        token_condition=condition.token_condition.masked_fill(~tokens.mask[..., None], -1e3),
    )  # fmt: skip

    def run(batch, own, t):
        inputs = model.precompute(batch, own)
        if dropped:
            inputs = model.with_context_drop(inputs, model.make_token_pool(batch, own, (1, 2, 2)))
            inputs = model.set_dropped_blocks(inputs, (True, False))
        return batch.with_values(model(batch, t, own, precomputed=inputs).hidden_states).items()

    together = run(tokens, condition, make_times(3))
    for k, (alone, own) in enumerate(zip(items, conditions, strict=True)):
        assert torch.allclose(together[k].values, run(alone, own, make_times(3)[k : k + 1])[0].values, atol=1e-5)


@both
@torch.no_grad()
def test_the_order_of_reference_tokens_does_not_matter_but_their_positions_do(build):
    model = build(**({"position_ids": "time"} if build is flag_dit else {}))
    tokens, reference = make_tokens(2, 3), make_tokens(1, 4, seed=5)
    reference = replace(
        reference, positions=reference.positions[..., [2, 1, 0]] if build is flag_dit else reference.positions
    )
    out = model(tokens, make_times(1), replace(make_condition(1), reference=reference)).hidden_states
    order = torch.tensor([2, 0, 3, 1])
    values, positions = reference.values[:, order], reference.positions[:, order]
    permuted = replace(reference, values=values, positions=positions)
    assert torch.allclose(
        model(tokens, make_times(1), replace(make_condition(1), reference=permuted)).hidden_states, out, atol=1e-5
    )
    misplaced = replace(reference, values=values)
    assert (
        model(tokens, make_times(1), replace(make_condition(1), reference=misplaced)).hidden_states - out
    ).abs().max() > 1e-3


@both
def test_token_conditions_and_batches_that_do_not_fit_are_named(build):
    model, tokens = build(token_condition_dim=3), make_tokens(2, 3)
    for condition, word in (
        (
            replace(make_condition(1), token_condition=seeded_randn((1, 5, 3))),
            r"token condition: got .*expected \(1, 6, 3\)",
        ),
        (
            replace(make_condition(1), token_condition=seeded_randn((1, 6, 4))),
            r"token condition: got .*expected \(1, 6, 3\)",
        ),
        (make_condition(2), r"context: got .*expected \(1, any, 12\)"),
    ):
        with pytest.raises(ShapeError, match=word):
            model(tokens, make_times(1), condition)
    with pytest.raises(ShapeError, match="takes no token condition"):
        build()(tokens, make_times(1), replace(make_condition(1), token_condition=rays(tokens)))
