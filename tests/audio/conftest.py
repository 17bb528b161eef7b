"""A tiny text-to-audio model whose weights were never trained: enough to see every request travel."""

from __future__ import annotations

from pathlib import Path

import pytest
from making import make_model, registry_of


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    return make_model("audio.tiny", tmp_path_factory.mktemp("tiny") / "model", registry_of("audio"))


@pytest.fixture(scope="session")
def session(tiny_folder):
    from lumina_core.model_dir import load_model
    from lumina_core.sampling.pipeline import Pipeline

    registry = registry_of("audio")
    return Pipeline(load_model(tiny_folder, registry), registry)


@pytest.fixture
def ask(lumina, tiny_folder):
    """`lumina audio ... --model` the tiny one."""

    def asked(*arguments: object):
        return lumina("audio", *arguments, "--model", tiny_folder)

    return asked
