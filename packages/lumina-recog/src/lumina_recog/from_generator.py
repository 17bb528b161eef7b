"""From generator to recogniser: features of a trained generator, and weights of a classifier that begins as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lumina_core.errors import ConfigError
from lumina_core.models.next_dit import NextDiTBackbone
from lumina_core.types import Condition, Tokens


def generator_features(model: Any, tokens: Tokens, t: float, layers: Sequence[int], seed: int = 0) -> list[Tensor]:
    """Return the mean hidden states of a generator after some blocks, for images with noise of a time.

    Args:
        model: generator, as `lumina_core.load_model` returns it.
        tokens: clean tokens of images of one size (B, N, D).
        t: time in 0 (noise) to 1 (data): x_t = t x + (1 - t) noise, the linear path.
        layers: blocks, counted from 0.
        seed: of the noise.

    Returns:
        One (B, C) per layer.

    Raises:
        ConfigError: the model has no Next-DiT with time.
    """
    backbone = _timed_backbone(model)
    noise = torch.randn(tokens.values.shape, generator=torch.Generator().manual_seed(seed)).to(tokens.values)
    noisy = tokens.with_values(t * tokens.values + (1 - t) * noise)
    times = torch.full((len(noise),), t, device=noise.device)
    condition = model.null_condition(len(noise))
    states = backbone.forward_intermediates(noisy, times, condition, indices=list(layers))
    return [state.mean(dim=1) for state in states]


@torch.no_grad()
def fold_time(model: Any, t: float = 1.0) -> dict[str, Tensor]:
    """Return the weights of a backbone without time that computes what a generator's computes at one time.

    The modulation of a block at time t under the null condition is a constant: its scales multiply the weights of the
    norms before attention and feed-forward, its gates those of the norms after them. Cross-attention is left out.

    Args:
        model: generator with a Next-DiT, as `lumina_core.load_model` returns it.
        t: the time, 0 (noise) to 1 (data).

    Returns:
        Weights by name, `backbone.embed.weight`, ..., for a backbone of equal sizes with `time_conditioned: false`.

    Raises:
        ConfigError: the model has no Next-DiT with time, or no weights in the norms before its blocks.
    """
    backbone = _timed_backbone(model)
    assert backbone.time_embed is not None  # checked above
    modulation = backbone.time_embed(backbone.network_time(torch.tensor([t], device=model.device)))
    pooled: Condition = model.null_condition(1)
    if pooled.pooled is not None:
        embedded = pooled.pooled if backbone.pooled_embed is None else backbone.pooled_embed(pooled.pooled)
        modulation = modulation + embedded
    weights: dict[str, Tensor] = {}
    for name, tensor in backbone.state_dict().items():
        if not name.startswith(("time_embed.", "pooled_embed.", "token_condition_embed.")) and not _SKIPPED & set(
            name.split(".")
        ):
            weights[f"backbone.{name}"] = tensor.clone()
    for index, block in enumerate(backbone.blocks):
        scale_a, gate_a, scale_f, gate_f = block.modulation(F.silu(modulation))[0].chunk(4)  # type: ignore[operator]
        for norm, factor in (
            ("attention_norm1", 1 + scale_a), ("attention_norm2", gate_a.tanh()),
            ("ffn_norm1", 1 + scale_f), ("ffn_norm2", gate_f.tanh()),
        ):  # fmt: skip
            name = f"backbone.blocks.{index}.{norm}.weight"
            if name not in weights:
                raise ConfigError(
                    f"model: got norms without weights (weighted_pre_norm: false), expected {norm}.weight to fold into."
                )
            weights[name] = weights[name] * factor
    return weights


_SKIPPED = {"modulation", "context_norm", "context_kv", "context_k_norm", "gate"}


def _timed_backbone(model: Any) -> NextDiTBackbone:
    backbone = model.backbone
    if not isinstance(backbone, NextDiTBackbone) or backbone.time_embed is None:
        found = type(backbone).__name__
        raise ConfigError(f"model: got a model with {found}, expected a generator with core.next_dit and time.")
    return backbone


def probe_accuracy(
    features: Mapping[str, Tensor], labels: Mapping[str, Tensor], weight_decay: float = 1e-2
) -> tuple[float, float]:
    """Fit a linear probe by ridge regression on one-hot labels; returns accuracy and macro mean on `test`.

    Args:
        features: `train` and `test`, (N, C) each.
        labels: `train` and `test`, (N,) class indices.
        weight_decay: of the standardized features, over their number.
    """
    mean, std = features["train"].mean(dim=0), features["train"].std(dim=0) + 1e-6
    train, test = (F.pad((features[split] - mean) / std, (0, 1), value=1.0).double() for split in ("train", "test"))
    count = int(labels["train"].max()) + 1
    targets = F.one_hot(labels["train"], count).double()
    # classes count the same, whatever their number of examples
    weights = (1 / targets.sum(dim=0).clamp(min=1))[labels["train"]][:, None]
    gram = train.T @ (train * weights) + weight_decay * torch.eye(train.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(gram, train.T @ (targets * weights))
    correct = ((test @ solution).argmax(dim=1) == labels["test"]).float()
    per_class = [correct[labels["test"] == label].mean() for label in labels["test"].unique()]
    return float(correct.mean()), float(torch.stack(per_class).mean())
