"""peft adds LoRA to a backbone: the output is the same before training and another one after it."""

from __future__ import annotations

import pytest
import torch
from backbones import BACKBONES, make_condition, make_times, make_tokens, seeded_randn

from lumina_core import NextDiT, integrate, schedules
from lumina_core.flow.solvers import euler

peft = pytest.importorskip("peft")

both = pytest.mark.parametrize("build", BACKBONES.values(), ids=BACKBONES)
TARGETS = ["qkv", "out", "up", "context_kv", "modulation"]


def add_lora(module):
    torch.manual_seed(0)
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=TARGETS), module)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_("lora_" in name)


def output(model, dropped):
    tokens, condition = make_tokens(4, 4), make_condition(1)
    inputs = model.precompute(tokens, condition)
    if dropped:
        inputs = model.with_context_drop(inputs, model.make_token_pool(tokens, condition, (1, 2, 2)))
        inputs = model.set_dropped_blocks(inputs, (True, False))
    return model(tokens, make_times(1), condition, precomputed=inputs).hidden_states


@both
@pytest.mark.parametrize("dropped", [False, True], ids=["all keys", "averaged keys"])
def test_lora_changes_the_output_after_training_only_and_alike_with_and_without_gradients(build, dropped):
    model = build()
    with torch.no_grad():
        base = output(model, dropped)
    add_lora(model)
    with torch.no_grad():
        assert torch.allclose(output(model, dropped), base, atol=1e-5)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        output(model, dropped).square().mean().backward()
        optimizer.step()
    changed = output(model, dropped).detach()
    assert (changed - base).abs().max() > 1e-2
    with torch.inference_mode():
        assert torch.allclose(output(model, dropped), changed, atol=1e-4)


def test_a_plain_module_with_lora_trains_and_generates():
    net = NextDiT(in_channels=3, patch_size=2, hidden_size=32, num_layers=2, num_heads=2, context_dim=8)
    text, data = seeded_randn((2, 4, 8)), seeded_randn((2, 3, 4, 4), 1)
    with torch.no_grad():
        net.head.linear.weight.normal_(std=0.1)

    def generate():
        with torch.inference_mode():
            noise, times_of_steps = seeded_randn((2, 3, 4, 4), 2), schedules.uniform_times(4)
            return integrate(lambda x, t: net(x, t, context=text), noise, times_of_steps, solver=euler).values

    before = generate()
    add_lora(net.backbone)
    assert torch.allclose(generate(), before, atol=1e-5)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        losses.append((net(data, 0.5, context=text) - data).square().mean())
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert (generate() - before).abs().max() > 1e-3
