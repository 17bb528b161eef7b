"""Settings that are checked, frozen and written as YAML or JSON: Config, and Use (a part by its name and options)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lumina_core.errors import ConfigError, near

SHOWN = 80
"""Characters of a wrong value that a message repeats."""

SettingsT = TypeVar("SettingsT", bound="Config")


class Config(BaseModel):
    """Frozen settings without unknown keys. Build one from outside data with `read`, which explains what is wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def read(cls: type[SettingsT], values: Mapping[str, Any], where: str) -> SettingsT:
        """Check `values` against this class.

        Args:
            values: plain data, as YAML or JSON gives it.
            where: what is being read, for the message ("recipe emoji.yaml").

        Raises:
            ConfigError: a key is unknown (the nearest is offered), missing, or has a value out of its range.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(f"{where}: {_explain(error, cls)}") from error


class Use(BaseModel):
    """A part by its name; its options stay free until the part's own Config checks them.

    So a recipe can be read, compared and stored where the plugin that brings the part is not installed.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    use: str = Field(description="name of the part, as `lumina plugins` lists it")

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name, as plain data."""
        return dict(self.model_extra or {})


def named(text: str) -> Use:
    """`NAME` or `NAME:key=value,key=value` as a part and its options; values as in YAML.

    Raises:
        ConfigError: what stands behind the colon has another form.
    """
    name, _, said = text.partition(":")
    try:
        options = yaml.safe_load("{" + re.sub(r"=(?=\S)", ": ", said) + "}")
    except yaml.YAMLError:
        options = None
    if not name.strip() or not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise ConfigError(f"'{text}' does not name a part; wanted NAME, or NAME:key=value,key=value")
    if None in options.values() or "use" in options:
        raise ConfigError(f"'{text}': every option needs a value, as in NAME:key=value,key=value")
    return Use(use=name.strip(), **options)


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that ends an error message: the nearest known word, or all of them, or nothing where none is known."""
    choices = sorted(set(known))
    return near(word, choices) or (f"; known: {', '.join(choices)}" if choices else "")


def read_file(path: Path) -> dict[str, Any]:
    """A YAML or JSON file as plain data.

    Raises:
        ConfigError: the file is missing, cannot be parsed, or does not hold a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    return read_text(text, str(path))


def read_text(text: str, where: str) -> dict[str, Any]:
    """YAML or JSON (which is YAML) as plain data; `where` names it in messages."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{where} holds {type(values).__name__}; wanted keys and values")
    return values


def with_setting(values: Mapping[str, Any], setting: str) -> dict[str, Any]:
    """Plain data with one `a.b=c` carried out; numbers in the path name places of a list.

    Raises:
        ConfigError: the setting has no `=`, or its path leads through something that is no group of keys.
    """
    path, sign, text = setting.partition("=")
    if not sign or not path:
        raise ConfigError(f"--set wants a.b=c, got '{setting}'")
    copied: dict[str, Any] = json.loads(json.dumps(values))
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    _put(copied, path.split("."), value, setting)
    return copied


def _put(place: Any, path: list[str], value: Any, setting: str) -> None:
    for key in path[:-1]:
        place = _step(place, key, setting)
    if isinstance(place, dict):
        place[path[-1]] = value
    elif isinstance(place, list) and path[-1].isdigit() and int(path[-1]) < len(place):
        place[int(path[-1])] = value
    else:
        raise ConfigError(f"--set {setting}: nothing is called '{path[-1]}' there")


def _step(place: Any, key: str, setting: str) -> Any:
    if isinstance(place, dict):
        return place.setdefault(key, {})
    if isinstance(place, list) and key.isdigit() and int(key) < len(place):
        return place[int(key)]
    raise ConfigError(f"--set {setting}: '{key}' is no group of keys there")


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    # a misspelt key is often a missing one too; the misspelling tells more
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    place = ".".join(str(step) for step in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key '{place}'{nearest(str(first['loc'][-1]), _keys_at(model, first['loc'][:-1]))}"
    if first["type"] == "missing":
        # one at the top has a description to tell; further down the path leads through lists and choices
        field = model.model_fields.get(place)
        what = "" if field is None or not field.description else f": {field.description}"
        return f"the key '{place}' is missing{what}"
    said = first["msg"].removeprefix("Value error, ").replace("valid tuple", "list, such as [0, 0.5, 1]")
    # what is wrong with several values together says itself which, and a file is told of by its name
    told = first["type"] == "value_error" and len(str(first["input"])) > 2 and str(first["input"]) in said
    got = f" (got {_shortened(first['input'])})" if place and not told else ""
    return f"{place + ': ' if place else ''}{said[0].lower() + said[1:]}{got}"


def _shortened(value: Any) -> str:
    # of an array or a tensor its shape tells more than its first numbers, and takes a line
    shape = getattr(value, "shape", None)
    text = " ".join(repr(value).split()) if shape is None else f"{type(value).__name__} of shape {tuple(shape)}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... of {len(text)} characters"


def _keys_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for step in path:
        field = model.model_fields.get(str(step))
        inner = field.annotation if field is not None else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)
