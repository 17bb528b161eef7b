"""`lumina plugins` lists installed plugins, their distributions, and the reasons of failures."""

from __future__ import annotations

import json

import lumina_core


def test_each_plugin_is_listed_with_its_distribution_version_and_components(lumina, toy):
    done = lumina("plugins")
    assert f"core  (lumina-core {lumina_core.__version__})" in done.out
    assert "toy  (lumina-toy 1.0)" in done.out
    assert "  tokenizer    toy.pairs                two numbers a token" in done.out
    assert "  recipe       toy.small" in done.out


def test_a_name_shows_one_plugin_alone(lumina, toy):
    done = lumina("plugins", "toy")
    assert "toy.pairs" in done.out and "core.euler" not in done.out


def test_a_failed_plugin_is_one_line_in_the_list_and_has_a_full_report_by_name(lumina, install):
    install("lumina-bad", "bad = bad_plugin", {"bad_plugin": "raise ImportError('libsndfile is missing')"})
    line = "bad  (lumina-bad 1.0)  NOT LOADED: ImportError: libsndfile is missing\n"
    everything, alone = lumina("plugins"), lumina("plugins", "bad")
    assert everything.status == alone.status == 0
    assert line in everything.out and "Traceback" not in everything.out
    assert alone.out.startswith(line + "Traceback")
    assert "Not loaded: bad. See: lumina plugins" in lumina("--help").out


def test_json_is_one_object_on_one_line(lumina, toy, install):
    install("lumina-bad", "bad = bad_plugin", {"bad_plugin": "1 / 0"})
    (line,) = lumina("plugins", "--json").out.splitlines()
    report = json.loads(line)
    reason = "ZeroDivisionError: division by zero"
    assert report["left_out"] == {"bad": {"distribution": "lumina-bad", "version": "1.0", "reason": reason}}
    assert report["plugins"]["toy"]["distribution"] == "lumina-toy"
    component = {"type": "autoencoder", "name": "toy.same", "summary": "the numbers themselves"}
    assert component in report["plugins"]["toy"]["components"]


def test_component_types_and_commands_of_a_plugin_are_listed(lumina, install):
    plugin = """
from lumina_core import hookimpl
@hookimpl
def lumina_register_component_types(component_types):
    component_types.add("hummer", "a:b", "a:b", "numbers to a wave")
@hookimpl
def lumina_register_components(components):
    components.hummer("sound.sine", "a:b", "one sine")
@hookimpl
def lumina_register_commands(commands):
    commands.add("sing", "a:b", "Sings.")
"""
    install("lumina-sound", "sound = sound_plugin", {"sound_plugin": plugin})
    entry_types = [line.split()[0] for line in lumina("plugins", "sound").out.splitlines()[1:]]
    assert entry_types == ["hummer", "component_type", "command"]


def test_a_recipe_of_a_failed_plugin_reports_the_failure(lumina, install):
    install("lumina-bad", "bad = bad_plugin", {"bad_plugin": "raise RuntimeError('libsndfile is missing')"})
    report = lumina("check", "bad.tiny")
    assert report.status == 1
    assert "the plugin 'bad' is installed but could not be loaded: RuntimeError: libsndfile is missing" in report.err
