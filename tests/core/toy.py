"""A tiny modality for the core's tests: short signals with a label and a word. Also a plugin, for commands."""

from __future__ import annotations

import json
import os
import time
from functools import lru_cache
from importlib import import_module

import torch
from torch import nn

from lumina_core import hookimpl
from lumina_core.config import Config as Settings
from lumina_core.plugins.loader import Candidate, load_from
from lumina_core.plugins.registry import PluginSource
from lumina_core.protocols import Autoencoder, Conditioner, Dataset, GenerationTask, Tokenizer
from lumina_core.recipe import Recipe, read_recipe
from lumina_core.request import Request
from lumina_core.types import Condition, Tokens

LABELS, LENGTH, CHANNELS = 3, 6, 2
WORDS = ("low", "middle", "high")


class Steps(Tokenizer):
    """Tokenizer: a signal (B, C, L) -> L tokens of C numbers at (moment, 0, 0)."""

    class Config(Settings):
        channels: int = CHANNELS

    def __init__(self, config):
        self.width = config.channels

    def patchify(self, latent):
        batch, _, length = latent.shape
        return Tokens(latent.transpose(1, 2).contiguous(), self._positions(batch, length), ((length,),) * batch)

    def unpatchify(self, tokens):
        return tokens.values.transpose(1, 2)

    def empty(self, batch, size):
        return Tokens(torch.zeros(batch, size[0], self.width), self._positions(batch, size[0]), (size,) * batch)

    def _positions(self, batch, length):
        moments = torch.arange(float(length))
        return torch.stack([moments, 0 * moments, 0 * moments], dim=-1).expand(batch, -1, -1)


class Identity(Autoencoder):
    """Autoencoder: the signal is its own latent."""

    class Config(Settings):
        pass

    channels, downsample_factor = CHANNELS, (1,)

    def __init__(self, config):
        self.config = config

    def encode(self, data):
        return data

    def decode(self, latent):
        return latent


class Words(nn.Module, Conditioner):
    """Conditioner: a word -> a context of its letters; counts how often it reads."""

    cross_attention_dim, pooled_dim = 8, 0

    class Config(Settings):
        cacheable: bool = False

    def __init__(self, config):
        super().__init__()
        self.cacheable, self.read = config.cacheable, []
        self.table = nn.Embedding(128, 8)
        self.mix = nn.Linear(8, 8)

    def encode(self, values):
        self.read.extend(values)
        longest = max(len(value) for value in values)
        letters = torch.tensor([[ord(c) for c in v] + [0] * (longest - len(v)) for v in values])
        return Condition(context=self.mix(self.table(letters)), context_mask=letters != 0)

    def null_condition(self, batch):
        zero = torch.zeros(batch, 1, dtype=torch.int64)
        return Condition(context=self.mix(self.table(zero)), context_mask=torch.ones(batch, 1, dtype=torch.bool))


class Signals(Dataset):
    """Data set: waves whose shape follows the label; phase and which of two words are drawn."""

    class Config(Settings):
        count: int = 7
        mixed: bool = False
        weighted: bool = False
        buckets: bool = False
        length: int = LENGTH

    def __init__(self, config):
        self.config, self.variable_size = config, config.buckets

    def __len__(self):
        return self.config.count

    def get(self, index, rng):
        time.sleep(float(os.environ.get("TOY_DELAY", "0")))
        label = index % LABELS
        (length,) = self.size(index, rng)
        moments = torch.arange(float(length))
        phase = rng.random()
        signal = torch.stack([torch.sin(moments * (label + 1) + phase), torch.cos(moments + phase)])
        return {"signal": signal, "label": label, "word": rng.choice([WORDS[label], WORDS[label].upper()])}

    def size(self, index, rng):
        return (self.config.length - index % 3 if self.config.mixed else self.config.length,)

    def values(self, field):
        return list(range(LABELS)) if field == "label" else list(WORDS)

    def weight(self, index):
        return 1.0 + index if self.config.weighted else 1.0


class ToyRequest(Request):
    """Options of a request."""

    label: int | None = None
    word: str | None = None
    negative_word: str | None = None
    length: int = LENGTH


class Make(GenerationTask):
    """Task: a label or a word in, a signal out."""

    Request, data_field = ToyRequest, "signal"

    class Config(Settings):
        pass

    def __init__(self, config):
        self.config = config

    def size(self, request):
        return (request.length,)

    def conditions(self, request):
        fields = {"label": request.label, "word": request.word}
        return {field: [value] for field, value in fields.items() if value is not None}

    def request_for(self, fields):
        return {"word": fields["word"]}

    def negative_conditions(self, request):
        return {} if request.negative_word is None else {"word": [request.negative_word]}

    def encode(self, item, format, metadata):
        return json.dumps({"data": item.tolist(), **metadata}).encode()

    def save_grid(self, items, folder, name):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.json"
        path.write_text(json.dumps([item.tolist() for item in items]))
        return path


@hookimpl
def lumina_register_components(components):
    """What this plugin brings."""
    components.tokenizer("toy.steps", "core.toy:Steps", "a token a moment")
    components.autoencoder("toy.identity", "core.toy:Identity", "none")
    components.conditioner("toy.words", "core.toy:Words", "letters")
    components.dataset("toy.signals", "core.toy:Signals", "waves")
    components.task("toy.make", "core.toy:Make", "a signal from a label")
    if "TOY_METRIC" in os.environ:
        components.metric("toy.distance", "core.evaluation.test_evaluate:Distance", "distance of sums")


@lru_cache(maxsize=1)
def registry():
    """The core and this plugin, whatever else is installed."""
    sources = {"core": "lumina_core.components", "toy": "core.toy"}
    found = [
        Candidate(PluginSource(n, f"lumina-{n}", "0"), (), lambda m=m: import_module(m)) for n, m in sources.items()
    ]
    loaded = load_from(found, strict=True)
    return loaded


def values(conditioner: str = "label", dataset: dict | None = None, **training) -> dict:
    """A recipe as plain data, `conditioner` one of label, word, costly."""
    spec = {
        "label": {"field": "label", "type": "core.class_label", "num_classes": LABELS, "hidden_size": 16},
        "word": {"field": "word", "type": "toy.words"},
        "costly": {"field": "word", "type": "toy.words", "cacheable": True},
    }[conditioner]
    defaults = {
        "steps": 12, "global_batch_size": 4, "lr": 1e-2, "warmup_steps": 2, "compile": False, "checkpoint_interval": 4,
        "sample_interval": 0,
    }  # fmt: skip
    defaults |= {
        "mixed_precision": "float32"
    }  # what is compared to the last digits must not depend on the machine's bfloat16
    return {
        "task": {"type": "toy.make"},
        "dataset": {"type": "toy.signals", **(dataset or {})},
        "autoencoder": {"type": "toy.identity"},
        "tokenizer": {"type": "toy.steps"},
        "conditioners": [spec],
        "backbone": {
            "type": "core.next_dit",
            "hidden_size": 16,
            "num_layers": 2,
            "num_heads": 2,
            "rope_axes_dim": [8, 0, 0],
            "multiple_of": 8,
        },
        "head": {"type": "core.velocity"},
        "objective": {"type": "core.flow_matching"},
        "sampling": {"steps": 3, "guidance_scale": 2.0},
        "training": {**defaults, **training},
    }


def recipe(conditioner: str = "label", dataset: dict | None = None, **training) -> Recipe:
    """The same, checked."""
    return read_recipe(values(conditioner, dataset, **training), "toy")
