"""Every registered part keeps the contract of its kind, whatever package of ours brings it."""

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
PARTS = [(kind, name) for kind in REGISTRY.component_types() for name in REGISTRY.registrations(kind)]


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_a_component_fulfils_its_contract(kind, name, tmp_path):
    tries = SAMPLES.get((kind, name), Try())
    if callable(tries):
        tries = tries(tmp_path)
    for one in [tries] if isinstance(tries, Try) else tries:
        check_component(REGISTRY, kind, name, one.options, one.sample)


def test_every_sample_belongs_to_a_registered_component():
    assert set(SAMPLES) <= set(PARTS)


def test_every_package_registers_components():
    assert {name.partition(".")[0] for _, name in PARTS} == set(REGISTRY.sources)
