"""Golden cases of the backbone: forward, guidance and gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from goldens_read import Golden, Unsupported, largest, worst
from torch import Tensor, nn

from lumina_core.builtin.velocity import VelocityHead
from lumina_core.conditions import pooled
from lumina_core.flow.guidance import guided
from lumina_core.flow.objective import FlowMatching
from lumina_core.flow.path import Linear
from lumina_core.flow.times import Uniform
from lumina_core.nn.next_dit import NextDiT
from lumina_core.pieces import Held, Piece, Weights
from lumina_core.types import Batch, Condition, Tokens, stack_tokens
from lumina_image.patches import Patches
from lumina_image.published.arguments import filled, given
from lumina_image.published.mapping import from_original, to_original
from lumina_image.published.names import PAD

BASE = 10000.0
"""Of the published rotary frequencies."""


class Network(nn.Module):
    """Backbone and head under the names that checkpoints use."""

    def __init__(self, constructor: dict[str, Any], imagenet: bool = False, base: float = BASE) -> None:
        super().__init__()
        options = filled(given(constructor, imagenet=imagenet))
        options["backbone"]["base"] = base
        self.backbone = NextDiT(NextDiT.Config.read(options["backbone"], "golden"))
        self.head = VelocityHead(VelocityHead.Config.read(options["head"], "golden"))

    def forward(self, tokens: Tokens, time: Tensor | None, condition: Condition) -> Tensor:
        return self.head(self.backbone(tokens, time, condition), tokens)


def _built(golden: Golden, base: float = BASE) -> tuple[Network, Patches]:
    constructor = golden.config["constructor"]
    network = Network(constructor, base=base)
    channels, patch = constructor.get("in_channels", 4), constructor.get("patch_size", 2)
    network.load_state_dict(numbers(from_original(unread(golden.group("weights"), PAD), channels, patch)))
    return network.eval(), Patches(Patches.Config(patch=patch, channels=channels))


def unread(state: Mapping[str, Tensor], *but: str) -> dict[str, Piece]:
    """Tensors in memory as the names' mapping takes them."""
    return {name: Held(tensor) for name, tensor in state.items() if name not in but}


def numbers(weights: Weights) -> dict[str, Tensor]:
    return {name: piece.tensor() for name, piece in weights.items()}


def _asked(golden: Golden) -> dict[str, Any]:
    call = golden.config["call"]
    names = [*call["positional"], *call.get("tensor_kwargs", [])]
    return {**call.get("kwargs", {}), **{name: golden.one_or_list(f"input.{name}") for name in names}}


def _condition(asked: dict[str, Any]) -> Condition:
    features, mask = asked["cap_feats"], asked["cap_mask"].bool()
    return Condition(memory=features, memory_mask=mask, summary=pooled(features, mask))


def _tokens(patches: Patches, x: Tensor | list[Tensor]) -> Tokens:
    if isinstance(x, Tensor):
        return patches.tokens(x)
    return stack_tokens([patches.tokens(item[None]) for item in x])


def _pictures(patches: Patches, tokens: Tokens, values: Tensor) -> list[Tensor]:
    return [patches.latent(item)[0] for item in tokens.with_values(values).items()]


def _plain(asked: dict[str, Any]) -> None:
    """Scaling of rotary positions and of attention come with sampling."""
    if asked.get("scale_factor", 1.0) not in (None, 1.0) or asked.get("proportional_attn"):
        raise Unsupported


def answer(golden: Golden) -> float:
    """The published `forward`, or `forward_with_cfg`, whichever the file has called."""
    methods = {"forward": forward, "forward_with_cfg": cfg}
    method = golden.config["call"]["method"]
    if method not in methods:
        raise Unsupported
    return methods[method](golden)


def forward(golden: Golden) -> float:
    # the published constructor takes its scale as a factor of the base (NOTES 3.17); forward_with_cfg overrides it
    network, patches = _built(golden, BASE * float(golden.config["constructor"].get("scale_factor") or 1.0))
    asked = _asked(golden)
    tokens = _tokens(patches, asked["x"])
    with torch.no_grad():
        got = _pictures(patches, tokens, network(tokens, asked["t"], _condition(asked)))
    wanted = golden.one_or_list("output.out")
    return worst(list(zip(got, wanted, strict=True)))


def cfg(golden: Golden) -> float:
    asked = _asked(golden)
    _plain(asked)
    network, patches = _built(golden)
    half = len(asked["x"]) // 2
    x = torch.cat([asked["x"][:half], asked["x"][:half]])
    tokens = patches.tokens(x)
    with torch.no_grad():
        conditional, silent = network(tokens, asked["t"], _condition(asked)).chunk(2)
    # published: the first three channels are guided in both halves, the others stay what each half says
    only = slice(0, 3 * patches.patch**2)
    first = guided(conditional, silent, asked["cfg_scale"], only)
    second = silent.clone()
    second[..., only] = guided(conditional, silent, asked["cfg_scale"])[..., only]
    return worst([(patches.latent(tokens.with_values(torch.cat([first, second]))), golden.tensors["output.out"])])


def gradients(golden: Golden) -> float:
    network, patches = _built(golden)
    noise = _tokens(patches, golden.one_or_list("input.x0"))
    data = _tokens(patches, golden.one_or_list("input.x1"))
    asked = {name: golden.tensors[f"input.{name}"] for name in ("cap_feats", "cap_mask")}
    objective = FlowMatching(FlowMatching.Config(), Linear(Linear.Config()), Uniform(Uniform.Config()))
    batch = Batch(data, _condition(asked))
    items = objective.items(network, batch, golden.tensors["input.t"], noise.values)
    items.mean().backward()
    got = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in network.named_parameters()}
    theirs = numbers(to_original(unread(got), patches.channels, patches.patch))
    wanted = golden.group("output.grad")
    # pad_token has no place in our model: its gradient must be the zero that it has there
    pairs = [(theirs.get(name, torch.zeros_like(tensor)), tensor) for name, tensor in wanted.items()]
    # the notes ask ten times as much of the loss as of the gradients
    errors = [worst(pairs), 10 * worst([(items.detach(), golden.tensors["output.loss"])])]
    norm = golden.tensors.get("output.grad_norm")
    if norm is not None:
        total = torch.stack([gradient.norm() for gradient in got.values()]).norm()
        errors.append(worst([(total.reshape(norm.shape), norm)]))
    return largest(errors)
