"""Which optimizer moves which weights, and how fast at which step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lumina_core.errors import ConfigError
from lumina_core.recipe import TrainingConfig


class Muon(torch.optim.Optimizer):
    """For the matrices of hidden layers: every direction of the update gets the same length.

    torch.optim.Muon exists since torch 2.9, iterates in bfloat16 always (very slow on processors without it) and treats
    a fused projection as one matrix; here the iteration runs in float32 on the CPU, and matrices of one shape run
    together.

    Args:
        parameters: matrices (out, in).
        rate: learning rate; an update has a root mean square of about 0.2 rate sqrt(max(out, in)) / sqrt(min) entries,
            scaled as in Moonlight (arXiv 2502.16982) so that AdamW's weight decay suits.
        momentum: Nesterov momentum.
        weight_decay: decoupled, times the rate.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient; matrices of one shape share one batched iteration."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for params in by_shape.values():
                self._update(params, group["lr"], group["momentum"], group["weight_decay"])

    def _update(self, params: list[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        updates = torch.stack([self._nesterov_update(parameter, momentum) for parameter in params])
        orthogonalized = zeropower_via_newtonschulz(updates)
        scale = lr * 0.2 * max(orthogonalized.shape[-2:]) ** 0.5
        for parameter, update in zip(params, orthogonalized, strict=True):
            parameter.mul_(1 - lr * weight_decay).add_(update, alpha=-scale)

    def _nesterov_update(self, parameter: Tensor, momentum: float) -> Tensor:
        gradient = parameter.grad
        assert gradient is not None  # step() asked
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum"], momentum)


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


HIDDEN_EMBEDDINGS = ("time_embed.", "pooled_embed.", "position_embedding")
"""Parts of the names of weights that are trained as hidden matrices, though they are called embeddings."""


class OptimizersContainer:
    """One or two optimizers that step together; each group remembers its peak rate."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimizers = list(optimizers)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["peak_lr"] = group["lr"]

    def set_lr_factor(self, factor: float) -> None:
        """Set every rate to this share of its peak."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor

    def step(self) -> None:
        """Move the weights."""
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)


def build_optimizers(model: nn.Module, training: TrainingConfig) -> OptimizersContainer:
    """AdamW for all, or Muon for the backbone's matrices and AdamW for the rest; norms, gates and biases do not decay.

    Raises:
        ConfigError: everything is frozen, or a word of `training.lr_overrides` names nothing.
    """
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trainable:
        raise ConfigError("training.freeze leaves nothing to train")
    unused = [pattern for pattern in training.lr_overrides if not any(pattern in name for name, _ in trainable)]
    if unused:
        raise ConfigError(f"training.lr_overrides names '{unused[0]}', and no trained weight is called so")
    embedding_ids = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    adamw_ids = embedding_ids | {id(p) for name, p in trainable if _lr_pattern(name, training)}
    matrices = [p for name, p in trainable if _is_hidden_matrix(name, p) and id(p) not in adamw_ids]
    muon_params = matrices if training.optimizer == "muon" else []
    muon_ids = {id(p) for p in muon_params}
    adamw_params = [(name, p) for name, p in trainable if id(p) not in muon_ids]
    optimizers: list[torch.optim.Optimizer] = [_make_adamw(adamw_params, training)] if adamw_params else []
    if muon_params:
        optimizers.append(Muon(muon_params, training.muon_lr, weight_decay=training.weight_decay))
    return OptimizersContainer(optimizers)


def lr_factor(step: int, training: TrainingConfig) -> float:
    """The share of the peak rate at a step (0 the first): a linear rise, then level, then the chosen fall to 0."""
    warmup = min(1.0, (step + 1) / (training.warmup_steps + 1))
    start = training.decay_start * training.steps
    if training.lr_decay == "constant" or step <= start:
        return warmup
    progress = min(1.0, (step - start) / max(1.0, training.steps - start))
    decay_factor = 1 - progress if training.lr_decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return warmup * decay_factor


def _is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    # embeddings are looked up, not multiplied; the first and last layers and the modulation do better with AdamW
    excluded = ("embed", "head.", "modulation", "to_latents", "to_target")
    for hidden in HIDDEN_EMBEDDINGS:
        name = name.replace(hidden, "")
    return parameter.ndim == 2 and not any(word in name for word in excluded)


def _lr_pattern(name: str, training: TrainingConfig) -> str | None:
    """The first word of `training.lr_overrides` that is part of a weight's name."""
    return next((pattern for pattern in training.lr_overrides if pattern in name), None)


def _make_adamw(named_params: Iterable[tuple[str, Tensor]], training: TrainingConfig) -> torch.optim.Optimizer:
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in named_params:
        pattern = _lr_pattern(name, training)
        lr = training.lr if pattern is None else training.lr_overrides[pattern]
        weight_decay = training.weight_decay if parameter.ndim >= 2 else 0.0
        groups.setdefault((lr, weight_decay), []).append(parameter)
    param_groups = [
        {"params": params, "lr": lr, "weight_decay": weight_decay} for (lr, weight_decay), params in groups.items()
    ]
    return torch.optim.AdamW(param_groups, lr=training.lr, betas=training.betas, fused=True)


class EMA:
    """The running average of the weights (EMA), with the published warm-up-free form made usable on short runs.

    The share that is kept grows as (1 + n) / (10 + n) up to `kept`, so that early noise is forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after step `number` (0 the first)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = dict(model.named_parameters())
        torch._foreach_lerp_(list(self.weights.values()), [current[name] for name in self.weights], 1 - decay)

    def state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """A whole state dict of the model with the averaged weights in it."""
        return {**model.state_dict(), **self.weights}
