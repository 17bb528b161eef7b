"""What many tests share: the command line run in this process, installed distributions, a model of the toy modality."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
from making import make_model, registry_of, write_distribution

from lumina_core.cli.main import run
from lumina_core.plugins.loader import load_plugins

# how long one example takes says nothing on a machine that does other work too
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def hash_cache(tmp_path_factory):
    """Hashes of pretrained files are cached in a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUMINA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@dataclass(frozen=True)
class Told:
    """What a command said, and how it ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def lumina(capsys):
    """`lumina(*arguments)` as on the command line, but in this process."""

    def call(*arguments: object) -> Told:
        capsys.readouterr()
        status = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Told(status, captured.out, captured.err)

    return call


@pytest.fixture
def install(tmp_path_factory, monkeypatch):
    """`install(name, entry_points, {module: text})` for this test; the next `load()` sees it."""
    folder = tmp_path_factory.mktemp("site")
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)

    def add(name: str, entry_points: str, modules: dict[str, str] | None = None, metadata: str = "") -> Path:
        write_distribution(folder, name, entry_points, modules or {}, metadata)
        load_plugins.cache_clear()
        return folder

    yield add
    for module in set(sys.modules) - before:
        if str(getattr(sys.modules[module], "__file__", "")).startswith(str(folder)):
            del sys.modules[module]
    load_plugins.cache_clear()


@pytest.fixture
def toy(install) -> None:
    """The toy modality is installed."""
    install("lumina-toy", "toy = lumina_toy.plugin")


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory) -> Path:
    """A model folder of the toy modality, with weights that were never trained."""
    return make_model("toy.small", tmp_path_factory.mktemp("toy") / "model", registry_of("toy"))
