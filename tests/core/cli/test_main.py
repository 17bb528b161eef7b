"""The command `lumina`: light imports and errors of one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lumina_core.cli.main import run

SPY = """
import sys
from lumina_core.cli.main import run
print(run(sys.argv[1:]))
print("MODULES", *sys.modules)
"""
HEAVY = {"torch", "numpy", "pydantic", "transformers", "safetensors", "sentencepiece", "yaml", "PIL", "rich"}


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("plugins",), ("plugins", "--json"), ("models",)])
def test_starting_imports_nothing_heavy(arguments):
    done = subprocess.run([sys.executable, "-c", SPY, *arguments], capture_output=True, text=True, check=True)
    printed, _, modules = done.stdout.partition("MODULES ")
    assert printed.rstrip().endswith("0"), done.stderr
    assert not HEAVY & set(modules.split())


def test_help_lists_tasks_first_and_shows_first_commands(lumina, toy):
    done = lumina("--help")
    assert done.status == 0
    assert done.out.index("numbers ") < done.out.index("train ") < done.out.index("plugins ")
    assert "Numbers from a word." in done.out and "Example:" in done.out


def test_the_nearest_command_is_offered_for_an_unknown_one(lumina):
    done = lumina("trian", "x")
    assert done.status == 2
    assert done.err == (
        "Error: command: got 'trian', expected a command of lumina; did you mean 'train'? See: lumina --help\n"
    )
    assert lumina("zzzzzz").err == "Error: command: got 'zzzzzz', expected a command of lumina. See: lumina --help\n"


def test_the_command_of_a_failed_plugin_reports_the_reason(lumina, install):
    install("lumina-bad", "bad = bad_plugin", {"bad_plugin": "raise ImportError('libsndfile is missing')"})
    done = lumina("bad", "a song")
    assert done.status == 2
    assert "command: got 'bad'" in done.err
    assert "the plugin 'bad' is installed but could not be loaded: ImportError: lib" in done.err


def test_an_unknown_option_is_one_line(lumina):
    done = lumina("train", "x", "--ouy", "y")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "--out" in done.err


def test_a_command_of_a_plugin_runs(lumina, install):
    plugin = """
from lumina_core import hookimpl
@hookimpl
def lumina_register_commands(commands):
    commands.add("sing", "sing_plugin:sing", "Sings.")
    commands.add("hum", "sing_plugin:nothing", "Hums.")
    commands.add("fail", "sing_plugin:fail", "Fails.")
import click
@click.command()
def sing():
    click.echo("la la")
@click.command()
def fail():
    raise RuntimeError("two\\nlines")
"""
    install("lumina-sing", "sing = sing_plugin", {"sing_plugin": plugin})
    assert lumina("sing").out == "la la\n"
    broken = lumina("hum")
    assert broken.status == 1
    assert broken.err.startswith(
        "Error: command 'hum' of the plugin 'sing' cannot be imported from sing_plugin:nothing"
    )
    unexpected = lumina("fail")
    assert unexpected.status == 1
    assert unexpected.err == "Error: the plugin 'sing' failed: RuntimeError: two lines (--debug shows the traceback)\n"


def test_debug_shows_the_traceback_and_the_line(capsys):
    assert run(["plugins", "nobody"], debug=True) == 1
    message = capsys.readouterr().err
    assert "Traceback" in message and message.splitlines()[-1].startswith("Error: plugin: got 'nobody', expected")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "toy.smal"), "recipe: got 'toy.smal', expected an installed recipe or a .yaml file; did you"),
        (("check", "nowhere.yaml"), "cannot read nowhere.yaml"),
        (("check", "toy.small", "--set", "backbone"), "override: got 'backbone', expected a.b=c"),
        (("check", "toy.small", "--set", "samplin.steps=3"), "unknown key 'samplin'; did you mean 'sampling'?"),
        (("check", "toy.small", "--set", "sampling.step=3"), "unknown key 'sampling.step'; did you mean 'steps'?"),
        (("check", "toy.small", "--set", "sampling.steps=0"), "sampling.steps: got 0, expected a value greater than"),
        (("check", "toy.small", "--set", "schema_version=9"), "got schema version 9, expected 2"),
        (("check", "toy.small"), "dataset: got none, expected a data set"),
        (("models", "nowhere"), "model: got 'nowhere', expected a model folder or the name of an installed model"),
        (("plugins", "tyo"), "plugin: got 'tyo', expected an installed plugin; did you mean 'toy'?"),
    ],
)
def test_a_wrong_recipe_or_name_is_one_clear_line(lumina, toy, arguments, message):
    done = lumina(*arguments)
    assert done.status in (1, 2)
    assert message in done.err and done.err.count("\n") == 1 and done.err.startswith("Error: ")


def test_a_missing_recipe_is_reported_with_the_searched_package(lumina, install):
    plugin = """
from lumina_core import hookimpl
@hookimpl
def lumina_register_recipes(recipes):
    recipes.add("lost.small", "lost_plugin:small.yaml", "not there")
"""
    install("lumina-lost", "lost = lost_plugin", {"lost_plugin": plugin})
    assert "recipe lost.small: cannot read lost_plugin:small.yaml" in lumina("check", "lost.small").err
