"""NextDiT and FlagDiT as plain modules over latents (B, C, H, W)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from backbones import randomize, seeded_randn

from lumina_core import FlagDiT, NextDiT, Tokens, load_model
from lumina_core.errors import CheckpointError, ConfigError, ShapeError
from lumina_core.models.rope import MixedRope
from lumina_core.plugins.loader import load_plugins
from lumina_core.types import Condition

both = pytest.mark.parametrize("cls", [NextDiT, FlagDiT])
SIZES = {"in_channels": 3, "patch_size": 2, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "multiple_of": 16}


def net_of(cls, **options):
    return randomize(cls(**{**SIZES, **options}))


@both
def test_with_defaults_it_maps_latents_to_latents_and_a_new_one_gives_zeros(cls):
    with torch.device("meta"):
        net = cls()
    assert net(torch.zeros(1, 4, 6, 8, device="meta"), 0.5).shape == (1, 4, 6, 8)
    new = cls(**SIZES)
    assert torch.equal(new(seeded_randn((2, 3, 4, 6)), torch.tensor([0.2, 0.9])), torch.zeros(2, 3, 4, 6))


@both
@torch.no_grad()
def test_it_is_the_backbone_and_the_head_over_patches_numbered_channel_row_column(cls):
    net, x, text, t = (
        net_of(cls, context_dim=8, pooled_dim=5),
        seeded_randn((2, 3, 4, 6)),
        seeded_randn((2, 7, 8)),
        seeded_randn((2,)).abs(),
    )
    mask, pooled = torch.tensor([[True] * 7, [True] * 3 + [False] * 4]), seeded_randn((2, 5), 3)
    values, positions = torch.zeros(2, 6, 12), torch.zeros(2, 6, 3)
    for token in range(6):
        row, column = divmod(token, 3)
        values[:, token] = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten(1)
        positions[:, token] = torch.tensor([0, row, column])
    tokens = Tokens(values, positions, ((4, 6),) * 2)
    hidden = net.backbone(tokens, t, Condition(text, mask, pooled))
    expected = net.head(hidden, tokens).view(2, 2, 3, 3, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 4, 6)
    assert torch.allclose(net(x, t, context=text, context_mask=mask, pooled=pooled), expected, atol=1e-6)
    maps = net.forward_intermediates(x, t, indices=[1, 0], context=text, context_mask=mask, pooled=pooled)
    assert [tuple(one.shape) for one in maps] == [(2, 32, 2, 3)] * 2
    assert torch.allclose(maps[0].flatten(2).transpose(1, 2), hidden.hidden_states, atol=1e-6)


@both
@torch.no_grad()
def test_control_and_references_change_the_output_item_by_item(cls):
    axes = {"rope_axes_dim": (4, 2, 2)} if cls is NextDiT else {}
    net, x, t = net_of(cls, control_channels=2, **axes), seeded_randn((2, 3, 4, 4)), torch.tensor([0.3, 0.6])
    control, reference = seeded_randn((2, 2, 4, 4), 1), seeded_randn((2, 2, 3, 4, 2), 2)
    together = net(x, t, control=control, reference=reference)
    for item in range(2):
        rows = slice(item, item + 1)
        alone = net(x[rows], t[rows], control=control[rows], reference=reference[rows])
        assert torch.allclose(together[rows], alone, atol=1e-5)
    for other in (
        net(x, t, control=control),
        net(x, t, reference=reference),
        net(x, t, control=control, reference=reference[:, 0]),
        net(x, t, control=control, reference=reference.flip(1)),
    ):  # fmt: skip
        assert (other - together).abs().max() > 1e-3
    one = net(x, t, reference=reference[:, :1])
    assert torch.allclose(one, net(x, t, reference=reference[:, 0]), atol=1e-6)


def test_a_new_model_with_control_begins_as_one_without():
    torch.manual_seed(0)
    net, x = NextDiT(**SIZES, control_channels=2), seeded_randn((1, 3, 4, 4))
    randomize(net.head)
    assert torch.equal(net(x, 0.5, control=seeded_randn((1, 2, 4, 4))), net(x, 0.5))


def test_a_custom_position_encoding_is_used():
    mixed = MixedRope(MixedRope.Config(head_dim=8, num_heads=4, num_layers=2))
    net, x = net_of(NextDiT, position_encoding=mixed), seeded_randn((1, 3, 4, 4))
    assert net.backbone.position_encoding is mixed
    net(x, 0.5).square().mean().backward()
    assert mixed.freqs.grad.abs().max() > 0


@both
def test_shapes_that_cannot_be_cut_name_the_nearest_ones(cls):
    net = net_of(cls, control_channels=2)
    for x, words in (
        (torch.zeros(1, 3, 5, 4), r"x height: got 5, expected a multiple of patch_size 2\. Pad or crop it to 4 or 6\."),
        (torch.zeros(1, 3, 4, 1), r"x width: got 1, .* Pad or crop it to 2\."),
        (torch.zeros(1, 4, 4, 4), r"x: got the shape \(1, 4, 4, 4\), expected \(B, 3, H, W\)"),
        (torch.zeros(3, 4, 4), r"x: got the shape \(3, 4, 4\)"),
    ):
        with pytest.raises(ShapeError, match=words):
            net(x, 0.5)
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ShapeError, match=r"t: got the shape \(3,\), expected \(2,\)"):
        net(x, torch.zeros(3))
    with pytest.raises(ShapeError, match=r"control: got .* expected rows and columns as x"):
        net(x, 0.5, control=torch.zeros(2, 2, 4, 6))
    with pytest.raises(ShapeError, match="reference: got"):
        net(x, 0.5, reference=torch.zeros(3, 4))
    with pytest.raises(ShapeError, match=r"context: got .*takes no context"):
        net(x, 0.5, context=torch.zeros(2, 1, 8))


@both
def test_options_that_are_unknown_or_do_not_fit_are_refused(cls):
    with pytest.raises(ConfigError, match="'hiden_size'; did you mean 'hidden_size'"):
        cls(hiden_size=32)
    with pytest.raises(ConfigError, match="multiple of num_heads 5"):
        cls(**{**SIZES, "num_heads": 5})
    with pytest.raises(ConfigError, match="patch_size: got 3 and 0"):
        cls(in_channels=3, patch_size=0)


def test_from_pretrained_gives_the_prediction_of_the_trained_model():
    image = pytest.importorskip("lumina_image")
    net, x = NextDiT.from_pretrained("image.emoji"), seeded_randn((1, 3, 64, 64))
    assert net.prediction == "data" and net.patch_size == 8 and not net.training
    model = load_model(Path(image.__file__).parent / "models" / "emoji", load_plugins())
    t, condition = torch.tensor([0.4]), model.encode_condition({"caption": ["a red heart"]}, 1)
    with torch.no_grad():
        tokens = model.tokenizer.patchify(x)
        expected = model.tokenizer.unpatchify(tokens.with_values(model.predict(tokens, t, condition)))
        got = net(x, t, context=condition.context, context_mask=condition.context_mask, pooled=condition.pooled)
    assert torch.allclose(got, expected, atol=1e-5)


def test_from_pretrained_refuses_other_models_and_names():
    pytest.importorskip("lumina_image")
    with pytest.raises(CheckpointError, match=r"'image.emojy', .*image.emoji"):
        NextDiT.from_pretrained("image.emojy")
    with pytest.raises(ConfigError, match="the backbone NextDiTBackbone, expected FlagDiTBackbone"):
        FlagDiT.from_pretrained("image.emoji")


def test_from_pretrained_refuses_tokens_without_square_patches():
    pytest.importorskip("lumina_audio")
    with pytest.raises(ConfigError, match="square patches"):
        NextDiT.from_pretrained("audio.instruments")
