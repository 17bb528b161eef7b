"""Fixtures of audio tests: a tiny text-to-audio model with untrained weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from making import make_model, registry_of


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    return make_model("audio.tiny", tmp_path_factory.mktemp("tiny") / "model", registry_of("audio"))


@pytest.fixture(scope="session")
def pipeline(tiny_folder):
    from lumina_core.model_dir import load_model
    from lumina_core.sampling.pipeline import Pipeline

    registry = registry_of("audio")
    return Pipeline(load_model(tiny_folder, registry), registry)


@pytest.fixture
def run_audio(lumina, tiny_folder):
    """Run `lumina audio ... --model` with the tiny model."""
    return lambda *arguments: lumina("audio", *arguments, "--model", tiny_folder, "--overwrite")
