"""Shared fixtures: the command line in this process, installed distributions, a model of the toy modality."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
from making import make_model, registry_of, write_distribution

from lumina_core.cli.main import run
from lumina_core.plugins.loader import load_plugins

# the time of one example varies on a busy machine
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_runtest_setup(item):
    """Skip a test that needs another package of this project where that is not installed (`nox -s alone`)."""
    for mark in item.iter_markers("needs"):
        pytest.importorskip(mark.args[0])


@pytest.fixture(scope="session", autouse=True)
def hash_cache(tmp_path_factory):
    """Cache hashes of pretrained files in a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUMINA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@dataclass(frozen=True)
class CommandResult:
    """Output and exit status of a command."""

    status: int
    out: str
    err: str


@pytest.fixture
def lumina(capsys):
    """Return a function that runs `lumina` with arguments in this process."""

    def call(*arguments: object) -> CommandResult:
        capsys.readouterr()
        status = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return CommandResult(status, captured.out, captured.err)

    return call


@pytest.fixture
def install(tmp_path_factory, monkeypatch):
    """Return `install(name, entry_points, {module: text})`; plugins are loaded again after a call."""
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
    """Install the toy modality."""
    install("lumina-toy", "toy = lumina_toy.plugin")


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory) -> Path:
    """A model folder of the toy modality with random weights."""
    return make_model("toy.small", tmp_path_factory.mktemp("toy") / "model", registry_of("toy"))
