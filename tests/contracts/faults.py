"""Parts of data with one planted fault each, made from sound ones, so that the kit can be seen to catch them."""

from __future__ import annotations

import random

import torch
from core.toy import values as toy_values
from torch import nn

from lumina_core.request import Request
from lumina_core.types import Condition, Tokens
from lumina_core.weights.pieces import Draft, Unbuilt, in_format
from lumina_core.weights.tensorfiles import open_weights


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


class Means:
    """Sound features: the mean of each row."""

    name, key = "means", "means-1"

    def __call__(self, items):
        return torch.stack([item.mean(dim=-1).flatten() for item in items])


class BesideOthers(Means):
    def __call__(self, items):
        return super().__call__(items) - super().__call__(items).mean(dim=0)


class Near:
    """A sound metric but for its figures: how near things are to what they should be."""

    name, least, features = "near", 4, Means()

    def figures(self, judged):
        return {"near": (judged.made - judged.real[judged.right]).square().mean(dim=1)}


class InOrder(Near):
    def figures(self, judged):
        return {"near": float((judged.made[0] - judged.real[judged.right[0]]).abs().mean())}


class PerFeature(Near):
    def figures(self, judged):
        return {"near": judged.made.mean(dim=0)}


class OneFile:
    """A sound layout of one file."""

    def knows(self, folder):
        return (folder / "weights.safetensors").is_file()

    def open(self, folder):
        return Unbuilt(toy_values(), open_weights(folder, "weights"))

    def draft(self, model):
        return Draft({"weights": model.weights}, {})


class Rounding(OneFile):
    def draft(self, model):
        return Draft({"weights": in_format(model.weights, torch.bfloat16)}, {})


class Eager(OneFile):
    def knows(self, folder):
        return True
