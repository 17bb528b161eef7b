"""Registrations of a plugin are checked at once, with messages that name the mistake."""

from __future__ import annotations

import pytest

from lumina_core.errors import PluginError, suggest
from lumina_core.plugins.registry import (
    COMPONENT_TYPES,
    CommandRegistrations,
    ComponentRegistrations,
    ComponentTypeRegistrations,
    ModelRegistrations,
    RecipeRegistrations,
)


@pytest.mark.parametrize("type_name", COMPONENT_TYPES)
def test_every_component_type_has_a_method(type_name):
    components = ComponentRegistrations("sound", COMPONENT_TYPES)
    getattr(components, type_name)("sound.thing", "sound.thing:Thing", "a thing")
    (entry,) = components.entries
    assert (entry.component_type, entry.name, entry.target, entry.plugin) == (
        type_name,
        "sound.thing",
        "sound.thing:Thing",
        "sound",
    )


def test_the_nearest_component_type_is_offered():
    with pytest.raises(PluginError, match=r"component type: got 'tokeniser', .* did you mean 'tokenizer'"):
        ComponentRegistrations("sound", COMPONENT_TYPES).tokeniser("sound.a", "a:b", "c")


@pytest.mark.parametrize("name", ["thing", "other.thing", "sound.", "sound.a.b", "soundless.a", 7, None])
def test_a_name_begins_with_the_plugins_name_and_has_one_dot(name):
    with pytest.raises(PluginError):
        ComponentRegistrations("sound", COMPONENT_TYPES).solver(name, "a:b", "c")


@pytest.mark.parametrize("target", ["module", "module:", ":name", "module.name", "a b:c", "a:b.c", "a:b()", ""])
def test_a_target_is_module_and_name(target):
    with pytest.raises(PluginError, match="is not of the form module:name"):
        ComponentRegistrations("sound", COMPONENT_TYPES).solver("sound.a", target, "c")


def test_only_a_task_has_a_command():
    components = ComponentRegistrations("sound", COMPONENT_TYPES)
    components.task("sound.speak", "a:b", "c", command="speak")
    assert components.entries[0].extra == {"command": "speak"}
    for add, command in ((components.solver, "speak"), (components.task, "Speak Up"), (components.task, "--speak")):
        with pytest.raises(PluginError, match="only a task has a command"):
            add("sound.b", "a:b", "c", command=command)


@pytest.mark.parametrize("resource", ["sound:recipes/tiny.yaml", "sound.more:a-b/c_d.yaml"])
def test_recipes_and_models_are_resources_of_a_package(resource):
    recipes, models = RecipeRegistrations("sound"), ModelRegistrations("sound")
    recipes.add("sound.tiny", resource, "small")
    models.add("sound.tiny", resource, "small", task="sound.speak")
    assert recipes.entries[0].target == models.entries[0].target == resource
    assert models.entries[0].extra == {"task": "sound.speak"}


@pytest.mark.parametrize("resource", ["recipes/tiny.yaml", "sound:", "sound:a b", "http://sound:x y"])
def test_an_invalid_resource_is_refused(resource):
    with pytest.raises(PluginError):
        RecipeRegistrations("sound").add("sound.tiny", resource, "small")


@pytest.mark.parametrize("name", ["Sing", "sing along", "-sing", "", "1st"])
def test_a_command_is_a_lower_case_word(name):
    with pytest.raises(PluginError, match=r"command: got .* expected a lower-case word"):
        CommandRegistrations("sound").add(name, "a:b", "c")


@pytest.mark.parametrize("name", ["Vocoder", "vo.coder", "", 3])
def test_a_component_type_is_a_lower_case_word(name):
    with pytest.raises(PluginError, match=r"component type: got .* expected a lower-case word"):
        ComponentTypeRegistrations("sound").add(name, "a:b", "a:b", "c")


@pytest.mark.parametrize("name", ["solver", "recipe", "command", "component_type", "model"])
def test_an_existing_component_type_is_refused(name):
    with pytest.raises(PluginError, match=f"component type: got '{name}', which exists already"):
        ComponentTypeRegistrations("sound").add(name, "a:b", "a:b", "c")


def test_a_component_type_has_a_check():
    with pytest.raises(PluginError, match="check 'nothing' is not of the form module:name"):
        ComponentTypeRegistrations("sound").add("vocoder", "a:b", "nothing", "c")


def test_a_name_is_unique_within_its_component_type():
    components = ComponentRegistrations("sound", COMPONENT_TYPES)
    components.solver("sound.a", "a:b", "c")
    components.head("sound.a", "a:b", "c")
    with pytest.raises(PluginError, match=r"solver 'sound.a' is registered twice by the plugin 'sound'"):
        components.solver("sound.a", "d:e", "f")


def test_a_suggestion_is_the_nearest_word_or_empty():
    assert suggest("midpont", ["euler", "midpoint"]) == "; did you mean 'midpoint'?"
    assert suggest("xyz", ["euler", "midpoint"]) == ""
