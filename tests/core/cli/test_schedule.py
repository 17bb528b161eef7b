"""lumina schedule: what is printed, drawn and kept, and how a model is then asked with its own grid."""

from __future__ import annotations

import json

import pytest
from making import registry_of

from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.sampling.pipeline import Pipeline
from lumina_core.sampling.schedule_fit import fit_schedule, save_schedule


@pytest.fixture
def own(toy_folder, tmp_path):
    """A copy of a model folder that may be written to."""
    import shutil

    return shutil.copytree(toy_folder, tmp_path / "model")


def opened(folder):
    from lumina_core.model_dir import load_model

    registry = registry_of("toy")
    return Pipeline(load_model(folder, registry), registry)


def test_a_schedule_is_printed_with_every_step(lumina):
    done = lumina("schedule", "--schedule", "sigmoid", "--steps", 10)
    lines = done.out.splitlines()
    assert lines[0] == "sigmoid" and len(lines) == 3 + 10
    assert lines[3].split()[:4] == ["1", "0.0000", "0.0214", "0.0214"]
    assert lines[1].count("|") == 10  # two times are closer than a character


@pytest.mark.parametrize("name", ["uniform", "shift:shift=2", "rational", "sigmoid", "custom:values=[0, 0.3, 1]"])
def test_every_grid_prints_as_json_from_zero_to_one(lumina, name):
    told = json.loads(lumina("schedule", "--schedule", name, "--json").out)
    assert (told["values"][0], told["values"][-1]) == (0, 1)
    assert told["steps"] == (2 if "custom" in name else 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--schedule", "custom:values=[0, 0.5, 0.3, 1]"], "expected times that rise from 0 to 1"),
        (["--schedule", "custom:values=[0, 2]"], "got [0.0, 2.0], expected times that rise"),
        (["--schedule", "custom:values=[0, 0.5, 1]", "--steps", 7], "steps: got 7, expected 2"),
        (["--schedule", "sigmiod"], "did you mean"),
        (["--schedule", "fitted"], "lumina schedule fit MODEL"),
    ],
)
def test_what_is_no_grid_is_one_clear_line(lumina, arguments, message):
    done = lumina("schedule", *arguments)
    assert done.status in (1, 2) and message in done.err and len(done.err.strip().splitlines()) == 1


def test_a_fitted_grid_is_kept_in_the_folder_and_used_when_asked(own):
    session = opened(own)
    with pytest.raises(ConfigError, match="lumina schedule fit MODEL"):
        session(word="red cat", schedule="fitted")
    values = fit_schedule(
        session.model, session.registry, [session.make_request(word="red cat", seed=k) for k in range(2)], 16
    )
    assert len(values) == 65 and values == fit_schedule(
        session.model, session.registry, [session.make_request(word="red cat", seed=k) for k in range(2)], 16
    )
    save_schedule(own, values)
    found = opened(own)(word="red cat", schedule="fitted", steps=4)[0]
    assert found.metadata["settings"]["schedule"].endswith("fitted_schedule")
    assert found.metadata["nfe"] == 8
    even = opened(own)(word="red cat", schedule="uniform", steps=4)[0]
    assert float((found.data - even.data).abs().max()) > 0


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("red cat\nblue dog\n\ngreen house\nyellow moon\n", encoding="utf-8")
    return path


def test_a_grid_fitted_for_least_error_is_kept_used_and_told_of_by_words_that_it_was_not_fitted_to(
    lumina, toy, own, words
):
    done = lumina("schedule", "fit", own, "--requests", words, "--nfe", 6, "--json")
    values = json.loads((own / "config.json").read_text())["recipe"]["sampling"]["fitted_schedule"]
    assert done.status == 0 and (values[0], values[-1]) == (0, 1) and values == sorted(set(values))
    assert "fitted to 2 requests for core.midpoint" in done.err
    assert done.err.count(" steps: ") == 2 and json.loads(done.out)["values"][::10] == [0, 1]
    session = opened(own)
    asked = {name: session(word="red cat", schedule=name, nfe=6)[0] for name in ("fitted", "uniform")}
    assert float((asked["fitted"].data - asked["uniform"].data).abs().max()) > 0


def test_the_quick_way_is_still_there_and_either_says_beforehand_what_it_takes(lumina, toy, own, words):
    before = (own / "config.json").read_bytes()
    asked = ["schedule", "fit", own, "--requests", words]
    tried = lumina(*asked, "--dry-run")
    assert (tried.status, tried.out) == (0, "") and "evaluations of a batch of 2" in tried.err
    assert (own / "config.json").read_bytes() == before
    quick = lumina(*asked, "--by", "sharpness", "--json")
    assert quick.status == 0 and "64 evaluations of a batch of 4" in quick.err
    assert (own / "config.json").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--requests: got none"),
        (["--requests", "nowhere.txt"], "cannot read nowhere.txt"),
        (["--requests", "{words}", "--count", 1], "requests: got 1, expected two or more"),
        (["--requests", "{words}", "--nfe", 3], "one step of core.midpoint"),
        (["--requests", "{words}", "--solver", "sde"], "draws noise"),
        (["--requests", "{words}", "--solver", "dopri5"], "chooses its own steps"),
    ],
)
def test_what_a_grid_cannot_be_fitted_to_is_one_clear_line(lumina, toy, own, words, arguments, message):
    done = lumina("schedule", "fit", own, *(str(one).format(words=words) for one in arguments))
    assert done.status == 2 and message in done.err and len(done.err.strip().splitlines()) == 1


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError):
        save_schedule(tmp_path, (0.0, 1.0))
