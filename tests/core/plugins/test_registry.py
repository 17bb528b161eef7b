"""Components are found by name, and unknown names are reported with the nearest."""

from __future__ import annotations

import pytest

from lumina_core.errors import PluginError
from lumina_core.plugins.registry import PluginFailure, PluginSource, Registration, Registry


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    core = [
        Registration("solver", "core.midpoint", "lumina_core.errors:ShapeError", "second order", "core"),
        Registration("solver", "core.heun", "lumina_core.errors:ShapeError", "second order", "core"),
        Registration("head", "core.absent", "lumina_core.errors:Nothing", "not there", "core"),
        Registration("head", "core.nowhere", "lumina_nowhere:Nothing", "not there", "core"),
    ]
    made.add(PluginSource("core", "lumina-core", "0.1.0"), core)
    other = [
        Registration("solver", "zeta.midpoint", "lumina_core.errors:ConfigError", "another", "zeta"),
        Registration("solver", "zeta.quick", "lumina_core.errors:ConfigError", "another", "zeta"),
        Registration("command", "sing", "zeta.sing:sing", "sings", "zeta"),
        Registration("task", "zeta.speak", "zeta.speak:Speak", "speaks", "zeta", {"command": "speak"}),
    ]
    made.add(PluginSource("zeta", "lumina-zeta", "3.1"), other)
    made.failures["audio"] = PluginFailure(
        PluginSource("audio", "lumina-audio", "0.1"), "ImportError: libsndfile is missing"
    )
    return made


def test_a_component_is_imported_on_first_use_and_once(registry):
    found = registry.find("solver", "core.midpoint")
    assert found.__name__ == "ShapeError" and registry.find("solver", "core.midpoint") is found


def test_a_short_name_finds_the_component_of_the_core_or_the_only_one(registry):
    assert registry.find("solver", "midpoint") is registry.find("solver", "core.midpoint")
    assert registry.find("solver", "quick") is registry.find("solver", "zeta.quick")


def test_an_ambiguous_short_name_is_refused(registry):
    registry.add(PluginSource("beta", "lumina-beta", "1"), [Registration("solver", "beta.quick", "a:b", "", "beta")])
    with pytest.raises(PluginError, match=r"solver: got 'quick', expected one of zeta.quick or beta.quick"):
        registry.find("solver", "quick")


@pytest.mark.parametrize(
    ("component_type", "name", "message"),
    [
        (
            "solver",
            "core.midpont",
            "solver: got 'core.midpont', expected an installed solver; did you mean 'core.midpoint",
        ),
        ("solver", "midpont", "solver: got 'midpont', expected an installed solver; did you mean 'midpoint'?"),
        (
            "solver",
            "xyz",
            "expected an installed solver; available: core.midpoint, core.heun, zeta.midpoint, zeta.quick",
        ),
        ("path", "core.linear", "path: got 'core.linear', expected an installed path; available: none"),
        ("solvr", "core.heun", "component type: got 'solvr', expected a type of component; did you mean 'solver'?"),
        ("solver", "zta.quick", "solver: got 'zta.quick', expected an installed solver; did you mean 'zeta.quick'?"),
        ("path", "core.heun", "got 'core.heun', a component of the type solver, expected one of the type path"),
        ("command", "sng", "command: got 'sng', expected an installed command; did you mean 'sing'?"),
    ],
)
def test_an_unknown_name_is_reported_with_the_nearest(registry, component_type, name, message):
    with pytest.raises(PluginError) as error:
        registry.find(component_type, name)
    assert message in str(error.value)


def test_a_missing_plugin_is_reported_with_what_to_install(registry):
    with pytest.raises(PluginError, match=r"no plugin called 'motion' is installed.*Install its package"):
        registry.find("tokenizer", "motion.joints")


def test_a_broken_plugin_is_reported_with_its_reason(registry):
    message = r"'audio' is installed but could not be loaded: ImportError: libsndfile is missing"
    with pytest.raises(PluginError, match=message):
        registry.find("tokenizer", "audio.patchify")


@pytest.mark.parametrize(("name", "reason"), [("core.absent", "AttributeError"), ("core.nowhere", "ModuleNotFound")])
def test_a_failed_import_is_reported_with_module_and_reason(registry, name, reason):
    with pytest.raises(PluginError, match=f"'{name}' of the plugin 'core' cannot be imported from .*{reason}"):
        registry.find("head", name)


def test_an_import_cannot_end_the_program(registry, tmp_path, monkeypatch):
    (tmp_path / "an_ending.py").write_text("raise SystemExit(5)", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    registry.add(PluginSource("bad", "bad", "1"), [Registration("head", "bad.end", "an_ending:x", "", "bad")])
    with pytest.raises(PluginError, match="SystemExit: 5"):
        registry.find("head", "bad.end")


def test_a_name_that_an_earlier_plugin_has_costs_the_later_one_this_name_alone(registry):
    registrations = [
        Registration("head", "core.new", "a:b", "", "core"),
        Registration("solver", "core.heun", "a:b", "", "core"),
    ]
    registry.add(PluginSource("other", "other", "1"), registrations)
    assert registry.conflicts == {"other": ["solver 'core.heun' belongs to the plugin 'core'"]}
    assert registry.registrations("solver")["core.heun"].target != "a:b" and "core.new" in registry.registrations(
        "head"
    )


def test_commands_are_those_of_tasks_and_of_plugins(registry):
    assert {word: entry.name for word, entry in registry.commands().items()} == {"speak": "zeta.speak", "sing": "sing"}


def test_the_provider_of_a_component_is_its_distribution(registry):
    assert registry.provider("solver", "quick") == ("lumina-zeta", "3.1")
