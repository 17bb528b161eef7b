"""The parts of the toy modality: data are (1, length) numbers."""

from __future__ import annotations

import json

import torch
from pydantic import Field

from lumina_core.config import Config as Settings
from lumina_core.errors import ShapeError
from lumina_core.files import whole_file
from lumina_core.request import Request
from lumina_core.types import Tokens


class Pairs:
    width = 2

    class Config(Settings):
        pass

    def __init__(self, config):
        self.config = config

    def tokens(self, latent):
        batch, _, length = latent.shape
        return self.blank(batch, (length,)).with_values(latent.reshape(batch, length // 2, 2))

    def latent(self, tokens):
        return tokens.values.reshape(len(tokens.extents), 1, -1)

    def blank(self, batch, extent):
        (length,) = extent
        if length % 2:
            raise ShapeError(f"{length} numbers cannot be cut into pairs; try {length + 1}")
        positions = torch.zeros(batch, length // 2, 3)
        positions[:, :, 0] = torch.arange(length // 2)
        return Tokens(torch.zeros(batch, length // 2, 2), positions, (extent,) * batch)


class Same:
    channels, stride = 1, (1,)

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


class Numbers:
    Request = NumbersRequest
    data_field, suffix = "numbers", ".json"

    class Config(Settings):
        pass

    def __init__(self, config):
        self.config = config

    def extent(self, request):
        return (request.length,)

    def conditions(self, request):
        return {"word": [request.word]}

    def silences(self, request):
        return {}

    def save(self, item, path, record):
        with whole_file(path) as partial:
            partial.write_text(json.dumps({"numbers": item[0].tolist(), "record": record}), encoding="utf-8")

    def save_grid(self, items, folder, name):
        raise NotImplementedError
