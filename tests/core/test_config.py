"""Configs report invalid values."""

from __future__ import annotations

import os

import pytest
from pydantic import Field, ValidationError, field_validator

from lumina_core.config import (
    ComponentSpec,
    Config,
    apply_override,
    parse_component,
    read_file,
    read_text,
    suggest_or_list,
)
from lumina_core.errors import ConfigError


class Inner(Config):
    steps: int = Field(3, ge=1)


class Outer(Config):
    name: str
    rate: float = Field(0.1, gt=0)
    inner: Inner = Inner()


def message_of(values: dict) -> str:
    with pytest.raises(ConfigError) as error:
        Outer.read(values, "here")
    return str(error.value)


def test_configs_are_frozen_and_survive_plain_data():
    read = Outer.read({"name": "a", "inner": {"steps": 5}}, "here")
    assert Outer.read(read.model_dump(mode="json"), "again") == read
    with pytest.raises(ValidationError):
        read.rate = 3.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "here: the key 'name' is missing"),
        ({"name": "a", "rat": 1}, "here: unknown key 'rat'; did you mean 'rate'?"),
        ({"name": "a", "zzz": 1}, "here: unknown key 'zzz'; available: inner, name, rate"),
        ({"name": "a", "inner": {"step": 1}}, "here: unknown key 'inner.step'; did you mean 'steps'?"),
        ({"name": "a", "rate": 0}, "here: rate: got 0, expected a value greater than 0"),
        ({"name": "a", "inner": {"steps": 0}}, "here: inner.steps: got 0, expected a value greater than or equal to 1"),
        ({"name": "a", "rate": "fast"}, "here: rate: got 'fast', expected a valid number"),
    ],
)
def test_an_invalid_value_is_reported_with_its_path_and_what_was_expected(values, message):
    assert message_of(values).startswith(message)


def test_a_missing_key_is_reported_with_its_description_and_equal_names_once():
    class Described(Config):
        source: str = Field(description="folder of the weights")

    with pytest.raises(ConfigError, match=r"^here: the key 'source' is missing: folder of the weights$"):
        Described.read({}, "here")
    assert suggest_or_list("zzz", ["b", "a", "b"]) == "; available: a, b"


def test_a_value_in_the_message_of_a_validator_is_not_repeated():
    class Named(Config):
        file: str

        @field_validator("file")
        @classmethod
        def _there(cls, value: str) -> str:
            raise ValueError(f"{value} cannot be read")

    with pytest.raises(ConfigError, match=r"^here: file: cat\.png cannot be read$"):
        Named.read({"file": "cat.png"}, "here")


def test_a_long_invalid_value_is_shortened():
    assert len(message_of({"name": "a", "rate": "x" * 100_000})) < 300


def test_a_number_that_yaml_reads_as_a_string_becomes_a_number():
    assert Outer.read(read_text("{name: a, rate: 1e-4}", "x"), "x").rate == 1e-4


def test_a_component_spec_holds_any_options_as_plain_data():
    use = ComponentSpec.model_validate({"type": "toy.pairs", "width": 3, "path": {"type": "core.linear"}})
    assert use.options == {"width": 3, "path": {"type": "core.linear"}}
    assert ComponentSpec.model_validate(use.model_dump()) == use


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("a.b=2", {"a": {"b": 2}, "list": [{"x": 1}, 5]}),
        ("a.c=1e-3", {"a": {"b": 1, "c": "1e-3"}, "list": [{"x": 1}, 5]}),
        ("new.deep=[1, 2]", {"a": {"b": 1}, "list": [{"x": 1}, 5], "new": {"deep": [1, 2]}}),
        ("list.0.x=no such thing", {"a": {"b": 1}, "list": [{"x": "no such thing"}, 5]}),
        ("list.1=null", {"a": {"b": 1}, "list": [{"x": 1}, None]}),
        ("a=b=c", {"a": "b=c", "list": [{"x": 1}, 5]}),
    ],
)
def test_an_override_changes_one_value_and_not_the_original(setting, expected):
    values = {"a": {"b": 1}, "list": [{"x": 1}, 5]}
    assert apply_override(values, setting) == expected
    assert values == {"a": {"b": 1}, "list": [{"x": 1}, 5]}


@pytest.mark.parametrize("setting", ["a", "=3", "a.b.c=1", "list.7=1", "list.x=1", "list.1.x=1"])
def test_an_override_without_a_valid_path_is_refused(setting):
    with pytest.raises(ConfigError, match=r"^override.*got .*, expected"):
        apply_override({"a": {"b": 1}, "list": [{"x": 1}, 5]}, setting)


def test_an_unreadable_file_is_reported_with_its_name(tmp_path):
    for name, content in {"bytes.yaml": b"\xff\xfe\xff", "broken.yaml": b"a: [1,", "list.yaml": b"- 1"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=name):
            read_file(tmp_path / name)
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        read_file(tmp_path / "nowhere.yaml")


def test_yaml_cannot_make_objects():
    with pytest.raises(ConfigError, match="is not valid YAML"):
        read_text("!!python/object/apply:os.getcwd []", "a recipe")


def test_the_suggestion_is_the_nearest_name_or_all_or_none():
    assert suggest_or_list("sid", ["side", "rate"]) == "; did you mean 'side'?"
    assert suggest_or_list("zzz", ["side", "rate"]) == "; available: rate, side"
    assert suggest_or_list("zzz", []) == ""


def test_a_component_with_options_is_parsed_from_one_word():
    assert parse_component("shift") == ComponentSpec(type="shift")
    assert parse_component("watershed:watershed=0.5,isotropic=true") == ComponentSpec(
        type="watershed", watershed=0.5, isotropic=True
    )
    assert parse_component("custom:values=[0, 0.3, 1]") == ComponentSpec(type="custom", values=[0, 0.3, 1])


@pytest.mark.parametrize("text", ["", ":a=1", "shift:shift", "shift:shift=", "shift:[", "shift:3=4", "a:type=b"])
def test_component_options_of_another_form_are_refused(text):
    with pytest.raises(ConfigError, match="NAME:key=value"):
        parse_component(text)


def test_a_key_that_stands_twice_is_refused_with_both_lines():
    with pytest.raises(ConfigError, match="'sampling' stands twice, in lines 1 and 3"):
        read_text("sampling: {steps: 9}\nother: 1\nsampling: {steps: 2}\n", "r.yaml")
    with pytest.raises(ConfigError, match="'steps' stands twice"):
        read_text("sampling: {steps: 9, steps: 2}\n", "r.yaml")
    assert read_text("a: &x {b: 1}\nc: {<<: *x, b: 2}\n", "r.yaml")["c"] == {"b": 2}


def test_dates_stay_text():
    assert read_text("folder: 2024-01-05\nother: 2024-01-05T10:00:00Z\n", "r.yaml") == {
        "folder": "2024-01-05",
        "other": "2024-01-05T10:00:00Z",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 5000, "nested more than"),
        ("{a: " * 5000, "nested more than"),
        ("task: &a\n  again: *a\n", "inside of its own anchor"),
        ("".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else '1'] * 10)}]\n" for n in range(12)), "more than"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("a: " + "x" * 2**21, "characters"),
        ("a: \x00", "not valid YAML"),
    ],
    ids=["brackets", "braces", "cycle", "bomb", "digits", "size", "null"],
)
def test_yaml_beyond_the_limits_is_refused_in_one_line(text, message):
    with pytest.raises(ConfigError, match=message) as error:
        read_text(text, "r.yaml")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "r.yaml")
    with pytest.raises(ConfigError, match="no plain file"):
        read_file(tmp_path / "r.yaml")


def test_numbers_become_text_and_infinite_numbers_are_refused():
    class Options(Config):
        folder: str = ""
        rate: float = 1.0

    assert Options.read({"folder": 2024}, "test").folder == "2024"
    for value in (float("inf"), float("nan"), "inf", ".inf"):
        with pytest.raises(ConfigError, match="rate"):
            Options.read({"rate": value}, "test")
    with pytest.raises(ConfigError, match="quotes"):
        Options.read({"folder": True}, "test")
