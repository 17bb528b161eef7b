"""Components with one planted fault each, and the correct ones that they derive from."""

from __future__ import annotations

import random

import torch
from core.toy import values as toy_values
from torch import nn

from lumina_core.checkpoint.lazy_tensors import ExportPlan, LoadedCheckpoint, cast_weights
from lumina_core.checkpoint.safetensors_io import open_weights
from lumina_core.protocols import (
    Autoencoder,
    CheckpointFormat,
    Conditioner,
    Dataset,
    FeatureExtractor,
    GenerationTask,
    Metric,
    Tokenizer,
)
from lumina_core.request import Request
from lumina_core.types import Condition, Tokens


class Rows(Tokenizer):
    """A correct tokenizer: (B, C, L) -> L tokens at (moment, 0, 0)."""

    width = 2

    def patchify(self, latent):
        return self.empty(len(latent), tuple(latent.shape[2:])).with_values(latent.transpose(1, 2).contiguous())

    def unpatchify(self, tokens):
        return tokens.values.transpose(1, 2)

    def empty(self, batch, size):
        (length,) = size
        coordinates = torch.nn.functional.pad(torch.arange(float(length))[:, None], (0, 2))
        return Tokens(torch.zeros(batch, length, 2), coordinates.expand(batch, -1, -1), (size,) * batch)


class TurnedBack(Rows):
    def unpatchify(self, tokens):
        return super().unpatchify(tokens).flip(1)


class Rounded(Rows):
    def patchify(self, latent):
        tokens = super().patchify(latent)
        return tokens.with_values((tokens.values / 2).round() * 2)


class Misplaced(Rows):
    def empty(self, batch, size):
        blank = super().empty(batch, size)
        return Tokens(blank.values, blank.positions + 1, blank.sizes)

    def patchify(self, latent):
        return Rows().patchify(latent)


class Halved(Rows):
    def patchify(self, latent):
        tokens = super().patchify(latent)
        return tokens.with_values(tokens.values.to(torch.float32))


class Careless(Rows):
    def empty(self, batch, size):
        if size[0] % 2:
            raise IndexError("tuple index out of range")
        return super().empty(batch, size)


class Halves(Autoencoder):
    """A correct autoencoder: pairs of neighbours averaged and repeated."""

    channels, downsample_factor = 2, (2,)

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
    downsample_factor = (4,)


class OneWay(Halves):
    def decode(self, latent):
        return super().decode(latent.flip(-1) * -2)


class Letters(nn.Module, Conditioner):
    """A correct conditioner: the letters of a word, padded and masked, and their mean."""

    cross_attention_dim, pooled_dim = 8, 8

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
        return Condition(context=memory, context_mask=real, pooled=(memory * weight).sum(1) / weight.sum(1))

    def null_condition(self, batch):
        return self.encode([" "] * batch)


class Normalised(Letters):
    def encode(self, values):
        condition = super().encode(values)
        return Condition(condition.context, condition.context_mask, condition.pooled - condition.pooled.mean(0))


class Padded(Letters):
    def encode(self, values):
        memory, real = self.rows(values)
        return Condition(context=memory, context_mask=real, pooled=memory.mean(1))


class Unmasked(Letters):
    def encode(self, values):
        condition = super().encode(values)
        return Condition(context=condition.context, pooled=condition.pooled)


class Dropping(Letters):
    def encode(self, values):
        condition = super().encode(values)
        return Condition(condition.context, condition.context_mask, nn.functional.dropout(condition.pooled, 0.5))


class Mute(Letters):
    def null_condition(self, batch):
        return Condition()


class Waves(Dataset):
    """A correct data set."""

    def __len__(self):
        return 5

    def get(self, index, rng):
        return {"wave": torch.sin(torch.arange(6.0) * (index + 1) + rng.random())[None], "label": index}

    def values(self, field):
        return list(range(5))

    def weight(self, index):
        return 1.0


class OfGlobalChance(Waves):
    def get(self, index, rng):
        return {"wave": super().get(index, rng)["wave"] * random.random(), "label": index}


class OfTorchsChance(Waves):
    def get(self, index, rng):
        torch.rand(1)
        return super().get(index, rng)


class Remembering(Waves):
    num_reads = 0

    def get(self, index, rng):
        self.num_reads += 1
        return {**super().get(index, rng), "label": self.num_reads}


class Loud(Waves):
    def get(self, index, rng):
        return {"wave": 100 * super().get(index, rng)["wave"], "label": index}


class Repeating(Waves):
    def values(self, field):
        return [0, 1, 1]


class Weightless(Waves):
    def weight(self, index):
        return 0.0


class Missized(Waves):
    def size(self, index, rng):
        return (7,)


class Growing(Waves):
    def get(self, index, rng):
        return {"wave": torch.full((1, 4 + index), 0.5), "label": index}

    def size(self, index, rng):
        return (4 + index,)


class Grouped(Waves):
    def read_groups(self):
        return [3, 1]


class NoteRequest(Request):
    length: int = 4


class Notes(GenerationTask):
    """A task that is correct except for `save`."""

    Request, data_field, suffixes = NoteRequest, "wave", (".txt",)

    def size(self, request):
        return (request.length,)

    def conditions(self, request):
        return {}

    def negative_conditions(self, request):
        return {}

    def save_grid(self, items, folder, name):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("all", encoding="utf-8")
        return folder / name


class HalfWritten(Notes):
    def encode(self, item, format, metadata):
        return f"{item.tolist()}{metadata}".encode()

    def save(self, item, path, metadata):
        with path.open("w", encoding="utf-8") as file:
            file.write(f"{item.tolist()}")
            file.write(f"{metadata}")


class Untold(Notes):
    def encode(self, item, format, metadata):
        return f"{item.tolist()}".encode()


class Littering(Notes):
    def save(self, item, path, metadata):
        path.with_suffix(".log").write_text("saved", encoding="utf-8")
        path.write_text(f"{item.tolist()}{metadata}", encoding="utf-8")


class Means(FeatureExtractor):
    """Correct features: the mean of each row."""

    name, key = "means", "means-1"

    def __call__(self, items):
        return torch.stack([item.mean(dim=-1).flatten() for item in items])


class BesideOthers(Means):
    def __call__(self, items):
        return super().__call__(items) - super().__call__(items).mean(dim=0)


class Near(Metric):
    """A metric that is correct except for its values: the distance of items from their targets."""

    name, min_samples, feature_extractor = "near", 4, Means()

    def compute(self, inputs):
        return {"near": (inputs.generated - inputs.real[inputs.target_index]).square().mean(dim=1)}


class InOrder(Near):
    def compute(self, inputs):
        return {"near": float((inputs.generated[0] - inputs.real[inputs.target_index[0]]).abs().mean())}


class PerFeature(Near):
    def compute(self, inputs):
        return {"near": inputs.generated.mean(dim=0)}


class OneFile(CheckpointFormat):
    """A correct layout of one file."""

    def matches(self, folder):
        return (folder / "weights.safetensors").is_file()

    def load(self, folder):
        return LoadedCheckpoint(toy_values(), open_weights(folder, "weights"))

    def export(self, model):
        return ExportPlan({"weights": model.weights}, {})


class Rounding(OneFile):
    def export(self, model):
        return ExportPlan({"weights": cast_weights(model.weights, torch.bfloat16)}, {})


class Eager(OneFile):
    def matches(self, folder):
        return True
