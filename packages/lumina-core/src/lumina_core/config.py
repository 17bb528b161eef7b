"""Settings that are checked, frozen and written as YAML or JSON: Config, and Use (a part by its name and options)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from copy import copy
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from lumina_core.errors import ConfigError, suggest

MAX_VALUE_CHARS = 80
"""Characters of a wrong value that a message repeats."""

ConfigT = TypeVar("ConfigT", bound="Config")


class Config(BaseModel):
    """Frozen settings without unknown keys. Build one from outside data with `read`, which explains what is wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def read(cls: type[ConfigT], values: Mapping[str, Any], source: str) -> ConfigT:
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
            raise ConfigError(f"{source}: {_describe_validation_error(error, cls)}") from error


class ComponentSpec(BaseModel):
    """A part by its name; its options stay free until the part's own Config checks them.

    So a recipe can be read, compared and stored where the plugin that brings the part is not installed.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str = Field(description="name of the part, as `lumina plugins` lists it")

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name, as plain data."""
        return dict(self.model_extra or {})


def parse_component(text: str) -> ComponentSpec:
    """`NAME` or `NAME:key=value,key=value` as a part and its options; values as in YAML.

    Raises:
        ConfigError: what stands behind the colon has another form.
    """
    name, _, option_text = text.partition(":")
    try:
        options = yaml.safe_load("{" + re.sub(r"=(?=\S)", ": ", option_text) + "}")
    except yaml.YAMLError:
        options = None
    if not name.strip() or not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise ConfigError(f"'{text}' does not name a part; wanted NAME, or NAME:key=value,key=value")
    if None in options.values() or "type" in options:
        raise ConfigError(f"'{text}': every option needs a value, as in NAME:key=value,key=value")
    return ComponentSpec(type=name.strip(), **options)


def with_defaults(component: type, defaults: Mapping[str, Any]) -> type:
    """Derive a component whose `Config` has other defaults, such as a metric on the features of a modality.

    Args:
        component: class with a `Config`.
        defaults: default by field name, as plain data.

    Raises:
        ConfigError: the Config has no such field, or the value is not valid for it.
    """
    config: type[Config] = component.Config  # type: ignore[attr-defined]
    fields: dict[str, Any] = {}
    for name, value in defaults.items():
        if name not in config.model_fields:
            raise ConfigError(f"{component.__name__} default: got '{name}'{suggest_or_list(name, config.model_fields)}")
        field = copy(config.model_fields[name])
        annotation: Any = field.annotation
        field.default = TypeAdapter(annotation).validate_python(value)
        fields[name] = (annotation, field)
    derived = create_model("Config", __base__=config, __module__=config.__module__, __doc__=config.__doc__, **fields)
    attributes = {"Config": derived, "__module__": component.__module__, "__doc__": component.__doc__}
    return type(component.__name__, (component,), attributes)


def suggest_or_list(word: str, names: Iterable[str]) -> str:
    """A hint that ends an error message: the nearest known word, or all of them, or nothing where none is known."""
    choices = sorted(set(names))
    return suggest(word, choices) or (f"; known: {', '.join(choices)}" if choices else "")


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


def read_text(text: str, source: str) -> dict[str, Any]:
    """YAML or JSON (which is YAML) as plain data; `where` names it in messages."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{source} holds {type(values).__name__}; wanted keys and values")
    return values


def apply_override(values: Mapping[str, Any], override: str) -> dict[str, Any]:
    """Plain data with one `a.b=c` carried out; numbers in the path name places of a list.

    Raises:
        ConfigError: the setting has no `=`, or its path leads through something that is no group of keys.
    """
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise ConfigError(f"--set wants a.b=c, got '{override}'")
    result: dict[str, Any] = json.loads(json.dumps(values))
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    _set_path(result, path.split("."), value, override)
    return result


def _set_path(node: Any, path: list[str], value: Any, override: str) -> None:
    for key in path[:-1]:
        node = _child(node, key, override)
    if isinstance(node, dict):
        node[path[-1]] = value
    elif isinstance(node, list) and path[-1].isdigit() and int(path[-1]) < len(node):
        node[int(path[-1])] = value
    else:
        raise ConfigError(f"--set {override}: nothing is called '{path[-1]}' there")


def _child(node: Any, key: str, override: str) -> Any:
    if isinstance(node, dict):
        return node.setdefault(key, {})
    if isinstance(node, list) and key.isdigit() and int(key) < len(node):
        return node[int(key)]
    raise ConfigError(f"--set {override}: '{key}' is no group of keys there")


def _describe_validation_error(error: ValidationError, model: type[BaseModel]) -> str:
    # a misspelt key is often a missing one too; the misspelling tells more
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    location = ".".join(str(step) for step in first["loc"])
    if first["type"] == "extra_forbidden":
        return (
            f"unknown key '{location}'{suggest_or_list(str(first['loc'][-1]), _field_names(model, first['loc'][:-1]))}"
        )
    if first["type"] == "missing":
        # one at the top has a description to tell; further down the path leads through lists and choices
        field = model.model_fields.get(location)
        description = "" if field is None or not field.description else f": {field.description}"
        return f"the key '{location}' is missing{description}"
    message = first["msg"].removeprefix("Value error, ").replace("valid tuple", "list, such as [0, 0.5, 1]")
    # what is wrong with several values together says itself which, and a file is told of by its name
    is_self_explanatory = (
        first["type"] == "value_error" and len(str(first["input"])) > 2 and str(first["input"]) in message
    )
    got = f" (got {_shorten(first['input'])})" if location and not is_self_explanatory else ""
    return f"{location + ': ' if location else ''}{message[0].lower() + message[1:]}{got}"


def _shorten(value: Any) -> str:
    # of an array or a tensor its shape tells more than its first numbers, and takes a line
    shape = getattr(value, "shape", None)
    text = " ".join(repr(value).split()) if shape is None else f"{type(value).__name__} of shape {tuple(shape)}"
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}... of {len(text)} characters"


def _field_names(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for key in path:
        field = model.model_fields.get(str(key))
        inner = field.annotation if field is not None else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)
