"""Maps of relevance point to what decides, and change nothing."""

from __future__ import annotations

import torch
from recog.images import load, network, save_classifier

import lumina_core
from lumina_core.types import Condition
from lumina_recog.explain import explain_image, overlay, relevance_map
from lumina_recog.task import Classify


def test_the_map_finds_the_one_patch_that_decides():
    """A classifier that reads one number of a token, without blocks that mix tokens."""
    net = network("avg", "axial", classes=2)
    with torch.no_grad():
        for block in net.backbone.blocks:
            block.attention.out.weight.zero_()
            block.feed_forward.out.weight.zero_()
        net.head.linear.weight.zero_()
        net.head.linear.weight[1, 0] = 1
        net.backbone.embed.weight.zero_()
        net.backbone.embed.weight[0] = 1 / 192
    image = torch.full((3, 32, 40), -0.2)
    image[:, 8:16, 24:32] = 1.0
    tokens = net.eval().tokenizer.patchify(image[None])
    relevance, logits = relevance_map(net.backbone, net.head, tokens, lambda logits: logits[:, 1])
    assert relevance.shape == (4, 5)
    assert float(relevance.sum()) > 0.999
    assert int(relevance.argmax()) == 1 * 5 + 3
    assert float(relevance[1, 3]) > 0.95
    with torch.no_grad():
        assert torch.equal(logits, net(image[None])[0])


def test_weights_and_gradients_stay_as_they_are(tmp_path):
    model = load(save_classifier(tmp_path / "model"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    image = torch.rand(3, 30, 50) * 2 - 1
    relevance = explain_image(model, image)
    assert relevance.shape == (4, 7)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert overlay(image, relevance).shape == image.shape
    tokens = model.tokenizer.patchify(image[None])
    predicted = model.predict(tokens, None, Condition())[0]
    answer = lumina_core.predict(model, [{"image": image}])[0]
    assert answer["top"][0]["label"] == model.task.config.classes[int(predicted.argmax())]


def test_nothing_that_raises_the_score_is_a_uniform_map():
    net = network("avg", classes=2)
    tokens = net.tokenizer.patchify(torch.rand(1, 3, 16, 16))
    relevance, _ = relevance_map(net.backbone, net.head, tokens, lambda logits: logits[:, 0] * 0)
    assert torch.allclose(relevance, torch.full((2, 2), 0.25))


def test_the_named_group_at_the_temperature_of_the_model_is_explained(tmp_path):
    """At a low temperature the group of the best class is the most probable, not the one of most classes."""
    model = load(save_classifier(tmp_path / "model"))
    model.task = Classify(Classify.Config(classes=("a/x", "b/y", "b/z", "b/w"), temperature=0.1))
    image = torch.rand(3, 24, 24) * 2 - 1
    with torch.no_grad():
        model.head.linear.weight[0] = model.head.linear.weight[1:].mean(dim=0) * 0
        model.head.linear.weight[2:] = model.head.linear.weight[1]
        logits = model.predict(model.tokenizer.patchify(image[None]), None, Condition())[0]
        model.head.linear.bias[0] += logits[1] - logits[0] + 0.5  # b is likelier at temperature 1, a at 0.1
    tokens = model.tokenizer.patchify(image[None])
    expected, logits = relevance_map(
        model.backbone, model.head, tokens, lambda one: model.task.group_probabilities(one)[:, 0].log()
    )
    assert model.task.describe(logits)["group"] == "a"
    torch.testing.assert_close(explain_image(model, image), expected)
