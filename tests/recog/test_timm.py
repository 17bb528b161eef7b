"""timm's own checks of a model, with our names; the functions follow tests/test_models.py of timm."""

from __future__ import annotations

import pytest
import torch

timm = pytest.importorskip("timm")
from timm.models._features_fx import get_notrace_functions, get_notrace_modules

import lumina_core
import lumina_recog.timm  # noqa: F401  registers the models
from lumina_core.types import Condition

NAMES = ["nextdit_tiny_patch8", "nextdit_small_patch8", "nextdit_base_patch16"]
SMALL = [name for name in NAMES if name != "nextdit_base_patch16"]


def input_of(model, batch=1, side=64):
    return torch.randn(batch, 3, min(side, model.default_cfg["input_size"][1]), side)


def test_models_are_listed():
    assert set(NAMES) <= set(timm.list_models("nextdit*"))


@pytest.mark.parametrize("name", NAMES)
def test_forward_equals_that_under_gradient_checkpointing(name):
    model = timm.create_model(name).eval()
    x = input_of(model, 2)
    outputs = model(x)
    assert outputs.shape == (2, 1000)
    assert not outputs.isnan().any()
    model.set_grad_checkpointing()
    torch.testing.assert_close(model(x), outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_backward_reaches_every_parameter(name):
    model = timm.create_model(name, num_classes=42).train()
    outputs = model(input_of(model, 2, 32))
    outputs.mean().backward()
    assert outputs.shape[-1] == 42
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", SMALL)
def test_default_cfgs_non_std(name):
    model = timm.create_model(name).eval()
    state, cfg, x = model.state_dict(), model.default_cfg, input_of(model)
    assert model.forward_features(x).shape[-1] == model.num_features
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    assert pooled.shape == (1, model.head_hidden_size)
    model.reset_classifier(0)
    assert model(x).shape == (1, model.num_features)
    assert timm.create_model(name, num_classes=0).eval()(x).shape == (1, model.num_features)
    assert f"{cfg['classifier']}.weight" in state
    assert f"{cfg['first_conv']}.weight" in state


def test_reset_classifier_changes_the_pooling():
    model = timm.create_model("nextdit_small_patch8", num_classes=3)
    model.reset_classifier(5, "map")
    assert model(input_of(model)).shape == (1, 5)
    assert "head.score.weight" in model.state_dict()


@pytest.mark.parametrize("name", SMALL)
def test_forward_intermediates(name):
    model = timm.create_model(name).eval()
    x = input_of(model)
    with torch.no_grad():
        output, intermediates = model.forward_intermediates(x)
        assert len(intermediates) >= 3
        assert torch.equal(output, model.forward_features(x))
        tokens = model.forward_intermediates(x, indices=[-1], output_fmt="NLC", intermediates_only=True)
        assert torch.equal(tokens[0], output)
        assert torch.equal(intermediates[-1].flatten(2).transpose(1, 2), output)


@pytest.mark.parametrize("name", SMALL)
def test_forward_intermediates_features(name):
    model = timm.create_model(name, features_only=True, feature_cls="getter").eval()
    channels = model.feature_info.channels()
    assert len(channels) >= 3
    outputs = model(torch.randn(1, 3, 48, 64))
    assert [one.shape[1] for one in outputs] == channels
    assert outputs[0].shape[2:] == (6, 8)


@pytest.mark.parametrize("name", SMALL)
def test_forward_fx_is_bit_equal(name):
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    model = timm.create_model(name).eval()
    torch.nn.init.normal_(model.head.linear.weight)
    kwargs = {
        "leaf_modules": list(get_notrace_modules()),
        "autowrap_functions": list(get_notrace_functions()),
    }
    train_nodes, eval_nodes = extraction.get_graph_node_names(model, tracer_kwargs=kwargs)
    traced = extraction.create_feature_extractor(
        model, train_return_nodes=[train_nodes[-1]], eval_return_nodes=[eval_nodes[-1]], tracer_kwargs=kwargs
    )
    x = input_of(model)
    with torch.no_grad():
        assert torch.equal(torch.cat(tuple(traced(x).values())), model(x))


def test_naflex_patches_equal_the_image():
    from timm.models.naflexvit import batch_patchify

    model = timm.create_model("nextdit_tiny_patch8", num_classes=7).eval()
    torch.nn.init.normal_(model.head.linear.weight)
    x = torch.randn(2, 3, 32, 48)
    patches, (rows, columns) = batch_patchify(x, (8, 8))
    coordinates = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).expand(2, -1, -1)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(model({"patches": patches, "patch_coord": coordinates}), expected)
        padding = torch.zeros(2, 5, patches.shape[2])
        padded = {
            "patches": torch.cat([patches, padding + 3], dim=1),
            "patch_coord": torch.cat([coordinates, torch.zeros(2, 5, 2, dtype=torch.int64)], dim=1),
            "patch_valid": torch.arange(rows * columns + 5).expand(2, -1) < rows * columns,
        }
        torch.testing.assert_close(model(padded), expected, rtol=1e-4, atol=1e-5)


def test_layers_have_an_order_for_layer_wise_learning_rates():
    from timm.optim import param_groups_layer_decay

    model = timm.create_model("nextdit_tiny_patch8")
    groups = param_groups_layer_decay(model, layer_decay=0.5, no_weight_decay_list=list(model.no_weight_decay()))
    scales = sorted({group["lr_scale"] for group in groups})
    assert len(scales) >= model.depth
    assert scales[-1] == 1.0


def test_the_built_in_model_has_equal_logits_in_timm(lumina, tmp_path):
    result = lumina("convert", "recog.emoji", tmp_path / "timm", "--format", "timm")
    assert result.status == 0, result.err
    model = lumina_core.load_model("recog.emoji")
    images = torch.rand(2, 3, 64, 48) * 2 - 1
    expected = model.predict(model.tokenizer.patchify(images), None, Condition())
    network = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    torch.testing.assert_close(network(images), expected, rtol=0, atol=1e-6)
    assert lumina("convert", tmp_path / "timm", tmp_path / "back").status == 0
    reopened = lumina_core.load_model(tmp_path / "back")
    torch.testing.assert_close(reopened.predict(reopened.tokenizer.patchify(images), None, Condition()), expected)
