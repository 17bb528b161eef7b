"""Precomputed conditions and noise: accepted, expanded to all results in order, and completed as published."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from making import registry_of

from lumina_core.conditioning.ops import select
from lumina_core.errors import ConfigError, ShapeError
from lumina_core.sampling.inputs import PrecomputedInputs, expand_requests
from lumina_core.sampling.pipeline import Pipeline
from lumina_core.types import Condition

WORDS = ["red cat", "blue sun", "a very much longer word about a house and the moon"]


@pytest.fixture(scope="module")
def pipe(toy_folder):
    from lumina_core.model_dir import load_model

    registry = registry_of("toy")
    return Pipeline(load_model(toy_folder, registry), registry)


def encode(pipe, *words):
    return pipe.model.encode_condition({"word": list(words)}, len(words))


def data(answers):
    return torch.stack([answer.data for answer in answers])


def test_a_precomputed_condition_gives_the_result_of_its_text(pipe):
    plain = pipe(word="red cat", seed=3, count=2)
    with_precomputed = pipe(inputs=PrecomputedInputs(cond=encode(pipe, "red cat")), seed=3, count=2)
    torch.testing.assert_close(data(with_precomputed), data(plain), atol=1e-6, rtol=0)
    assert with_precomputed[0].metadata["word"] == "(precomputed)"


def test_several_requests_of_several_results_keep_conditions_and_masks_in_order(pipe):
    """What diffusers' own pipeline gets wrong (diffusers issue 13634, 2): each result has its request's condition."""
    requests = [pipe.make_request(word=word, seed=7 * row, count=2) for row, word in enumerate(WORDS)]
    plain = data(pipe(requests))
    for row, word in enumerate(WORDS):
        alone = data(pipe(word=word, seed=7 * row, count=2))
        torch.testing.assert_close(plain[2 * row : 2 * row + 2], alone, atol=1e-5, rtol=0)
    one_a_request = encode(pipe, *WORDS)
    torch.testing.assert_close(data(pipe(requests, inputs=PrecomputedInputs(one_a_request))), plain, atol=1e-5, rtol=0)
    one_a_result = select(one_a_request, torch.tensor([0, 0, 1, 1, 2, 2]))
    torch.testing.assert_close(data(pipe(requests, inputs=PrecomputedInputs(one_a_result))), plain, atol=1e-5, rtol=0)


def test_the_null_condition_may_have_another_length_than_the_condition(pipe):
    condition = encode(pipe, "red cat")
    longer = replace(
        condition,
        context=torch.cat([condition.context, torch.full_like(condition.context, 9.0)], dim=1),
        context_mask=torch.tensor([[True] * condition.context.shape[1] + [False] * condition.context.shape[1]]),
    )
    short = data(pipe(word="blue sun", inputs=PrecomputedInputs(uncond=condition)))
    long = data(pipe(word="blue sun", inputs=PrecomputedInputs(uncond=longer)))
    torch.testing.assert_close(short, long, atol=1e-6, rtol=0)
    assert (short - data(pipe(word="blue sun"))).abs().max() > 1e-4


def test_precomputed_noise_replaces_the_seeds(pipe):
    noise = torch.randn(1, 1, 4, generator=torch.Generator().manual_seed(3))
    first, second = (pipe(word="red cat", seed=seed, inputs=PrecomputedInputs(noise=noise)) for seed in (1, 2))
    assert torch.equal(data(first), data(second))
    tokens = torch.randn(2, 2, generator=torch.Generator().manual_seed(1)).view(1, 1, 4)
    assert torch.equal(
        data(pipe(word="red cat", seed=1, inputs=PrecomputedInputs(noise=tokens))),
        data(pipe(word="red cat", seed=1)),
    )


def test_inputs_for_another_number_of_results_are_refused(pipe):
    with pytest.raises(
        ConfigError, match=r"inputs: got a condition of 3 items, expected 1, one per request \(1\) or .*\(2\)"
    ):
        pipe(word="x", count=2, inputs=PrecomputedInputs(encode(pipe, *WORDS)))
    with pytest.raises(ShapeError, match="noise: got 1 latents, expected 2"):
        pipe(word="x", count=2, inputs=PrecomputedInputs(noise=torch.zeros(1, 1, 4)))


def test_token_conditions_of_several_items_are_counted_like_other_conditions(pipe):
    items = expand_requests(pipe.model.generation_task, [pipe.make_request(word="red cat", count=3)])
    rows = torch.arange(6.0).view(3, 2, 1)
    expanded = PrecomputedInputs(cond=Condition(token_condition=rows)).per_result(items).cond
    assert torch.equal(expanded.token_condition, rows)
    shared = PrecomputedInputs(cond=Condition(token_condition=rows[:1])).per_result(items).cond
    assert torch.equal(shared.token_condition, rows[:1].expand(3, -1, -1))
    with pytest.raises(ConfigError, match="got a condition of 2 items, expected 1"):
        PrecomputedInputs(cond=Condition(token_condition=rows[:2])).per_result(items)


def test_an_empty_condition_is_shared_by_all_results(pipe):
    items = expand_requests(pipe.model.generation_task, [pipe.make_request(word="red cat", count=2)])
    assert PrecomputedInputs(cond=Condition()).per_result(items).cond == Condition()
