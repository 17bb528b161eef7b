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
from lumina_core.plugins.registry import Source
from lumina_core.recipe import Recipe, read_recipe
from lumina_core.request import Request
from lumina_core.types import Condition, Tokens

LABELS, LENGTH, CHANNELS = 3, 6, 2
WORDS = ("low", "middle", "high")


class Steps:
    """Tokenizer: a signal (B, C, L) -> L tokens of C numbers at (moment, 0, 0)."""

    class Config(Settings):
        channels: int = CHANNELS

    def __init__(self, config):
        self.width = config.channels

    def tokens(self, latent):
        batch, _, length = latent.shape
        return Tokens(latent.transpose(1, 2).contiguous(), self._places(batch, length), ((length,),) * batch)

    def latent(self, tokens):
        return tokens.values.transpose(1, 2)

    def blank(self, batch, extent):
        return Tokens(torch.zeros(batch, extent[0], self.width), self._places(batch, extent[0]), (extent,) * batch)

    def _places(self, batch, length):
        moments = torch.arange(float(length))
        return torch.stack([moments, 0 * moments, 0 * moments], dim=-1).expand(batch, -1, -1)


class Identity:
    """Autoencoder: the signal is its own latent."""

    class Config(Settings):
        pass

    channels, stride = CHANNELS, (1,)

    def __init__(self, config):
        self.config = config

    def encode(self, data):
        return data

    def decode(self, latent):
        return latent


class Words(nn.Module):
    """Conditioner: a word -> a memory of its letters; counts how often it reads."""

    memory_width, summary_width = 8, 0

    class Config(Settings):
        costly: bool = False

    def __init__(self, config):
        super().__init__()
        self.costly, self.read = config.costly, []
        self.table = nn.Embedding(128, 8)
        self.mix = nn.Linear(8, 8)

    def encode(self, values):
        self.read.extend(values)
        longest = max(len(value) for value in values)
        letters = torch.tensor([[ord(c) for c in v] + [0] * (longest - len(v)) for v in values])
        return Condition(memory=self.mix(self.table(letters)), memory_mask=letters != 0)

    def nothing(self, batch):
        zero = torch.zeros(batch, 1, dtype=torch.int64)
        return Condition(memory=self.mix(self.table(zero)), memory_mask=torch.ones(batch, 1, dtype=torch.bool))


class Signals:
    """Data set: waves whose shape follows the label; phase and which of two words are drawn."""

    class Config(Settings):
        count: int = 7
        mixed: bool = False
        weighted: bool = False

    def __init__(self, config):
        self.config = config

    def __len__(self):
        return self.config.count

    def example(self, index, draw):
        time.sleep(float(os.environ.get("TOY_DELAY", "0")))
        label = index % LABELS
        length = LENGTH - index % 3 if self.config.mixed else LENGTH
        moments = torch.arange(float(length))
        phase = draw.random()
        signal = torch.stack([torch.sin(moments * (label + 1) + phase), torch.cos(moments + phase)])
        return {"signal": signal, "label": label, "word": draw.choice([WORDS[label], WORDS[label].upper()])}

    def values(self, field):
        return list(range(LABELS)) if field == "label" else list(WORDS)

    def weight(self, index):
        return 1.0 + index if self.config.weighted else 1.0


class ToyRequest(Request):
    """What is asked for."""

    label: int | None = None
    word: str | None = None
    silent: str | None = None
    length: int = LENGTH


class Make:
    """Task: a label or a word in, a signal out."""

    Request, data_field = ToyRequest, "signal"

    class Config(Settings):
        pass

    def __init__(self, config):
        self.config = config

    def extent(self, request):
        return (request.length,)

    def conditions(self, request):
        said = {"label": request.label, "word": request.word}
        return {field: [value] for field, value in said.items() if value is not None}

    def asked(self, said):
        return {"word": said["word"]}

    def silences(self, request):
        return {} if request.silent is None else {"word": [request.silent]}

    def save(self, item, path, record):
        path.write_text(json.dumps({"data": item.tolist(), **record}))

    def save_grid(self, items, folder, name):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.json"
        path.write_text(json.dumps([item.tolist() for item in items]))
        return path


@hookimpl
def lumina_register_parts(parts):
    """What this plugin brings."""
    parts.tokenizer("toy.steps", "core.toy:Steps", "a token a moment")
    parts.autoencoder("toy.identity", "core.toy:Identity", "none")
    parts.conditioner("toy.words", "core.toy:Words", "letters")
    parts.dataset("toy.signals", "core.toy:Signals", "waves")
    parts.task("toy.make", "core.toy:Make", "a signal from a label")


@lru_cache(maxsize=1)
def registry():
    """The core and this plugin, whatever else is installed."""
    sources = {"core": "lumina_core.builtin.plugin", "toy": "core.toy"}
    found = [Candidate(Source(n, f"lumina-{n}", "0"), (), lambda m=m: import_module(m)) for n, m in sources.items()]
    loaded = load_from(found, strict=True)
    return loaded


def values(conditioner: str = "label", dataset: dict | None = None, **training) -> dict:
    """A recipe as plain data, `conditioner` one of label, word, costly."""
    said = {
        "label": {"name": "label", "use": "core.label", "classes": LABELS, "width": 16},
        "word": {"name": "word", "use": "toy.words"},
        "costly": {"name": "word", "use": "toy.words", "costly": True},
    }[conditioner]
    usual = {"steps": 12, "batch": 4, "rate": 1e-2, "warmup": 2, "compile": False, "save_every": 4, "sample_every": 0}
    usual |= {"precision": "float32"}  # what is compared to the last digits must not depend on the machine's bfloat16
    return {
        "task": {"use": "toy.make"},
        "dataset": {"use": "toy.signals", **(dataset or {})},
        "autoencoder": {"use": "toy.identity"},
        "tokenizer": {"use": "toy.steps"},
        "conditioners": [said],
        "backbone": {"use": "core.next_dit", "width": 16, "depth": 2, "heads": 2, "axes": [8, 0, 0], "multiple_of": 8},
        "head": {"use": "core.velocity"},
        "objective": {"use": "core.flow_matching"},
        "sampling": {"steps": 3, "guidance": 2.0},
        "training": {**usual, **training},
    }


def recipe(conditioner: str = "label", dataset: dict | None = None, **training) -> Recipe:
    """The same, checked."""
    return read_recipe(values(conditioner, dataset, **training), "toy")
