"""timm's own checks of a model, with our names; the functions follow tests/test_models.py of timm."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

timm = pytest.importorskip("timm")
from timm.models._features_fx import get_notrace_functions, get_notrace_modules

import lumina_core
import lumina_recog.timm  # noqa: F401  registers the models
from lumina_core.errors import CheckpointError, ConfigError, ShapeError
from lumina_core.model import build_model
from lumina_core.recipe import read_recipe
from lumina_core.types import Condition
from lumina_recog.formats.timm_folder import recipe_of, timm_config

NAMES = ["nextdit_mini_patch8", "nextdit_tiny_patch8", "nextdit_small_patch8", "nextdit_base_patch16"]
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
    assert outputs.shape == (2, model.num_classes)
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


def test_reset_classifier_changes_the_pooling_and_nothing_else():
    model = timm.create_model("nextdit_mini_patch8", num_classes=3, global_pool="avg", drop_rate=0.9).eval()
    torch.nn.init.normal_(model.head.norm.weight)
    norm = model.head.norm.weight.clone()
    model.reset_classifier(5, "map")
    assert model(input_of(model)).shape == (1, 5)
    assert "head.score.weight" in model.state_dict()
    assert torch.equal(model.head.norm.weight, norm)
    assert not any(module.training for module in model.modules())


def test_without_pooling_every_token_is_a_row():
    model = timm.create_model("nextdit_mini_patch8", num_classes=0, global_pool="").eval()
    x = torch.randn(2, 3, 32, 40)
    states = model(x)
    assert states.shape == (2, 20, model.num_features)
    model.reset_classifier(0, "map")
    torch.testing.assert_close(model(x), model.head.norm(model.head._average(model.forward_features(x), None)))
    with pytest.raises(ConfigError, match="global_pool: got 'token'"):
        model.reset_classifier(0, "token")
    model.reset_classifier(3, "")
    assert model(x).shape == (2, 20, 3)
    with pytest.raises(ShapeError, match="no pooling"):
        model([x[0]])


def test_a_list_without_images():
    model = timm.create_model("nextdit_mini_patch8")
    with pytest.raises(ShapeError, match="got none"):
        model([])
    with pytest.raises(ShapeError, match="got list"):
        model.forward_features([torch.randn(3, 8, 8)])


def test_the_asked_size_is_that_of_the_data_pipeline():
    model = timm.create_model("nextdit_mini_patch8", img_size=(48, 96))
    assert timm.data.resolve_model_data_config(model)["input_size"] == (3, 48, 96)


@pytest.mark.parametrize("indices", [0, 9, [3], [-4]])
def test_blocks_that_do_not_exist_are_refused(indices):
    model = timm.create_model("nextdit_mini_patch8")
    x = input_of(model)
    for call in (
        lambda: model.forward_intermediates(x, indices=indices),
        lambda: model.prune_intermediate_layers(indices),
        lambda: model.backbone.forward_intermediates(model.tokenizer.patchify(x), None, Condition(), indices=indices),
    ):
        with pytest.raises(ShapeError, match="indices: got"):
            call()


def test_the_built_in_weights_have_a_tag():
    model = timm.create_model("nextdit_mini_patch8.emoji", pretrained=True).eval()
    own = lumina_core.load_model("recog.emoji")
    images = torch.rand(2, 3, 64, 48) * 2 - 1
    expected = own.predict(own.tokenizer.patchify(images), None, Condition())
    torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-5)
    assert list(model.pretrained_cfg["label_names"]) == list(own.task.config.classes)


def test_pretrained_weights_read_other_channels_and_patches():
    model = timm.create_model("nextdit_mini_patch8.emoji", pretrained=True).eval()
    gray = timm.create_model("nextdit_mini_patch8.emoji", pretrained=True, in_chans=1).eval()
    x = torch.rand(1, 1, 48, 64) * 2 - 1
    torch.testing.assert_close(gray(x), model(x.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-3)
    large = timm.create_model("nextdit_mini_patch8.emoji", pretrained=True, in_chans=1, patch_size=16).eval()
    twice = torch.nn.functional.interpolate(x.view(1, 48, 8, 8), (16, 16), mode="bilinear")
    patches = {"patches": twice.view(1, 48, 256), "patch_coord": torch.cartesian_prod(torch.arange(6), torch.arange(8))}
    patches["patch_coord"] = patches["patch_coord"][None]
    small = {"patches": x.view(1, 48, 64), "patch_coord": patches["patch_coord"]}
    torch.testing.assert_close(large(patches), gray(small), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(gray(patches), gray(small), rtol=1e-3, atol=1e-3)  # NaFlexViT's larger patches


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
        early, (first,) = model.forward_intermediates(x, indices=[0], stop_early=True, output_fmt="NLC")
        assert torch.equal(early, first) and torch.equal(first.transpose(1, 2), intermediates[0].flatten(2))


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
        padded["patches"][:, -1] = float("nan")
        torch.testing.assert_close(model(padded), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.forward_head(**model.forward_features(padded)), expected, rtol=1e-4, atol=1e-5)


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
    assert reopened.task.config == model.task.config  # with both temperatures


def test_a_folder_that_timm_saved_is_converted(lumina, tmp_path):
    network = timm.create_model("nextdit_tiny_patch8", num_classes=7, depth=2).eval()
    torch.nn.init.normal_(network.head.linear.weight)
    timm.models.save_for_hf(network, tmp_path / "timm", safe_serialization=True)
    result = lumina("convert", tmp_path / "timm", tmp_path / "own")
    assert result.status == 0, result.err
    model, images = lumina_core.load_model(tmp_path / "own"), torch.rand(1, 3, 40, 64)
    found = model.predict(model.tokenizer.patchify(images), None, Condition())
    torch.testing.assert_close(found, network(images), rtol=0, atol=1e-5)


def test_arguments_of_timm_that_a_recipe_lacks_are_refused():
    config = {"architecture": "nextdit_tiny_patch8", "num_classes": 7}
    for args in ({"in_chans": 1}, {"global_pool": ""}, {"mlp_ratio": 3}):
        with pytest.raises(CheckpointError, match=f"got {next(iter(args))}="):
            recipe_of({**config, "model_args": args})
    recipe = {"schema_version": 2, **recipe_of(config)}
    encoding = {"type": "core.mixed_rope", "axes": [0, 1, 2]}
    with pytest.raises(CheckpointError, match="position_encoding axes"):
        timm_config({**recipe, "backbone": {**recipe["backbone"], "position_encoding": encoding}})


def test_options_that_differ_from_those_of_the_architecture_are_kept(tmp_path):
    recipe = recipe_of({"architecture": "nextdit_tiny_patch8", "num_classes": 7})
    recipe["backbone"] |= {"drop_path": 0.1, "hidden_size": 256, "num_layers": 1, "num_heads": 4}
    recipe["backbone"]["position_encoding"] = {"type": "core.axial_rope"}
    recipe["head"]["dropout"] = 0.2
    config = timm_config(recipe)
    assert config["architecture"] == "nextdit_mini_patch8"  # which has a budget and interleaved axes
    again = recipe_of(config)
    assert (again["backbone"]["drop_path"], again["head"]["dropout"]) == (0.1, 0.2)
    model = build_model(read_recipe({"schema_version": 2, **again}, "test")).eval()
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(dict(model.state_dict()), tmp_path / "model.safetensors")
    network = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    tokens = model.tokenizer.patchify(torch.randn(1, 3, 104, 128))
    images = model.tokenizer.unpatchify(tokens)
    expected = model.backbone(tokens, None, Condition()).hidden_states
    torch.testing.assert_close(network.forward_features(images), expected, rtol=0, atol=1e-5)
