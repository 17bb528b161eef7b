"""Fixtures of tests of point clouds: a tiny model with untrained weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from making import make_model, registry_of


@pytest.fixture(scope="session")
def tiny_points(tmp_path_factory) -> Path:
    return make_model("3d.points_tiny", tmp_path_factory.mktemp("points") / "model", registry_of("3d"))


@pytest.fixture(scope="session")
def pipe(tiny_points):
    from lumina_core.sampling.pipeline import Pipeline

    return Pipeline.from_pretrained(tiny_points, registry=registry_of("3d"))


@pytest.fixture
def run_points(lumina, tiny_points):
    """Run `lumina points` with the tiny model."""

    def run(*arguments):
        return lumina("points", *arguments, "--model", tiny_points, "--overwrite")

    return run
