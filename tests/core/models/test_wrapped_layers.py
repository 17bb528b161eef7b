"""Fast paths respect hooks, parametrizations and wrapped layers; the switch of the CPU kernels changes no result."""

from __future__ import annotations

import pytest
import torch
from backbones import BACKBONES, make_condition, make_times, make_tokens, next_dit, randomize
from torch.nn.utils import parametrize, prune

from lumina_core.models import cpu_kernels
from lumina_core.models.heads import VelocityHead

both = pytest.mark.parametrize("build", BACKBONES.values(), ids=BACKBONES)
LAYERS = ["attention.qkv", "attention.out", "attention.q_norm", "feed_forward.up", "feed_forward.out", "modulation"]


def run(model, dropped=False):
    tokens, condition = make_tokens(4, 4), make_condition(1)
    inputs = model.precompute(tokens, condition)
    if dropped:
        inputs = model.with_context_drop(inputs, model.make_token_pool(tokens, condition, (1, 2, 2)))
        inputs = model.set_dropped_blocks(inputs, (True,) * model.num_layers)
    return model(tokens, make_times(1), condition, precomputed=inputs).hidden_states


def roll_input(module, arguments):
    return (arguments[0].roll(1, dims=-1), *arguments[1:])


@both
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dropped", [False, True], ids=["all keys", "averaged keys"])
def test_a_forward_pre_hook_has_the_same_effect_with_and_without_gradients(build, name, dropped):
    model = build()
    plain = run(model, dropped).detach()
    model.blocks[0].get_submodule(name).register_forward_pre_hook(roll_input)
    expected = run(model, dropped).detach()
    with torch.inference_mode():
        got = run(model, dropped)
    assert torch.allclose(got, expected, atol=1e-5)
    assert not torch.allclose(got, plain, atol=1e-3)


@pytest.mark.parametrize("name", ["attention_norm1", "attention_norm2", "ffn_norm2", "context_norm"])
def test_hooks_of_norms_run_without_gradients(name):
    model, calls = next_dit(), []
    norm = model.blocks[0].get_submodule(name)
    norm.register_forward_pre_hook(lambda module, arguments: calls.append("before"))
    norm.register_forward_hook(lambda module, arguments, output: calls.append("after"))
    with torch.inference_mode():
        run(model)
    assert calls == ["before", "after"]


def test_global_hooks_run_for_every_layer_without_gradients():
    model, called = next_dit(), set()
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, *rest: called.add(module))
    try:
        with torch.inference_mode():
            run(model)
    finally:
        handle.remove()
    layers = {module for module in model.blocks.modules() if not list(module.children())}
    assert layers <= called


class Doubled(torch.nn.Module):
    def forward(self, weight):
        return 2 * weight


@both
@pytest.mark.parametrize("name", LAYERS)
def test_a_parametrized_layer_is_a_layer_with_the_computed_weight(build, name):
    parametrized, expected = build(), build()
    parametrize.register_parametrization(parametrized.blocks[0].get_submodule(name), "weight", Doubled())
    with torch.no_grad():
        expected.blocks[0].get_submodule(name).weight.mul_(2)
        assert torch.allclose(run(parametrized), run(expected), atol=1e-5)
        assert torch.allclose(run(parametrized, True), run(expected, True), atol=1e-5)


def test_pruned_layers_stay_pruned_without_gradients():
    model = next_dit()
    for block in model.blocks:
        for layer in (block.attention.qkv, block.feed_forward.up):
            prune.l1_unstructured(layer, "weight", amount=0.5)
    expected = run(model).detach()
    with torch.inference_mode():
        assert torch.allclose(run(model), expected, atol=1e-5)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_switch_of_the_cpu_kernels_changes_no_result(build, dtype, monkeypatch):
    model, condition = build().to(dtype), make_condition(1)
    condition = type(condition)(condition.context.to(dtype), pooled=condition.pooled.to(dtype))
    tokens = make_tokens(4, 4).to(torch.device("cpu"), dtype)
    with torch.inference_mode():
        fast = model(tokens, make_times(1), condition).hidden_states
        monkeypatch.setattr(cpu_kernels, "enabled", False)
        monkeypatch.setattr(cpu_kernels, "_onednn_linear", None)  # calling it would fail
        plain = model(tokens, make_times(1), condition).hidden_states
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    assert torch.allclose(fast.float(), plain.float(), atol=tolerance, rtol=tolerance)


def test_a_hook_of_the_last_layer_of_the_head_receives_its_full_output():
    head = randomize(
        VelocityHead(VelocityHead.Config(hidden_size=32, token_dim=6, modulation_dim=32, learn_sigma=True))
    )
    model, outputs = next_dit(), []
    head.linear.register_forward_hook(lambda module, arguments, output: outputs.append(output))
    tokens = make_tokens(2, 2)
    with torch.inference_mode():
        velocity = head(model(tokens, make_times(1), make_condition(1)), tokens)
    assert outputs[0].shape == (1, 4, 12) and torch.equal(velocity, outputs[0][..., :6])


class Opaque(torch.Tensor):
    """A weight that can only be multiplied by, as some quantized ones."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.split, torch.Tensor.chunk):
            raise NotImplementedError(func)
        plain = [a.as_subclass(torch.Tensor) if isinstance(a, cls) else a for a in args]
        return func(*plain, **(kwargs or {}))


@both
def test_weights_that_are_tensor_subclasses_are_only_multiplied_by(build):
    model, dropped = build(), (False, True)
    with torch.inference_mode():
        expected = [run(model, one) for one in dropped]
    for block in model.blocks:
        for layer in (block.attention.qkv, block.feed_forward.up):
            layer._parameters["weight"] = layer.weight.detach().as_subclass(Opaque)
    with torch.inference_mode():
        for one, output in zip(dropped, expected, strict=True):
            assert torch.allclose(run(model, one), output, atol=1e-5)
