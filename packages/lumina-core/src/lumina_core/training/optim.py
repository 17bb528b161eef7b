"""Optimizers (AdamW, Muon), learning-rate schedule, and the exponential moving average of the weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lumina_core.errors import ConfigError, suggest
from lumina_core.protocols import Component
from lumina_core.recipe import TrainingConfig
from lumina_core.training.distributed import local_tensor, transform_matrices


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024): momentum, orthogonalized by a Newton-Schulz iteration, for matrices of hidden layers.

    The update is scaled as in Moonlight (arXiv 2502.16982): 0.2 lr sqrt(max(out, in)) times an orthogonal matrix, whose
    entries have a root mean square of 1 / sqrt(max(out, in)); so the update has one of 0.2 lr, as AdamW's usually has,
    and AdamW's weight decay suits. A fused projection (query, key and value) is orthogonalized as one matrix, and so is
    a convolution (out, in, height, width), as (out, in height width).

    `torch.optim.Muon` (torch >= 2.9) iterates in bfloat16 on every device; this class does so on CUDA only, and
    iterates over all matrices of a shape together. Of sharded matrices, each process gathers its share, iterates, and
    sends the rows back: every matrix is orthogonalized as a whole, once.

    Args:
        parameters: matrices (out, in) and kernels of convolutions, or groups of them.
        lr: learning rate.
        momentum: coefficient of the Nesterov momentum.
        weight_decay: decoupled weight decay, multiplied by the learning rate.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for params in by_shape.values():
                updates = [self._nesterov_update(parameter, group["momentum"]) for parameter in params]
                scale = group["lr"] * 0.2 * max(params[0].flatten(1).shape) ** 0.5
                for parameter, update in zip(params, _orthogonalize(params, updates), strict=True):
                    local = local_tensor(parameter)
                    local.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.view_as(local), alpha=-scale)

    def _nesterov_update(self, parameter: Tensor, momentum: float) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        grad, average = local_tensor(parameter.grad), local_tensor(state["momentum"])
        average.lerp_(grad, 1 - momentum)
        return grad.lerp(average, momentum).flatten(1)


def _orthogonalize(params: Sequence[Tensor], updates: Sequence[Tensor]) -> Sequence[Tensor]:
    """Orthogonalize updates of matrices of one shape; of sharded matrices, this process's rows."""
    if local_tensor(params[0]) is params[0]:
        return list(zeropower_via_newtonschulz(torch.stack(list(updates))))
    return transform_matrices(updates, params[0], zeropower_via_newtonschulz)


def zeropower_via_newtonschulz(matrices: Tensor, steps: int = 5) -> Tensor:
    """Bring the singular values of matrices (B, m, n) near 1 by the quintic Newton-Schulz iteration of Muon."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.mT if tall else x
    return result.to(matrices.dtype)


class OptimizersContainer:
    """One or two optimizers that step together. Each parameter group holds its peak learning rate."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimizers = list(optimizers)
        for group in self._groups():
            group["peak_lr"] = group["lr"]

    def set_lr_factor(self, factor: float) -> None:
        """Set every learning rate to its peak times a factor."""
        for group in self._groups():
            group["lr"] = group["peak_lr"] * factor

    def step(self) -> None:
        """Update the weights."""
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        """Delete the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]


def build_optimizers(model: nn.Module, training: TrainingConfig) -> OptimizersContainer:
    """Build AdamW for all trainable weights, or Muon for hidden matrices and AdamW for the others.

    Hidden matrices, with the kernels of 2D convolutions that mix channels, are those that no component excludes by
    `no_muon`, embedding tables aside. Weights of fewer than two dimensions (norms, gates, biases), and those of
    `no_weight_decay`, have no weight decay.

    Raises:
        ConfigError: everything is frozen, or a pattern of `training.lr_overrides` matches no trainable weight.
    """
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trainable:
        raise ConfigError("training.freeze: got every weight of the model, expected at least one that is trained.")
    overrides = {pattern: lr for pattern, lr in training.lr_overrides.items() if lr is not None}
    for pattern in overrides:
        if not any(pattern in name for name, _ in trainable):
            raise ConfigError(
                f"training.lr_overrides: got '{pattern}', expected part of the name of a trained weight"
                f"{suggest(pattern, {word for name, _ in trainable for word in name.split('.')})}."
            )
    no_weight_decay, no_muon = _declared(model, "no_weight_decay"), _declared(model, "no_muon")
    depths = layer_depths([name for name, _ in trainable])
    embedding_ids = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    groups: dict[tuple[bool, float, float], list[Tensor]] = {}
    for name, parameter in trainable:
        override = next((lr for pattern, lr in overrides.items() if pattern in name), None)
        is_matrix = parameter.ndim == 2 or (parameter.ndim == 4 and parameter.shape[1] > 1)
        is_hidden_matrix = is_matrix and name not in no_muon and id(parameter) not in embedding_ids
        uses_muon = training.optimizer == "muon" and is_hidden_matrix and override is None
        lr = training.muon_lr if uses_muon else training.lr if override is None else override
        lr *= training.layer_decay ** depths[name]
        decays = parameter.ndim >= 2 and name not in no_weight_decay
        groups.setdefault((uses_muon, lr, training.weight_decay if decays else 0.0), []).append(parameter)
    adamw_groups, muon_groups = (
        [
            {"params": params, "lr": lr, "weight_decay": decay}
            for (muon, lr, decay), params in groups.items()
            if muon is m
        ]
        for m in (False, True)
    )
    optimizers: list[torch.optim.Optimizer] = []
    if adamw_groups:
        optimizers.append(torch.optim.AdamW(adamw_groups, lr=training.lr, betas=training.betas, fused=True))
    if muon_groups:
        optimizers.append(Muon(muon_groups, training.muon_lr))
    return OptimizersContainer(optimizers)


def layer_depths(names: Sequence[str]) -> dict[str, int]:
    """Return for each parameter the number of layers between it and the output, for `training.layer_decay`.

    The head, and all that is no part of the backbone, has 0; the last block 1, the first block the number of blocks,
    and the rest of the backbone (the embedding) one more: BEiT (arXiv 2106.08254), as timm counts them.
    """
    blocks = {name: int(match[1]) for name in names if (match := re.match(r"backbone\.blocks\.(\d+)\.", name))}
    count = max(blocks.values(), default=-1) + 1
    return {
        name: count - blocks[name] if name in blocks else count + 1 if name.startswith("backbone.") else 0
        for name in names
    }


def lr_factor(step: int, training: TrainingConfig) -> float:
    """Return the learning rate of a step (the first is 0) over its peak: linear warm-up, constant, then the decay."""
    warmup = min(1.0, (step + 1) / (training.warmup_steps + 1))
    start = training.decay_start * training.steps
    if training.lr_decay == "constant" or step <= start:
        return warmup
    progress = min(1.0, (step - start) / max(1.0, training.steps - start))
    decay_factor = 1 - progress if training.lr_decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return warmup * decay_factor


def _declared(model: nn.Module, method: str) -> set[str]:
    """Return the parameters that components of a model name in `no_muon` or `no_weight_decay`, by their full names."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, Component)
        for name in (module.no_muon() if method == "no_muon" else module.no_weight_decay())
    }


class EMA:
    """Exponential moving average of the trainable weights, and of the floating-point buffers of trained modules.

    The decay of step n (the first is 0) is min(decay, (1 + n) / (10 + n)), so that short runs forget their first steps.
    Integer buffers (a vocabulary) and frozen modules are those of the model. Averages of sharded weights are sharded in
    the same way.

    Attributes:
        weights: the averages by their names in the state dict.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: tensor.detach().clone() for name, tensor in _averaged_tensors(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Add the weights after a step (the first is 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = _averaged_tensors(model)
        averages = [local_tensor(average) for average in self.weights.values()]
        torch._foreach_lerp_(averages, [local_tensor(current[name]) for name in self.weights], 1 - decay)

    def state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the state dict of the model with the averages in place of its weights."""
        return {**model.state_dict(), **self.weights}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Copy the averages from a state dict that `state_dict` returned.

        Raises:
            KeyError: an average is missing.
        """
        self.weights = {name: state_dict[name].to(weight, copy=True) for name, weight in self.weights.items()}


@torch.no_grad()
def swap_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Exchange some weights of a model with tensors of the same shapes; a second call restores both."""
    tensors = _averaged_tensors(model)
    for name, other in weights.items():
        tensor, local = local_tensor(tensors[name]), local_tensor(other)
        values = tensor.clone()
        tensor.copy_(local)
        local.copy_(values)


def _averaged_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {
        **{name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad},
        **trained_buffers(model),
    }


def trained_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return the floating-point buffers in a state dict that modules in training mode may update (running means)."""
    return {
        f"{prefix}.{name}" if prefix else name: buffer
        for prefix, module in model.named_modules()
        if module.training
        for name, buffer in module.named_buffers(recurse=False)
        if buffer.is_floating_point() and name not in module._non_persistent_buffers_set
    }
