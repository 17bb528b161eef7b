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


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("red cat\nblue dog\n\ngreen house\nyellow moon\n", encoding="utf-8")
    return path


def test_a_grid_fitted_for_least_error_is_kept_used_and_told_of_by_words_that_it_was_not_fitted_to(
    lumina, toy, own, words
):
    done = lumina("grid", "--fit", own, "--requests", words, "--evaluations", 6, "--json")
    values = json.loads((own / "config.json").read_text())["recipe"]["sampling"]["fitted"]
    assert done.status == 0 and (values[0], values[-1]) == (0, 1) and values == sorted(set(values))
    assert "fitted to 2 requests for core.midpoint" in done.err
    assert done.err.count(" steps: ") == 2 and json.loads(done.out)["values"][::10] == [0, 1]
    session = opened(own)
    asked = {grid: session.ask(word="red cat", grid=grid, evaluations=6)[0] for grid in ("fitted", "uniform")}
    assert float((asked["fitted"].data - asked["uniform"].data).abs().max()) > 0


def test_the_quick_way_is_still_there_and_either_says_beforehand_what_it_takes(lumina, toy, own, words):
    before = (own / "config.json").read_bytes()
    asked = ["grid", "--fit", own, "--requests", words]
    tried = lumina(*asked, "--dry-run")
    assert (tried.status, tried.out) == (0, "") and "evaluations of a batch of 2" in tried.err
    assert (own / "config.json").read_bytes() == before
    quick = lumina(*asked, "--by", "sharpness", "--json")
    assert quick.status == 0 and "64 evaluations of a batch of 4" in quick.err
    assert (own / "config.json").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --requests FILE"),
        (["--requests", "nowhere.txt"], "cannot read nowhere.txt"),
        (["--requests", "{words}", "--count", 1], "two or more, got 1"),
        (["--requests", "{words}", "--evaluations", 3], "one step of core.midpoint"),
        (["--requests", "{words}", "--solver", "sde"], "draws noise"),
        (["--requests", "{words}", "--solver", "dopri5"], "chooses its own steps"),
    ],
)
def test_what_a_grid_cannot_be_fitted_to_is_one_clear_line(lumina, toy, own, words, arguments, message):
    done = lumina("grid", "--fit", own, *(str(one).format(words=words) for one in arguments))
    assert done.status == 2 and message in done.err and len(done.err.strip().splitlines()) == 1


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError):
        keep_grid(tmp_path, (0.0, 1.0))
