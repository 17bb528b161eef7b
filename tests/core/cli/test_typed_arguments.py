"""What people type: dashes first, options of other programs, prompts in files, paths that exist."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from lumina_core.cli.generate import default_path, read_prompt_file
from lumina_core.errors import ConfigError, suggest

pytestmark = pytest.mark.usefixtures("toy")


def words(folder):
    return [json.loads(file.read_text())["record"]["word"] for file in sorted(folder.iterdir())]


def test_without_arguments_the_help_is_printed(lumina):
    done = lumina()
    assert done.status == 0 and done.err == "" and "Commands:" in done.out and done.out.count("\n") > 10


@pytest.mark.parametrize("form", ["first", "last", "behind dashes"])
def test_a_prompt_with_blanks_may_begin_with_a_dash(lumina, toy_folder, tmp_path, form):
    options = ("--model", toy_folder, "--out", tmp_path / "x.json", "--seed", "3")
    prompt = "-20 cats, red"
    arguments = {"first": (prompt, *options), "last": (*options, prompt), "behind dashes": (*options, "--", prompt)}[
        form
    ]
    done = lumina("numbers", *arguments)
    assert done.status == 0, done.err
    assert json.loads((tmp_path / "x.json").read_text())["record"]["word"] == prompt


def test_options_behind_two_dashes_are_explained(lumina, toy_folder):
    done = lumina("numbers", "--model", toy_folder, "--", "-20 cats", "--out", "x.json")
    assert done.status == 2 and "options first, then --, then the prompt" in done.err


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--guidance_scale", "--guidance-scale"), ("--cfg-scale", "--guidance-scale"), ("--cfg", "--guidance-scale"),
        ("--num-inference-steps", "--steps"), ("--negative", ""), ("--sampler", "--solver"), ("--n-samples", "--count"),
        ("--output", "--out"), ("--batch-size", "--count"), ("--checkpoint", "--model"), ("--colour", ""),
    ],
)  # fmt: skip
def test_an_unknown_option_is_answered_by_the_one_that_was_meant(lumina, option, meant):
    done = lumina("numbers", "cat", option, "3", "--out", "x.json")
    assert done.status == 2 and done.err.count("\n") == 1
    assert (f"did you mean '{meant}'?" in done.err) if meant else "did you mean" not in done.err


@pytest.mark.parametrize(
    ("word", "names", "meant"),
    [
        ("learning_rate", ["lr", "muon_lr", "lr_decay"], "lr"),
        ("guidance_scale", ["guidance", "guidance_rescale", "guidance-scale"], "guidance-scale"),
        ("guidance", ["guidance_rescale", "guidance_scale"], "guidance_scale"),
        ("width", ["grid", "size", "weight"], "size"),
        ("batch_size", ["global_batch_size", "cache_bytes"], "global_batch_size"),
        ("epochs", ["steps", "seed"], "steps"),
        ("depth", ["num_layers", "width"], "num_layers"),
        ("max_grad_norm", ["max_norm"], "max_norm"),
        ("nothing_like_it", ["steps", "seed"], ""),
        ("rate", ["create", "grid"], "create"),
    ],
)
def test_hints_know_the_words_of_other_programs(word, names, meant):
    assert suggest(word, names) == (f"; did you mean '{meant}'?" if meant else "")


def test_a_number_for_the_guidance_function_points_at_the_scale(lumina, toy_folder, tmp_path):
    done = lumina("numbers", "cat", "--guidance", "3", "--model", toy_folder, "--out", tmp_path / "x.json")
    assert done.status == 2 and "--guidance-scale 3" in done.err


def test_comments_of_a_file_of_prompts_are_left_out_and_lines_are_those_of_the_file(lumina, toy_folder, tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("# hearts\nred\u2028cat\n\n; stars\nblue sun\n", encoding="utf-8")
    assert read_prompt_file(file) == [(2, "red\u2028cat"), (5, "blue sun")]
    done = lumina("numbers", "--words", file, "--model", toy_folder, "--out", tmp_path / "out")
    assert done.status == 0 and words(tmp_path / "out") == ["red\u2028cat", "blue sun"]


@pytest.mark.parametrize("line", ["--w 384 --h 384", "a red heart --n blue --w 384", "  --steps=3", "cat --cfg 7"])
def test_options_in_a_file_of_prompts_are_refused_with_the_line(tmp_path, line):
    (tmp_path / "p.txt").write_text(f"a red heart\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="line 2: got the option --"):
        read_prompt_file(tmp_path / "p.txt")


def test_other_dashes_in_a_prompt_are_text(tmp_path):
    lines = ["a cat -- red", "state-of-the-art cat", "a -5 degrees cat", "- a list item"]
    (tmp_path / "p.txt").write_text("\n".join(lines), encoding="utf-8")
    assert [line for _, line in read_prompt_file(tmp_path / "p.txt")] == lines


def test_a_pipe_is_no_file_of_prompts(tmp_path):
    os.mkfifo(tmp_path / "p")
    with pytest.raises(ConfigError, match="no plain file"):
        read_prompt_file(tmp_path / "p")


def test_nothing_is_written_over_unless_one_says_so(lumina, toy_folder, tmp_path):
    (tmp_path / "w").write_text("red\nblue\n", encoding="utf-8")
    base = ("--model", toy_folder, "--words", tmp_path / "w", "--out", tmp_path / "made")
    assert lumina("numbers", *base).status == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "made").iterdir()}
    done = lumina("numbers", *base, "--seed", 7)
    assert done.status == 2 and "exists already" in done.err and "--overwrite" in done.err
    assert {file.name: file.read_bytes() for file in (tmp_path / "made").iterdir()} == before
    assert lumina("numbers", *base, "--seed", 7, "--overwrite").status == 0
    assert {file.name: file.read_bytes() for file in (tmp_path / "made").iterdir()} != before


def test_an_input_is_never_the_output(lumina, toy_folder, tmp_path):
    (tmp_path / "w.json").write_text("red\n", encoding="utf-8")
    (tmp_path / "out").mkdir()
    os.link(tmp_path / "w.json", tmp_path / "out" / "00000.json")
    done = lumina(
        "numbers", "--words", tmp_path / "w.json", "--model", toy_folder, "--out", tmp_path / "out", "--overwrite"
    )
    assert done.status == 2 and "an input of the command" in done.err
    assert (tmp_path / "w.json").read_text() == "red\n"


def test_a_slash_at_the_end_means_a_folder(lumina, toy_folder, tmp_path):
    done = lumina("numbers", "cat", "--model", toy_folder, "--out", f"{tmp_path}/results/")
    assert done.status == 0 and os.listdir(tmp_path / "results") == ["00000.json"]


def test_the_default_path_is_made_of_the_prompt_and_is_new(lumina, toy_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert lumina("numbers", "A red cat!", "--model", toy_folder).status == 0
    assert sorted(os.listdir()) == ["a-red-cat-2.json", "a-red-cat.json"]
    assert str(default_path("", ".png")) == "result.png" and str(default_path("../x/y", ".png")) == "x-y.png"
    assert len(os.fsencode(default_path("漢" * 500, ".png"))) < 255
    lumina("numbers", "cat", "--count", 2, "--model", toy_folder)
    assert {"cat-0.json", "cat-1.json"} <= set(os.listdir())


def test_settings_without_effect_have_a_note(lumina, toy_folder, tmp_path):
    def notes(*options):
        done = lumina("numbers", "cat", "--model", toy_folder, "--out", tmp_path / "x.json", "--overwrite", *options)
        assert done.status == 0, done.err
        return done.err

    assert notes() == ""
    assert "at 0 the prompt has no effect" in notes("--guidance-scale", 0)
    assert "guidance_rescale: has no effect at guidance_scale 1" in notes(
        "--guidance-scale", 1, "--guidance-rescale", 0.5
    )


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii", "utf-8"])
def test_any_text_is_printed_whatever_the_encoding_of_the_terminal(toy_folder, tmp_path, encoding):
    name = os.fsdecode("ж\u00e9".encode() + b"\xe9.png")
    script = (
        "from lumina_core.cli import main\nfrom lumina_core.cli.console import echo_json\nimport click\n"
        f"main._accept_any_text()\necho_json({{'prompt': '🎸 é'}})\nclick.echo({name!r})\nclick.echo('ж', err=True)\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0].decode(encoding)) == {"prompt": "🎸 é"}
