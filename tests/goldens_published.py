"""Golden cases of published models: diffusers' transformer under its own names, and the class-conditional one."""

from __future__ import annotations

from typing import Any

import torch
from goldens_model import BASE, Network, numbers, published_config, unread
from goldens_read import TARGET, Golden, Unsupported, reduced, weighted, worst
from torch import Tensor

from lumina_core.conditioning.class_label import ClassLabelConditioner
from lumina_core.conditioning.ops import mean_pool
from lumina_core.models.dit import proportional_scale
from lumina_core.models.rope import frequencies
from lumina_core.sampling.velocity import GuidanceConfig, cfg
from lumina_core.tokenizers import Patchify2D
from lumina_core.types import Condition, Tokens
from lumina_image.formats.next_dit import PAD_TOKEN, DiffusersNextDiTAdapter, NextDiTAdapter, PublishedConfig

GUIDED = 5
"""The notes allow the guided answer five times the error of the plain one: that counts so many times."""
LABELS = "conditioners.label.table.weight"


def diffusers_forward(golden: Golden) -> float:
    """`LuminaNextDiT2DModel.forward`; of its output the half that means something."""
    arguments = DiffusersNextDiTAdapter().config_from(golden.config["constructor"], "golden")
    inputs = {name: golden.tensors[f"input.{name}"] for name in ("hidden_states", "timestep", "encoder_hidden_states")}
    mask = golden.tensors["input.encoder_mask"].bool()
    weights = unread(golden.group("weights"))
    state = numbers(DiffusersNextDiTAdapter().from_foreign(weights, arguments, "golden"))
    state.pop(PAD_TOKEN, None)
    network, patches = _built(arguments, state)
    condition = Condition(inputs["encoder_hidden_states"], mask, mean_pool(inputs["encoder_hidden_states"], mask))
    base = golden.config["call"].get("cross_attention_kwargs", {}).get("base_sequence_length")
    rope = golden.config.get("rope", {})
    rates = _rates(network, float(rope.get("linear_factor", 1.0)), float(rope.get("ntk_factor", 1.0)))
    tokens = patches.patchify(inputs["hidden_states"])
    got = patches.unpatchify(tokens.with_values(_answer(network, tokens, inputs["timestep"], condition, (rates, base))))
    stored = [golden.tensors[name] for name in ("output.sample", "output.sample_first_half") if name in golden.tensors]
    return worst([(got, expected[:, : arguments.in_channels]) for expected in stored] or [(got, got[:0])])


def imagenet(golden: Golden) -> float:
    """`DiT_Llama.forward`, or `forward_with_cfg`, whichever the file has called."""
    arguments = published_config(golden.config["constructor"], imagenet=True)
    state = numbers(NextDiTAdapter().from_foreign(unread(golden.group("weights")), arguments, "golden"))
    labels = state.pop(LABELS)
    network, patches = _built(arguments, state)
    call = golden.config["call"]
    names = [*call["positional"], *call.get("tensor_kwargs", [])]
    inputs: dict[str, Any] = {**call.get("kwargs", {}), **{name: golden.tensors[f"input.{name}"] for name in names}}
    constructor = golden.config["constructor"]
    linear, ntk = (
        float(inputs.get(name) or constructor.get(name) or 1.0) for name in ("rope_scaling_factor", "ntk_factor")
    )
    rates = _rates(network, linear, ntk)
    half = len(inputs["x"]) // 2
    guiding = call["method"] == "forward_with_cfg"
    if not guiding and call["method"] != "forward":
        raise Unsupported
    # the published guidance takes the first half of x for both
    tokens = patches.patchify(torch.cat([inputs["x"][:half]] * 2) if guiding else inputs["x"])
    answer = _answer(network, tokens, inputs["t"], _labelled(labels, inputs["y"]), (rates, None))
    if guiding:
        answer = _guided(answer, float(inputs["cfg_scale"]), slice(0, 3 * patches.config.patch_size**2))
    error = worst([(patches.unpatchify(tokens.with_values(answer)), golden.tensors["output.out"])])
    return error if guiding else weighted(GUIDED, error)


def _labelled(table: Tensor, labels: Tensor) -> Condition:
    """Encode each label; the row after the last class is the null condition."""
    conditioner = ClassLabelConditioner(
        ClassLabelConditioner.Config(num_classes=len(table) - 1, hidden_size=table.shape[1])
    )
    conditioner.load_state_dict({"table.weight": table})
    classes = len(table) - 1
    with torch.no_grad():
        condition = [
            conditioner.null_condition(1) if y == classes else conditioner.encode([y]) for y in labels.tolist()
        ]
    return Condition(pooled=torch.cat([one.pooled for one in condition if one.pooled is not None]))


def _guided(both: Tensor, scale: float, only: slice) -> Tensor:
    """Both halves of the published answer: the first channels guided, the others what each half says."""
    conditional, unconditional = both.chunk(2)
    second = unconditional.clone()
    second[..., only] = cfg(conditional, unconditional, scale)[..., only]
    first = GuidanceConfig(scale, dims=only).combine(conditional, unconditional, None)
    return torch.cat([first, second])


def _built(arguments: PublishedConfig, state: dict[str, Tensor]) -> tuple[Network, Patchify2D]:
    network = Network(arguments.model_dump(), arguments.imagenet)
    network.load_state_dict(state)
    TARGET.place(network)
    return network, Patchify2D(Patchify2D.Config(patch_size=arguments.patch_size, channels=arguments.in_channels))


def _rates(network: Network, linear: float, ntk: float) -> tuple[Tensor, ...]:
    """Published scaling of the rotary frequencies: positions divided by one factor, the base times the other."""
    return tuple(rates / linear for rates in frequencies(network.backbone.config.rope_axes_dim, BASE * ntk))


def _answer(
    network: Network, tokens: Tokens, time: Tensor, condition: Condition, how: tuple[tuple[Tensor, ...], int | None]
) -> Tensor:
    rates, base = how
    width = network.backbone.config.hidden_size // network.backbone.config.num_heads
    scale = None if base is None else proportional_scale(tokens, None, base, width)
    with torch.no_grad():
        narrow = tokens.with_values(tokens.values.to(TARGET.dtype))
        return network(tokens, time, condition, network.backbone.precompute(narrow, reduced(condition), rates, scale))
