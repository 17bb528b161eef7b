"""Configs: checked, frozen settings that are read from and written as YAML or JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy, deepcopy
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model, model_validator

from lumina_core.errors import ConfigError, suggest

MAX_VALUE_CHARS = 80
"""Characters of an invalid value that a message repeats."""
MAX_FILE_BYTES = 2**20
"""Largest file of settings."""
MAX_DEPTH = 32
"""Largest depth of nested lists and mappings in YAML."""
MAX_NODES = 100_000
"""Largest number of values in YAML; an alias counts as all values that it stands for."""

MAX_INT, MAX_SIZE, MAX_COUNT = 2**53, 2**20, 2**24
"""Largest integer, number of channels (names that end in _SIZE_ENDINGS), and batch or number of classes."""
_MAX_BY_NAME = {
    "num_layers": 1024, "num_workers": 1024, "ffn_dim_multiplier": 64, "steps": 10**9, "warmup_steps": 10**9,
    "global_batch_size": MAX_COUNT, "gradient_accumulation_steps": MAX_COUNT, "num_classes": MAX_COUNT,
}  # fmt: skip
_SIZE_ENDINGS = (
    "hidden_size",
    "intermediate_size",
    "_dim",
    "channels",
    "num_heads",
    "num_kv_heads",
    "num_latents",
    "multiple_of",
)

ConfigT = TypeVar("ConfigT", bound="Config")


class Config(BaseModel):
    """Base class of configs: frozen, without unknown keys. `read` checks external data and explains errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, coerce_numbers_to_str=True
    )

    @model_validator(mode="after")
    def _check_sizes(self) -> Config:
        """Refuse numbers beyond any use, before something of that size is built; fields may have lower bounds."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (value,)
            for number in numbers:
                if isinstance(number, int) and abs(number) > _largest(name):
                    raise ValueError(f"{name}: got {number}, expected at most {_largest(name)}")
                if isinstance(number, float) and abs(number) > _MAX_BY_NAME.get(name, math.inf):
                    raise ValueError(f"{name}: got {number:g}, expected at most {_MAX_BY_NAME[name]}")
        return self

    @classmethod
    def read(cls: type[ConfigT], values: Mapping[str, Any], source: str) -> ConfigT:
        """Check plain data and make a config of it.

        Args:
            values: plain data, as YAML or JSON gives it.
            source: origin of the data, for messages ("recipe emoji.yaml").

        Raises:
            ConfigError: a key is unknown (the nearest is offered), missing, or has a value out of its range.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(f"{source}: {_describe_validation_error(error, cls)}") from error

    def child_options(self) -> Mapping[str, Any]:
        """Return options that this config decides for the components named in it (widths of a backbone)."""
        return {}


def _largest(name: str) -> int:
    """Return the largest absolute value of a field with an integer."""
    if name == "seed":  # has its own bound
        return 2**64
    return _MAX_BY_NAME.get(name, MAX_SIZE if name.endswith(_SIZE_ENDINGS) else MAX_INT)


class ComponentSpec(BaseModel):
    """A component's name and its options, which the component's own Config checks when it is built.

    A recipe can thus be read and written without the plugins of its components.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str = Field(description="name of the component, as `lumina plugins` lists it")

    @property
    def options(self) -> dict[str, Any]:
        """All keys but `type`, as plain data."""
        return dict(self.model_extra or {})


def parse_component(text: str) -> ComponentSpec:
    """Parse `NAME` or `NAME:key=value,key=value`, with values as in YAML.

    Raises:
        ConfigError: the text has another form.
    """
    name, _, option_text = text.partition(":")
    try:
        options = parse_yaml("{" + re.sub(r"=(?=\S)", ": ", option_text) + "}", "component")
    except ConfigError:
        options = None
    is_mapping = isinstance(options, dict) and all(isinstance(key, str) for key in options)
    if not name.strip() or not is_mapping or None in options.values() or "type" in options:
        raise ConfigError(f"component: got '{text}', expected NAME or NAME:key=value,key=value with a value per key.")
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
    """Return the end of an error message: the nearest name, else all names; empty if there are none."""
    choices = sorted(set(names))
    return suggest(word, choices) or (f"; available: {', '.join(choices)}" if choices else "")


def read_file(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON file as plain data.

    Raises:
        ConfigError: the file is missing, not a plain file (a pipe would block), larger than `MAX_FILE_BYTES`, cannot be
            parsed, or does not hold a mapping.
    """
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: got no plain file, expected a YAML file.")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: got {size} bytes, expected a YAML file of at most {MAX_FILE_BYTES}.")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a null character in the path
        raise ConfigError(f"cannot read {path}: {error}") from error
    return read_text(text, str(path))


def read_text(text: str, source: str) -> dict[str, Any]:
    """Parse YAML or JSON as plain data; `source` names it in messages."""
    values = parse_yaml(text, source)
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: got {type(values).__name__}, expected a mapping of keys to values.")
    return values


class _YamlLoader(yaml.SafeLoader):
    """YAML reader within limits of depth and size. Dates stay text; a key that stands twice is an error."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._open_nodes: list[yaml.Node] = []
        self._sizes: dict[int, int] = {}
        self._num_nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node; count it, and refuse an alias of a node that contains the alias."""
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise yaml.composer.ComposerError(None, None, "an alias stands inside of its own anchor", None)
            self._count(self._sizes[id(node)])
            return node
        if len(self._open_nodes) >= MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, f"nested more than {MAX_DEPTH} levels deep", mark)
        before = self._num_nodes
        self._count(1)
        self._open_nodes.append(yaml.Node("", None, None, None))
        node = super().compose_node(parent, index)
        self._open_nodes.pop()
        self._sizes[id(node)] = self._num_nodes - before
        return node

    def _count(self, more: int) -> None:
        self._num_nodes += more
        if self._num_nodes > MAX_NODES:
            raise yaml.composer.ComposerError(None, None, f"more than {MAX_NODES} values", None)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping, and refuse a key that stands twice."""
        lines: dict[Any, int] = {}
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key, line = (key_node.tag, str(key_node.value)), key_node.start_mark.line + 1
            if key in lines and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key_node.value}' stands twice, in lines {lines[key]} and {line}", None
                )
            lines[key] = line
        return super().construct_mapping(node, deep)


_YamlLoader.yaml_implicit_resolvers = {
    sign: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for sign, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML or JSON; dates stay text.

    Raises:
        ConfigError: the text is no YAML, has a key twice, is nested too deeply, or has too many values.
    """
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError(f"{source}: got {len(text)} characters, expected YAML of at most {MAX_FILE_BYTES}.")
    try:
        loader = _YamlLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise ConfigError(f"{source} is not valid YAML: {' '.join(str(error).split())[:300]}") from error


def apply_override(
    values: Mapping[str, Any], override: str, is_text: Callable[[Sequence[str]], bool] = lambda path: False
) -> dict[str, Any]:
    """Return a copy of plain data with one `a.b=c` applied; a number in the path is an index of a list.

    Args:
        is_text: whether the value at a path is a text, which is then taken as it was typed and not as YAML.

    Raises:
        ConfigError: the override has no `=`, or its path does not lead to a key or an index.
    """
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise ConfigError(f"override: got '{override}', expected a.b=c.")
    result: dict[str, Any] = deepcopy(dict(values))
    *parents, last = path.split(".")
    try:
        value: Any = parse_yaml(text, "override")
    except ConfigError:
        value = text
    is_none = value is None and text.strip() in ("", "null", "~")
    # `is_text` last: its answer may need the import of a component
    if value != text and not is_none and is_text([*parents, last]):
        value = text
    node: Any = result
    for key in parents:
        node = node.setdefault(key, {}) if isinstance(node, dict) else _list_item(node, key, override)
    if isinstance(node, dict):
        node[last] = value
    else:
        _list_item(node, last, override)
        node[int(last)] = value
    return result


def _list_item(node: Any, key: str, override: str) -> Any:
    if isinstance(node, list) and key.isdigit() and int(key) < len(node):
        return node[int(key)]
    expected = f"an index below {len(node)}" if isinstance(node, list) else "no further key: the value there is plain"
    raise ConfigError(f"override {override}: got '{key}', expected {expected}.")


def merge_configs(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge plain data recursively: mappings key by key, everything else is replaced.

    A mapping whose `type` changes is another component, so that none of the options of the base's component stay.
    """
    if "type" in changes and changes["type"] != base.get("type"):
        return dict(changes)
    merged = dict(base)
    for key, value in changes.items():
        inner = base.get(key)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            value = merge_configs(inner, value)
        merged[key] = value
    return merged


def _describe_validation_error(error: ValidationError, model: type[BaseModel]) -> str:
    # a misspelt key is often a missing one too; the misspelt one tells more
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    path = first["loc"]
    location = ".".join(str(step) for step in path)
    if first["type"] == "extra_forbidden":
        return f"unknown key '{location}'{suggest_or_list(str(path[-1]), _field_names(model, path[:-1]))}"
    if first["type"] == "missing":
        # only a key at the top has its description at hand; below, the path leads through lists and unions
        field = model.model_fields.get(location)
        description = "" if field is None or not field.description else f": {field.description}"
        return f"the key '{location}' is missing{description}"
    message = first["msg"].removeprefix("Value error, ").replace("valid tuple", "list, such as [0, 0.5, 1]")
    if message.startswith("Input should be "):
        message = "expected " + re.sub(r"^(greater|less) ", r"a value \1 ", message.removeprefix("Input should be "))
    message = re.sub(r"^\w+ should have ", "expected ", message)
    # an error of several values names them itself, and so does one of a file
    is_named = first["type"] == "value_error" and (
        message.startswith("got ") or (len(str(first["input"])) > 2 and str(first["input"]) in message)
    )
    if first["type"] == "string_type" and isinstance(first["input"], bool):  # YAML reads yes, no, on and off as truth
        message += ". Put the value in quotes"
    separator = ", " if message.startswith("expected") else ": "
    got = f"got {_shorten(first['input'])}{separator}" if location and not is_named else ""
    return f"{location + ': ' if location else ''}{got}{message[0].lower() + message[1:]}"


def _shorten(value: Any) -> str:
    # the shape of an array or a tensor tells more than its first numbers, and takes one line
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
