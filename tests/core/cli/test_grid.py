"""lumina grid: what is printed, drawn and kept, and how a model is then asked with its own grid."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from making import registry_of

from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.sampling.fit import fit_grid, keep_grid
from lumina_core.session import Session


@pytest.fixture
def own(toy_folder, tmp_path):
    """A copy of a model folder that may be written to."""
    import shutil

    return shutil.copytree(toy_folder, tmp_path / "model")


def opened(folder):
    from lumina_core.checkpoint import load_model

    registry = registry_of("toy")
    return Session(load_model(folder, registry), registry)


def test_a_grid_is_printed_with_every_step_and_drawn(lumina, tmp_path):
    done = lumina("grid", "--times", "sigmoid", "--steps", 10, "--plot", tmp_path / "grid.svg")
    lines = done.out.splitlines()
    assert lines[0] == "sigmoid" and len(lines) == 3 + 10
    assert lines[3].split()[:4] == ["1", "0.0000", "0.0214", "0.0214"]
    assert (
        len(list(ElementTree.parse(tmp_path / "grid.svg").getroot().iter("{http://www.w3.org/2000/svg}circle"))) == 11
    )


@pytest.mark.parametrize("name", ["uniform", "shift:shift=2", "rational", "sigmoid", "given:values=[0, 0.3, 1]"])
def test_every_grid_prints_as_json_from_zero_to_one(lumina, name):
    told = json.loads(lumina("grid", "--times", name, "--json").out)
    assert (told["values"][0], told["values"][-1]) == (0, 1)
    assert told["steps"] == (2 if "given" in name else 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--times", "given:values=[0, 0.5, 0.3, 1]"], "rise at every step"),
        (["--times", "given:values=[0, 2]"], "end at 1"),
        (["--times", "given:values=[0, 0.5, 1]", "--steps", 7], "the given grid has 2 steps; 7 were asked for"),
        (["--times", "sigmiod"], "did you mean"),
        (["--times", "fitted"], "lumina grid --fit MODEL"),
        (["--plot", "grid.png"], "name the file grid.svg"),
        (["--times", "uniform", "--fit", "x"], "either --times or --fit"),
    ],
)
def test_what_is_no_grid_is_one_clear_line(lumina, arguments, message):
    done = lumina("grid", *arguments)
    assert done.status in (1, 2) and message in done.err and len(done.err.strip().splitlines()) == 1


def test_a_fitted_grid_is_kept_in_the_folder_and_used_when_asked(own):
    session = opened(own)
    with pytest.raises(ConfigError, match="lumina grid --fit MODEL"):
        session.ask(word="red cat", grid="fitted")
    values = fit_grid(session.model, session.registry, [session.request(word="red cat", seed=k) for k in range(2)], 16)
    assert len(values) == 65 and values == fit_grid(
        session.model, session.registry, [session.request(word="red cat", seed=k) for k in range(2)], 16
    )
    keep_grid(own, values)
    found = opened(own).ask(word="red cat", grid="fitted", steps=4)[0]
    assert found.record["settings"]["grid"].endswith("fitted_grid")
    assert found.record["evaluations"] == 8
    even = opened(own).ask(word="red cat", grid="uniform", steps=4)[0]
    assert float((found.data - even.data).abs().max()) > 0


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError):
        keep_grid(tmp_path, (0.0, 1.0))
