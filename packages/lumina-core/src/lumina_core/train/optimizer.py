"""Which optimizer moves which weights, and how fast at which step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lumina_core.errors import ConfigError
from lumina_core.recipe import Training
from lumina_core.train.muon import Muon


class Optimizers:
    """One or two optimizers that step together; each group remembers its peak rate."""

    def __init__(self, members: Sequence[torch.optim.Optimizer]) -> None:
        self.members = list(members)
        for member in self.members:
            for group in member.param_groups:
                group["peak"] = group["lr"]

    def set_share(self, share: float) -> None:
        """Set every rate to this share of its peak."""
        for member in self.members:
            for group in member.param_groups:
                group["lr"] = group["peak"] * share

    def step(self) -> None:
        """Move the weights."""
        for member in self.members:
            member.step()

    def clear(self) -> None:
        """Forget the gradients."""
        for member in self.members:
            member.zero_grad(set_to_none=True)


def make_optimizers(model: nn.Module, training: Training) -> Optimizers:
    """AdamW for all, or Muon for the backbone's matrices and AdamW for the rest; norms, gates and biases do not decay.

    Raises:
        ConfigError: everything is frozen, or a word of `training.rates` names nothing.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trained:
        raise ConfigError("training.freeze leaves nothing to train")
    unused = [word for word in training.rates if not any(word in name for name, _ in trained)]
    if unused:
        raise ConfigError(f"training.rates names '{unused[0]}', and no trained weight is called so")
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    apart = tables | {id(p) for name, p in trained if _named(name, training)}
    matrices = [p for name, p in trained if _hidden_matrix(name, p) and id(p) not in apart]
    turned = matrices if training.optimizer == "muon" else []
    taken = {id(p) for p in turned}
    rest = [(name, p) for name, p in trained if id(p) not in taken]
    members: list[torch.optim.Optimizer] = [_adamw(rest, training)] if rest else []
    if turned:
        members.append(Muon(turned, training.muon_rate, weight_decay=training.weight_decay))
    return Optimizers(members)


def share_of_rate(step: int, training: Training) -> float:
    """The share of the peak rate at a step (0 the first): a linear rise, then level, then the chosen fall to 0."""
    rising = min(1.0, (step + 1) / (training.warmup + 1))
    start = training.decay_from * training.steps
    if training.decay == "constant" or step <= start:
        return rising
    done = min(1.0, (step - start) / max(1.0, training.steps - start))
    falling = 1 - done if training.decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return rising * falling


def _hidden_matrix(name: str, parameter: Tensor) -> bool:
    # embeddings are looked up, not multiplied; the first and last layers and the modulation do better with AdamW
    outer = ("embed", "head.", "modulation", "to_slots", "to_foretold")
    return parameter.ndim == 2 and not any(word in name for word in outer)


def _named(name: str, training: Training) -> str | None:
    """The first word of `training.rates` that is part of a weight's name."""
    return next((word for word in training.rates if word in name), None)


def _adamw(named: Iterable[tuple[str, Tensor]], training: Training) -> torch.optim.Optimizer:
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in named:
        word = _named(name, training)
        rate = training.rate if word is None else training.rates[word]
        decay = training.weight_decay if parameter.ndim >= 2 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    several = [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in groups.items()]
    return torch.optim.AdamW(several, lr=training.rate, betas=training.betas, fused=True)
