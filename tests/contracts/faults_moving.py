"""Flow and network components with one planted fault each: times, solvers, guidance, paths, heads, losses."""

from __future__ import annotations

import torch
from backbones import next_dit
from torch import nn

from lumina_core.flow.loss import FlowMatching
from lumina_core.flow.path import LinearPath
from lumina_core.flow.schedules import UniformSchedule, UniformTimeSampler
from lumina_core.flow.solvers import midpoint
from lumina_core.models.heads import VelocityHead
from lumina_core.protocols import AttentionTransform, RopeScaling, Solver
from lumina_core.sampling.velocity import cfg
from lumina_core.types import BackboneOutput, Condition, Tokens


class Short:
    def __call__(self, steps):
        return torch.linspace(0, 0.999, steps + 1, dtype=torch.float64)


class Standing:
    def __call__(self, steps):
        return UniformSchedule(UniformSchedule.Config())(steps).mul(1.5).clamp(max=1.0)


class Coarse:
    def __call__(self, steps):
        return torch.linspace(0, 1, steps + 1)


class Impatient:
    def __call__(self, generators):
        return torch.rand(len(generators))


class Sharing:
    def __call__(self, generators):
        return torch.rand(len(generators), generator=generators[0])


def first_order(velocity, x, t, u):
    """A solver that claims order two and takes a wrong half step."""
    step = u - t
    return x + step * velocity(x + step / 3 * velocity(x, t), t + step / 3)


class Multistep:
    """A solver that stores the slope of the last step."""

    __name__, slope = "Multistep", None

    def __call__(self, velocity, x, t, u):
        before, self.slope = self.slope, velocity(x, t)
        return x + (u - t) * (self.slope if before is None else 1.5 * self.slope - 0.5 * before)


def in_place(velocity, x, t, u):
    return x.add_((u - t) * velocity(x, t))


def backwards(velocity, x, t, u):
    return x - (u - t) * velocity(x, t)


def beyond(velocity, x, t, u):
    velocity(x, u + (u - t))
    return midpoint(velocity, x, t, u)


def off_by_one(conditional, unconditional, scale):
    return conditional + scale * (conditional - unconditional)


def rescaled_by_the_batch(conditional, unconditional, scale):
    mixed = cfg(conditional, unconditional, scale)
    return mixed if scale == 1 else mixed * conditional.std() / mixed.std()


class Bent(LinearPath):
    def d_alpha(self, t):
        return torch.ones_like(t) * 1.1


class Reversed(LinearPath):
    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return t


def velocity_head():
    return VelocityHead(VelocityHead.Config(hidden_size=16, token_dim=4, modulation_dim=16))


class Mixing(VelocityHead):
    """An objective that averages over all tokens, including padding."""

    def forward(self, hidden, tokens):
        return super().forward(
            BackboneOutput(hidden.hidden_states - hidden.hidden_states.mean(1, keepdim=True), hidden.modulation), tokens
        )


class Pooling(nn.Module):
    """A head that classifies the mean over all tokens, including padding."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 3)

    def forward(self, hidden, tokens):
        return self.linear(hidden.hidden_states.mean(1))


def flow(objective=FlowMatching):
    return objective(
        FlowMatching.Config(), LinearPath(LinearPath.Config()), UniformTimeSampler(UniformTimeSampler.Config())
    )


class Unmasking(FlowMatching):
    def per_sample_loss(self, predict, batch, time, noise):
        open_ = type(batch)(Tokens(batch.tokens.values, batch.tokens.positions, batch.tokens.sizes), batch.condition)
        masked = batch.tokens.mask
        return super().per_sample_loss(
            lambda t, time, c: predict(Tokens(t.values, t.positions, t.sizes, masked), time, c), open_, time, noise
        )


class OwnChance(FlowMatching):
    def loss(self, predict, batch, generators):
        return super().loss(
            predict, batch, [torch.Generator().manual_seed(int(torch.randint(9999, ()))) for _ in generators]
        )


class Neighbours(FlowMatching):
    def loss(self, predict, batch, generators):
        return super().loss(predict, batch, generators[::-1])


class Leaking(nn.Module):
    """A backbone that ignores the mask of the tokens."""

    def __init__(self):
        super().__init__()
        self.inner = next_dit()
        self.config, self.modulation_dim = self.inner.config, self.inner.modulation_dim

    def precompute(self, tokens, condition):
        return self.inner.precompute(Tokens(tokens.values, tokens.positions, tokens.sizes), condition)

    def forward(self, tokens, time, condition, *, precomputed=None):
        open_ = Tokens(tokens.values, tokens.positions, tokens.sizes)
        return self.inner(open_, time, condition, precomputed=precomputed)


class Forgetful(Leaking):
    """A backbone that ignores the mask of the context."""

    def precompute(self, tokens, condition):
        return self.inner.precompute(tokens, Condition(context=condition.context, pooled=condition.pooled))

    def forward(self, tokens, time, condition, *, precomputed=None):
        ready = self.precompute(tokens, condition) if precomputed is None else precomputed
        return self.inner(tokens, time, condition, precomputed=ready)


class Apart(nn.Module):
    """A backbone that mixes nothing."""

    def __init__(self):
        super().__init__()
        self.inner = next_dit(cross_attention_dim=0, pooled_dim=0)
        self.linear = nn.Linear(6, 32)
        self.config, self.modulation_dim = self.inner.config, self.inner.modulation_dim

    def precompute(self, tokens, condition):
        return None

    def forward(self, tokens, time, condition, *, precomputed=None):
        return BackboneOutput(self.linear(tokens.values), torch.zeros(len(tokens.sizes), 32))


class Constant:
    """Encodes nothing."""

    theta = 10000.0

    def frequencies(self, device=None):
        return (torch.ones(4),) * 3

    def __call__(self, positions, freqs):
        return (AttentionTransform(),)


class Faster(RopeScaling):
    """An encoding with reversed order."""

    def __call__(self, freqs, rope_context, t):
        return tuple(f * n / m for f, n, m in zip(freqs, rope_context.lengths, rope_context.train_lengths, strict=True))


class Denying(Faster):
    """A scaling that claims not to depend on time."""

    def __call__(self, freqs, rope_context, t):
        return tuple(
            f * (m / n) ** t for f, n, m in zip(freqs, rope_context.lengths, rope_context.train_lengths, strict=True)
        )


class Tiring:
    """A context drop that averages in other blocks on each call."""

    window, num_calls = (1, 2, 2), 0

    def dropped_blocks(self, num_layers, t):
        self.num_calls += 1
        return tuple((block + self.num_calls) % 2 == 0 for block in range(num_layers))


class Gregarious:
    """A block cache that evaluates blocks again if a row has changed more than its neighbours."""

    def should_recompute(self, change, num_skipped):
        return change >= change.mean()


class Remembering(Solver):
    """A two-step solver that stores the slope on the object instead of in its state."""

    slope = None

    def init(self, draw):
        return None

    def step(self, velocity, x, t, u, carried):
        before, self.slope = self.slope, velocity(x, t)
        return x + (u - t) * (self.slope if before is None else 1.5 * self.slope - 0.5 * before), None


class DataAsNoise:
    """Coupling that returns the data."""

    def __call__(self, noise, tokens):
        return tokens.values


class RandomCoupling:
    """Coupling that permutes the items in another order on each call."""

    num_calls = 0

    def __call__(self, noise, tokens):
        self.num_calls += 1
        return noise if tokens.mask is not None else noise.roll(self.num_calls, 0)
