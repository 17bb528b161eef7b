"""Parts that move and network parts with one planted fault each: times, solvers, guidance, paths, heads, losses."""

from __future__ import annotations

import torch
from backbones import next_dit
from torch import nn

from lumina_core.builtin.velocity import VelocityHead
from lumina_core.flow.guidance import guided
from lumina_core.flow.objective import FlowMatching
from lumina_core.flow.path import Linear
from lumina_core.flow.solver import midpoint
from lumina_core.flow.times import Uniform, UniformGrid
from lumina_core.types import Condition, Hidden, Tokens


class Short:
    def __call__(self, steps):
        return torch.linspace(0, 0.999, steps + 1, dtype=torch.float64)


class Standing:
    def __call__(self, steps):
        return UniformGrid(UniformGrid.Config())(steps).mul(1.5).clamp(max=1.0)


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
    """Claims the second order; a wrong half."""
    step = u - t
    return x + step * velocity(x + step / 3 * velocity(x, t), t + step / 3)


class Multistep:
    """Keeps the slope of the step before."""

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


def off_by_one(conditional, silent, scale):
    return conditional + scale * (conditional - silent)


def rescaled_by_the_batch(conditional, silent, scale):
    mixed = guided(conditional, silent, scale)
    return mixed if scale == 1 else mixed * conditional.std() / mixed.std()


class Bent(Linear):
    def alpha_slope(self, time):
        return torch.ones_like(time) * 1.1


class Reversed(Linear):
    def alpha(self, time):
        return 1 - time

    def sigma(self, time):
        return time


def velocity_head():
    return VelocityHead(VelocityHead.Config(width=16, token_width=4, modulation_width=16))


class Mixing(VelocityHead):
    """Takes the mean over all tokens, padding too."""

    def forward(self, hidden, tokens):
        return super().forward(Hidden(hidden.values - hidden.values.mean(1, keepdim=True), hidden.modulation), tokens)


class Pooling(nn.Module):
    """Classes from the mean over all tokens, padding too."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 3)

    def forward(self, hidden, tokens):
        return self.linear(hidden.values.mean(1))


def flow(kind=FlowMatching):
    return kind(FlowMatching.Config(), Linear(Linear.Config()), Uniform(Uniform.Config()))


class Unmasking(FlowMatching):
    def items(self, predict, batch, time, noise):
        open_ = type(batch)(Tokens(batch.tokens.values, batch.tokens.positions, batch.tokens.extents), batch.condition)
        masked = batch.tokens.mask
        return super().items(
            lambda t, time, c: predict(Tokens(t.values, t.positions, t.extents, masked), time, c), open_, time, noise
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
    """A backbone that forgets the tokens' mask."""

    def __init__(self):
        super().__init__()
        self.inner = next_dit()
        self.config, self.modulation_width = self.inner.config, self.inner.modulation_width

    def prepare(self, tokens, condition):
        return self.inner.prepare(Tokens(tokens.values, tokens.positions, tokens.extents), condition)

    def forward(self, tokens, time, condition, *, prepared=None):
        open_ = Tokens(tokens.values, tokens.positions, tokens.extents)
        return self.inner(open_, time, condition, prepared=prepared)


class Forgetful(Leaking):
    """A backbone that forgets the memory's mask."""

    def prepare(self, tokens, condition):
        return self.inner.prepare(tokens, Condition(memory=condition.memory, summary=condition.summary))

    def forward(self, tokens, time, condition, *, prepared=None):
        ready = self.prepare(tokens, condition) if prepared is None else prepared
        return self.inner(tokens, time, condition, prepared=ready)


class Apart(nn.Module):
    """A backbone that mixes nothing."""

    def __init__(self):
        super().__init__()
        self.inner = next_dit(memory_width=0, summary_width=0)
        self.linear = nn.Linear(6, 32)
        self.config, self.modulation_width = self.inner.config, self.inner.modulation_width

    def prepare(self, tokens, condition):
        return None

    def forward(self, tokens, time, condition, *, prepared=None):
        return Hidden(self.linear(tokens.values), torch.zeros(len(tokens.extents), 32))


class Faster:
    """The wrong way round."""

    timed, trained = False, None

    def __call__(self, rates, canvas, time):
        return tuple(r * n / t for r, n, t in zip(rates, canvas.lengths, canvas.trained, strict=True))


class Denying(Faster):
    """Says that the time does not matter."""

    def __call__(self, rates, canvas, time):
        return tuple(r * (t / n) ** time for r, n, t in zip(rates, canvas.lengths, canvas.trained, strict=True))


class Tiring:
    """Averages in other blocks each time it is asked."""

    window, asked = (1, 2, 2), 0

    def pooled(self, depth, time):
        self.asked += 1
        return tuple((block + self.asked) % 2 == 0 for block in range(depth))


class Gregarious:
    """Asks the blocks again where a row has changed more than its neighbours."""

    def again(self, change, left_out):
        return change >= change.mean()


class Remembering:
    """A two-step solver that keeps the slope in itself instead of carrying it."""

    slope = None

    def init(self, draw):
        return None

    def step(self, velocity, x, t, u, carried):
        before, self.slope = self.slope, velocity(x, t)
        return x + (u - t) * (self.slope if before is None else 1.5 * self.slope - 0.5 * before), None
