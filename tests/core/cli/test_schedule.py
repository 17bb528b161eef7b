"""`lumina schedule`: printed schedules, fitting, and generation with the fitted schedule."""

from __future__ import annotations

import json

import pytest
from making import registry_of

from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.sampling.pipeline import Pipeline
from lumina_core.sampling.schedule_fit import fit_schedule, save_schedule


@pytest.fixture
def own(toy_folder, tmp_path):
    """A writable copy of a model folder."""
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
def test_every_schedule_is_printed_as_json_from_zero_to_one(lumina, name):
    report = json.loads(lumina("schedule", "--schedule", name, "--json").out)
    assert (report["values"][0], report["values"][-1]) == (0, 1)
    assert report["steps"] == (2 if "custom" in name else 10)


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
def test_an_invalid_schedule_is_one_clear_line(lumina, arguments, message):
    done = lumina("schedule", *arguments)
    assert done.status in (1, 2) and message in done.err and len(done.err.strip().splitlines()) == 1


def test_a_fitted_schedule_is_saved_in_the_model_folder_and_used_by_name(own):
    pipe = opened(own)
    with pytest.raises(ConfigError, match="lumina schedule fit MODEL"):
        pipe(word="red cat", schedule="fitted")
    values = fit_schedule(pipe.model, pipe.registry, [pipe.make_request(word="red cat", seed=k) for k in range(2)], 16)
    assert len(values) == 65 and values == fit_schedule(
        pipe.model, pipe.registry, [pipe.make_request(word="red cat", seed=k) for k in range(2)], 16
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


def test_a_schedule_fitted_by_error_is_saved_used_and_reported_on_held_out_requests(lumina, toy, own, words):
    done = lumina("schedule", "fit", own, "--requests", words, "--nfe", 6, "--json")
    values = json.loads((own / "config.json").read_text())["recipe"]["sampling"]["fitted_schedule"]
    assert done.status == 0 and (values[0], values[-1]) == (0, 1) and values == sorted(set(values))
    assert "fitted to 2 requests for core.midpoint" in done.err
    assert done.err.count(" steps: ") == 2 and json.loads(done.out)["values"][::10] == [0, 1]
    pipe = opened(own)
    options = {name: pipe(word="red cat", schedule=name, nfe=6)[0] for name in ("fitted", "uniform")}
    assert float((options["fitted"].data - options["uniform"].data).abs().max()) > 0


def test_fitting_by_sharpness_works_and_a_dry_run_reports_the_cost(lumina, toy, own, words):
    before = (own / "config.json").read_bytes()
    options = ["schedule", "fit", own, "--requests", words]
    tried = lumina(*options, "--dry-run")
    assert (tried.status, tried.out) == (0, "") and "evaluations of a batch of 2" in tried.err
    assert (own / "config.json").read_bytes() == before
    quick = lumina(*options, "--by", "sharpness", "--json")
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
def test_invalid_fit_options_are_one_clear_line(lumina, toy, own, words, arguments, message):
    done = lumina("schedule", "fit", own, *(str(one).format(words=words) for one in arguments))
    assert done.status == 2 and message in done.err and len(done.err.strip().splitlines()) == 1


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError):
        save_schedule(tmp_path, (0.0, 1.0))
