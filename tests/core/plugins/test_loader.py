"""A broken plugin is left out with its reason, and never stops another."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import types
import warnings
from pathlib import Path

import pytest
import torch
from broken_plugins import BROKEN, GOOD, HARMFUL, HOOK

from lumina_core import hookimpl
from lumina_core.errors import PluginError
from lumina_core.plugins import guard, loader
from lumina_core.plugins.loader import Candidate, load_from, load_plugins
from lumina_core.plugins.registry import PluginSource


def module_of(text: str, name: str = "plugin"):
    """A loader of a module with this source, as an entry point is one."""

    def imported() -> object:
        module = types.ModuleType(name)
        exec(compile(text, f"<{name}>", "exec"), module.__dict__)
        return module

    return imported


def candidate(name: str, text: str, *requirements: str) -> Candidate:
    return Candidate(PluginSource(name, f"lumina-{name}", "1.0"), requirements, module_of(text, f"{name}_plugin"))


def good(name: str) -> Candidate:
    return candidate(name, GOOD.format(name=name))


@pytest.mark.parametrize("mistake", BROKEN)
def test_a_broken_plugin_is_recorded_registers_nothing_and_leaves_others_working(mistake):
    text, reason = BROKEN[mistake]
    registry = load_from([good("alpha"), candidate("bad", text), good("zeta")])
    assert list(registry.sources) == ["alpha", "zeta"]
    assert list(registry.registrations("solver")) == ["alpha.step", "zeta.step"]
    assert reason in registry.failures["bad"].reason
    assert "\n" not in registry.failures["bad"].reason
    assert "Traceback" in registry.failures["bad"].traceback


def test_an_error_in_the_last_hook_registers_nothing():
    text = f"""{HOOK}lumina_register_component_types(component_types):
    component_types.add("vocoder", "a:b", "a:b", "c")
@hookimpl
def lumina_register_components(components):
    components.vocoder("bad.voice", "a:b", "c")
@hookimpl
def lumina_register_commands(commands):
    commands.add("sing", "a:b", "c")
    raise ValueError("too late")
"""
    registry = load_from([candidate("bad", text)])
    assert "vocoder" not in registry.component_types()
    assert not registry.registrations("vocoder") and not registry.commands()


def test_a_plugin_registers_a_component_type_and_components_of_it():
    text = f"""{HOOK}lumina_register_component_types(component_types):
    component_types.add("vocoder", "sound.contract:Vocoder", "sound.kit:check_vocoder", "numbers to a wave")
@hookimpl
def lumina_register_components(components):
    components.vocoder("sound.griffin", "sound.griffin:Griffin", "by iteration")
"""
    other = f"{HOOK}lumina_register_components(components):\n components.vocoder('tone.sine', 'tone:Sine', 'one sine')"
    registry = load_from([candidate("sound", text), candidate("tone", other)])
    assert not registry.failures
    assert registry.component_types()[-1] == "vocoder"
    assert registry.registrations("component_type")["vocoder"].extra == {"check": "sound.kit:check_vocoder"}
    assert list(registry.registrations("vocoder")) == ["sound.griffin", "tone.sine"]


VOCODER = (
    f"{HOOK}lumina_register_component_types(component_types):\n component_types.add('vocoder', 'a:b', 'a:b', 'c')\n"
)
VOICE = f"{HOOK}lumina_register_components(components):\n components.vocoder('%s.voice', 'a:b', 'c')"


@pytest.mark.parametrize("user", ["alpha", "zeta"])
def test_a_component_type_can_be_used_by_plugins_before_and_after_its_own(user):
    registry = load_from(
        [candidate(name, VOICE % name if name == user else VOCODER) for name in sorted(("sound", user))]
    )
    assert not registry.failures
    assert list(registry.registrations("vocoder")) == [f"{user}.voice"]


def test_a_component_type_of_a_broken_plugin_does_not_exist():
    registry = load_from([candidate("alpha", VOICE % "alpha"), candidate("sound", f"{VOCODER} 1 / 0")])
    assert set(registry.failures) == {"alpha", "sound"}
    assert "component type: got 'vocoder', expected a type of component" in registry.failures["alpha"].reason


@pytest.mark.parametrize("name", ["alpha", "zeta"])
def test_the_command_of_a_plugins_name_belongs_to_it(name):
    image = f"{HOOK}lumina_register_components(components):\n components.task('image.t', 'a:b', 'c', command='image')"
    other = f"{HOOK}lumina_register_commands(commands):\n commands.add('image', 'a:b', 'c')"
    registry = load_from([candidate(n, other if n == name else image) for n in sorted(("image", name))])
    assert registry.commands()["image"].plugin == "image"
    assert registry.failures[name].reason == "the command 'image' belongs to the plugin of that name"


def test_an_entry_point_that_names_no_module_is_left_out():
    registry = load_from([Candidate(PluginSource("bad", "bad", "1.0"), (), lambda: 42), good("zeta")])
    assert registry.failures["bad"].reason == "entry point: got a int, expected a module"
    assert "zeta" in registry.sources


def test_the_second_of_two_plugins_of_one_name_is_left_out_and_the_first_stays():
    second = Candidate(PluginSource("alpha", "other", "6.6"), (), module_of(GOOD.format(name="alpha")))
    registry = load_from([good("alpha"), second])
    assert registry.sources["alpha"].distribution == "lumina-alpha"
    (name,) = registry.failures
    assert name == "alpha (other)"
    assert registry.failures[name].reason == "the name 'alpha' is already taken by lumina-alpha 1.0"


@pytest.mark.parametrize("command_type", ["task", "command"])
def test_a_command_of_another_plugin_stays_with_it_and_costs_no_plugin(command_type):
    task = f"{HOOK}lumina_register_components(components):\n components.task('%s.t', 'a:b', 'c', command='sing')"
    command = f"{HOOK}lumina_register_commands(commands):\n commands.add('sing', 'a:b', 'c')"
    second = task % "zeta" if command_type == "task" else command
    registry = load_from([candidate("alpha", task % "alpha"), candidate("zeta", second)])
    assert registry.commands()["sing"].plugin == "alpha"
    assert not registry.failures and registry.conflicts == {
        "zeta": ["the command 'sing' belongs to the plugin 'alpha'"]
    }
    assert ("zeta.t" in registry.registrations("task")) == (command_type == "task")


@pytest.mark.parametrize("requirement", ["lumina-core>=2,<3", "Lumina_Core<0.1", "lumina.core==0.0.1"])
def test_a_plugin_made_for_another_core_is_left_out_before_it_is_imported(requirement):
    never = Candidate(PluginSource("old", "lumina-old", "1.0"), (requirement,), lambda: pytest.fail("it was imported"))
    reason = load_from([never]).failures["old"].reason
    assert reason.startswith("it was made for lumina-core") and reason.endswith("and this is 0.1.0")


@pytest.mark.parametrize(
    "requirement", ["lumina-core>=0.1", "lumina-core-extras>=9", "torch>=99", "lumina-core>=9; python_version<'3'"]
)
def test_requirements_that_include_this_core_are_accepted(requirement):
    registry = load_from([candidate("alpha", GOOD.format(name="alpha"), requirement)])
    assert not registry.failures


def test_an_invalid_requirement_is_reported():
    registry = load_from([candidate("alpha", GOOD.format(name="alpha"), "lumina-core>=>1")])
    assert "its requirement 'lumina-core>=>1' cannot be read" in registry.failures["alpha"].reason


def test_output_of_an_import_goes_to_stderr(capsys):
    load_from([candidate("alpha", "print('hello')\n" + GOOD.format(name="alpha"))])
    assert capsys.readouterr() == ("", "hello\n")


def test_a_plugin_turns_warnings_into_errors_for_itself_only():
    strict = "import warnings\nwarnings.simplefilter('error')\n" + GOOD.format(name="alpha")
    warner = "import warnings\nwarnings.warn('old news')\n" + GOOD.format(name="zeta")
    before = list(warnings.filters)
    with pytest.warns(UserWarning, match="old news"):
        registry = load_from([candidate("alpha", strict), candidate("zeta", warner)])
    assert warnings.filters == before
    assert list(registry.sources) == ["alpha", "zeta"]


def test_objects_that_have_every_attribute_are_no_hooks():
    registry = load_from([candidate("alpha", "from unittest.mock import call\n" + GOOD.format(name="alpha"))])
    assert not registry.failures


def test_strict_raises_the_error():
    with pytest.raises(PluginError, match=r"the plugin 'bad' \(lumina-bad 1.0\) is broken: .*component type: got"):
        load_from([candidate("bad", BROKEN["misspelt component type"][0])], strict=True)
    with pytest.raises(PluginError, match="SystemExit 3"):
        load_from([candidate("bad", BROKEN["ends the program"][0])], strict=True)


def test_ctrl_c_stops_the_loading_and_names_the_plugin(capfd):
    def stopped():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        load_from([Candidate(PluginSource("slow", "lumina-slow", "1.0"), (), stopped)])
    assert (
        "stopped while the plugin 'slow' was imported. To start without it: LUMINA_PLUGINS=core"
        in capfd.readouterr().err
    )
    guard._user_interrupt.clear()


@pytest.mark.parametrize("harm", HARMFUL)
def test_settings_of_the_process_survive_a_plugin_that_changes_them(harm):
    text, setting = HARMFUL[harm]

    def current():
        return eval(setting, {"os": os, "sys": sys, "signal": signal, "torch": torch, "warnings": warnings})

    before = current()
    registry = load_from([candidate("harmful", text + GOOD.format(name="harmful"))])
    after = current()
    assert "harmful" in registry.sources, registry.failures
    assert after == before or after is before


@pytest.fixture
def plugins_of(monkeypatch):
    """A function that returns the default registry of plugins, none of which is loaded yet."""

    def made(*candidates: Candidate):
        monkeypatch.setattr(loader, "find_candidates", lambda: list(candidates))
        load_plugins.cache_clear()
        return load_plugins()

    yield made
    load_plugins.cache_clear()


def test_what_is_loaded_first_changes_neither_conflicts_nor_their_order(plugins_of):
    command = f"{HOOK}lumina_register_commands(commands):\n commands.add('sing', 'a:b', 'c')\n"
    texts = {name: command + GOOD.format(name=name) for name in ("alpha", "zeta")}
    registry = plugins_of(*(candidate(name, text) for name, text in texts.items()))
    assert registry.entry("solver", "zeta.step").target == "zeta_plugin:step"
    assert registry.commands()["sing"].plugin == "alpha"
    assert registry.conflicts == {"zeta": ["the command 'sing' belongs to the plugin 'alpha'"]}
    assert list(registry.sources) == ["alpha", "zeta"]


def test_a_plugin_is_imported_once_whether_it_is_loaded_alone_or_with_all(plugins_of):
    imports = []
    first, broken = good("alpha"), candidate("bad", "raise RuntimeError('no libsndfile')")

    def counted(one: Candidate) -> Candidate:
        def load() -> object:
            imports.append(one.source.plugin)
            return one.load()

        return Candidate(one.source, one.requirements, load)

    registry = plugins_of(counted(first), counted(broken), counted(good("zeta")))
    registry.entry("solver", "zeta.step")
    assert imports == ["zeta"]
    with pytest.raises(PluginError, match="installed but could not be loaded: RuntimeError: no libsndfile"):
        registry.find("solver", "bad.step")
    assert set(registry.failures) == {"bad"} and imports == ["zeta", "bad", "alpha"]


def test_a_component_of_a_type_that_another_plugin_adds_is_found_by_its_name_alone(plugins_of):
    kind = f"{HOOK}lumina_register_component_types(component_types):\n component_types.add('voice', 'a:b', 'a:b', 'c')"
    user = f"{HOOK}lumina_register_components(components):\n components.voice('alpha.low', '{__name__}:good', 'c')"
    registry = plugins_of(candidate("alpha", user), candidate("zeta", kind))
    assert registry.entry("voice", "alpha.low").plugin == "alpha"


def test_a_component_of_the_process_cannot_take_the_name_of_a_plugin_that_is_not_loaded_yet(plugins_of):
    registry = plugins_of(good("alpha"))
    with pytest.raises(PluginError, match=r"got 'alpha.step', the name of alpha_plugin:step, expected a new name"):
        registry.add_component("solver", "alpha.step", good)


def test_the_plugins_of_this_project_come_first_and_keep_their_names(install, monkeypatch):
    command = f"{HOOK}lumina_register_commands(commands):\n commands.add('sing', 'a:b', 'c')"
    monkeypatch.setattr(loader, "project_authors", lambda: frozenset({"Some Project"}))
    install("a-first", "alpha = alpha_plugin", {"alpha_plugin": command})
    install("lumina-voice", "voice = voice_plugin", {"voice_plugin": command}, "Author: Some Project\n")
    registry = load_plugins()
    assert [name for name in registry.sources if name in ("alpha", "voice")] == ["voice", "alpha"]
    assert registry.commands()["sing"].plugin == "voice"
    assert registry.conflicts["alpha"] == ["the command 'sing' belongs to the plugin 'voice'"]


def test_the_command_reports_a_lost_name(install, lumina):
    command = f"{HOOK}lumina_register_commands(commands):\n commands.add('sing', 'a:b', 'c')"
    install("a-first", "alpha = alpha_plugin", {"alpha_plugin": command})
    install("b-second", "beta = beta_plugin", {"beta_plugin": command})
    assert (
        "  NOT REGISTERED: the command 'sing' belongs to the plugin 'alpha'"
        in lumina("plugins", "beta").out.splitlines()
    )
    listed = json.loads(lumina("plugins", "--json").out)["plugins"]["beta"]
    assert listed["not_registered"] == ["the command 'sing' belongs to the plugin 'alpha'"]


def test_the_model_of_a_tasks_own_plugin_is_the_default_one(install):
    image = f"""{HOOK}lumina_register_components(components):
    components.task('voice.sing', 'a:b', 'c', command='voice')
@hookimpl
def lumina_register_models(models):
    models.add('voice.small', 'voice:model', 's', task='voice.sing')
    models.add('voice.best', 'voice:model', 's', task='voice.sing', default=True)
"""
    other = f"{HOOK}lumina_register_models(models):\n models.add('a.b', 'a:m', 's', task='voice.sing', default=True)"
    registry = load_from([candidate("a", other), candidate("voice", image)])
    assert registry.default_model("voice.sing") == "voice.best"
    assert registry.default_model("other.task") is None


def test_a_terminal_gets_no_control_characters_of_a_plugin(install, lumina):
    text = (
        f"{HOOK}lumina_register_components(components):\n components.solver('evil.a', 'a:b', '\\x1b[2Jwiped\\x07\\n x')"
    )
    install("lumina-evil", "evil = evil_plugin", {"evil_plugin": text})
    out = lumina("plugins", "evil").out
    assert "\x1b" not in out and "\x07" not in out and "wiped" in out


def test_hookimpl_marks_a_function_without_changing_it():
    def lumina_register_components(components):
        return components

    assert hookimpl(lumina_register_components)(3) == 3


def test_all_packages_of_this_project_have_one_author():
    files = sorted((Path(__file__).parents[3] / "packages").glob("*/pyproject.toml"))
    lines = [
        [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("authors")] for file in files
    ]
    assert len(files) >= 3 and len({tuple(one) for one in lines}) == 1 and len(lines[0]) == 1
