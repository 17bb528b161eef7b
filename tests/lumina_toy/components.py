"""The parts of the toy modality: data are (1, length) numbers."""

from __future__ import annotations

import json

import torch
from pydantic import Field

from lumina_core.config import Config as Settings
from lumina_core.errors import ShapeError
from lumina_core.protocols import Autoencoder, GenerationTask, Tokenizer
from lumina_core.request import Request
from lumina_core.types import Tokens


class Pairs(Tokenizer):
    width = 2

    class Config(Settings):
        pass

    def __init__(self, config):
        self.config = config

    def patchify(self, latent):
        batch, _, length = latent.shape
        return self.empty(batch, (length,)).with_values(latent.reshape(batch, length // 2, 2))

    def unpatchify(self, tokens):
        return tokens.values.reshape(len(tokens.sizes), 1, -1)

    def empty(self, batch, size):
        (length,) = size
        if length % 2:
            raise ShapeError(f"{length} numbers cannot be cut into pairs; try {length + 1}")
        positions = torch.zeros(batch, length // 2, 3)
        positions[:, :, 0] = torch.arange(length // 2)
        return Tokens(torch.zeros(batch, length // 2, 2), positions, (size,) * batch)


class Same(Autoencoder):
    channels, downsample_factor = 1, (1,)

    class Config(Settings):
        pass

    def __init__(self, config):
        self.config = config

    def encode(self, data):
        return data

    def decode(self, latent):
        return latent


class NumbersRequest(Request):
    word: str = Field(min_length=1, description="what the numbers mean")
    length: int = Field(4, ge=1, le=64, description="how many numbers")


class Numbers(GenerationTask):
    Request = NumbersRequest
    data_field, suffixes = "numbers", (".json",)

    class Config(Settings):
        pass

    def __init__(self, config):
        self.config = config

    def size(self, request):
        return (request.length,)

    def conditions(self, request):
        return {"word": [request.word]}

    def encode(self, item, format, metadata):
        return json.dumps({"numbers": item[0].tolist(), "record": metadata}).encode()

    def save_grid(self, items, folder, name):
        raise NotImplementedError
