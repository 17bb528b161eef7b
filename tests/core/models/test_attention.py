"""The attention of a block: self-attention and gated cross-attention."""

from __future__ import annotations

import pytest
import torch
from backbones import randomize, seeded_randn

from lumina_core.models.attention import Attention
from lumina_core.models.rope import RotaryEmbedding, frequencies, rope_from_positions

X = seeded_randn((2, 6, 32))
CONTEXT = seeded_randn((2, 5, 12), 4)


def angles(shift: float = 0.0) -> RotaryEmbedding:
    return rope_from_positions(seeded_randn((2, 6, 3), 9) * 5 + shift, frequencies((0, 4, 4)), "interleaved")


def attention(qk_norm: bool = True, kv_heads: int = 2) -> Attention:
    made = Attention(32, 4, kv_heads, 12, qk_norm)
    randomize(made)
    return made


def test_a_new_attention_ignores_the_context():
    fresh = Attention(32, 4, 2, 12, True)
    assert torch.equal(fresh(X, angles(), None, fresh.project_kv(CONTEXT, None)), fresh(X, angles(), None, None))


def test_each_head_has_its_own_gate_on_the_context():
    one = attention()
    with torch.no_grad():
        one.out.weight.copy_(torch.eye(32))
        one.gate.copy_(torch.tensor([0.0, 0.5, 0.0, 0.0]))
    change = one(X, angles(), None, one.project_kv(CONTEXT, None)) - one(X, angles(), None, None)
    assert (change.unflatten(-1, (4, 8)).abs().amax(dim=(0, 1, 3)) > 0).tolist() == [False, True, False, False]


@pytest.mark.parametrize("qk_norm", [True, False])
def test_only_real_entries_of_the_context_are_attended_to(qk_norm):
    one = attention(qk_norm)
    real = torch.tensor([[True, True, True, False, False]] * 2)
    garbage = CONTEXT.masked_fill(~real[..., None], 1e3)
    expected = one(X, angles(), None, one.project_kv(CONTEXT[:, :3], None))
    assert torch.allclose(one(X, angles(), None, one.project_kv(garbage, real)), expected, atol=1e-6)


def test_cross_attention_to_an_all_masked_context_is_zero():
    one = attention()
    real = torch.tensor([[True] * 5, [False] * 5])
    got = one(X, angles(), None, one.project_kv(CONTEXT, real))
    assert got.isfinite().all()
    assert torch.allclose(got[1], one(X, angles(), None, None)[1], atol=1e-6)


def test_a_common_shift_of_positions_changes_cross_attention_only():
    # published: queries are rotated, keys of the context are not, so that absolute positions matter
    one = attention()
    alone = one(X, angles(), None, None)
    read = one(X, angles(), None, one.project_kv(CONTEXT, None)) - alone
    moved_alone = one(X, angles(3.0), None, None)
    moved_read = one(X, angles(3.0), None, one.project_kv(CONTEXT, None)) - moved_alone
    assert torch.allclose(moved_alone, alone, atol=1e-5)
    assert (moved_read - read).abs().max() > 1e-2


def test_the_scale_of_queries_and_keys_is_normalized_away():
    one = attention()
    before = one(X, angles(), None, None)
    with torch.no_grad():
        one.qkv.weight[:48] *= 100  # 32 rows of queries and 16 of keys
    assert torch.allclose(one(X, angles(), None, None), before, atol=1e-4)


def test_fewer_key_heads_need_fewer_weights():
    sizes = [attention(kv_heads=k).qkv.weight.shape[0] for k in (4, 2, 1)]
    assert sizes == [32 + 2 * 32, 32 + 2 * 16, 32 + 2 * 8]


def test_a_scale_applies_to_self_attention_and_not_to_cross_attention():
    one = attention()
    memory = one.project_kv(CONTEXT, None)
    read = one(X, angles(), None, memory) - one(X, angles(), None, None)
    read_scaled = one(X, angles(), None, memory, 0.9) - one(X, angles(), None, None, 0.9)
    assert torch.allclose(read, read_scaled, atol=1e-5)
    assert not torch.allclose(one(X, angles(), None, None), one(X, angles(), None, None, 0.9), atol=1e-3)
