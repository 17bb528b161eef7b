"""Parts with one planted fault each, made from sound ones, so that the kit can be seen to catch them."""

from __future__ import annotations

import random

import torch
from backbones import next_dit
from torch import nn

from lumina_core.builtin.velocity import VelocityHead
from lumina_core.flow.guidance import guided
from lumina_core.flow.objective import FlowMatching
from lumina_core.flow.path import Linear
from lumina_core.flow.solver import midpoint
from lumina_core.flow.times import Uniform, UniformGrid
from lumina_core.request import Request
from lumina_core.types import Condition, Hidden, Tokens


class Rows:
    """A sound tokenizer: (B, C, L) -> L tokens at (moment, 0, 0)."""

    width = 2

    def tokens(self, latent):
        return self.blank(len(latent), tuple(latent.shape[2:])).with_values(latent.transpose(1, 2).contiguous())

    def latent(self, tokens):
        return tokens.values.transpose(1, 2)

    def blank(self, batch, extent):
        (length,) = extent
        places = torch.nn.functional.pad(torch.arange(float(length))[:, None], (0, 2))
        return Tokens(torch.zeros(batch, length, 2), places.expand(batch, -1, -1), (extent,) * batch)


class TurnedBack(Rows):
    def latent(self, tokens):
        return super().latent(tokens).flip(1)


class Rounded(Rows):
    def tokens(self, latent):
        tokens = super().tokens(latent)
        return tokens.with_values((tokens.values / 2).round() * 2)


class Misplaced(Rows):
    def blank(self, batch, extent):
        blank = super().blank(batch, extent)
        return Tokens(blank.values, blank.positions + 1, blank.extents)

    def tokens(self, latent):
        return Rows().tokens(latent)


class Halved(Rows):
    def tokens(self, latent):
        tokens = super().tokens(latent)
        return tokens.with_values(tokens.values.to(torch.float32))


class Careless(Rows):
    def blank(self, batch, extent):
        if extent[0] % 2:
            raise IndexError("tuple index out of range")
        return super().blank(batch, extent)


class Halves:
    """A sound autoencoder: pairs of neighbours averaged and repeated."""

    channels, stride = 2, (2,)

    def encode(self, data):
        return nn.functional.avg_pool1d(data, 2) * 1.4

    def decode(self, latent):
        return latent.repeat_interleave(2, dim=-1) / 1.4


class Unscaled(Halves):
    def encode(self, data):
        return super().encode(data) / 0.18215 * 2

    def decode(self, latent):
        return super().decode(latent * 0.18215 / 2)


class OfAnotherStride(Halves):
    stride = (4,)


class OneWay(Halves):
    def decode(self, latent):
        return super().decode(latent.flip(-1) * -2)


class Letters(nn.Module):
    """A sound conditioner: the letters of a word, padded and masked, and their mean."""

    memory_width, summary_width = 8, 8

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(128, 8)

    def rows(self, values):
        longest = max(len(value) for value in values)
        numbers = torch.tensor([[ord(c) for c in v] + [0] * (longest - len(v)) for v in values])
        return self.table(numbers), numbers != 0

    def encode(self, values):
        memory, real = self.rows(values)
        weight = real[..., None].to(memory)
        return Condition(memory=memory, memory_mask=real, summary=(memory * weight).sum(1) / weight.sum(1))

    def nothing(self, batch):
        return self.encode([" "] * batch)


class Normalised(Letters):
    def encode(self, values):
        said = super().encode(values)
        return Condition(said.memory, said.memory_mask, said.summary - said.summary.mean(0))


class Padded(Letters):
    def encode(self, values):
        memory, real = self.rows(values)
        return Condition(memory=memory, memory_mask=real, summary=memory.mean(1))


class Unmasked(Letters):
    def encode(self, values):
        said = super().encode(values)
        return Condition(memory=said.memory, summary=said.summary)


class Dropping(Letters):
    def encode(self, values):
        said = super().encode(values)
        return Condition(said.memory, said.memory_mask, nn.functional.dropout(said.summary, 0.5))


class Mute(Letters):
    def nothing(self, batch):
        return Condition()


class Waves:
    """A sound data set."""

    def __len__(self):
        return 5

    def example(self, index, draw):
        return {"wave": torch.sin(torch.arange(6.0) * (index + 1) + draw.random())[None], "label": index}

    def values(self, field):
        return list(range(5))

    def weight(self, index):
        return 1.0


class OfGlobalChance(Waves):
    def example(self, index, draw):
        return {"wave": super().example(index, draw)["wave"] * random.random(), "label": index}


class OfTorchsChance(Waves):
    def example(self, index, draw):
        torch.rand(1)
        return super().example(index, draw)


class Remembering(Waves):
    seen = 0

    def example(self, index, draw):
        self.seen += 1
        return {**super().example(index, draw), "label": self.seen}


class Loud(Waves):
    def example(self, index, draw):
        return {"wave": 100 * super().example(index, draw)["wave"], "label": index}


class Repeating(Waves):
    def values(self, field):
        return [0, 1, 1]


class Weightless(Waves):
    def weight(self, index):
        return 0.0


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


class NoteRequest(Request):
    length: int = 4


class Notes:
    """A sound task but for `save`."""

    Request, data_field, suffix = NoteRequest, "wave", ".txt"

    def extent(self, request):
        return (request.length,)

    def conditions(self, request):
        return {}

    def silences(self, request):
        return {}

    def save_grid(self, items, folder, name):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("all", encoding="utf-8")
        return folder / name


class HalfWritten(Notes):
    def save(self, item, path, record):
        with path.open("w", encoding="utf-8") as file:
            file.write(f"{item.tolist()}")
            file.write(f"{record}")


class Untold(Notes):
    def save(self, item, path, record):
        path.write_text(f"{item.tolist()}", encoding="utf-8")


class Littering(Notes):
    def save(self, item, path, record):
        path.with_suffix(".log").write_text("saved", encoding="utf-8")
        path.write_text(f"{item.tolist()}{record}", encoding="utf-8")
