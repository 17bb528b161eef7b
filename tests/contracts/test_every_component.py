"""Every registered component fulfils the contract of its component type."""

from __future__ import annotations

from pathlib import Path

import pytest
from contracts.samples import SAMPLES, Try
from making import registry_of

from lumina_core.testing import check_component

PACKAGES = Path(__file__).parents[2] / "packages"
REGISTRY = registry_of(
    *(folder.name.removeprefix("lumina-") for folder in PACKAGES.iterdir() if folder.name != "lumina-core")
)
COMPONENTS = [
    (component_type, name)
    for component_type in REGISTRY.component_types()
    for name in REGISTRY.registrations(component_type)
]


@pytest.mark.parametrize(("component_type", "name"), COMPONENTS)
def test_a_component_fulfils_its_contract(component_type, name, tmp_path):
    tries = SAMPLES.get((component_type, name), Try())
    if callable(tries):
        tries = tries(tmp_path)
    for one in [tries] if isinstance(tries, Try) else tries:
        check_component(REGISTRY, component_type, name, one.options, one.sample)


def test_every_sample_belongs_to_a_registered_component():
    assert set(SAMPLES) <= set(COMPONENTS)


def test_every_package_registers_components():
    assert {name.partition(".")[0] for _, name in COMPONENTS} == set(REGISTRY.sources)
