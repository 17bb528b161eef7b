"""The command that installs an extra names published packages only."""

from __future__ import annotations

from importlib import metadata

from lumina_core.errors import install_command


def test_the_command_names_what_the_extra_needs(monkeypatch):
    lines = ["torch>=2", "peft>=0.17; extra == 'lora'", 'scipy>=1.11 ; extra == "lora"', "x; extra == 'other'"]
    monkeypatch.setattr(metadata, "requires", lambda package: lines)
    assert install_command("lumina-core[lora]") == "pip install 'peft>=0.17' 'scipy>=1.11'"


def test_an_extra_that_is_not_known_is_installed_from_a_clone():
    assert (
        install_command("lumina-nowhere[x]")
        == "pip install -e 'packages/lumina-nowhere[x]' (in a clone of the project)"
    )
