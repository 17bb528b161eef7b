"""The block cache: skipped blocks, reused residuals, and independence of the rows."""

from __future__ import annotations

import pytest
import torch

from lumina_core.models.block_cache import BlockCacheState, ThresholdPolicy, select_rows
from lumina_core.models.dit import BlockInputs
from lumina_core.models.rope import RotaryEmbedding


def policy(threshold, most=100):
    return ThresholdPolicy(ThresholdPolicy.Config(threshold=threshold, max_skipped=most))


def run_evaluations(reuse, inputs, real=None):
    """Run inputs through blocks that double them; return the outputs and the rows evaluated at each step."""
    outputs, evaluated = [], []
    for x in inputs:

        def blocks(rows, x=x):
            evaluated.append(list(range(len(x))) if rows is None else rows.tolist())
            return 2 * (x if rows is None else x[rows])

        before = len(evaluated)
        outputs.append(reuse.run_or_reuse(x, x, real, blocks))
        if len(evaluated) == before:
            evaluated.append([])
    return outputs, evaluated


def test_below_the_threshold_the_last_residual_is_reused_and_changes_accumulate():
    inputs = [torch.full((1, 2, 3), value) for value in (1.0, 1.06, 1.1236, 1.191016)]  # each 6 % more
    reuse = BlockCacheState(policy(0.1))
    outputs, evaluated = run_evaluations(reuse, inputs)
    assert evaluated == [[0], [], [0], []]
    assert torch.allclose(outputs[1], inputs[1] + inputs[0])  # blocks that double add what entered
    assert torch.allclose(outputs[3], inputs[3] + inputs[2])
    assert reuse.nfe == 4
    assert reuse.cached_nfe.tolist() == [2.0]


def test_with_threshold_zero_blocks_always_run():
    inputs = [torch.ones(2, 2, 3)] * 3
    outputs, evaluated = run_evaluations(BlockCacheState(policy(0.0)), inputs)
    assert evaluated == [[0, 1]] * 3
    assert all(torch.equal(out, 2 * x) for out, x in zip(outputs, inputs, strict=True))


def test_blocks_run_after_max_skipped_evaluations():
    _, evaluated = run_evaluations(BlockCacheState(policy(1.0, most=2)), [torch.ones(1, 2, 3)] * 7)
    assert evaluated == [[0], [], [], [0], [], [], [0]]


def test_items_of_a_batch_decide_as_they_do_alone():
    generator = torch.Generator().manual_seed(0)
    rates = torch.tensor([0.01, 0.04, 0.3])[:, None, None]
    inputs = [torch.rand(3, 4, 5, generator=generator) * rates + 1 for _ in range(8)]
    together, evaluated = run_evaluations(BlockCacheState(policy(0.05)), inputs)
    assert len({tuple(rows) for rows in evaluated}) > 2  # they do differ
    for row in range(3):
        alone, _ = run_evaluations(BlockCacheState(policy(0.05)), [x[row : row + 1] for x in inputs])
        assert all(torch.equal(out[row : row + 1], one) for out, one in zip(together, alone, strict=True))


def test_padding_does_not_count_as_change():
    real = torch.tensor([[True, True, False]])
    steady, loud = torch.ones(1, 3, 2), torch.ones(1, 3, 2)
    loud[:, 2] = 1e3
    _, evaluated = run_evaluations(BlockCacheState(policy(0.1)), [steady, loud, steady], real)
    assert evaluated == [[0], [], []]


def test_selecting_rows_keeps_what_items_share():
    turned = RotaryEmbedding(torch.zeros(1, 4, 1, 2), torch.zeros(1, 4, 1, 2))
    all_rows = BlockInputs((turned,), torch.ones(3, 1, 1, 4).bool(), pooled=torch.arange(3.0)[:, None], scale=0.5)
    cut = select_rows(all_rows, torch.tensor([2, 0]), 3)
    assert cut.encoding[0].cos.shape[0] == 1
    assert cut.mask.shape[0] == 2
    assert cut.pooled.flatten().tolist() == [2.0, 0.0]
    assert cut.scale == pytest.approx(0.5)
