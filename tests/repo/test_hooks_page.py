"""docs/reference/hooks.md says of every hook exactly what hookspecs.py says, and its examples are plugins that load."""

from __future__ import annotations

import inspect
import re
import types
from pathlib import Path

import pytest

from lumina_core.plugins import hookspecs
from lumina_core.plugins.loader import Candidate, load_from
from lumina_core.plugins.registry import COMPONENT_TYPES, PluginSource

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "hooks.md").read_text(encoding="utf-8")
SECTIONS = {part.split("\n", 1)[0].strip(): part for part in PAGE.split("\n## ")[1:]}
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("lumina_")}


def blocks(section: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)


def test_every_hook_has_a_section_and_every_section_a_hook():
    assert set(SECTIONS) == set(HOOKS)


@pytest.mark.parametrize("name", HOOKS)
def test_the_signature_on_the_page_is_the_real_one(name):
    arguments = [f"{a.name}: {a.annotation}" for a in inspect.signature(HOOKS[name]).parameters.values()]
    assert blocks(SECTIONS[name])[0].strip() == f"def {name}({', '.join(arguments)}) -> None"


@pytest.mark.parametrize("name", HOOKS)
def test_the_example_plugin_loads_and_registers_components(name):
    module = types.ModuleType("plugin")
    exec(blocks(SECTIONS[name])[1], module.__dict__)
    registry = load_from([Candidate(PluginSource("motion", "lumina-motion", "1.0"), (), lambda: module)], strict=True)
    component_types = (*registry.component_types(), "recipe", "model", "command", "component_type")
    assert any(registry.registrations(component_type) for component_type in component_types)


def test_the_page_names_every_component_type():
    assert all(f"`{component_type}`" in SECTIONS["lumina_register_components"] for component_type in COMPONENT_TYPES)
