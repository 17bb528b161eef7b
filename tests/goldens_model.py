"""Golden cases of the backbone: forward, guidance and gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from goldens_flow import grid_of
from goldens_ode import along, solver_of
from goldens_read import TARGET, Golden, Unsupported, largest, reduced, weighted, worst
from torch import Tensor, nn

from lumina_core.checkpoint.lazy_tensors import InMemoryTensor, LazyTensor, Weights
from lumina_core.conditioning.ops import combine_regions, mean_pool, stack
from lumina_core.flow.loss import FlowMatching
from lumina_core.flow.path import LinearPath
from lumina_core.flow.schedules import UniformTimeSampler
from lumina_core.models.dit import proportional_scale
from lumina_core.models.heads import VelocityHead
from lumina_core.models.next_dit import NextDiTBackbone
from lumina_core.models.rope import frequencies, rope_from_positions
from lumina_core.models.rope_scaling import SwitchScaling
from lumina_core.sampling.velocity import GuidanceConfig, cfg
from lumina_core.tokenizers import Patchify2D
from lumina_core.types import Batch, Condition, RopeContext, Tokens, stack_tokens
from lumina_image.formats.next_dit import PAD_TOKEN, NextDiTAdapter, PublishedConfig
from lumina_image.task import grid_region_weights

BASE = 10000.0
"""Of the published rotary frequencies."""


def published_config(constructor: Mapping[str, Any], imagenet: bool = False) -> PublishedConfig:
    """Return the config of a published constructor's arguments."""
    classes = {"num_classes": 1000, **constructor, "cap_feat_dim": 0} if imagenet else dict(constructor)
    return NextDiTAdapter().config_from(classes, "golden")


class Network(nn.Module):
    """Backbone and head under the names that checkpoints use."""

    def __init__(self, constructor: dict[str, Any], imagenet: bool = False, base: float = BASE) -> None:
        super().__init__()
        self.published = published_config(constructor, imagenet)
        network = self.published.native_network(rope_theta=base)
        self.backbone, self.head = cast("NextDiTBackbone", network["backbone"]), cast("VelocityHead", network["head"])

    def forward(self, tokens: Tokens, time: Tensor | None, condition: Condition, precomputed: Any = None) -> Tensor:
        narrow, narrow_condition = tokens.with_values(tokens.values.to(TARGET.dtype)), reduced(condition)
        hidden = self.backbone(narrow, time, narrow_condition, precomputed=precomputed)
        output: Tensor = self.head(hidden, narrow).float()
        return output


def _built(golden: Golden, factor: float | None = 1.0) -> tuple[Network, Patchify2D]:
    """The network; its base is multiplied by `factor`, None: by the constructor's own scale (NOTES 3.17)."""
    constructor = golden.config["constructor"]
    base = BASE * float((constructor.get("scale_factor") or 1.0) if factor is None else factor)
    network = Network(constructor, base=base)
    channels, patch = constructor.get("in_channels", 4), constructor.get("patch_size", 2)
    weights = numbers(NextDiTAdapter().from_foreign(unread(golden.group("weights")), network.published, "golden"))
    weights.pop(PAD_TOKEN, None)
    network.load_state_dict(weights)
    TARGET.place(network)
    return network, Patchify2D(Patchify2D.Config(patch_size=patch, channels=channels))


def unread(state: Mapping[str, Tensor], *but: str) -> dict[str, LazyTensor]:
    """Tensors in memory as the names' mapping takes them."""
    return {name: InMemoryTensor(tensor) for name, tensor in state.items() if name not in but}


def numbers(weights: Weights) -> dict[str, Tensor]:
    return {name: piece.load() for name, piece in weights.items()}


def _inputs(golden: Golden) -> dict[str, Any]:
    call = golden.config["call"]
    names = [*call["positional"], *call.get("tensor_kwargs", [])]
    return {**call.get("kwargs", {}), **{name: golden.one_or_list(f"input.{name}") for name in names}}


def _condition(inputs: dict[str, Any]) -> Condition:
    features, mask = inputs["cap_feats"], inputs["cap_mask"].bool()
    return Condition(context=features, context_mask=mask, pooled=mean_pool(features, mask))


def _tokens(patches: Patchify2D, x: Tensor | list[Tensor]) -> Tokens:
    if isinstance(x, Tensor):
        return patches.patchify(x)
    return stack_tokens([patches.patchify(item[None]) for item in x])


def _pictures(patches: Patchify2D, tokens: Tokens, values: Tensor) -> list[Tensor]:
    return [patches.unpatchify(item)[0] for item in tokens.with_values(values).items()]


def _precomputed(network: Network, tokens: Tokens, condition: Condition, inputs: dict[str, Any], time: float) -> Any:
    """Rotary positions and attention scaled as `forward_with_cfg` does at the time of the first item."""
    backbone, scale = network.backbone, None
    if inputs.get("proportional_attn"):
        head = backbone.config.hidden_size // backbone.config.num_heads
        scale = proportional_scale(tokens, None, int(inputs["base_seqlen"]), head, count_padding=True)
    rates = switched(backbone.frequencies(), inputs, time, backbone.config.rope_theta)
    return backbone.precompute(tokens.with_values(tokens.values.to(TARGET.dtype)), reduced(condition), rates, scale)


def switched(own: tuple[Tensor, ...], inputs: dict[str, Any], time: float, base: float) -> tuple[Tensor, ...]:
    """The published switch by the factor that is handed to it."""
    factor = float(inputs.get("scale_factor") or 1.0)
    settings = {"watershed": float(inputs.get("scale_watershed", 1.0)), "scale_down": True}
    canvas = RopeContext(
        (1.0, 64 * factor, 64 * factor), (1.0, 64.0, 64.0), base, 2 * sum(rates.numel() for rates in own)
    )
    return SwitchScaling(SwitchScaling.Config.read(settings, "golden"))(own, canvas, time)


def answer(golden: Golden) -> float:
    """The published `forward`, or `forward_with_cfg`, whichever the file has called."""
    methods = {"forward": forward, "forward_with_cfg": guided_forward}
    method = golden.config["call"]["method"]
    if method not in methods:
        raise Unsupported
    return methods[method](golden)


def forward(golden: Golden) -> float:
    network, patches = _built(golden, None)  # forward_with_cfg would override the constructor's scale
    inputs = _inputs(golden)
    tokens = _tokens(patches, inputs["x"])
    with torch.no_grad():
        got = _pictures(patches, tokens, network(tokens, inputs["t"], _condition(inputs)))
    expected = golden.one_or_list("output.out")
    return worst(list(zip(got, expected, strict=True)))


def guided_forward(golden: Golden) -> float:
    inputs = _inputs(golden)
    network, patches = _built(golden)
    got = guided_velocity(network, patches, inputs, _condition(inputs), inputs["x"], inputs["t"])
    return worst([(got, golden.tensors["output.out"])])


def guided_velocity(
    network: Network, patches: Patchify2D, inputs: dict[str, Any], condition: Condition, x: Tensor, time: Tensor
) -> Tensor:
    """Compute forward_with_cfg of the published code on images x, the conditions and the null conditions after them."""
    tokens = patches.patchify(torch.cat([x[: len(x) // 2]] * 2))  # the input's second half is not looked at
    with torch.no_grad():
        precomputed = _precomputed(network, tokens, condition, inputs, float(time[0]))
        conditional, unconditional = network(tokens, time, condition, precomputed).chunk(2)
    # published: the first three channels are guided in both halves, the others stay what each half says
    only = slice(0, 3 * patches.config.patch_size**2)
    first = GuidanceConfig(inputs["cfg_scale"], dims=only).combine(conditional, unconditional, None)
    second = unconditional.clone()
    second[..., only] = cfg(conditional, unconditional, inputs["cfg_scale"])[..., only]
    return patches.unpatchify(tokens.with_values(torch.cat([first, second])))


def sampled(golden: Golden) -> float:
    """Whole guided sampling: transport.ODE.sample of forward_with_cfg."""
    network, patches = _built(golden)
    encoded = {"cap_feats": golden.tensors["input.cap_feats"], "cap_mask": golden.tensors["input.cap_mask"]}
    condition, errors = _condition(encoded), []
    for run in golden.config["runs"]:
        solver = solver_of(run.get("solver", run.get("sampler_type")), 1e-7, 1e-9)
        inputs, grid = run["model_kwargs"], grid_of(run)

        def velocity(x: Tensor, time: float, inputs: dict[str, Any] = inputs) -> Tensor:
            return guided_velocity(network, patches, inputs, condition, x, x.new_full((len(x),), time))

        states = along(velocity, golden.tensors["input.z"], grid, solver)
        expected = golden.group(f"output.{run['name']}")
        errors.append(worst([(states, expected["trajectory"]), (grid.float(), expected["t"])]))
    return largest(errors)


def regions(golden: Golden) -> float:
    """The compositional model: one caption per region, and the negative prompt for the unconditional half."""
    inputs = _inputs(golden)
    network, patches = _built(golden, 1.0 if golden.config["call"]["method"] == "forward_with_cfg" else None)
    features, mask = inputs["cap_feats"], inputs["cap_mask"].bool()
    overall = mean_pool(inputs["global_cap_feats"], inputs["global_cap_mask"].bool())
    down, across = inputs["h_split_num"], inputs["w_split_num"]
    shares = _published_cells(inputs["x"].shape[-2:], patches.config.patch_size, down, across)
    encoded = combine_regions(
        [Condition(f[None], m[None]) for f, m in zip(features[:-1], mask[:-1], strict=True)], shares
    )
    null_condition = Condition(features[-1:], mask[-1:])
    both = replace(stack([encoded, null_condition]), pooled=overall.expand(2, -1))
    if golden.config["call"]["method"] == "forward_with_cfg":
        got = guided_velocity(network, patches, inputs, both, inputs["x"], inputs["t"])
    else:
        tokens = patches.patchify(inputs["x"])
        with torch.no_grad():
            got = patches.unpatchify(tokens.with_values(network(tokens, inputs["t"], both)))
    # the notes ask five times as much of a forward as of a guided one
    share = 1.0 if golden.config["call"]["method"] == "forward_with_cfg" else 5.0
    return weighted(share, worst([(got, golden.tensors["output.out"])]))


def _published_cells(size: torch.Size, patch: int, down: int, across: int) -> Tensor:
    """A published cell is side // cells // patch tokens: less than a cell of tokens where a side does not divide."""
    rows, columns = (side // patch for side in size)
    high, wide = size[0] // down // patch, size[1] // across // patch
    shares = grid_region_weights(high * down, wide * across, down, across, published_order=True).view(
        -1, high * down, wide * across
    )
    return torch.nn.functional.pad(shares, (0, columns - wide * across, 0, rows - high * down)).flatten(1)


def tables(golden: Golden) -> float:
    """precompute_freqs_cis: tables of angles, with the switch between interpolation and NTK."""
    errors = []
    for name, inputs in golden.config["tables"].items():
        encoded, side = inputs["kwargs"], inputs["dim"] // 2
        base = float(encoded.get("theta", BASE))
        rates = switched(frequencies((0, side, side), base), encoded, float(encoded.get("timestep", 1.0)), base)
        (top, bottom), (left, right) = inputs["rows"], inputs["cols"]
        places = [(0.0, float(row), float(column)) for row in range(top, bottom) for column in range(left, right)]
        by = rope_from_positions(torch.tensor([places]), rates, "interleaved")
        expected = golden.group(f"output.{name}")
        pairs = [
            (component.view(expected[end].shape), expected[end]) for component, end in ((by.cos, "re"), (by.sin, "im"))
        ]
        # NOTES: far from the origin float32 angles are known fifty times less exactly
        errors.append(worst(pairs) * (1.0 if max(bottom, right) <= 24 else 0.02))
    return largest(errors)


def gradients(golden: Golden) -> float:
    network, patches = _built(golden)
    noise = _tokens(patches, golden.one_or_list("input.x0"))
    data = _tokens(patches, golden.one_or_list("input.x1"))
    inputs = {name: golden.tensors[f"input.{name}"] for name in ("cap_feats", "cap_mask")}
    objective = FlowMatching(
        FlowMatching.Config(), LinearPath(LinearPath.Config()), UniformTimeSampler(UniformTimeSampler.Config())
    )
    batch = Batch(data, _condition(inputs))
    items = objective.per_sample_loss(network, batch, golden.tensors["input.t"], noise.values)
    items.mean().backward()
    got = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in network.named_parameters()}
    theirs = numbers(NextDiTAdapter().to_foreign(unread(got), network.published))
    expected = golden.group("output.grad")
    # pad_token has no place in our model: its gradient must be the zero that it has there
    pairs = [(theirs.get(name, torch.zeros_like(tensor)), tensor) for name, tensor in expected.items()]
    # the notes ask ten times as much of the loss as of the gradients
    errors = [worst(pairs), weighted(10, worst([(items.detach(), golden.tensors["output.loss"])]))]
    norm = golden.tensors.get("output.grad_norm")
    if norm is not None:
        total = torch.stack([gradient.norm() for gradient in got.values()]).norm()
        errors.append(worst([(total.reshape(norm.shape), norm)]))
    return largest(errors)
