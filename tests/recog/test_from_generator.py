"""A generator's features, and a classifier that begins as the generator at one time."""

from __future__ import annotations

import pytest
import torch
from recog.images import load, save_classifier

from lumina_core.errors import ConfigError
from lumina_core.model import build_model
from lumina_core.recipe import read_recipe
from lumina_core.types import Condition
from lumina_recog.from_generator import fold_time, generator_features, probe_accuracy

BACKBONE = {"type": "core.next_dit", "hidden_size": 32, "num_layers": 3, "num_heads": 2, "multiple_of": 32}


@pytest.fixture(scope="module")
def generator():
    pytest.importorskip("lumina_image")
    torch.manual_seed(0)
    model = build_model(
        read_recipe(
            {
                "schema_version": 2,
                "task": {"type": "image.class_to_image", "image_size": 16},
                "tokenizer": {"type": "image.patchify", "patch_size": 4},
                "autoencoder": {"type": "image.identity"},
                "conditioners": [{"field": "label", "type": "core.class_label", "num_classes": 3, "hidden_size": 8}],
                "backbone": BACKBONE,
                "head": {"type": "core.velocity"},
                "objective": {"type": "core.flow_matching"},
            },
            "test",
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_folded_weights_compute_what_the_generator_computes(generator):
    tokens = generator.tokenizer.patchify(torch.randn(2, 3, 16, 16))
    recipe = {
        "schema_version": 2,
        "task": {"type": "recog.classify"},
        "tokenizer": {"type": "recog.patchify", "patch_size": 4},
        "autoencoder": {"type": "recog.identity"},
        "backbone": {**BACKBONE, "time_conditioned": False},
        "head": {"type": "recog.classification", "num_classes": 3},
        "objective": {"type": "recog.classification"},
    }
    classifier = build_model(read_recipe(recipe, "test")).eval()
    weights = fold_time(generator, 0.7)
    result = classifier.load_state_dict(weights, strict=False)
    assert result.unexpected_keys == []
    assert all(name.startswith("head.") for name in result.missing_keys)
    with torch.no_grad():
        expected = generator.backbone(tokens, torch.full((2,), 0.7), generator.null_condition(2)).hidden_states
        found = classifier.backbone(tokens, None, Condition()).hidden_states
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_features_without_noise_are_those_of_the_data(generator):
    tokens = generator.tokenizer.patchify(torch.randn(2, 3, 16, 16))
    with torch.no_grad():
        one, two = generator_features(generator, tokens, 1.0, [0, 2])
        again = generator_features(generator, tokens, 1.0, [0], seed=9)[0]
        noisy = generator_features(generator, tokens, 0.5, [0], seed=9)[0]
    assert one.shape == two.shape == (2, 32)
    torch.testing.assert_close(one, again)
    assert not torch.allclose(one, noisy)


def test_a_classifier_is_no_generator(tmp_path):
    with pytest.raises(ConfigError, match="expected a generator"):
        fold_time(load(save_classifier(tmp_path / "model")))


def test_the_probe_separates_what_is_linear_and_no_more():
    torch.manual_seed(0)
    labels = torch.arange(200) % 4
    signal = torch.nn.functional.one_hot(labels, 4).float() @ torch.randn(4, 16) + 0.1 * torch.randn(200, 16)
    split = {"train": slice(0, 150), "test": slice(150, 200)}
    targets = {name: labels[rows] for name, rows in split.items()}
    assert probe_accuracy({n: signal[r] for n, r in split.items()}, targets) == (1.0, 1.0)
    noise = torch.randn(200, 16)
    assert probe_accuracy({n: noise[r] for n, r in split.items()}, targets)[0] < 0.5
