"""A tiny text-to-image model with random weights, for tests of whole requests."""

from __future__ import annotations

from pathlib import Path

import pytest
from making import make_model, registry_of


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    return make_model("image.tiny", tmp_path_factory.mktemp("tiny") / "model", registry_of("image"))


@pytest.fixture
def ask(lumina, tiny_folder):
    """`lumina image ... --model` the tiny one."""

    def run(*arguments: object):
        return lumina("image", *arguments, "--model", tiny_folder, "--overwrite")

    return run
