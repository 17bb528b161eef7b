"""The paper's sizes have as many parameters as the published weights (counted without allocating any)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lumina_core.conditioning.class_label import ClassLabelConditioner
from lumina_core.models.flag_dit import FlagDiTBackbone
from lumina_core.models.heads import VelocityHead
from lumina_core.models.layers import ffn_hidden_dim
from lumina_core.models.next_dit import NextDiTBackbone

# the manifests' `parameters`; a published model with captions also holds a pad_token, as wide as its tokens, unused
PUBLISHED_2B = 1_988_524_576 - 2304
PUBLISHED_2B_GQA = 1_627_386_400 - 2304
PUBLISHED_IMAGENET_600M = 559_455_776
PUBLISHED_MUSIC = 197_940_244
TEXT = {
    "num_heads": 32, "rope_layout": "interleaved", "token_dim": 16, "cross_attention_dim": 2048, "pooled_dim": 2048,
}  # fmt: skip


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def next_dit(**options: Any) -> list[nn.Module]:
    with torch.device("meta"):
        backbone = NextDiTBackbone(NextDiTBackbone.Config.read(options, "test"))
        width = backbone.modulation_dim
        shift = not backbone.config.weighted_pre_norm
        head = VelocityHead.Config(
            hidden_size=options["hidden_size"], token_dim=16, modulation_dim=width, learn_sigma=True, shift=shift
        )
        return [backbone, VelocityHead(head)]


def text(width: int, depth: int, **options: Any) -> list[nn.Module]:
    side = width // 64
    return next_dit(hidden_size=width, num_layers=depth, rope_axes_dim=(0, side, side), **TEXT, **options)


def expected(width: int, depth: int, kv_heads: int = 32) -> int:
    """Next-DiT with captions 2048 wide, 32 heads, patches of 2 over 4 channels and learn-sigma, as published."""
    shared, feed, small = width // 32 * kv_heads, 256 * -(-(8 * width // 3) // 256), min(width, 1024)
    attention = 2 * width * width + 2 * width * shared + 2 * 2048 * shared + 32
    norms = 2 * width + 2 * 2 * shared + 4 * width + 2048  # of queries, keys, memory keys; around the branches; memory
    block = attention + norms + 3 * width * feed + 4 * width * (small + 1)
    time = (256 + 1) * small + (small + 1) * small
    summary = 2 * 2048 + (2048 + 1) * small
    head = width * (small + 1) + 32 * (width + 1)
    return (16 + 1) * width + time + summary + depth * block + head


@pytest.mark.parametrize(
    ("width", "depth", "kv_heads", "published"), [(2304, 24, 32, PUBLISHED_2B), (2304, 24, 8, PUBLISHED_2B_GQA)]
)
def test_2b_models_have_the_published_number_of_parameters(width, depth, kv_heads, published):
    assert expected(width, depth, kv_heads) == published
    assert count(*text(width, depth, num_kv_heads=kv_heads)) == published


@pytest.mark.parametrize(("width", "depth"), [(3072, 32), (4096, 32)])
def test_3b_and_7b_models_have_the_computed_number_of_parameters(width, depth):
    assert count(*text(width, depth)) == expected(width, depth)


def test_the_imagenet_model_has_the_published_number_of_parameters():
    components = next_dit(
        hidden_size=1536, num_layers=16, num_heads=32, rope_axes_dim=(0, 24, 24), rope_layout="interleaved",
        weighted_pre_norm=False, pooled_embed="add", token_dim=16, pooled_dim=1024,
    )  # fmt: skip
    with torch.device("meta"):
        label = ClassLabelConditioner(ClassLabelConditioner.Config(num_classes=1000, hidden_size=1024))
    assert count(*components, label) == PUBLISHED_IMAGENET_600M


def test_the_music_model_has_the_published_number_of_parameters():
    sizes = {"hidden_size": 768, "num_layers": 16, "num_heads": 32, "qk_norm": False, "token_dim": 20}
    with torch.device("meta"):
        backbone = FlagDiTBackbone(
            FlagDiTBackbone.Config.read({**sizes, "cross_attention_dim": 1024, "pooled_dim": 1024}, "test")
        )
        head = VelocityHead.Config(hidden_size=768, token_dim=20, modulation_dim=768, shift=True)
        assert count(backbone, VelocityHead(head)) == PUBLISHED_MUSIC


def test_the_feed_forward_has_the_published_width():
    assert [ffn_hidden_dim(width, 256, None) for width in (1536, 2304, 4096)] == [4096, 6144, 11008]
    assert ffn_hidden_dim(4096, 256, 1.3) == 14336
