"""The command line of a task, generated from its Request and tested with a modality outside the project."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from lumina_core.plugins.registry import Registry

pytestmark = pytest.mark.usefixtures("toy")


def answer(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def nothing_in(folder: Path) -> bool:
    return list(folder.iterdir()) == []


def test_help_lists_common_options_first_in_groups_each_with_its_default(lumina):
    text = lumina("numbers", "--help").out
    options = {
        "Basic": ("--out", "--length", "--seed", "--count", "--steps", "--guidance-scale", "--model", "--words"),
        "Sampling": ("--nfe", "--solver", "--schedule"),
        "Performance": ("--cfg-batching", "--device", "--dtype", "--compile"),
        "Output": ("--preview", "--json"),
    }
    order = [word for group, names in options.items() for word in (f"{group}:", *(f"  {name} " for name in names))]
    positions = [text.index(word) for word in order]
    assert positions == sorted(positions)
    assert "WORD: what the numbers mean." in text
    assert "[default: 4]" in text and "[default: the model's own]" in " ".join(text.split())


def test_every_option_states_its_default():
    from lumina_core.cli.generate import make_task_command

    options = make_task_command("numbers", "toy.numbers", "").params[1:]
    assert [o.name for o in options if "[default: " not in o.help and "[required]" not in o.help] == []


def test_one_result_is_one_file_that_contains_the_request(lumina, toy_folder, tmp_path):
    out = tmp_path / "cat.json"
    done = lumina("numbers", "red cat", "--model", toy_folder, "--out", out, "--seed", 5)
    assert (done.status, done.out, done.err) == (0, f"{out}\n", "")
    written = answer(out)
    assert len(written["numbers"]) == 4
    name = f"{toy_folder.parent.name}/{toy_folder.name}"
    usual = {"steps": 2, "solver": "core.midpoint", "schedule": "core.uniform_schedule", "guidance_scale": 2.0}
    assert written["record"] == {"word": "red cat", "length": 4, "seed": 5, "nfe": 4, "settings": usual, "model": name}


def test_equal_requests_give_equal_bytes_and_another_word_or_seed_changes_them(lumina, toy_folder, tmp_path):
    def numbers(*arguments: object) -> bytes:
        assert (
            lumina("numbers", *arguments, "--model", toy_folder, "--out", tmp_path / "x.json", "--overwrite").status
            == 0
        )
        return (tmp_path / "x.json").read_bytes()

    first = numbers("red cat", "--seed", 5)
    assert numbers("red cat", "--seed", 5) == first
    assert answer(tmp_path / "x.json")["numbers"] != json.loads(numbers("red cat", "--seed", 6))["numbers"]
    assert json.loads(first)["numbers"] != json.loads(numbers("blue sun", "--seed", 5))["numbers"]


@pytest.mark.parametrize(
    ("options", "evaluations"),
    [
        (("--steps", 3), 6),
        (("--steps", 3, "--solver", "euler"), 3),
        (("--steps", 3, "--solver", "core.rk4"), 12),
        (("--schedule", "shift"), 4),
        (("--guidance-scale", 1), 4),
    ],
)
def test_settings_reach_the_solver_and_evaluations_are_counted(lumina, toy_folder, tmp_path, options, evaluations):
    plain, changed = tmp_path / "plain.json", tmp_path / "changed.json"
    lumina("numbers", "red cat", "--model", toy_folder, "--out", plain)
    done = lumina("numbers", "red cat", "--model", toy_folder, "--out", changed, "--json", *options)
    assert json.loads(done.out.splitlines()[-1])["nfe"] == evaluations
    assert answer(plain)["numbers"] != answer(changed)["numbers"]


def test_results_name_their_model(lumina, toy_folder, tmp_path):
    done = lumina("numbers", "cat", "--model", toy_folder, "--out", tmp_path / "a.json", "--json")
    name = f"{toy_folder.parent.name}/{toy_folder.name}"  # the folders above may tell private names
    assert answer(tmp_path / "a.json")["record"]["model"] == json.loads(done.out)["model"] == name


def test_json_is_one_line_with_settings_items_and_timings(lumina, toy_folder, tmp_path):
    out = tmp_path / "cat.json"
    done = lumina("numbers", "red cat", "--model", toy_folder, "--out", out, "--seed", 5, "--json", "--solver", "heun")
    (line,) = done.out.splitlines()
    report = json.loads(line)
    assert report["items"] == [{"seed": 5, "path": str(out)}]
    assert report["settings"] == {
        "steps": 2,
        "solver": "heun",
        "schedule": "core.uniform_schedule",
        "guidance_scale": 2.0,
    }
    assert report["generation_seconds"] > 0 and report["load_seconds"] > 0 and report["word"] == "red cat"


def test_a_count_numbers_its_files_and_the_kth_has_the_seed_plus_k(lumina, toy_folder, tmp_path):
    done = lumina(
        "numbers", "cat", "--model", toy_folder, "--out", tmp_path / "c.json", "--seed", 7, "--count", 3, "--json"
    )
    report = json.loads(done.out)
    assert [Path(item["path"]).name for item in report["items"]] == ["c-0.json", "c-1.json", "c-2.json"]
    assert [item["seed"] for item in report["items"]] == [7, 8, 9] and report["word"] == "cat"
    lumina("numbers", "cat", "--model", toy_folder, "--out", tmp_path / "one.json", "--seed", 9)
    third, alone = answer(tmp_path / "c-2.json"), answer(tmp_path / "one.json")
    assert third["numbers"] == pytest.approx(alone["numbers"], abs=1e-5)
    assert third["record"] == alone["record"]


@pytest.mark.parametrize("name", ["answers", "answers.v2"])
def test_results_of_a_file_of_requests_are_written_to_a_new_folder_of_any_name(lumina, toy_folder, tmp_path, name):
    words = tmp_path / "words.txt"
    words.write_text("\ufeffred cat\n\n  blue sun  \r\n🚀\n", encoding="utf-8")
    out = tmp_path / name
    done = lumina("numbers", "--words", words, "--model", toy_folder, "--out", out, "--json", "--seed", 3)
    report = json.loads(done.out.splitlines()[-1])
    assert sorted(file.name for file in out.iterdir()) == ["00000.json", "00001.json", "00002.json"]
    assert [(item["word"], item["seed"]) for item in report["items"]] == [("red cat", 3), ("blue sun", 4), ("🚀", 5)]
    lumina("numbers", "blue sun", "--model", toy_folder, "--out", tmp_path / "one.json", "--seed", 4)
    assert answer(out / "00001.json")["numbers"] == pytest.approx(answer(tmp_path / "one.json")["numbers"], abs=1e-5)


def test_lines_with_several_results_each_have_different_seeds(lumina, toy_folder, tmp_path):
    (tmp_path / "w").write_text("a\nb\n", encoding="utf-8")
    done = lumina(
        "numbers", "--words", tmp_path / "w", "--model", toy_folder, "--out", tmp_path / "o", "--count", 2, "--json"
    )
    report = json.loads(done.out.splitlines()[-1])
    assert [(item["seed"], item["word"]) for item in report["items"]] == [(0, "a"), (1, "a"), (2, "b"), (3, "b")]


def test_several_results_are_written_to_an_existing_folder(lumina, toy_folder, tmp_path):
    lumina("numbers", "cat", "--model", toy_folder, "--out", tmp_path, "--count", 2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["00000.json", "00001.json"]


def test_a_truncated_text_gives_a_note(lumina, toy_folder, tmp_path):
    done = lumina("numbers", "red cat " * 50, "--model", toy_folder, "--out", tmp_path / "x.json")
    assert done.status == 0
    assert done.err.startswith("Note: word: the text is too long for this model; ignored: ")
    assert done.err.count("\n") == 1


WRONG = [
    (("",), "WORD: got '', expected at least 1 character"),
    (("cat", "--steps", 0), "--steps: got 0, expected a value greater than or equal to 1"),
    (("cat", "--steps", -3), "--steps: got -3, expected a value greater than or equal to 1"),
    (("cat", "--steps", "many"), "'many' is not a valid integer"),
    (("cat", "--count", 0), "--count: got 0, expected a value greater than or equal to 1"),
    (("cat", "--seed", -1), "--seed: got -1, expected a value greater than or equal to 0"),
    (("cat", "--guidance-scale", -1), "--guidance-scale: got -1.0, expected a value greater than or equal to 0"),
    (("cat", "--guidance-scale", "nan"), "--guidance-scale: got nan, expected"),
    (("cat", "--solver", "midpont"), "solver: got 'midpont', expected an installed solver; did you mean 'midpoint'?"),
    (
        ("cat", "--solver", "motion.step"),
        "no plugin called 'motion' is installed. Install its package",
    ),
    (("cat", "--schedule", "shft"), "did you mean 'shift"),
    (
        ("cat", "--length", 5),
        "size: got 5, which this model does not support: 5 numbers cannot be cut into pairs; try 6",
    ),
    (("cat", "--length", 1000), "--length: got 1000, expected a value less than or equal to 64"),
    (("cat", "--device", "gpu9"), "--device: got 'gpu9', expected an available one"),
    (("cat", "--words", "file"), "give either WORD or --words FILE"),
    ((), "give either WORD or --words FILE"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(map(str, arguments)) for arguments, _ in WRONG])
def test_a_wrong_request_is_one_clear_line_and_writes_nothing(lumina, toy_folder, tmp_path, arguments, message):
    done = lumina("numbers", *arguments, "--model", toy_folder, "--out", tmp_path / "x.json")
    assert done.status in (1, 2) and done.out == ""
    assert message in done.err and done.err.startswith("Error: ") and done.err.count("\n") == 1
    assert nothing_in(tmp_path)


def test_a_wrong_file_of_requests_is_one_clear_line(lumina, toy_folder, tmp_path):
    empty, latin, folder = tmp_path / "empty", tmp_path / "latin", tmp_path / "folder"
    empty.write_text(" \n\n", encoding="utf-8")
    latin.write_bytes(b"caf\xe9\n")
    folder.mkdir()
    wrong = {
        tmp_path / "none": "cannot read",
        empty: "got no line, expected one word per line",
        latin: "is not UTF-8 text (byte 3)",
    }
    for file, message in {**wrong, folder: "got no plain file"}.items():
        done = lumina("numbers", "--words", file, "--model", toy_folder, "--out", tmp_path / "out")
        assert done.status == 2 and message in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_invalid_line_is_named_before_anything_is_generated(lumina, toy_folder, tmp_path):
    (tmp_path / "w").write_text("a\nb\n", encoding="utf-8")
    done = lumina("numbers", "--words", tmp_path / "w", "--model", toy_folder, "--out", tmp_path / "o", "--steps", 0)
    assert done.err.startswith("Error: line 1: --steps: ") and not (tmp_path / "o").exists()


def test_an_unwritable_path_is_reported_before_the_model_is_loaded(lumina, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine", encoding="utf-8")
    (tmp_path / "words").write_text("cat", encoding="utf-8")
    wrong = [
        (("cat",), tmp_path / "missing" / "x.json", "missing does not exist. Make it first or choose another path."),
        (("cat",), tmp_path, "--out: got the folder"),
        (("cat",), file / "x.json", "file does not exist"),
        (("cat",), Path("/proc/x.json"), "cannot write in /proc"),
        (("cat",), tmp_path / "x.txt", "--out: got x.txt, expected .json, for example x.json"),
        (("cat", "--count", "2"), tmp_path / "missing" / "x", "missing does not exist"),
        (("--words", tmp_path / "words"), file, "file, expected a folder for several results"),
        (("--words", tmp_path / "words"), tmp_path / "missing" / "deep", "missing does not exist"),
        (("--words", tmp_path / "words"), Path("/proc/answers"), "cannot write in /proc"),
    ]
    for arguments, out, message in wrong:
        done = lumina("numbers", *arguments, "--model", "never looked at", "--out", out)
        assert done.status == 2 and message in done.err and done.err.count("\n") == 1
    assert (
        sorted(f.name for f in tmp_path.iterdir()) == ["file", "words"] and file.read_text(encoding="utf-8") == "mine"
    )


def test_a_model_is_loaded_by_name_and_the_nearest_name_is_offered(lumina, install, toy_folder, tmp_path):
    plugin = """
from lumina_core import hookimpl
@hookimpl
def lumina_register_models(models):
    models.add("gym.walk", "gym_plugin_data:model", "walks", task="toy.numbers")
"""
    folder = install("lumina-gym", "gym = gym_plugin", {"gym_plugin": plugin})
    (folder / "gym_plugin_data").mkdir()
    (folder / "gym_plugin_data" / "__init__.py").touch()
    (folder / "gym_plugin_data" / "model").symlink_to(toy_folder)
    for model in (("--model", "gym.walk"), ()):
        assert lumina("numbers", "cat", *model, "--out", tmp_path / "x.json", "--overwrite").err == ""
    done = lumina("numbers", "cat", "--model", "gym.wlak", "--out", tmp_path / "y.json")
    assert (
        "--model: got 'gym.wlak', expected a model folder or the name of an installed model; did you mean 'gym.walk'?"
        in done.err
    )


@pytest.mark.parametrize(("default", "opened"), [(True, "model"), (False, "first")])
def test_without_a_model_option_the_default_of_the_installed_models_is_loaded(install, monkeypatch, default, opened):
    from lumina_core.sampling import pipeline

    plugin = """
from lumina_core import hookimpl
@hookimpl
def lumina_register_models(models):
    models.add("gym.first", "gym_plugin_data:first", "of one task", task="toy.letters")
    models.add("gym.walk", "gym_plugin_data:model", "walks", task="toy.numbers", default=DEFAULT)
"""
    folder = install("lumina-gym", "gym = gym_plugin", {"gym_plugin": plugin.replace("DEFAULT", str(default))})
    (folder / "gym_plugin_data").mkdir()
    (folder / "gym_plugin_data" / "__init__.py").touch()
    monkeypatch.setattr(pipeline.Pipeline, "_open_folder", lambda folder, *rest: folder.name)
    monkeypatch.setenv("LUMINA_PLUGINS", "gym")
    assert pipeline.Pipeline.from_pretrained() == opened


def test_without_an_installed_model_the_error_says_how_to_name_one(lumina, tmp_path):
    done = lumina("numbers", "cat", "--out", tmp_path / "x.json")
    assert (
        done.err
        == "Error: --model: got none, and no installed plugin has a model for this task. Give a model folder.\n"
    )


def test_help_texts_are_sentences_and_state_defaults(lumina):
    text = " ".join(lumina("numbers", "--help").out.split())
    assert "]. -" not in text and "Time_aware" not in text and "keys and values: time_aware" in text
    assert "larger requests are an error. [default: 64]" in text


def test_a_model_of_another_task_is_refused(lumina, toy_folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(toy_folder, other)
    text = (other / "config.json").read_text(encoding="utf-8")
    (other / "config.json").write_text(text.replace("toy.numbers", "toy.letters"), encoding="utf-8")
    done = lumina("numbers", "cat", "--model", other, "--out", tmp_path / "x.json")
    assert done.err == f"Error: --model: got {other}, a model for toy.letters, expected toy.numbers.\n"


def test_a_model_of_another_task_and_a_missing_model_have_different_errors(lumina, monkeypatch, tmp_path):
    other = SimpleNamespace(extra={"task": "toy.letters"})
    entry = Registry.entry
    monkeypatch.setattr(
        Registry, "entry", lambda self, kind, name: other if kind == "model" else entry(self, kind, name)
    )
    done = lumina("numbers", "cat", "--model", "toy.letters", "--out", tmp_path / "x.json")
    assert done.err.startswith("Error: --model: got toy.letters, a model for toy.letters, expected toy.numbers.")


def test_the_compile_option_compiles_the_backbone(lumina, toy_folder, tmp_path, monkeypatch):
    import torch

    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: compiled.append(type(self).__name__))
    for flags in ((), ("--compile",)):
        done = lumina("numbers", "cat", "--model", toy_folder, "--out", tmp_path / "x.json", "--overwrite", *flags)
        assert done.status == 0
        assert compiled == ["NextDiTBackbone"] * len(flags)
